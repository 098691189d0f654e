//! Tests that cannot run here say why and are counted; they never pass in silence.

use crate::docker::Docker;
use crate::{boxed, engine};
use std::io::Write;

/// Says that the running test is skipped, and appends `test<TAB>why` to the file in WORMHOLE_SKIPS.
pub fn record(why: &str) {
    println!("skipped: {why}");
    let Some(path) = std::env::var_os("WORMHOLE_SKIPS") else { return };
    let thread = std::thread::current();
    let line = format!("{}\t{}\n", thread.name().unwrap_or("?"), why.replace('\n', " "));
    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
    // One write, so that the lines of test binaries that run side by side do not mix.
    if let Err(error) = file.and_then(|mut f| f.write_all(line.as_bytes())) {
        panic!("cannot count a skipped test in {}: {error}", path.to_string_lossy());
    }
}

/// Root, for namespaces.
///
/// # Errors
/// Why not.
pub fn root() -> Result<(), String> {
    if boxed::is_root() { Ok(()) } else { Err("needs root".to_owned()) }
}

/// A box, for tests that change the network.
///
/// # Errors
/// Why not.
pub fn in_box() -> Result<(), String> {
    if boxed::in_box() { Ok(()) } else { Err("runs only in a box (cargo xtask test --e2e)".to_owned()) }
}

/// A kernel of the tests' own, whose limits they may change.
///
/// # Errors
/// Why not.
pub fn own_kernel() -> Result<(), String> {
    let own = std::env::var_os("WORMHOLE_GUEST").is_some();
    if own { Ok(()) } else { Err("changes limits of the whole kernel, runs only in a guest (cargo xtask vm-test)".to_owned()) }
}

/// The engine that all tests share.
///
/// # Errors
/// Why there is none.
pub fn docker() -> Result<&'static Docker, String> {
    in_box()?;
    engine::shared()
}

/// Ends the running test (one that returns nothing) as skipped: `skip!("no IPv6 here")`.
#[macro_export]
macro_rules! skip {
    ($($why:tt)+) => {{
        $crate::skip::record(&format!($($why)+));
        return;
    }};
}

/// Skips the running test where something is missing: `require!(Root)`, `require!(Box)`, and
/// `let docker = require!(Docker)`, which is a `&'static Docker` and implies the box. `require!(@ check)` takes any `Result`
/// with what is needed, or why it is not there.
#[macro_export]
macro_rules! require {
    (Root) => {
        $crate::require!(@ $crate::skip::root())
    };
    (Box) => {
        $crate::require!(@ $crate::skip::in_box())
    };
    (Docker) => {
        $crate::require!(@ $crate::skip::docker())
    };
    (@ $check:expr) => {
        match $check {
            Ok(value) => value,
            Err(why) => $crate::skip!("{why}"),
        }
    };
}
