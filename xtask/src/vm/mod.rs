//! `cargo xtask vm-test`: the tests that depend on the kernel, on the kernels that users have.
//!
//! | file | subject |
//! | --- | --- |
//! | [`kernels`] | fetches Debian's |
//! | [`initramfs`] | what a guest has instead of a disk |
//! | [`qemu`] | starts a guest and watches it |
//! | [`guest`] | what runs in it |
//! | [`report`] | what is said about it |

pub mod guest;
mod initramfs;
mod kernels;
mod qemu;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use wormhole_tests::boxed;

pub use self::qemu::PROGRAM as EMULATOR;

use self::guest::Plan;
use self::report::Row;
use crate::needs::Group;
use crate::test::libtest::Run;
use crate::test::suites::{self, Kind, Suite};
use crate::{ebpf, setup, workspace};

/// The words after `vm-test`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What is tested
    #[arg(long, default_value = "fastpath")]
    suite: Topic,
    /// Only this kernel (repeatable): 6.1, 6.12, 7.3, another series that the mirror has, or `own`, this machine's
    #[arg(long, value_name = "SERIES")]
    kernel: Vec<String>,
    /// How many connections each randomised test carries; without it each has a number of its own, more than 1,000 in all
    #[arg(long, value_name = "N")]
    connections: Option<u64>,
    /// After how many minutes a guest is killed and counts as failed
    #[arg(long, default_value_t = 90, value_name = "MINUTES")]
    limit: u64,
    /// After how many minutes a suite is killed, likewise
    #[arg(long, default_value_t = 15, value_name = "MINUTES")]
    suite_limit: u64,
    /// Show all that a failed guest printed and not the end alone
    #[arg(long)]
    console: bool,
    /// Keep each guest's archive, console and report in target/vm/runs
    #[arg(long)]
    keep: bool,
    /// Install system packages without asking; CI=true means the same
    #[arg(long, short)]
    yes: bool,
    /// These programs of the end-to-end tests instead of the suite's own
    programs: Vec<String>,
}

/// What is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Topic {
    /// The self-test, the semantics and the integrity of the fast path
    Fastpath,
}

/// What every kernel is tried with.
const FASTPATH: &str = "fastpath_";

/// What shows that a kernel that cannot relays.
const DECISION: &str = "fastpath_kernel";

/// Stock kernels, with more words for their command lines.
///
/// A kernel locked down for confidentiality refuses the reading of its memory to eBPF programs: there, `auto` has to relay.
const STOCK: &[(&str, &str)] = &[("6.1", ""), ("6.12", ""), ("7.3", ""), ("6.12", "lockdown=confidentiality")];

/// How much slower than the machine a guest may be.
const PATIENCE: &str = "8";

/// Where something is run.
#[derive(Clone, Debug)]
enum Place {
    /// On this machine's own kernel, in a box.
    Own,
    /// In a guest: series of the kernel, more words for its command line.
    Guest(String, &'static str),
}

/// Runs what was asked for; fails when a test did.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Topic::Fastpath = arguments.suite;
    setup::ensure(&[Group::Build], arguments.yes)?;
    let no_guest = no_guest(arguments.yes);
    ebpf::build()?;
    build_programs()?;
    let mut suites = suites::build()?;
    suites.retain(|suite| {
        let chosen = arguments.programs.is_empty() && suite.name.starts_with(FASTPATH);
        suite.kind == Kind::EndToEnd && (chosen || arguments.programs.contains(&suite.name))
    });
    let runs = workspace::target()?.join("vm/runs");
    std::fs::create_dir_all(&runs).with_context(|| format!("making {}", runs.display()))?;
    let mut rows = Vec::new();
    for place in places(&arguments.kernel) {
        let mut suites = suites.clone();
        if matches!(&place, Place::Guest(_, words) if !words.is_empty()) {
            suites.retain(|suite| suite.name == DECISION);
        }
        let skipped = match &place {
            Place::Own => boxed::obstacle(),
            Place::Guest(..) => no_guest.clone(),
        };
        eprintln!("\n--- {place}");
        let row = match skipped {
            Some(why) => Row::skipped(&place.to_string(), &why),
            None => one(&place, suites, arguments, &runs)?,
        };
        rows.push(row);
    }
    report::show(&rows, arguments.console)
}

/// The places that were asked for; all of them when none was.
fn places(wanted: &[String]) -> Vec<Place> {
    let stock = |series: &str, words| Place::Guest(series.to_owned(), words);
    if wanted.is_empty() {
        let guests = STOCK.iter().map(|(series, words)| stock(series, words));
        return guests.chain([Place::Own]).collect();
    }
    let places = wanted.iter().flat_map(|name| match &**name {
        "own" => vec![Place::Own],
        series => {
            let known = STOCK.iter().filter(|(known, words)| *known == series && !words.is_empty());
            let more = known.map(|(_, words)| stock(series, words));
            std::iter::once(stock(series, "")).chain(more).collect()
        }
    });
    places.collect()
}

/// Why no guest can be started here, if so.
fn no_guest(yes: bool) -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some("guests are made for x86_64 only".to_owned());
    }
    setup::ensure(&[Group::Vm], yes).err().map(|error| format!("{error:#}"))
}

