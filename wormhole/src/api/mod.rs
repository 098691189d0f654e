//! The wire: requests and replies of the control API, its server (unix socket, TLS) and its client. No logic.

mod addr;
mod validate;

pub use addr::{AddrError, DEFAULT_PORT, DEFAULT_SOCKET, ListenAddr, MAX_SOCKET_PATH};
pub use validate::{MAX_DEPTH, validate, validate_id};
