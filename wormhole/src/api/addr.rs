//! Where a daemon listens, and how a client names it: `unix:///path`, `tcp://host:port`.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The port of the control API unless the user says otherwise.
pub const DEFAULT_PORT: u16 = 9999;

/// The unix socket of the control API unless the user says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/wormhole/wormhole.sock";

/// The longest path that fits into `sockaddr_un` with its final NUL (unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;

/// The address of a daemon's control API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// `unix:///path`: for root and group `wormhole` of this machine.
    Unix(PathBuf),
    /// `tcp://host:port`: TLS 1.3 for who holds the key.
    Tcp {
        /// Address or name, IPv6 without brackets.
        host: String,
        /// Port; 0 for a listener means any free one.
        port: u16,
    },
}

/// Why a text is no address. The text says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}`: {reason}", text.escape_debug())]
pub struct AddrError {
    /// What was given.
    pub text: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl ListenAddr {
    /// unix:///run/wormhole/wormhole.sock
    pub fn default_unix() -> Self {
        Self::Unix(PathBuf::from(DEFAULT_SOCKET))
    }

    /// tcp://0.0.0.0:9999
    pub fn default_tcp() -> Self {
        Self::Tcp { host: "0.0.0.0".to_owned(), port: DEFAULT_PORT }
    }

    /// How a peer may be named: as an address with scheme, or `host`, `host:port`, `[v6]`, `[v6]:port`, `v6`, or the
    /// absolute path of a unix socket. The port is 9999 unless it is given.
    ///
    /// # Errors
    /// [`AddrError`] when it is none of these.
    pub fn parse_peer(text: &str) -> Result<Self, AddrError> {
        if text.contains("://") {
            return text.parse();
        }
        let wrong = |reason| AddrError { text: text.to_owned(), reason };
        if text.starts_with('/') { unix(text).map_err(wrong) } else { tcp(text).map_err(wrong) }
    }
}

impl FromStr for ListenAddr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let parsed = match text.split_once("://") {
            Some(("unix", path)) => unix(path),
            Some(("tcp", rest)) => tcp(rest),
            Some((scheme, _)) => Err(format!(
                "`{}://` is not a way to reach a daemon, use `tcp://host:port` or `unix:///path`",
                scheme.escape_debug()
            )),
            None => Err("needs `tcp://host:port` or `unix:///path`".to_owned()),
        };
        parsed.map_err(|reason| AddrError { text: text.to_owned(), reason })
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

fn unix(path: &str) -> Result<ListenAddr, String> {
    if !path.starts_with('/') {
        return Err(format!("a socket path is absolute, three slashes in all: `unix:///{}`", path.escape_debug()));
    }
    if path.contains('\0') {
        return Err("a socket path holds no NUL".to_owned());
    }
    if path.ends_with('/') {
        return Err("this is a directory, name the socket in it".to_owned());
    }
    if path.len() > MAX_SOCKET_PATH {
        return Err(format!("a socket path has at most {MAX_SOCKET_PATH} bytes, this has {}", path.len()));
    }
    Ok(ListenAddr::Unix(PathBuf::from(path)))
}

fn tcp(text: &str) -> Result<ListenAddr, String> {
    // An IPv6 address without brackets can only be meant whole.
    if text.parse::<IpAddr>().is_ok() {
        return Ok(ListenAddr::Tcp { host: text.to_owned(), port: DEFAULT_PORT });
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the bracket `[` is never closed")?;
        if !matches!(host.parse(), Ok(IpAddr::V6(_))) {
            return Err(format!("`{}` is not an IPv6 address", host.escape_debug()));
        }
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => {
                return Err(format!("`{}` after the bracket is not a port, e.g. `[::1]:{DEFAULT_PORT}`", after.escape_debug()));
            }
        }
    } else {
        match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                return Err(format!("an IPv6 address stands in brackets, e.g. `tcp://[::1]:{DEFAULT_PORT}`"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err(format!("has no host, e.g. `tcp://0.0.0.0:{DEFAULT_PORT}` for all addresses"));
    }
    let name = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    if host.len() > 253 || !host.bytes().all(name) {
        return Err(format!("`{}` is neither an address nor a host name", host.escape_debug()));
    }
    let port = match port {
        None => DEFAULT_PORT,
        // `+80` would parse.
        Some(port) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            port.parse().map_err(|_| format!("`{port}` is not a port, 0 to 65535"))?
        }
        Some(port) => return Err(format!("`{}` is not a port, 0 to 65535", port.escape_debug())),
    };
    Ok(ListenAddr::Tcp { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::ListenAddr;

    #[test]
    fn good_addresses_print_as_they_were_meant() {
        for (text, shown) in [
            ("unix:///run/wormhole/wormhole.sock", "unix:///run/wormhole/wormhole.sock"),
            ("tcp://0.0.0.0:9999", "tcp://0.0.0.0:9999"),
            ("tcp://localhost", "tcp://localhost:9999"),
            ("tcp://[::1]:1", "tcp://[::1]:1"),
            ("tcp://::1", "tcp://[::1]:9999"),
            ("tcp://h:0", "tcp://h:0"),
        ] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), shown);
            assert_eq!(shown.parse::<ListenAddr>().unwrap().to_string(), shown);
        }
        for (text, shown) in [
            ("myserver", "tcp://myserver:9999"),
            ("myserver:77", "tcp://myserver:77"),
            ("::1", "tcp://[::1]:9999"),
            ("[fe80::1]:77", "tcp://[fe80::1]:77"),
            ("/tmp/s", "unix:///tmp/s"),
            ("unix:///tmp/s", "unix:///tmp/s"),
        ] {
            assert_eq!(ListenAddr::parse_peer(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn wrong_addresses_say_what_would_be_right() {
        let long = format!("unix:///{}", "x".repeat(107));
        for (text, said) in [
            ("localhost:9999", "needs `tcp://host:port` or `unix:///path`"),
            ("", "needs `tcp://host:port`"),
            ("http://h:1", "`http://` is not a way to reach a daemon"),
            ("unix://run/s", "three slashes in all: `unix:///run/s`"),
            ("unix://", "absolute"),
            ("unix:///run/", "this is a directory"),
            ("unix:///a\0b", "no NUL"),
            (long.as_str(), "at most 107 bytes, this has 108"),
            ("tcp://", "has no host"),
            ("tcp://:9999", "has no host"),
            ("tcp://::1:99999", "an IPv6 address stands in brackets"),
            ("tcp://[::1", "never closed"),
            ("tcp://[1.2.3.4]:1", "`1.2.3.4` is not an IPv6 address"),
            ("tcp://[::1]9", "`9` after the bracket is not a port"),
            ("tcp://h:65536", "`65536` is not a port, 0 to 65535"),
            ("tcp://h:+1", "`+1` is not a port"),
            ("tcp://h:", "`` is not a port"),
            ("tcp://h/x:1", "`h/x` is neither an address nor a host name"),
        ] {
            let error = text.parse::<ListenAddr>().unwrap_err().to_string();
            assert!(error.contains(said), "{text:?} said {error:?}, not {said:?}");
        }
    }
}
