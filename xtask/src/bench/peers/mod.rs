//! What is measured: no proxy at all, wormhole, and the other proxies, each the real program with its own file here.

mod containers;
mod direct;
mod docker_proxy;
mod haproxy;
mod nginx;
mod rathole;
mod socat;
mod systemd;
mod wormhole;

use super::fastpath::containers::Containers;
use super::net::Endpoint;
use super::proc::Group;
use super::segment::Segment;
use super::site::Site;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Something that connections can be made through.
pub trait Peer: Sync {
    /// The name in tables and on the command line.
    fn name(&self) -> &'static str;
    /// How it is run, in a line under the table.
    fn about(&self) -> &'static str;
    /// Where its program comes from.
    fn source(&self) -> Source;
    /// Starts it; its head must be listening when this returns.
    fn start(&self, place: &Place<'_>) -> Result<Running>;
    /// One process a connection: memory is then counted without the pages that they share, and 10,000 are not tried.
    fn forks(&self) -> bool {
        false
    }
}

/// Where a peer's program comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Nothing to install: part of the bench, or built from this workspace.
    Own,
    /// Installed with apt: the program to look for, the packages that hold it.
    Apt(&'static str, &'static [&'static str]),
    /// Only unpacked from its package, never installed: the program, the package.
    Unpacked(&'static str, &'static str),
    /// Built with `cargo install`: the crate, its version, further arguments.
    Crate(&'static str, &'static str, &'static [&'static str]),
}

/// What a peer is given.
pub struct Place<'a> {
    /// This program, for `bench-worker exec`.
    pub exe: &'a Path,
    /// A directory of its own.
    pub dir: PathBuf,
    /// Where to listen: 127.0.0.1 and this port.
    pub head: u16,
    /// Another free port.
    pub spare: u16,
    /// The server's port on 127.0.0.1.
    pub tail: u16,
    /// The server's unix socket.
    pub tail_unix: &'a Path,
    /// Where programs are unpacked and built.
    pub tools: &'a Path,
    /// Where wormhole's binaries are.
    pub bins: &'a Path,
    /// The two containers, where they are what is measured.
    pub containers: Option<&'a Containers>,
}

/// A peer that has been started.
pub struct Running {
    /// Where clients connect.
    pub head: Endpoint,
    /// Where they run.
    pub client: Site,
    /// Where the server runs.
    pub server: Site,
    /// Where it listens.
    pub listen: Vec<Endpoint>,
    /// The processes between client and server.
    pub groups: Vec<Group>,
    /// Further ones, which belong to somebody else.
    pub others: Vec<u32>,
    /// What the daemon in between can be asked about.
    pub segment: Option<Segment>,
}

/// What the relay is compared with, in the order of the table.
pub static ALL: &[&dyn Peer] = &[
    &direct::Direct,
    &wormhole::RELAY_ALONE,
    &haproxy::Haproxy,
    &nginx::Nginx,
    &socat::Socat,
    &systemd::SocketProxyd,
    &docker_proxy::DockerProxy,
    &rathole::Rathole,
    &direct::UnixPair,
];

/// The fast path on the host: client and server beside each other.
pub static HOST: &[&dyn Peer] = &[
    &direct::Direct,
    &direct::UnixPair,
    &wormhole::HOST_FAST,
    &wormhole::HOST_RELAY,
    &wormhole::HOST_CHAIN,
    &haproxy::Haproxy,
    &nginx::Nginx,
    &socat::Socat,
    &systemd::SocketProxyd,
    &docker_proxy::DockerProxy,
    &rathole::Rathole,
];

/// From one container to another one.
pub static BETWEEN: &[&dyn Peer] = &[
    &containers::BETWEEN_DIRECT,
    &containers::BETWEEN_UNIX,
    &wormhole::BETWEEN_FAST,
    &wormhole::BETWEEN_RELAY,
    &containers::BETWEEN_BRIDGE,
];

/// From the host into a container.
pub static INTO: &[&dyn Peer] = &[
    &containers::INTO_DIRECT,
    &containers::INTO_UNIX,
    &wormhole::INTO_FAST,
    &wormhole::INTO_RELAY,
    &containers::INTO_BRIDGE,
    &containers::INTO_PUBLISHED,
];

/// Measured unless asked for: everything but the AF_UNIX pair, which belongs to the fast path.
pub fn by_default() -> impl Iterator<Item = &'static dyn Peer> {
    ALL.iter().copied().filter(|peer| peer.name() != UNIX_PAIR)
}

