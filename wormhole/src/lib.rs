//! wormhole connects ports of containers and network namespaces so that every application simply talks to localhost.
//!
//! The rooms, top to bottom; a room depends only on rooms below it:
//!
//! | room | subject |
//! | --- | --- |
//! | [`service`] | the daemon from start to end: in which order its parts come up and go down |
//! | [`cli`] | the `create` words -> a [`model::Spec`]; rendering of tables, JSON, diagrams |
//! | [`api`] | the wire: requests, replies, HTTP server (unix socket, TLS), client; no logic |
//! | [`daemon`] | the owner of all state: desired records against observed kernel; reconcile, shut-down order |
//! | [`segment`] | one wormhole: spec -> head listener -> tail |
//! | [`relay`] | bytes in userspace: TCP, UDP sessions, unix; half-close, reset, back-pressure |
//! | [`fastpath`] | the eBPF object that is built in and its version |
//! | [`docker`] | the engine: resolve, inspect, follow restarts |
//! | [`netns`] | open, enter, compare, create sockets inside; the only room that calls `setns` |
//! | [`key`] | `key.secret`: load, check, derive |
//! | [`model`] | the words that all rooms share: what is asked for, what is observed, why it failed |

pub mod api;
pub mod cli;
pub mod daemon;
pub mod docker;
pub mod fastpath;
pub mod key;
pub mod model;
pub mod netns;
pub mod relay;
pub mod segment;
pub mod service;
