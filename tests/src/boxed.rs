//! A box: own net, mount and pid namespaces with a fresh `/run`. Whatever is made inside is gone when it ends, also
//! when it is killed, and two boxes do not see each other. There is no network inside but loopback.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;

mod cgroup;

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
    for program in ["unshare", "ip", "mount"] {
        if crate::run::find(program).is_none() {
            return Some(format!("{program} is not installed"));
        }
    }
    None
}

/// `command` (program, arguments, environment, directory) as it is run inside a fresh box.
///
/// # Errors
/// When this process may not make one, with the reason.
pub fn inside(command: &Command) -> Result<Command> {
    if let Some(why) = obstacle() {
        bail!("cannot make a box: {why}");
    }
    let mut outer = Command::new("unshare");
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
    cgroup::sweep();
    let status = inside(command)?.status().context("cannot start unshare (package util-linux)");
    cgroup::sweep();
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
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let root = if in_box() { PathBuf::from("/run/w") } else { PathBuf::from("/tmp") };
    let root = ROOT.get_or_init(|| root);
    let dir = root.join(crate::run::unique("w"));
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Where logs go: the directory in WORMHOLE_LOG_DIR where they are to outlive the box, else `default`.
pub fn log_dir(default: &std::path::Path) -> PathBuf {
    match std::env::var_os("WORMHOLE_LOG_DIR") {
        Some(dir) if std::fs::create_dir_all(&dir).is_ok() => PathBuf::from(dir),
        _ => default.to_owned(),
    }
}
