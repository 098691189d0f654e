//! Bytes in userspace: TCP, unix streams and UDP sessions, with half-close, reset and back-pressure as between two
//! applications that talk to each other directly.

mod route;
pub mod stream;
pub mod udp;

pub use route::{Counters, FastCounters, RelayOptions, Route, Tail, Target, TargetAddr};
