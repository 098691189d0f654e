//! `key.secret`: load it, check it, make one, derive from it.
//!
//! The file is the only secret of a set of machines: who holds it may do everything on all of them. It is therefore
//! refused unless nobody but root (or the daemon's own user) can have read or written it, and every refusal says the
//! command that mends it. The text is zeroized when the [`Key`] is dropped and is never printed or logged.

mod file;
mod identity;
mod tls;

pub use file::generate;
pub use identity::{Identity, IdentityError};

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where the key is unless `-K` says otherwise.
pub const DEFAULT_KEYFILE: &str = "/etc/wormhole/key.secret";

/// A shorter key is refused: fewer characters than this can be guessed.
pub const MIN_CHARS: usize = 32;

/// A longer file is refused: it is not a key but something that was named by mistake.
pub const MAX_BYTES: usize = 64 * 1024;

/// The text of a key file that passed all checks, without its trailing newline. Zeroized on drop.
pub struct Key(Zeroizing<Vec<u8>>);

impl Key {
    /// Reads the key at `path`, which must be a regular file (not a symbolic link), owned by root or by the effective
    /// user, without any right for group or others, and hold at least [`MIN_CHARS`] characters.
    ///
    /// # Errors
    /// One [`KeyError`] per check; its text says what is wrong and the command that mends it.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        file::load(path)
    }

    /// The secret bytes, for derivation only.
    pub(crate) fn secret(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// Why a key file was refused or not made. Every text ends with the command that mends it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no such file.
    #[error("there is no key file {}: make one with `wormhole keygen {}` and copy it to every machine", .0.display(), quote(.0))]
    Absent(PathBuf),
    /// The path is a symbolic link.
    #[error(
        "key file {} is a symbolic link, and whoever can change the link could choose the key: \
         put the file itself there with `cp --remove-destination \"$(readlink -f {})\" {}` and `chmod 600 {}`",
        .0.display(), quote(.0), quote(.0), quote(.0)
    )]
    Symlink(PathBuf),
    /// A directory, a device, a pipe or a socket.
    #[error("key file {} is {what}, not a regular file: remove it and run `wormhole keygen {}`", .path.display(), quote(.path))]
    NotRegular {
        /// The path as given.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// Somebody else owns it, and could therefore change it.
    #[error("key file {} belongs to uid {uid}, not to root or uid {euid}: `chown {euid} {}`", .path.display(), quote(.path))]
    Owner {
        /// The path as given.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// The effective user that tried to read it.
        euid: u32,
    },
    /// Group or others have rights on it.
    #[error("key file {} has mode {mode:04o}, open to more than its owner: `chmod 600 {}`", .path.display(), quote(.path))]
    Mode {
        /// The path as given.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Fewer than [`MIN_CHARS`] characters.
    #[error(
        "key file {} holds {chars} characters, at least {MIN_CHARS} are needed: `rm {}`, then `wormhole keygen {}`",
        .path.display(), quote(.path), quote(.path)
    )]
    TooShort {
        /// The path as given.
        path: PathBuf,
        /// How many characters there are.
        chars: usize,
    },
    /// More than [`MAX_BYTES`] bytes.
    #[error(
        "key file {} is larger than {MAX_BYTES} bytes and cannot be a key: name another file with `-K`, \
         or make one with `wormhole keygen`",
        .0.display()
    )]
    TooLong(PathBuf),
    /// `keygen` onto something that exists.
    #[error(
        "{} exists and is never overwritten, the peers that hold it would lose this machine: \
         `mv {} {}.old` first if you mean it",
        .0.display(), quote(.0), quote(.0)
    )]
    Exists(PathBuf),
    /// The caller may not read (or write) it.
    #[error("{action} key file {}: permission denied: run it as root, or `chown` the file to your user", .path.display())]
    Denied {
        /// `open`, `create`.
        action: &'static str,
        /// The path as given.
        path: PathBuf,
    },
    /// The kernel refused something else.
    #[error("{action} key file {}: {source}: see that the directory exists and the disk is neither full nor read-only", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel gave no random bytes.
    #[error("no random bytes for a new key: {0}: try again when the system has finished booting")]
    Random(String),
}

/// The path as a shell word, so that the command in a message can be pasted.
fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    shell_words::quote(&text).into_owned()
}

#[cfg(test)]
mod tests;
