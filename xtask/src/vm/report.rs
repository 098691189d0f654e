//! What is said about each kernel: a table, what went wrong, and the last line.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Value;

use super::guest::Line;
use super::qemu::End;
use crate::test::libtest::{Counts, Outcome};

/// How many lines of a failed guest's console are shown.
const LAST_WORDS: usize = 60;

/// What the kernel says when it found a fault in itself.
const COMPLAINTS: &[&str] =
    &["BUG:", "WARNING:", "Oops", "general protection", "refcount_t:", "Kernel panic", "Out of memory", "unregister_netdevice:"];

/// All about one kernel.
#[derive(Debug)]
pub struct Row {
    /// As it was asked for.
    pub name: String,
    /// As in `uname -r`.
    release: String,
    fastpath: Option<Value>,
    outcomes: Vec<Outcome>,
    skipped: Vec<String>,
    /// What is wrong beside failed tests.
    faults: Vec<String>,
    /// Why nothing was run.
    not_run: Option<String>,
    console: String,
    /// How long all of it took.
    pub seconds: f64,
}

/// What is wrong about the end of a guest.
pub fn of_end(end: End, minutes: u64) -> Option<String> {
    match end {
        End::Off => None,
        End::NotBooted => Some("the guest did not boot".to_owned()),
        End::Late => Some(format!("the guest was killed after {minutes} min")),
    }
}

impl Row {
    /// A kernel on which nothing was run.
    pub fn skipped(name: &str, why: &str) -> Self {
        Self { not_run: Some(why.to_owned()), ..Self::of(String::new(), &[], Vec::new(), None) }.named(name)
    }

    /// Out of the report of a kernel on which the suites `names` had to run.
    pub fn of(release: String, names: &[String], lines: Vec<Line>, fault: Option<String>) -> Self {
        let mut row = Self {
            name: release.clone(),
            release,
            fastpath: None,
            outcomes: Vec::new(),
            skipped: Vec::new(),
            faults: fault.into_iter().collect(),
            not_run: None,
            console: String::new(),
            seconds: 0.0,
        };
        for line in lines {
            match line {
                Line::Fastpath(status) => row.fastpath = Some(status),
                Line::Outcome(outcome) => row.outcomes.push(outcome),
                Line::Skipped(why) => row.skipped.push(why),
            }
        }
        for name in names.iter().filter(|name| !row.outcomes.iter().any(|outcome| outcome.suite == **name)) {
            row.faults.push(format!("{name} gave no result"));
        }
        row
    }

    fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Keeps what a guest printed, and looks for what its kernel complained about.
    pub fn read_console(&mut self, console: &Path) {
        let text = std::fs::read(console).unwrap_or_default();
        self.console = String::from_utf8_lossy(&text).replace('\r', "");
        self.faults.extend(complaints(&self.console).map(|line| format!("the kernel said: {line}")));
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for outcome in &self.outcomes {
            counts += outcome.counts;
        }
        counts.failed += self.faults.len() as u64;
        counts.skipped += u64::from(self.not_run.is_some());
        counts
    }

    /// What `wormhole status` says there, in few words.
    fn fast_path(&self) -> String {
        match &self.fastpath {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(status) => {
                let by_default = if status["auto"] == true { "yes" } else { "no" };
                format!("{by_default}: {}", status["summary"].as_str().unwrap_or_default())
            }
        }
    }
}

/// The lines of a console in which the kernel itself complains. Its lines begin with the time in brackets.
fn complaints(console: &str) -> impl Iterator<Item = &str> {
    let by_kernel = |line: &&str| line.starts_with('[') && line[1..].trim_start().starts_with(|c: char| c.is_ascii_digit());
    console.lines().filter(by_kernel).filter(|line| COMPLAINTS.iter().any(|what| line.contains(what)))
}

/// Prints everything; the last line is `N passed, N failed, N skipped`.
///
/// # Errors
/// When it cannot be printed.
pub fn show(rows: &[Row], console: bool) -> Result<ExitCode> {
    for row in rows.iter().filter(|row| row.counts().failed > 0 && !row.console.is_empty()) {
        let lines: Vec<&str> = row.console.lines().collect();
        let from = if console { 0 } else { lines.len().saturating_sub(LAST_WORDS) };
        println!("\n--- console of {}\n{}", row.name, lines[from..].join("\n"));
    }
    println!("\n{}\n\n{}", suites(rows), kernels(rows));
    for row in rows {
        for fault in &row.faults {
            println!("failed: {}: {fault}", row.name);
        }
        for why in row.not_run.iter().chain(&row.skipped) {
            println!("skipped: {}: {why}", row.name);
        }
    }
    let mut total = Counts::default();
    rows.iter().for_each(|row| total += row.counts());
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    std::io::stdout().flush().context("writing the last line")?;
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every suite on every kernel.
fn suites(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["kernel", "suite", "passed", "failed", "skipped", "seconds", ""]);
    for row in rows {
        for outcome in &row.outcomes {
            let Counts { passed, failed, skipped } = outcome.counts;
            let counts = [passed, failed, skipped].map(|count| count.to_string());
            let [passed, failed, skipped] = counts;
            let seconds = format!("{:.1}", outcome.seconds);
            let remark = outcome.remark.clone().unwrap_or_default();
            table.add_row([row.name.clone(), outcome.suite.clone(), passed, failed, skipped, seconds, remark]);
        }
    }
    table
}

/// What each kernel gets.
fn kernels(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["kernel", "release", "fast path by default", "result", "seconds"]);
    for row in rows {
        let Counts { passed, failed, skipped } = row.counts();
        let result = format!("{passed} passed, {failed} failed, {skipped} skipped");
        let seconds = format!("{:.0}", row.seconds);
        table.add_row([row.name.clone(), row.release.clone(), row.fast_path(), result, seconds]);
        for probe in row.fastpath.iter().filter_map(|status| status["probes"].as_array()).flatten() {
            let verdict = if probe["passed"] == true { "passed" } else { "FAILED" };
            let (name, detail) = (&probe["name"], &probe["detail"]);
            let text = format!("  {}: {}", name.as_str().unwrap_or_default(), detail.as_str().unwrap_or_default());
            table.add_row([String::new(), String::new(), text, verdict.to_owned()]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_own_complaints_count() {
        let console =
            "[    1.25] BUG: kernel NULL pointer\nBUG: said a test\n[    2.0] all is well\n[x] Oops\n[   12.1] WARNING: CPU: 0";
        assert_eq!(complaints(console).count(), 2);
    }

    #[test]
    fn a_suite_without_a_result_is_a_failure_and_a_place_without_guests_is_none() {
        let row = Row::of("6.1.0".into(), &["one".into()], Vec::new(), None);
        assert_eq!(row.counts(), Counts { failed: 1, ..Counts::default() });
        assert_eq!(Row::skipped("6.1", "no QEMU").counts(), Counts { skipped: 1, ..Counts::default() });
    }
}
