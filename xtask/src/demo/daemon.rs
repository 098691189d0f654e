//! The `wormholed` of the story: the real one, as a user would start it.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use wormhole_tests::{run, wait};

use super::session::Session;

/// Where the client looks when it is told nothing. /run is the box's own.
const SOCKET: &str = "/run/wormhole/wormhole.sock";

/// A running daemon. It dies with the box at the latest.
pub struct Daemon(Child);

impl Daemon {
    /// Shows the line, starts the daemon, waits until it answers.
    pub fn start(session: &Session) -> Result<Self> {
        let folder = &session.folder;
        // Neither the state nor the settings of a daemon that this machine may already have.
        let (config, state) = (folder.join("wormholed.toml"), folder.join("state"));
        std::fs::write(&config, "").with_context(|| format!("writing {}", config.display()))?;
        session.look.typed(&format!("wormholed --config {} --state-dir {} &", config.display(), state.display()));
        let log = folder.join("wormholed.log");
        let out = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = session.command("wormholed");
        command.arg("--config").arg(config).arg("--state-dir").arg(state);
        command.stdin(Stdio::null()).stdout(out.try_clone().context("copying a file")?).stderr(out);
        let mut child = command.spawn().context("starting wormholed")?;
        let up = wait::poll("wormholed to answer", Duration::from_secs(15), || match child.try_wait() {
            Ok(Some(status)) => Ok(Err(anyhow::anyhow!("wormholed ended: {status}"))),
            _ => UnixStream::connect(SOCKET).map(|_| Ok(())).map_err(|error| error.to_string()),
        });
        if let Err(error) = up.and_then(|up| up) {
            let _ = child.kill();
            bail!("{error:#}; the end of its log:\n{}", run::tail(&log, 20));
        }
        Ok(Self(child))
    }

    /// SIGTERM; it has to end well.
    pub fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(self.0.id().cast_signed()).context("wormholed has no pid")?;
        kill_process(pid, Signal::TERM).context("stopping wormholed")?;
        let status = wait::poll("wormholed to stop", Duration::from_secs(15), || {
            self.0.try_wait().map_err(|error| error.to_string())?.ok_or_else(String::new)
        })?;
        if !status.success() {
            bail!("wormholed ended with {status}");
        }
        Ok(())
    }
}
