//! To be written.

pub mod client;
