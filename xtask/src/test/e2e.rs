//! The box that the end-to-end tests run in: namespaces of its own for network, mounts and processes, so that nothing
//! they make outlives them and two runs on one machine do not meet.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::libtest::{Counts, Outcome, Run};
use super::suites::Suite;
use wormhole_tests::boxed;
use wormhole_tests::engine::Engine;

/// What the part inside the box is told.
#[derive(Serialize, Deserialize)]
struct Plan {
    suites: Vec<Suite>,
    run: Run,
    /// Where the outcomes go, after every suite, so that a crash of the box does not lose those that went before.
    outcomes: PathBuf,
}

/// Runs `suites` one after the other in one box.
pub fn run(suites: &[Suite], run: &Run, scratch: &Path) -> Result<Vec<Outcome>> {
    if suites.is_empty() {
        return Ok(Vec::new());
    }
    let outcomes = scratch.join("outcomes.json");
    let plan = Plan { suites: suites.to_vec(), run: run.clone(), outcomes: outcomes.clone() };
    let path = scratch.join("plan.json");
    write_json(&path, &plan)?;
    let xtask = std::env::current_exe().context("finding the path of xtask itself")?;
    let status = boxed::enter(Command::new(xtask).arg("inside-box").arg(&path))?;
    let mut found: Vec<Outcome> = if outcomes.exists() { read_json(&outcomes)? } else { Vec::new() };
    for suite in &suites[found.len()..] {
        let counts = Counts { failed: 1, ..Counts::default() };
        let remark = Some(format!("not run: the box ended with {status}"));
        found.push(Outcome { suite: suite.name.clone(), counts, seconds: 0.0, remark });
    }
    Ok(found)
}

/// The part of the run that is inside the box.
pub fn run_plan(path: &Path) -> Result<()> {
    let Plan { suites, mut run, outcomes } = read_json(path)?;
    let engine = engine();
    if let Some(engine) = &engine {
        run.env.push((wormhole_tests::engine::ENV.into(), engine.host().into()));
    }
    let mut found = Vec::new();
    for suite in &suites {
        found.push(run.suite(suite));
        write_json(&outcomes, &found)?;
    }
    if let Some(engine) = engine {
        engine.stop().context("stopping the Docker engine of the run")?;
    }
    Ok(())
}

/// The engine of the whole run, when there can be one. Suites that need it say `skipped: why` without it.
fn engine() -> Option<Engine> {
    match Engine::start() {
        Ok(engine) => {
            println!("a Docker engine of its own answered after {} ms", engine.took.as_millis());
            Some(engine)
        }
        Err(error) => {
            eprintln!("no Docker engine: {error:#}");
            None
        }
    }
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    serde_json::to_writer(file, value).with_context(|| format!("writing {}", path.display()))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    serde_json::from_reader(std::io::BufReader::new(file)).with_context(|| format!("reading {}", path.display()))
}
