//! Addresses and sockets of the bench's own load generator and server.

use anyhow::{Context, Result, bail};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

/// Where a worker listens or connects: TCP, or a unix stream (the line that the fast path is compared with).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix stream socket.
    Unix(PathBuf),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("unix: wants a path".into()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|e| format!("{text:?} is neither ADDRESS:PORT nor unix:PATH: {e}")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// No answer for this long means lost. Loopback answers in microseconds; the rest is for a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The congestion control that was asked for, for all TCP sockets of this process and of the workers that it starts.
static CONGESTION: OnceLock<String> = OnceLock::new();

/// Asks for a congestion control; once in a process.
pub fn set_congestion(name: &str) {
    // A second one would be of no use to sockets that are there already.
    let _ = CONGESTION.set(name.to_owned());
}

/// What was asked for.
pub fn congestion() -> Option<&'static str> {
    CONGESTION.get().map(String::as_str)
}

impl Endpoint {
    fn parts(&self) -> Result<(Domain, SockAddr)> {
        Ok(match self {
            Self::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            Self::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        })
    }

    /// Connects, with TCP_NODELAY and [`PATIENCE`] as the limit of every read and write.
    pub fn connect(&self) -> Result<Socket> {
        let (domain, address) = self.parts()?;
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.connect(&address).with_context(|| format!("connect to {self}"))?;
        self.prepare(&socket)?;
        Ok(socket)
    }

    /// Sets what both ends of a connection set.
    pub fn prepare(&self, socket: &Socket) -> Result<()> {
        if matches!(self, Self::Tcp(_)) {
            socket.set_tcp_nodelay(true)?;
            if let Some(name) = congestion() {
                let set = socket.set_tcp_congestion(name.as_bytes());
                set.with_context(|| {
                    format!("use the congestion control {name:?}; see `sysctl net.ipv4.tcp_available_congestion_control`")
                })?;
            }
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(())
    }

    /// Listens with a backlog that 16 busy clients cannot fill.
    pub fn listen(&self) -> Result<Socket> {
        let (domain, address) = self.parts()?;
        let socket = Socket::new(domain, Type::STREAM, None)?;
        match self {
            Self::Tcp(_) => socket.set_reuse_address(true)?,
            Self::Unix(path) => {
                // Left by the worker of the measurement before.
                let _ = std::fs::remove_file(path);
            }
        }
        socket.bind(&address).with_context(|| format!("bind {self}"))?;
        socket.listen(4096)?;
        Ok(socket)
    }
}

/// Finds ports nobody listens on, below the range from which the kernel takes client ports: with 10,000 connections open
/// a client could otherwise sit on the port that a proxy is about to bind.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let start = 20_000 + (std::process::id() % 8_000) as u16;
    let ports: Vec<u16> =
        (start..32_000).filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).take(count).collect();
    if ports.len() < count {
        bail!("found only {} free ports between {start} and 32000, {count} are needed", ports.len());
    }
    Ok(ports)
}

/// Says whether something listens on `port` in the network of a process (`self` or a pid) without connecting to it: a
/// connection would reach through to the tail.
pub fn is_listening(process: &str, port: u16) -> bool {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(format!("/proc/{process}/net/{table}")).ok())
        .any(|table| listens_in(&table, port))
}

/// Looks for `port` in state LISTEN (0A) in the text of `/proc/net/tcp`.
fn listens_in(table: &str, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&wanted)) && words.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_print_as_they_parse() -> Result<(), String> {
        for text in ["127.0.0.1:80", "[::1]:443", "unix:/run/x.sock"] {
            assert_eq!(text.parse::<Endpoint>()?.to_string(), text);
        }
        assert!("unix:".parse::<Endpoint>().is_err());
        assert!("localhost".parse::<Endpoint>().is_err());
        Ok(())
    }

    #[test]
    fn only_listeners_count() {
        let table = "  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A 0\n   1: 0100007F:1F91 0100007F:1F90 01 0\n";
        assert!(listens_in(table, 8080));
        assert!(!listens_in(table, 8081));
        assert!(!listens_in("", 8080));
    }
}
