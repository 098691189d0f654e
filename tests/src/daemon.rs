//! The real `wormholed` and `wormhole`.

use crate::run::{self, Output, tail};
use crate::{boxed, process, wait};
use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Where the binaries are; else beside the directory of this program.
pub const ENV: &str = "WORMHOLE_BIN_DIR";

/// How long a daemon may take to answer, and to stop.
const PATIENCE: Duration = Duration::from_secs(15);

/// A daemon that is about to be started.
#[derive(Debug)]
pub struct Setup {
    dir: PathBuf,
    command: Command,
}

/// A running `wormholed` with a state directory and a socket of its own. Dropping kills it, and prints its log when
/// the test is failing.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    dir: PathBuf,
    log: PathBuf,
}

/// The path of one of our binaries.
///
/// # Errors
/// When it was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os(ENV) {
        Some(dir) => PathBuf::from(dir),
        None => {
            let me = std::env::current_exe()?;
            let dir = me.parent().unwrap_or(Path::new("/"));
            // A test binary is in target/PROFILE/deps.
            if dir.ends_with("deps") { dir.parent().unwrap_or(dir).to_owned() } else { dir.to_owned() }
        }
    };
    let path = dir.join(name);
    if !path.is_file() {
        bail!("{} is not there: cargo build -p wormhole, or set {ENV}", path.display());
    }
    Ok(path)
}

impl Setup {
    /// A daemon in a fresh directory: `config`, `state/` and `s` (the socket) are in there.
    ///
    /// # Errors
    /// When it was not built, or the directory cannot be made.
    pub fn new() -> Result<Self> {
        Self::below(boxed::fresh_dir()?)
    }

    /// A daemon in a directory that another one has used: what is recorded there is found again.
    ///
    /// # Errors
    /// As [`Setup::new`].
    pub fn below(dir: PathBuf) -> Result<Self> {
        let mut command = Command::new(binary("wormholed")?);
        // The machine's own settings must not reach into a test.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WORMHOLE_") {
                command.env_remove(name);
            }
        }
        let config = dir.join("config.toml");
        std::fs::write(&config, "")?;
        command.arg("--config").arg(config);
        command.arg("--state-dir").arg(dir.join("state"));
        command.arg("-H").arg(format!("unix://{}", dir.join("s").display()));
        Ok(Self { dir, command })
    }

    /// Further arguments.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    /// With this engine.
    #[must_use]
    pub fn docker(self, host: &str) -> Self {
        self.args(&["--docker", host])
    }

    /// An environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Inside a named namespace.
    #[must_use]
    pub fn netns(mut self, netns: &crate::netns::Netns) -> Self {
        let mut outer = netns.command("env");
        outer.arg("--");
        self.wrap(outer);
        self
    }

    /// With at most so many open descriptors.
    #[must_use]
    pub fn limit_fds(mut self, count: u32) -> Self {
        self.wrap(run::command("prlimit", [&format!("--nofile={count}:{count}"), "--"]));
        self
    }

    /// Without some capabilities, as `setpriv` names them: `net_admin`.
    #[must_use]
    pub fn without(self, capabilities: &[&str]) -> Self {
        self.bounded(&capabilities.iter().map(|name| format!("-{name}")).collect::<Vec<_>>().join(","))
    }

    /// With these capabilities and no other.
    #[must_use]
    pub fn only(self, capabilities: &[String]) -> Self {
        self.bounded(&format!("-all,{}", capabilities.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(",")))
    }

    fn bounded(mut self, set: &str) -> Self {
        self.wrap(run::command("setpriv", ["--bounding-set", set, "--inh-caps", "-all", "--"]));
        self
    }

    /// Puts `outer` in front of what is run.
    fn wrap(&mut self, mut outer: Command) {
        outer.arg(self.command.get_program()).args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        self.command = outer;
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts it and waits until its socket accepts.
    ///
    /// # Errors
    /// When it ends or does not answer, with the end of its log.
    pub fn start(mut self) -> Result<Daemon> {
        let log = boxed::new_log(&self.dir, "wormholed");
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        self.command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = self.command.spawn().with_context(|| format!("cannot start {}", run::line(&self.command)))?;
        let mut daemon = Daemon { child, dir: self.dir, log };
        let up = wait::poll("wormholed to listen", PATIENCE, || match daemon.child.try_wait() {
            Ok(Some(status)) => Ok(Err(anyhow!("wormholed ended: {status}"))),
            _ => UnixStream::connect(daemon.socket()).map(|_| Ok(())).map_err(|e| e.to_string()),
        })
        .and_then(|answer| answer);
        match up {
            Ok(()) => Ok(daemon),
            Err(error) => bail!("{error:#}; the end of its log:\n{}", tail(&daemon.log, 20)),
        }
    }

    /// Starts it, expects it to end by itself, and gives what it said: for refused configurations.
    ///
    /// # Errors
    /// When it goes on running.
    pub fn refused(mut self) -> Result<Output> {
        let out = self.dir.join("out");
        let err = self.dir.join("err");
        self.command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
        let mut child = self.command.spawn().with_context(|| format!("cannot start {}", run::line(&self.command)))?;
        let ended = wait::poll("wormholed to end by itself", PATIENCE, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(String::new()),
        });
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        Ok(Output { status: ended?, stdout: std::fs::read_to_string(out)?, stderr: std::fs::read_to_string(err)? })
    }
}

