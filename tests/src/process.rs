//! What one process holds, from /proc.

use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a process holds at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    /// Open descriptors by kind: `socket`, `pipe`, `net` (a namespace), `anon_inode`, `file`, …
    pub fds: BTreeMap<String, usize>,
    /// Network namespaces that are held open through a descriptor, like `net:[4026532008]`.
    pub namespaces: BTreeSet<String>,
    /// Network namespaces that its threads are in; more than one is a thread that did not come back.
    pub entered: BTreeSet<String>,
}

impl Holds {
    /// Of process `pid`.
    ///
    /// # Errors
    /// When it is gone or belongs to somebody else.
    pub fn of(pid: u32) -> Result<Self> {
        let mut holds = Self::default();
        let dir = format!("/proc/{pid}/fd");
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {dir}"))? {
            let path = entry?.path();
            // One that was closed in between is not held.
            let Ok(target) = fs::read_link(&path) else { continue };
            let target = target.to_string_lossy().into_owned();
            let kind = if let Some(namespace) = net_namespace(&path) {
                holds.namespaces.insert(namespace);
                "net"
            } else {
                match target.split_once(':') {
                    Some((kind, _)) if !target.starts_with('/') => kind,
                    _ => "file",
                }
            };
            *holds.fds.entry(kind.to_owned()).or_default() += 1;
        }
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            if let Ok(ns) = fs::read_link(task?.path().join("ns/net")) {
                holds.entered.insert(ns.to_string_lossy().into_owned());
            }
        }
        Ok(holds)
    }

    /// Open descriptors altogether.
    pub fn count(&self) -> usize {
        self.fds.values().sum()
    }
}

/// The network namespace behind a link in /proc or a name under /run/netns, as `net:[inode]`. A descriptor that was
/// opened through a name shows that name and not the namespace, so the device tells.
pub(crate) fn net_namespace(path: &Path) -> Option<String> {
    let target = fs::read_link(path).unwrap_or_default();
    let target = target.to_string_lossy();
    if target.starts_with("net:[") {
        return Some(target.into_owned());
    }
    let other_kind = target.split_once(":[").is_some_and(|(kind, _)| kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    let meta = fs::metadata(path).ok()?;
    let nsfs = fs::metadata("/proc/self/ns/net").ok()?.dev();
    (meta.dev() == nsfs && !other_kind).then(|| format!("net:[{}]", meta.ino()))
}

/// Resident memory of process `pid` in bytes.
///
/// # Errors
/// When it is gone.
pub fn rss(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).with_context(|| format!("{path} has no VmRSS"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Number of threads of process `pid`.
///
/// # Errors
/// When it is gone.
pub fn threads(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/task"))?.count())
}

/// CPU time of process `pid`, user and system together.
///
/// # Errors
/// When it is gone.
pub fn cpu_time(pid: u32) -> Result<std::time::Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name is in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')').context("/proc/PID/stat has no name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = fields.get(11).context("no utime")?.parse::<u64>()? + fields.get(12).context("no stime")?.parse::<u64>()?;
    Ok(std::time::Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}
