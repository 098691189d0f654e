//! To be written.

use std::path::Path;

/// Where the key is unless the user says otherwise.
pub const DEFAULT_KEYFILE: &str = "/etc/wormhole/key.secret";

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(String);

/// Makes a key.
///
/// # Errors
/// Always: to be written.
pub fn generate(path: &Path) -> Result<(), KeyError> {
    Err(KeyError(format!("{}: to be written", path.display())))
}