/// No proxy: the line that the physical limit is drawn against.
pub const DIRECT: &str = "direct";
/// The product.
pub const WORMHOLE: &str = "wormhole";
/// The product without its fast path, where both are measured.
pub const RELAY: &str = "relay";
/// The product, three segments in a row.
pub const CHAIN: &str = "chain";
/// The product, in all its ways.
pub const OWN: [&str; 3] = [WORMHOLE, RELAY, CHAIN];
/// A unix stream without a proxy.
pub const UNIX_PAIR: &str = "unix-pair";
/// HAProxy.
pub const HAPROXY: &str = "haproxy";
/// systemd's.
pub const SOCKET_PROXYD: &str = "socket-proxyd";
/// The network that containers have today.
pub const BRIDGE: &str = "bridge";

/// All that there are, some of them more than once.
pub fn every() -> impl Iterator<Item = &'static dyn Peer> {
    [ALL, HOST, BETWEEN, INTO].into_iter().flatten().copied()
}

/// A proxy that somebody else wrote, as opposed to the product and to ways without a proxy.
pub fn is_proxy(name: &str) -> bool {
    is_rival(name) && name != BRIDGE
}

/// Neither reference lines nor the product: what a "best peer" is taken from.
pub fn is_rival(name: &str) -> bool {
    ![DIRECT, UNIX_PAIR].contains(&name) && !OWN.contains(&name)
}

impl Place<'_> {
    /// The head as an endpoint.
    pub fn head(&self) -> Endpoint {
        Self::loopback(self.head)
    }

    /// A port of 127.0.0.1.
    pub fn loopback(port: u16) -> Endpoint {
        Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// What was started on this host, between a client and a server of it.
    fn on_host(&self, head: Endpoint, groups: Vec<Group>) -> Running {
        Running {
            head,
            client: Site::Here,
            server: Site::Here,
            listen: vec![Self::loopback(self.tail), Endpoint::Unix(self.tail_unix.to_owned())],
            groups,
            others: Vec::new(),
            segment: None,
        }
    }

    /// What leads into the server's container.
    fn to_container(&self, head: Endpoint, client: Site) -> Result<Running> {
        let containers = self.containers()?;
        let everywhere = Endpoint::Tcp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.tail)));
        Ok(Running {
            client,
            server: Site::Container(containers.server.clone()),
            // The bridge leads to another address than loopback.
            listen: vec![everywhere, Endpoint::Unix(self.tail_unix.to_owned())],
            ..self.on_host(head, Vec::new())
        })
    }

    fn containers(&self) -> Result<&Containers> {
        self.containers.context("there are no containers")
    }

    /// A command that runs `program` so that it dies with the bench, with its output in `NAME.log`.
    pub fn command<S: AsRef<OsStr>>(&self, name: &str, program: &Path, args: impl IntoIterator<Item = S>) -> Result<Command> {
        let log = File::create(self.log(name)).with_context(|| format!("create {}", self.log(name).display()))?;
        let mut command = Command::new(self.exe);
        command.args(["bench-worker", "exec", "--"]).arg(program).args(args).current_dir(&self.dir);
        command.stdout(log.try_clone().context("share the log")?).stderr(log);
        Ok(command)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Starts a program and waits until the head listens.
    fn run<S: AsRef<OsStr>>(&self, name: &str, program: &Path, args: impl IntoIterator<Item = S>) -> Result<Running> {
        let mut group = Group::spawn(name, &mut self.command(name, program, args)?)?;
        self.wait(name, &mut group, || Site::Here.is_listening(self.head))?;
        Ok(self.on_host(self.head(), vec![group]))
    }

    /// Waits up to ten seconds for `ready`; says what the program wrote when it has ended instead.
    fn wait(&self, name: &str, group: &mut Group, ready: impl Fn() -> bool) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while !ready() {
            group.check_alive().with_context(|| self.last_words(name))?;
            if Instant::now() > end {
                bail!("{name} is not listening after 10 s: {}", self.last_words(name));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn last_words(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.log(name)).unwrap_or_default();
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it wrote nothing").trim().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

/// Finds an installed program; PATH first, then where Debian keeps what is not for users.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin", "/usr/lib/systemd", "/usr/libexec/docker"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|dir| dir.join(program)).find(|path| path.is_file())
}

fn need(program: &str) -> Result<PathBuf> {
    find(program).with_context(|| format!("{program} is not installed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_the_command_line() {
        for list in [ALL, HOST, BETWEEN, INTO] {
            let mut names: Vec<&str> = list.iter().map(|peer| peer.name()).collect();
            assert!(names.iter().all(|name| !name.contains(',')));
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), list.len());
        }
    }
}
