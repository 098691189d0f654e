//! A private Docker engine: everything below one fresh directory, stopped by its pid.

use crate::docker::Docker;
use crate::run::{self, tail};
use crate::{boxed, wait};
use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The address of an engine that one run's test binaries share, like `unix:///run/w/d/docker.sock`.
pub const ENV: &str = "WORMHOLE_TEST_DOCKER";

/// A `dockerd` that belongs to this value. Dropping stops it.
#[derive(Debug)]
pub struct Engine {
    child: Child,
    dir: PathBuf,
    log: PathBuf,
    /// From the last start to the first answer.
    pub took: Duration,
    /// True when its default bridge works; false when it runs without iptables and only `--network none` is of use.
    pub bridge: bool,
    network: Network,
}

/// What an engine makes of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    /// The default bridge, in the box's namespace.
    Bridge,
    /// Nothing, in the box's namespace.
    Nothing,
    /// Nothing, in a namespace of its own.
    Apart,
}

impl Engine {
    /// Starts an engine below a fresh directory and waits until it answers.
    ///
    /// # Errors
    /// Outside a box, when `dockerd` is not installed, and when it does not come up, with the end of its log.
    pub fn start() -> Result<Self> {
        if !boxed::in_box() {
            bail!("a private Docker engine is started only in a box: its bridge and its firewall rules would stay");
        }
        match Self::try_start(Network::Bridge) {
            Ok(engine) => Ok(engine),
            // A kernel without nf_tables can still run containers that need no network.
            Err(first) => Self::try_start(Network::Nothing).with_context(|| format!("and before, with a bridge: {first:#}")),
        }
    }

    /// Starts one in a network namespace of its own, with containers that have `--network none` or that of another container.
    /// For a test that needs an engine of its own beside the shared one: without a bridge, an engine would take away that of the
    /// other one.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_plain() -> Result<Self> {
        if !boxed::in_box() {
            bail!("a private Docker engine is started only in a box");
        }
        Self::try_start(Network::Apart)
    }

    fn try_start(network: Network) -> Result<Self> {
        let dir = boxed::fresh_dir()?;
        let log = boxed::new_log(&dir, "dockerd");
        let child = launch(&dir, &log, network)?;
        let bridge = network == Network::Bridge;
        let mut engine = Self { child, dir, log, took: Duration::ZERO, bridge, network };
        engine.wait_ready()?;
        Ok(engine)
    }

    /// Stops it and starts it again on the same socket with the same containers (which are stopped).
    ///
    /// # Errors
    /// When it does not stop or does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.terminate()?;
        self.child = launch(&self.dir, &self.log, self.network)?;
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        let socket = socket_of(&self.dir);
        let up = wait::poll("dockerd to answer", Duration::from_secs(30), || match self.child.try_wait() {
            Ok(Some(status)) => Ok(Err(anyhow!("dockerd ended: {status}"))),
            _ => ping(&socket).map(Ok),
        })
        .and_then(|answer| answer);
        self.took = began.elapsed();
        up.map_err(|error| anyhow!("{error:#}; the end of its log:\n{}", tail(&self.log, 15)))
    }

    /// Address as `-H`, `--docker` and DOCKER_HOST take it.
    pub fn host(&self) -> String {
        format!("unix://{}", socket_of(&self.dir).display())
    }

    /// The hand that works it.
    pub fn docker(&self) -> Docker {
        Docker::new(&self.host())
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Process id of `dockerd`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops it: SIGTERM, so that it stops its containers and its containerd; after 20 s SIGKILL.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(mut self) -> Result<()> {
        self.terminate()
    }

    fn terminate(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("dockerd has no pid")?;
        kill_process(pid, Signal::TERM).context("cannot stop dockerd")?;
        let ended = wait::poll("dockerd to stop", Duration::from_secs(20), || match self.child.try_wait() {
            Ok(Some(_)) => Ok(()),
            _ => Err(String::new()),
        });
        if ended.is_err() {
            self.child.kill()?;
            self.child.wait()?;
        }
        ended
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Err(error) = self.terminate() {
            eprintln!("{error:#}");
        }
    }
}

/// The engine of this run: the one in WORMHOLE_TEST_DOCKER, else one that is started now and ends with this process.
///
/// # Errors
/// Why there is none.
pub fn shared() -> Result<&'static Docker, String> {
    static SHARED: OnceLock<Result<Docker, String>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        if let Ok(host) = std::env::var(ENV) {
            let docker = Docker::new(&host);
            // Given on purpose: that it does not answer is a failure of the run and no reason to skip.
            docker.version().unwrap_or_else(|e| panic!("{ENV}={host}: {e:#}"));
            return Ok(docker);
        }
        let engine = Engine::start().map_err(|e| format!("no Docker engine: {e:#}"))?;
        println!("dockerd answered after {} ms", engine.took.as_millis());
        let docker = engine.docker();
        // Statics are not dropped. The parent-death signal stops it.
        std::mem::forget(engine);
        Ok(docker)
    });
    shared.as_ref().map_err(Clone::clone)
}

fn launch(dir: &Path, log: &Path, network: Network) -> Result<Child> {
    let dockerd = run::find("dockerd").ok_or_else(|| anyhow!("dockerd is not installed (package docker.io)"))?;
    let out = File::options().create(true).append(true).open(log);
    let out = out.with_context(|| format!("cannot write {}", log.display()))?;
    // The box's own file system is memory; WORMHOLE_BOX_DATA names a directory on disk for machines with little of it.
    let data = match (std::env::var_os("WORMHOLE_BOX_DATA"), dir.file_name()) {
        (Some(disk), Some(name)) => PathBuf::from(disk).join(name),
        _ => dir.join("data"),
    };
    // setpriv: an engine must not outlive a test binary that is killed or that simply returns from main.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]);
    if network == Network::Apart {
        command.args(["unshare", "--net", "--"]);
    }
    command.arg(dockerd);
    command.arg("--data-root").arg(data).arg("--exec-root").arg(dir.join("exec"));
    command.arg("--pidfile").arg(dir.join("pid")).arg("--host").arg(format!("unix://{}", socket_of(dir).display()));
    // In a box there is no systemd to ask for cgroups, though the machine may have one.
    command.args(["--exec-opt", "native.cgroupdriver=cgroupfs", "--config-file"]).arg(empty_config(dir)?);
    if let Ok(cgroup) = std::env::var(boxed::CGROUP_ENV) {
        command.args(["--cgroup-parent", &format!("/{cgroup}")]);
    }
    if network != Network::Bridge {
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]);
    }
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    spawn_from_lasting_thread(command)
}

fn socket_of(dir: &Path) -> PathBuf {
    dir.join("docker.sock")
}

/// The machine's own /etc/docker/daemon.json must not reach into the box.
fn empty_config(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("daemon.json");
    std::fs::write(&path, "{}")?;
    Ok(path)
}

/// The parent-death signal is sent when the thread that started the child ends, and the threads of tests end early.
fn spawn_from_lasting_thread(mut command: Command) -> Result<Child> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new().name("dockerd-parent".to_owned()).spawn(move || {
        let _ = sender.send(command.spawn().with_context(|| format!("cannot start {}", run::line(&command))));
        loop {
            std::thread::park();
        }
    })?;
    receiver.recv()?
}

fn ping(socket: &Path) -> Result<(), String> {
    let mut stream = UnixStream::connect(socket).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|e| e.to_string())?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
    if answer.contains(" 200 ") { Ok(()) } else { Err(answer) }
}
