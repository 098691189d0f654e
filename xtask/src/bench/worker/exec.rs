//! Becoming a peer, and keeping a server for as long as it is wanted.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Replaces this process by `command`, which the kernel ends when the bench dies: both the signal and the raised limit
/// of open files survive exec. Returns only on failure.
pub fn exec(command: &[OsString]) -> Result<()> {
    // In a container the parent is outside and unknown, and the container's end is the program's.
    if rustix::process::getppid().is_some() {
        set_parent_process_death_signal(Some(Signal::TERM)).context("ask to die with the bench")?;
    }
    let [program, args @ ..] = command else { bail!("nothing to run") };
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("run {}", program.to_string_lossy()))
}

/// Runs `command`, with its output in `log`, until standard input ends; then ends it. In a container this is what can be reached from
/// outside: the engine hands the end of the input on, and no signal.
pub fn hold(log: &Path, command: &[OsString]) -> Result<()> {
    let log = File::create(log).with_context(|| format!("create {}", log.display()))?;
    // Through `exec`, so that it ends with this process, whatever ends that.
    let mut own = Command::new(std::env::current_exe().context("find this program")?);
    own.args(["bench-worker", "exec", "--"]).args(command).stdin(Stdio::null());
    own.stdout(log.try_clone().context("share a log")?).stderr(log);
    let mut child = own.spawn().context("start a server")?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("the program has no pid")?;
    std::thread::Builder::new().spawn(move || {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = kill_process(pid, Signal::TERM);
        // Two seconds for a polite end, as long as peers get.
        std::thread::sleep(Duration::from_secs(2));
        let _ = kill_process(pid, Signal::KILL);
    })?;
    child.wait().context("wait for the program").map(drop)
}
