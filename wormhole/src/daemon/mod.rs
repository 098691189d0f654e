//! The owner of all state. To be written.

pub mod config;
