//! What runs on each kernel, inside the guest, or in a box on this machine: the daemon is asked what it can do, then come
//! the suites.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wormhole_tests::daemon::Daemon;

use crate::test::libtest::{Outcome, Run};
use crate::test::suites::Suite;

/// Every line of a report begins so; the kernel may write between them.
const PREFIX: &str = "wormhole-vm ";

/// What the part on the kernel is told.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// In this order.
    pub suites: Vec<Suite>,
    /// How.
    pub run: Run,
    /// Where the report goes, line by line, so that a crash loses nothing of what was there before.
    pub report: PathBuf,
}

/// A line of the report.
#[derive(Debug, Serialize, Deserialize)]
pub enum Line {
    /// `fastpath` of `wormhole status`.
    Fastpath(Value),
    /// What became of a suite.
    Outcome(Outcome),
    /// A test that was skipped, and why.
    Skipped(String),
}

/// Carries out a plan.
///
/// # Errors
/// When the report cannot be written. What fails on this kernel stands in the report.
pub fn run(plan: &Path) -> Result<()> {
    let text = std::fs::read_to_string(plan).with_context(|| format!("reading {}", plan.display()))?;
    let Plan { suites, run, report } = serde_json::from_str(&text).context("reading the plan")?;
    std::fs::write(&run.skips, "").with_context(|| format!("writing {}", run.skips.display()))?;
    say(&report, &Line::Fastpath(fastpath()))?;
    for suite in &suites {
        say(&report, &Line::Outcome(run.suite(suite)))?;
    }
    for line in std::fs::read_to_string(&run.skips).context("reading what was skipped")?.lines() {
        say(&report, &Line::Skipped(line.replace('\t', ": ")))?;
    }
    Ok(())
}

/// What a daemon with nothing but defaults says about the fast path, or why there was none to ask.
fn fastpath() -> Value {
    let ask = || -> Result<Value> {
        let daemon = Daemon::start(None)?;
        let said = daemon.cli(&["-o", "json", "status"]);
        let status: Value = serde_json::from_str(&said.stdout).with_context(|| format!("status: {}", said.stderr))?;
        Ok(status["fastpath"].clone())
    };
    ask().unwrap_or_else(|error| format!("no daemon: {error:#}").into())
}

fn say(report: &Path, line: &Line) -> Result<()> {
    let text = format!("{PREFIX}{}\n", serde_json::to_string(line).context("writing a line of the report")?);
    let file = OpenOptions::new().append(true).create(true).open(report);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| format!("writing to {}", report.display()))
}

/// The lines of a report.
pub fn read(report: &Path) -> Vec<Line> {
    let text = std::fs::read(report).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().filter_map(|line| serde_json::from_str(line.trim_end().strip_prefix(PREFIX)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_back_with_strangers_between_its_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "wormhole-vm booted\r\n").unwrap();
        say(file.path(), &Line::Skipped("x: y".into())).unwrap();
        let mut text = std::fs::read_to_string(file.path()).unwrap().replace('\n', "\r\n");
        text += "[  1.0] something\r\nwormhole-vm {\"Skipped\":\"cut o";
        std::fs::write(file.path(), text).unwrap();
        assert!(matches!(&read(file.path())[..], [Line::Skipped(what)] if what == "x: y"));
    }
}