impl Daemon {
    /// A daemon with nothing but its own directory; with `docker`'s engine when there is one.
    ///
    /// # Errors
    /// As [`Setup::start`].
    pub fn start(docker: Option<&crate::docker::Docker>) -> Result<Self> {
        let setup = Setup::new()?;
        match docker {
            Some(docker) => setup.docker(docker.host()),
            None => setup.docker("unix:///nonexistent/docker.sock"),
        }
        .start()
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `wormhole -H unix://… ARGS`.
    ///
    /// # Panics
    /// When the binary is not there.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Output {
        let host = format!("unix://{}", self.socket().display());
        cli(&[&["-H", &host], args].concat())
    }

    /// As [`Daemon::cli`], but the command has to succeed; gives its standard output.
    ///
    /// # Panics
    /// When it fails, with what it said and the end of the daemon's log.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let done = self.cli(args);
        let (said, log) = (format!("{}{}", done.stdout, done.stderr), tail(&self.log, 20));
        assert!(done.status.success(), "wormhole {} failed ({}): {said}\nlog:\n{log}", args.join(" "), done.status);
        done.stdout.trim_end().to_owned()
    }

    /// Everything that it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it holds now.
    ///
    /// # Panics
    /// When it is gone.
    #[track_caller]
    pub fn holds(&self) -> process::Holds {
        process::Holds::of(self.pid()).expect("wormholed is gone")
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When it does not end, or ends otherwise than with exit code 0; with its log.
    #[track_caller]
    pub fn stop(mut self) {
        let status = self.terminate().unwrap_or_else(|e| panic!("{e:#}\nlog:\n{}", tail(&self.log, 40)));
        assert!(status.success(), "wormholed ended with {status}\nlog:\n{}", tail(&self.log, 40));
    }

    /// SIGTERM without waiting.
    ///
    /// # Panics
    /// When it is gone.
    #[track_caller]
    pub fn signal_term(&self) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a pid");
        kill_process(pid, Signal::TERM).expect("wormholed is gone");
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// After 15 s.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        wait::poll("wormholed to end", PATIENCE, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(String::new()),
        })
    }

    /// `kill -9`, as a crash would be. Gives the directory for a next daemon ([`Setup::below`]).
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn crash(mut self) -> Result<PathBuf> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(self.dir.clone())
    }

    fn terminate(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal_term();
        self.wait()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- log of wormholed {} --\n{}", self.pid(), tail(&self.log, 60));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `wormhole ARGS` with nothing added.
///
/// # Panics
/// When the binary is not there.
#[track_caller]
pub fn cli(args: &[&str]) -> Output {
    let mut command = Command::new(binary("wormhole").expect("the wormhole binary"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WORMHOLE_") {
            command.env_remove(name);
        }
    }
    run::output(command.args(args)).expect("the wormhole binary starts")
}
