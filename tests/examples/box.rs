//! Runs a command in a box, with the private Docker engine of a whole test run when the first word is `--docker`:
//! `cargo run -p wormhole-tests --example box -- --docker cargo test --offline -p wormhole-tests`.

use anyhow::{Context, Result};
use std::process::Command;
use wormhole_tests::{boxed, engine};

fn main() -> Result<()> {
    // The box runs this program again, so that the engine is a child inside.
    if let Some(status) = boxed::reenter()? {
        std::process::exit(status.code().unwrap_or(1));
    }
    let mut words = std::env::args_os().skip(1).peekable();
    let engine = match words.next_if(|w| w == "--docker") {
        Some(_) => Some(engine::Engine::start()?),
        None => None,
    };
    let mut command = Command::new(words.next().context("which command?")?);
    command.args(words);
    if let Some(engine) = &engine {
        eprintln!("dockerd answered after {} ms at {}", engine.took.as_millis(), engine.host());
        command.env(engine::ENV, engine.host()).env("DOCKER_HOST", engine.host());
    }
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    if let Some(engine) = engine {
        engine.stop()?;
    }
    std::process::exit(status.code().unwrap_or(1));
}
