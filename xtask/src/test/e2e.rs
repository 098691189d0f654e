//! The box that the end-to-end tests run in: namespaces of its own for network, mounts and processes, so that nothing
//! they make outlives them and two runs on one machine do not meet.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};
use serde::{Deserialize, Serialize};

use super::libtest::{Counts, Outcome, Run};
use super::suites::Suite;

/// A box made of: no network, mounts that nobody else sees, processes that all die with the first one.
const BOX: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// What the part inside the box is told.
#[derive(Serialize, Deserialize)]
struct Plan {
    suites: Vec<Suite>,
    run: Run,
    /// Where the outcomes go, after every suite, so that a crash of the box does not lose those that went before.
    outcomes: PathBuf,
}

/// Why there can be no box here, if so.
pub fn why_no_box() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("making network namespaces needs root".to_owned());
    }
    let output = match Command::new("unshare").args(BOX).arg("true").output() {
        Ok(output) => output,
        // It is one of the things that `setup` installs; what it cannot do is found out by the run itself.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(format!("unshare does not start: {error}")),
    };
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
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
    let status = enter(Command::new(xtask).arg("inside-box").arg(&path))?;
    let mut found: Vec<Outcome> = if outcomes.exists() { read_json(&outcomes)? } else { Vec::new() };
    for suite in &suites[found.len()..] {
        let counts = Counts { failed: 1, ..Counts::default() };
        let remark = Some(format!("not run: the box ended with {status}"));
        found.push(Outcome { suite: suite.name.clone(), counts, seconds: 0.0, remark });
    }
    Ok(found)
}

/// Runs `command` in a fresh box to its end.
fn enter(command: &Command) -> Result<ExitStatus> {
    let mut boxed = Command::new("unshare");
    boxed.args(BOX).arg(command.get_program()).args(command.get_args());
    boxed.status().context("starting unshare (in Debian's util-linux)")
}

/// The part of the run that is inside the box.
pub fn run_plan(path: &Path) -> Result<()> {
    let Plan { suites, mut run, outcomes } = read_json(path)?;
    let inside = inside_box()?;
    run.env.extend(inside.env.iter().cloned());
    let mut found = Vec::new();
    for suite in &suites {
        found.push(run.suite(suite));
        write_json(&outcomes, &found)?;
    }
    Ok(())
}

/// What was started for the suites; it ends when this is dropped, and with the box at the latest.
struct Inside {
    /// What the suites are told about it.
    env: Vec<(OsString, OsString)>,
}

/// Makes a bare box habitable: loopback, a /run of its own.
fn inside_box() -> Result<Inside> {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("starting ip")?;
    if !up.success() {
        bail!("ip link set lo up: {up}");
    }
    // /run holds the names of network namespaces, sockets of daemons and the lock of iptables: the host's are not ours.
    mount("wormhole-box", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))
        .context("mounting a /run of its own")?;
    std::fs::create_dir_all("/run/lock").context("making /run/lock")?;
    Ok(Inside { env: vec![("WORMHOLE_BOX".into(), "1".into())] })
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    serde_json::to_writer(file, value).with_context(|| format!("writing {}", path.display()))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    serde_json::from_reader(std::io::BufReader::new(file)).with_context(|| format!("reading {}", path.display()))
}
