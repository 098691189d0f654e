//! What was asked for, on disk, so that segments come back when the daemon does. One file a tree of segments, written
//! to a temporary name, synced and renamed: after a crash there is the old record or the new one.

use crate::model::{SegmentId, Spec};
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What can go wrong with the state directory.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Reading, writing or making something under the state directory.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Two daemons must not share a state directory.
    #[error("the state directory {} is in use by another wormholed; give each its own --state-dir", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// A tree of segments as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The root and what hangs on it, every id filled in.
    pub spec: Spec,
    /// Seconds since the epoch when it was made.
    pub created: u64,
    /// The ports that heads with port 0 got, by segment.
    #[serde(default)]
    pub ports: BTreeMap<SegmentId, u16>,
}

/// The state directory, locked for as long as this lives.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
    _lock: OwnedFd,
}

impl Records {
    /// Makes the directory if need be and locks it.
    ///
    /// # Errors
    /// [`RecordError::InUse`] when another daemon has it.
    pub fn open(state: &Path) -> Result<Self, RecordError> {
        let dir = state.join("segments");
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| RecordError::Io { what, path, source }
        };
        std::fs::create_dir_all(&dir).map_err(io("make", &dir))?;
        let lock = state.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = rustix::fs::open(&lock, flags, Mode::from_raw_mode(0o600)).map_err(|e| io("open", &lock)(e.into()))?;
        if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(RecordError::InUse { path: state.to_owned() });
        }
        Ok(Self { dir, _lock: fd })
    }

    fn file(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Writes a record; `id` is the root's.
    ///
    /// # Errors
    /// [`RecordError::Io`]; the old record, if any, is still there then.
    pub fn save(&self, id: &str, record: &Record) -> Result<(), RecordError> {
        let path = self.file(id);
        let temporary = self.dir.join(format!("{id}.json.new"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            serde_json::to_writer_pretty(&mut file, record)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| {
            // What could not be finished must not be found later.
            let _ = std::fs::remove_file(&temporary);
            RecordError::Io { what: "write", path, source }
        })
    }

    /// Removes a record; one that is not there is fine.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn remove(&self, id: &str) -> Result<(), RecordError> {
        let path = self.file(id);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RecordError::Io { what: "remove", path, source }),
            _ => Ok(()),
        }
    }

    /// All records. A file that cannot be read is reported and left as it is; it is somebody's work.
    ///
    /// # Errors
    /// [`RecordError::Io`] when the directory cannot be listed.
    pub fn load(&self) -> Result<Vec<Record>, RecordError> {
        let entries =
            std::fs::read_dir(&self.dir).map_err(|source| RecordError::Io { what: "list", path: self.dir.clone(), source })?;
        let mut records = Vec::new();
        for path in entries.flatten().map(|e| e.path()) {
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let read = std::fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<Record>(&bytes)?));
            match read {
                Ok(record) => records.push(record),
                Err(error) => tracing::error!(%error, path = %path.display(), "this record cannot be read and is left out"),
            }
        }
        records.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.spec.id.cmp(&b.spec.id)));
        Ok(records)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::{End, Options};

    fn record(id: &str) -> Record {
        let spec = Spec {
            id: Some(id.to_owned()),
            head: End::local(),
            tail: End::local(),
            trigger: false,
            link: None,
            options: Options::default(),
        };
        Record { spec, created: 7, ports: BTreeMap::from([(id.to_owned(), 4711)]) }
    }

    #[test]
    fn what_was_saved_is_loaded_and_what_was_removed_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        records.save("a", &record("a")).unwrap();
        records.save("b", &record("b")).unwrap();
        records.remove("a").unwrap();
        records.remove("never").unwrap();
        assert_eq!(records.load().unwrap(), [record("b")]);
    }

    #[test]
    fn a_broken_record_is_left_out_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let broken = dir.path().join("segments/x.json");
        std::fs::write(&broken, "{").unwrap();
        assert!(records.load().unwrap().is_empty());
        assert!(broken.exists());
    }

    #[test]
    fn two_daemons_cannot_share_a_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = Records::open(dir.path()).unwrap();
        let error = Records::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("--state-dir"), "{error}");
        drop(first);
        Records::open(dir.path()).unwrap();
    }
}
