//! `cargo xtask test`: every suite, counted by one ruler.
//!
//! The last line of stdout is always `N passed, N failed, N skipped`.

pub mod e2e;
pub mod libtest;
pub mod suites;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use self::libtest::{Outcome, Run};
use self::suites::{Kind, Suite};
use crate::needs::Group;
use crate::{ebpf, setup, workspace};

/// The words after `test`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only the tests that need no box: unit tests and examples in the documentation
    #[arg(long)]
    unit: bool,
    /// Only the end-to-end tests
    #[arg(long)]
    e2e: bool,
    /// The name of a suite, or a part of the names of the tests to run
    filter: Option<String>,
    /// How many end-to-end tests run at the same time
    #[arg(long, default_value_t = 1, value_name = "N")]
    test_threads: u32,
    /// After how many minutes a suite is killed and counts as failed
    #[arg(long, default_value_t = 15, value_name = "MINUTES")]
    suite_limit: u64,
    /// Install system packages without asking; CI=true means the same
    #[arg(long, short)]
    yes: bool,
}

/// Runs what was asked for; fails when a test did.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    // Asking for both is asking for everything.
    let (unit, e2e) = if arguments.unit == arguments.e2e { (true, true) } else { (arguments.unit, arguments.e2e) };
    let no_box = if e2e { wormhole_tests::boxed::obstacle() } else { None };
    let mut groups = vec![Group::Build];
    if e2e && no_box.is_none() {
        groups.push(Group::E2e);
    }
    setup::ensure(&groups, arguments.yes)?;
    ebpf::build()?;
    suites::build_programs()?;
    let mut suites = suites::build()?;
    suites.retain(|suite| match suite.kind {
        Kind::Unit | Kind::Documentation => unit,
        Kind::EndToEnd => e2e,
    });
    let filter = choose(&mut suites, arguments.filter.as_deref());

    let scratch = tempfile::tempdir().context("making a folder for the run")?;
    let skips = scratch.path().join("skips");
    std::fs::write(&skips, "").with_context(|| format!("writing {}", skips.display()))?;
    let (boxed, plain): (Vec<_>, Vec<_>) = suites.into_iter().partition(|suite| suite.kind == Kind::EndToEnd);
    let mut run = Run {
        filter,
        test_threads: None,
        limit: Duration::from_secs(arguments.suite_limit * 60),
        skips: skips.clone(),
        env: vec![("WORMHOLE_BIN_DIR".into(), workspace::target()?.join("debug").into())],
    };
    let mut outcomes: Vec<Outcome> = plain.iter().map(|suite| run.suite(suite)).collect();
    run.test_threads = Some(arguments.test_threads);
    outcomes.extend(match no_box {
        None => e2e::run(&boxed, &run, scratch.path())?,
        Some(reason) => boxed.iter().map(|suite| run.not_run(suite, &reason)).collect(),
    });
    report(&outcomes, &skips)
}

/// Keeps the suite that `filter` names, if it names one; otherwise hands it on as a part of the tests' names.
fn choose(suites: &mut Vec<Suite>, filter: Option<&str>) -> Option<String> {
    let filter = filter?;
    if suites.iter().any(|suite| suite.name == filter) {
        suites.retain(|suite| suite.name == filter);
        return None;
    }
    Some(filter.to_owned())
}

/// The table, the reasons, and the last line.
fn report(outcomes: &[Outcome], skips: &Path) -> Result<ExitCode> {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["suite", "passed", "failed", "skipped", "seconds", ""]);
    for column in table.column_iter_mut().skip(1).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut total = libtest::Counts::default();
    // A filter leaves most suites without a test that ran; they would bury the one that did.
    for outcome in outcomes.iter().filter(|outcome| outcome.counts != libtest::Counts::default()) {
        let counts = outcome.counts;
        total += counts;
        table.add_row([
            outcome.suite.clone(),
            counts.passed.to_string(),
            counts.failed.to_string(),
            counts.skipped.to_string(),
            format!("{:.1}", outcome.seconds),
            outcome.remark.clone().unwrap_or_default(),
        ]);
    }
    println!("\n{table}");
    let reasons = std::fs::read_to_string(skips).with_context(|| format!("reading {}", skips.display()))?;
    for reason in reasons.lines().filter(|line| !line.trim().is_empty()) {
        println!("skipped: {}", reason.replace('\t', ": "));
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    std::io::stdout().flush().context("writing the last line")?;
    if total == libtest::Counts::default() {
        bail!("no test ran: nothing has that name");
    }
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(name: &str) -> Suite {
        let folder = std::path::PathBuf::from("/");
        Suite { name: name.to_owned(), kind: Kind::Unit, program: "x".into(), arguments: Vec::new(), folder }
    }

    #[test]
    fn a_filter_names_a_suite_or_tests() {
        let mut suites = vec![suite("wormhole"), suite("relay")];
        assert_eq!(choose(&mut suites, Some("half_close")), Some("half_close".to_owned()));
        assert_eq!(suites.len(), 2);
        assert_eq!(choose(&mut suites, Some("relay")), None);
        assert_eq!(suites.len(), 1);
    }
}
