//! The file itself: reading it only if it is safe, and making a new one.

use super::{Key, KeyError, MAX_BYTES, MIN_CHARS};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use zeroize::{Zeroize, Zeroizing};

/// Random bytes in a generated key; written as twice as many hexadecimal digits.
const RANDOM_BYTES: usize = 32;

/// See [`Key::load`].
pub(super) fn load(path: &Path) -> Result<Key, KeyError> {
    // NONBLOCK because opening a pipe would wait for its writer; the checks below look at the opened file, not at the
    // path again, so that nobody can swap it in between.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| refused_open(path, errno))?;
    let stat = rustix::fs::fstat(&fd).map_err(|errno| io_error("stat", path, errno))?;
    if let Some(what) = not_regular(FileType::from_raw_mode(stat.st_mode)) {
        return Err(KeyError::NotRegular { path: path.into(), what });
    }
    let euid = rustix::process::geteuid().as_raw();
    if stat.st_uid != 0 && stat.st_uid != euid {
        return Err(KeyError::Owner { path: path.into(), uid: stat.st_uid, euid });
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Mode { path: path.into(), mode });
    }
    // The size is bounded by what is read and not by st_size, which may change meanwhile. The whole capacity is there
    // from the start: a buffer that grows leaves copies of the secret behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    let limit = u64::try_from(MAX_BYTES + 1).unwrap_or(u64::MAX);
    File::from(fd).take(limit).read_to_end(&mut bytes).map_err(|source| KeyError::Io {
        action: "read",
        path: path.into(),
        source,
    })?;
    if bytes.len() > MAX_BYTES {
        return Err(KeyError::TooLong(path.into()));
    }
    while bytes.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
        bytes.pop();
    }
    let chars = std::str::from_utf8(&bytes).map_or(bytes.len(), |text| text.chars().count());
    if chars < MIN_CHARS {
        return Err(KeyError::TooShort { path: path.into(), chars });
    }
    Ok(Key(bytes))
}

/// Makes a key of 32 random bytes, as 64 hexadecimal digits, readable by its owner only, and on disk (fsync of file and
/// directory) when this returns. A missing last directory of `path` is made too. Never overwrites.
///
/// # Errors
/// [`KeyError::Exists`] when anything is at `path`, even a dangling link; otherwise what the kernel refused. Nothing is
/// left at `path` after an error.
pub fn generate(path: &Path) -> Result<(), KeyError> {
    let mut random = Zeroizing::new([0_u8; RANDOM_BYTES]);
    getrandom::fill(&mut random[..]).map_err(|e| KeyError::Random(e.to_string()))?;
    let mut text = Zeroizing::new(String::with_capacity(2 * RANDOM_BYTES + 1));
    for byte in random.iter() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    random.zeroize();
    text.push('\n');

    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.exists() {
        std::fs::DirBuilder::new().mode(0o755).create(parent).map_err(|source| KeyError::Io {
            action: "make the directory of",
            path: path.into(),
            source,
        })?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| match errno {
        Errno::EXIST => KeyError::Exists(path.into()),
        Errno::ACCESS | Errno::PERM => KeyError::Denied { action: "create", path: path.into() },
        errno => io_error("create", path, errno),
    })?;
    let mut file = File::from(fd);
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| File::open(parent)?.sync_all());
    written.map_err(|source| {
        // Half a key would be refused at every start and never be overwritten.
        let _ = std::fs::remove_file(path);
        KeyError::Io { action: "write", path: path.into(), source }
    })
}

fn refused_open(path: &Path, errno: Errno) -> KeyError {
    match errno {
        Errno::NOENT | Errno::NOTDIR => KeyError::Absent(path.into()),
        Errno::LOOP => KeyError::Symlink(path.into()),
        // What open says about a socket.
        Errno::NXIO => KeyError::NotRegular { path: path.into(), what: "a socket" },
        Errno::ACCESS | Errno::PERM => KeyError::Denied { action: "open", path: path.into() },
        errno => io_error("open", path, errno),
    }
}

fn not_regular(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::RegularFile => None,
        FileType::Directory => Some("a directory"),
        FileType::Fifo => Some("a pipe"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice | FileType::BlockDevice => Some("a device"),
        _ => Some("something else"),
    }
}

fn io_error(action: &'static str, path: &Path, errno: Errno) -> KeyError {
    KeyError::Io { action, path: path.into(), source: errno.into() }
}
