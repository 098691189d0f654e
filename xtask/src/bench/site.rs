//! Where a process of the bench runs: on this machine, in the network of a container, or in a container.

use super::{net, peers};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use wormhole_tests::docker::Docker;
use wormhole_tests::run;

/// A place for processes.
#[derive(Debug, Clone, Default)]
pub enum Site {
    /// Beside this process.
    #[default]
    Here,
    /// A process of the host in the network namespace of process `.0`.
    Net(u32),
    /// In a container, where this program and the bench's directory have the paths that they have here.
    Container(Container),
}

/// A container that runs.
#[derive(Debug, Clone)]
pub struct Container {
    /// The engine.
    pub docker: Docker,
    /// What the engine calls it.
    pub id: String,
    /// Its first process, as this process sees it.
    pub pid: u32,
}

impl Site {
    /// A command that runs `program` there, with standard input and output here.
    pub fn command(&self, program: &Path) -> Command {
        match self {
            Self::Here => Command::new(program),
            Self::Net(pid) => {
                let mut command = run::command("nsenter", ["--target", &pid.to_string(), "--net", "--"]);
                command.arg(program);
                command
            }
            Self::Container(container) => {
                let mut command = container.docker.command();
                command.args(["exec", "-i", &container.id]).arg(program);
                command
            }
        }
    }

    /// What an installed program is called there.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        match self {
            // Images have them where PATH leads.
            Self::Container(_) => Ok(name.into()),
            Self::Here | Self::Net(_) => peers::find(name).with_context(|| format!("{name} is not installed")),
        }
    }

    /// Says whether something listens on `port` there, without connecting to it.
    pub fn is_listening(&self, port: u16) -> bool {
        match self {
            Self::Here => net::is_listening("self", port),
            Self::Net(pid) | Self::Container(Container { pid, .. }) => net::is_listening(&pid.to_string(), port),
        }
    }
}
