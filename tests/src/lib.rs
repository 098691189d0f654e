//! The harness of the end-to-end tests: it makes real namespaces, a real Docker engine, real servers in containers and
//! the real binaries, and looks at the kernel before and after. `cargo xtask demo` and `bench` use it too.
//!
//! | module | subject |
//! | --- | --- |
//! | [`boxed`] | a box: own net, mount and pid namespaces, so that nothing of a test is left on the machine |
//! | [`packages`] | the Debian packages that all this needs |
//! | [`engine`] | a private `dockerd` |
//! | [`images`] | images made from Debian programs, without a registry |
//! | [`docker`] | containers: run, stop, restart, execute, wait until ready |
//! | [`daemon`] | the real `wormholed` and `wormhole` |
//! | [`netns`] | named network namespaces |
//! | [`process`] | what one process holds: descriptors, memory, namespaces |
//! | [`kernel`] | what the kernel holds: listeners, links, addresses, routes, comparable before and after |
//! | [`server`] | real servers behind a segment, and load that lasts
//! | [`mod@skip`] | tests that cannot run here, with the reason, counted |
//! | [`splice`] | applications that read their sockets by splice(2) |
//! | [`lane`] | the same case on three ways: direct TCP, the relay, the fast path |
//! | [`fast`] | whether the fast path is there, and what it holds in the kernel |
//! | [`raw`] | socket options that no crate has |
//! | [`traffic`] | sockets in other namespaces, servers, bytes that can be told from each other |
//! | [`talk`] | random conversations in which every byte is checked |
//! | [`peer`] | processes that hold such conversations and may be killed
//! | [`crowd`] | many of them at once |
//! | [`open`] | open connections in every state
//! | [`wait`] | waiting for conditions, never for time |
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a harness says by panicking that a test failed

pub mod boxed;
pub mod chain;
pub mod crowd;
pub mod daemon;
pub mod docker;
pub mod engine;
pub mod fast;
pub mod images;
pub mod kernel;
pub mod lane;
pub mod netns;
pub mod open;
pub mod packages;
pub mod peer;
pub mod process;
pub mod raw;
pub mod room;
pub mod run;
pub mod server;
pub mod skip;
pub mod splice;
pub mod stop;
pub mod talk;
pub mod traffic;
pub mod wait;

pub use wait::wait_until;
