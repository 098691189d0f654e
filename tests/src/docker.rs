//! Containers, through the `docker` command: what a user would type.

use crate::kernel::{self, Ns};
use crate::run::{self, Output};
use crate::{images, wait};
use anyhow::{Result, anyhow};
use std::process::Command;
use std::time::Duration;

/// How long a container may take to get ready.
pub const READY: Duration = Duration::from_secs(30);

/// The `docker` command bound to one engine.
#[derive(Clone, Debug)]
pub struct Docker {
    host: String,
}

impl Docker {
    /// For the engine at `host` (`unix:///path` or `tcp://host:port`).
    pub fn new(host: &str) -> Self {
        Self { host: host.to_owned() }
    }

    /// Address of the engine.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `docker -H host`, without the user's contexts and settings.
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command.args(["-H", &self.host]);
        for name in ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION"] {
            command.env_remove(name);
        }
        command.env("DOCKER_CONFIG", "/nonexistent");
        command
    }

    /// Runs `docker ARGS` and gives its standard output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        run::text(self.command().args(args))
    }

    /// Version of the engine.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn version(&self) -> Result<String> {
        self.run(&["version", "--format", "{{.Server.Version}}"])
    }

    /// Runs a container of one of our images in the background; the image is made when the engine lacks it.
    /// `options` are those of `docker run`; `--network none` when they name no network, because no test needs one.
    ///
    /// # Errors
    /// When the image cannot be made or the engine refuses.
    pub fn container(&self, image: images::Image, options: &[&str]) -> Result<Container> {
        images::ensure(self, image)?;
        self.container_of(image.tag(), options, &[])
    }

    /// Runs a container of any image that the engine has, with a command of its own.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn container_of(&self, tag: &str, options: &[&str], command: &[&str]) -> Result<Container> {
        let mut args = vec!["run", "-d"];
        if !options.iter().any(|o| o.starts_with("--net")) {
            args.extend(["--network", "none"]);
        }
        let name = run::unique("c");
        if !options.iter().any(|o| o.starts_with("--name")) {
            args.extend(["--name", &name]);
        }
        args.extend(options);
        args.push(tag);
        args.extend(command);
        let id = self.run(&args)?;
        let name = self.run(&["inspect", "--format", "{{.Name}}", &id])?.trim_start_matches('/').to_owned();
        Ok(Container { docker: self.clone(), id, name })
    }
}

/// A running container that belongs to this value. Dropping removes it.
#[derive(Debug)]
pub struct Container {
    docker: Docker,
    /// Full id.
    pub id: String,
    /// Name.
    pub name: String,
}

impl Container {
    /// Pid of its first process; an error while it does not run.
    ///
    /// # Errors
    /// When it does not run or is gone.
    pub fn pid(&self) -> Result<u32> {
        let pid: u32 = self.docker.run(&["inspect", "--format", "{{.State.Pid}}", &self.id])?.parse()?;
        anyhow::ensure!(pid != 0, "container {} does not run; its last words:\n{}", self.name, self.logs());
        Ok(pid)
    }

    /// Its network namespace, for [`kernel`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn ns(&self) -> Result<Ns> {
        Ok(Ns::Pid(self.pid()?))
    }

    /// Runs a program in it.
    ///
    /// # Errors
    /// When `docker` cannot be started. A program that fails is no error here.
    pub fn exec(&self, args: &[&str]) -> Result<Output> {
        run::output(self.docker.command().args(["exec", &self.id]).args(args))
    }

    /// Waits until `args` succeed in it and `good` likes what they print, and gives that.
    ///
    /// # Errors
    /// After [`READY`], with the last answer and the container's log.
    pub fn wait_exec(&self, args: &[&str], good: impl Fn(&str) -> bool) -> Result<String> {
        wait::poll(&format!("{} in {}", args.join(" "), self.name), READY, || {
            let done = self.exec(args).map_err(|e| format!("{e:#}"))?;
            let fine = done.status.success() && good(&done.stdout);
            if fine { Ok(done.stdout) } else { Err(format!("{}{}", done.stdout, done.stderr)) }
        })
        .map_err(|error| anyhow!("{error:#}\nlog of {}:\n{}", self.name, self.logs()))
    }

    /// Waits until something in it listens on `port` (`tcp` or `udp`), without connecting to it.
    ///
    /// # Errors
    /// After [`READY`], with the container's log.
    pub fn wait_listening(&self, proto: &str, port: u16) -> Result<()> {
        wait::poll(&format!("{proto} port {port} in {}", self.name), READY, || {
            let ns = self.ns().map_err(|e| format!("{e:#}"))?;
            let all = kernel::listeners(&ns).map_err(|e| format!("{e:#}"))?;
            all.iter().any(|l| l.is(proto, port)).then_some(()).ok_or_else(String::new)
        })
        .map_err(|error| anyhow!("{error:#}\nlog of {}:\n{}", self.name, self.logs()))
    }

    /// `docker stop`, waiting at most `seconds` before the kill.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn stop(&self, seconds: u32) -> Result<()> {
        self.docker.run(&["stop", "-t", &seconds.to_string(), &self.id]).map(drop)
    }

    /// `docker start`: a new pid and a new namespace.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn start(&self) -> Result<()> {
        self.docker.run(&["start", &self.id]).map(drop)
    }

    /// `docker restart`.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn restart(&self) -> Result<()> {
        self.docker.run(&["restart", "-t", "2", &self.id]).map(drop)
    }

    /// `docker kill`: no warning.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn kill(&self) -> Result<()> {
        self.docker.run(&["kill", &self.id]).map(drop)
    }

    /// `docker rename`.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn rename(&mut self, name: &str) -> Result<()> {
        self.docker.run(&["rename", &self.id, name])?;
        name.clone_into(&mut self.name);
        Ok(())
    }

    /// `docker rm -f`; its namespace goes too.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn remove(self) -> Result<()> {
        self.docker.run(&["rm", "-f", "-v", &self.id]).map(drop)
    }

    /// Everything that it said.
    pub fn logs(&self) -> String {
        match run::output(self.docker.command().args(["logs", "--tail", "30", &self.id])) {
            Ok(done) => format!("{}{}", done.stdout, done.stderr),
            Err(error) => format!("({error:#})"),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Gone already, or the whole engine is: both are fine.
        let _ = run::output(self.docker.command().args(["rm", "-f", "-v", &self.id]));
    }
}