/// Runs `suites` in one place.
fn one(place: &Place, suites: Vec<Suite>, arguments: &Arguments, runs: &Path) -> Result<Row> {
    let mut folder = tempfile::Builder::new().prefix("run-").tempdir_in(runs).context("making a folder for the run")?;
    folder.disable_cleanup(arguments.keep);
    let began = Instant::now();
    let mut row = match place {
        Place::Own => own(suites, arguments, folder.path())?,
        Place::Guest(series, words) => match kernels::get(series) {
            Ok(kernel) => stock(&kernel, words, suites, arguments, folder.path())?,
            Err(error) => Row::skipped(series, &format!("no kernel {series}: {error:#}")),
        },
    };
    row.name = place.to_string();
    row.seconds = began.elapsed().as_secs_f64();
    if arguments.keep {
        eprintln!("kept: {}", folder.path().display());
    }
    Ok(row)
}

/// Our programs are optimised: an emulated daemon that is not takes three times as long to start.
fn build_programs() -> Result<()> {
    let status = workspace::cargo()
        .args(["build", "--release", "--package", "wormhole", "--package", "wormhole-tests", "--bins"])
        .status();
    if !status.context("starting cargo")?.success() {
        bail!("the programs do not build");
    }
    Ok(())
}

/// Where they are.
fn bin() -> Result<PathBuf> {
    Ok(workspace::target()?.join("release"))
}

/// How the suites are run on every kernel.
fn how(arguments: &Arguments, skips: PathBuf, bin: PathBuf) -> Run {
    let mut env = vec![("WORMHOLE_BIN_DIR".into(), bin.into())];
    if let Some(connections) = arguments.connections {
        env.push(("CONNECTIONS".into(), connections.to_string().into()));
    }
    let limit = Duration::from_secs(arguments.suite_limit * 60);
    Run { filter: None, test_threads: Some(1), limit, skips, env }
}

/// In a box on this machine.
fn own(suites: Vec<Suite>, arguments: &Arguments, folder: &Path) -> Result<Row> {
    let names: Vec<String> = suites.iter().map(|suite| suite.name.clone()).collect();
    let (plan, report) = (folder.join("plan.json"), folder.join("report"));
    let run = how(arguments, folder.join("skips"), bin()?);
    write_plan(&plan, &Plan { suites, run, report: report.clone() })?;
    let xtask = std::env::current_exe().context("finding the path of xtask itself")?;
    let status = boxed::enter(Command::new(xtask).arg("vm-guest").arg(&plan).env(wormhole_tests::daemon::ENV, bin()?))?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let remark = (!status.success()).then(|| format!("the box ended with {status}"));
    Ok(Row::of(release, &names, guest::read(&report), remark))
}

/// In a guest.
fn stock(kernel: &kernels::Kernel, words: &str, suites: Vec<Suite>, arguments: &Arguments, folder: &Path) -> Result<Row> {
    let names: Vec<String> = suites.iter().map(|suite| suite.name.clone()).collect();
    let bin = bin()?;
    let mut ours = vec![("xtask".to_owned(), std::env::current_exe().context("finding the path of xtask itself")?)];
    ours.extend(["wormhole", "wormholed", "wormhole-splicer"].map(|name| (name.to_owned(), bin.join(name))));
    let below = |name: &str| Path::new(initramfs::OURS).join(name);
    let mut moved = Vec::new();
    for suite in suites {
        let name = format!("suite-{}", suite.name);
        ours.push((name.clone(), suite.program.clone()));
        moved.push(Suite { program: below(&name), folder: initramfs::OURS.into(), ..suite });
    }
    let mut run = how(arguments, "/run/skips".into(), initramfs::OURS.into());
    run.env.push((wormhole_tests::wait::PATIENCE_ENV.into(), PATIENCE.into()));
    let plan = folder.join("plan.json");
    write_plan(&plan, &Plan { suites: moved, run, report: "/dev/ttyS1".into() })?;
    ours.push(("plan.json".to_owned(), plan));

    let (root, archive) = (folder.join("root"), folder.join("initramfs"));
    initramfs::lay_out(&root, &ours)?;
    initramfs::pack(&root, &archive)?;
    std::fs::remove_dir_all(&root).context("removing what is packed now")?;
    let mut modules = std::fs::File::open(&kernel.modules).context("opening the kernel's modules")?;
    let mut both = std::fs::File::options().append(true).open(&archive).context("opening the archive")?;
    std::io::copy(&mut modules, &mut both).context("appending the kernel's modules")?;

    let (console, status) = (folder.join("console"), folder.join("report"));
    let guest = qemu::Guest {
        kernel: &kernel.image,
        initramfs: &archive,
        words,
        console: &console,
        status: &status,
        limit: Duration::from_secs(arguments.limit * 60),
    };
    let end = guest.run()?;
    let mut row = Row::of(kernel.release.clone(), &names, guest::read(&status), report::of_end(end, arguments.limit));
    row.read_console(&console);
    Ok(row)
}

fn write_plan(path: &Path, plan: &Plan) -> Result<()> {
    let text = serde_json::to_string(plan).context("writing the plan")?;
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own => f.write_str("own"),
            Self::Guest(series, "") => f.write_str(series),
            Self::Guest(series, words) => write!(f, "{series} {words}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_brings_its_variants() {
        let names = |wanted: &[&str]| -> Vec<String> {
            let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
            places(&wanted).iter().map(ToString::to_string).collect()
        };
        assert_eq!(names(&["6.1", "own"]), ["6.1", "own"]);
        assert_eq!(names(&["6.12"]), ["6.12", "6.12 lockdown=confidentiality"]);
        assert_eq!(names(&[]), ["6.1", "6.12", "7.3", "6.12 lockdown=confidentiality", "own"]);
    }
}
