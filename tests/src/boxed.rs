//! A box: own net, mount and pid namespaces with a fresh `/run`. Whatever is made inside is gone when it ends, also
//! when it is killed, and two boxes do not see each other. There is no network inside but loopback.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

mod cgroup;

pub use cgroup::sweep;

/// Set to 1 inside.
pub const ENV: &str = "WORMHOLE_BOX";

/// Inside, the cgroup that containers go below.
pub const CGROUP_ENV: &str = "WORMHOLE_BOX_CGROUP";

/// The shell stays the first process: it collects the orphans that engines leave behind, and Ctrl-C ends its child
/// (a first process itself is immune to it), whereupon the whole box ends. /run is a tmpfs, so that the sockets,
/// `ip netns` and the data of an engine need no cleaning up.
const INSIDE: &str = r#"
ip link set lo up
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock /run/w
"$@"
exit $?
"#;

/// True inside a box.
pub fn in_box() -> bool {
    std::env::var_os(ENV).is_some_and(|v| v == "1")
}

/// True for root in the initial sense that matters here: may make namespaces and mounts.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Why a box cannot be made here, if so.
pub fn obstacle() -> Option<String> {
    if !is_root() {
        return Some("making namespaces needs root".to_owned());
    }
    for program in ["unshare", "setpriv", "ip", "mount"] {
        if crate::run::find(program).is_none() {
            return Some(format!("{program} is not installed"));
        }
    }
    None
}

/// `command` (program, arguments, environment, directory) as it is run inside a fresh box. The box ends with the thread
/// that starts it.
///
/// # Errors
/// When this process may not make one, with the reason.
pub fn inside(command: &Command) -> Result<Command> {
    if let Some(why) = obstacle() {
        bail!("cannot make a box: {why}");
    }
    // A maker that is killed takes the box along: setpriv ends unshare, and --kill-child what is inside.
    let mut outer = Command::new("setpriv");
    outer.args(["--pdeathsig", "KILL", "--", "unshare"]);
    outer.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "/bin/sh", "-ec", INSIDE]);
    outer.arg("box").arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(key, value),
            None => outer.env_remove(key),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        outer.current_dir(dir);
    }
    outer.env(ENV, "1").env(CGROUP_ENV, cgroup::name());
    Ok(outer)
}

/// Runs `command` in a fresh box to its end.
///
/// # Errors
/// When the box cannot be made.
pub fn enter(command: &Command) -> Result<ExitStatus> {
    // Also what boxes left that were killed together with the process that made them.
    sweep();
    let status = inside(command)?.status().context("cannot start unshare (package util-linux)");
    sweep();
    status
}

/// Runs this very program with the same arguments in a fresh box, unless it is in one already.
///
/// # Errors
/// When the box cannot be made.
pub fn reenter() -> Result<Option<ExitStatus>> {
    if in_box() {
        return Ok(None);
    }
    let mut again = Command::new(std::env::current_exe().context("where is this program?")?);
    again.args(std::env::args_os().skip(1));
    enter(&again).map(Some)
}

/// A fresh directory with a short path (a unix socket's is at most 107 bytes). In a box it vanishes with the box.
///
/// # Errors
/// When it cannot be made.
pub fn fresh_dir() -> Result<PathBuf> {
    let root = Path::new(if in_box() { "/run/w" } else { "/tmp" });
    let dir = tempfile::Builder::new().prefix("w").tempdir_in(root);
    Ok(dir.with_context(|| format!("cannot make a directory in {}", root.display()))?.keep())
}

/// A new log of `program`, whose files are in `dir`: in there, or in WORMHOLE_LOG_DIR, where logs outlive the box.
pub(crate) fn new_log(dir: &Path, program: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let name = format!("{name}-{}.{program}.log", crate::run::unique("d"));
    match std::env::var_os("WORMHOLE_LOG_DIR").map(PathBuf::from) {
        Some(kept) if std::fs::create_dir_all(&kept).is_ok() => kept.join(name),
        _ => dir.join(name),
    }
}
