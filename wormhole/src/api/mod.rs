//! The wire: requests and replies of the control API, its server (unix socket, TLS) and its client. No logic.

mod addr;
mod client;
mod openapi;
mod reply;
mod routes;
mod server;
mod validate;

pub use addr::{AddrError, DEFAULT_PORT, DEFAULT_SOCKET, ListenAddr, MAX_SOCKET_PATH};
pub use client::{Client, ClientError};
pub use openapi::document as openapi_document;
pub use server::{Plan, Server, ServerConfig, ServerError, plan};
pub use validate::{MAX_DEPTH, validate, validate_id};
