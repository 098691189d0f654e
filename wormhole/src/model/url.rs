//! `{proto://}{ns@}{host}{:port}`: every part may be missing.

use super::spec::{End, Place};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::str::FromStr;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// The protocol of an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Proto {
    /// A TCP stream.
    #[default]
    Tcp,
    /// Datagrams, one session per client address.
    Udp,
    /// A unix stream socket.
    Unix,
}

/// A host as it was written: an address or a name. On the wire a plain string, IPv6 without brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A name, resolved by the daemon.
    Name(String),
}

/// The `ns@` part of an URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NsRef {
    /// A name under /run/netns.
    Named(String),
    /// `pid:N@`.
    Pid(u32),
    /// `docker:NAME@`.
    Docker(String),
}

/// The parts of an URL that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Url {
    /// `proto://`.
    pub proto: Option<Proto>,
    /// `ns@`.
    pub ns: Option<NsRef>,
    /// Host; IPv6 in brackets.
    pub host: Option<Host>,
    /// `:port`.
    pub port: Option<u16>,
    /// The absolute path of `unix:///path`.
    pub path: Option<String>,
}

/// What is wrong with an URL, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UrlError {
    /// One line: what is wrong and what would be right.
    pub message: String,
    /// Byte range of the wrong part within the URL.
    pub span: Range<usize>,
}

/// Longest path that fits `sun_path` together with its closing zero (unix(7)).
pub(super) const UNIX_PATH_MAX: usize = 107;

// === impl Proto ===

impl Proto {
    /// The name as it is written in an URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Unix => "unix",
        }
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Proto {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "unix" => Ok(Self::Unix),
            _ => Err(format!("unknown protocol `{text}`: there are tcp, udp and unix")),
        }
    }
}

// === impl Host ===

impl Host {
    /// 127.0.0.1, the default of both ends.
    pub fn localhost() -> Self {
        Self::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

/// An address (IPv6 without brackets) or a name.
impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        if !is_host_name(text) {
            return Err(format!("`{text}` is neither an address nor a host name"));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl PartialSchema for Host {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).description(Some("IPv4 or IPv6 address, or a name")).build().into()
    }
}

impl ToSchema for Host {}

// === impl NsRef ===

impl fmt::Display for NsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
            Self::Docker(name) => write!(f, "docker:{name}"),
        }
    }
}

impl From<NsRef> for Place {
    fn from(ns: NsRef) -> Self {
        match ns {
            NsRef::Named(name) => Self::Named { name },
            NsRef::Pid(pid) => Self::Pid { pid },
            NsRef::Docker(name) => Self::Docker { name },
        }
    }
}

// === impl Url ===

/// The URL of an end. `docker-run` and the parent's namespace have no URL form; their `ns@` is left out.
impl From<&End> for Url {
    fn from(end: &End) -> Self {
        let ns = match &end.place {
            Place::Host | Place::Run { .. } | Place::Parent => None,
            Place::Named { name } => Some(NsRef::Named(name.clone())),
            Place::Pid { pid } => Some(NsRef::Pid(*pid)),
            Place::Docker { name } => Some(NsRef::Docker(name.clone())),
        };
        if end.proto == Proto::Unix {
            return Self { proto: Some(end.proto), ns, host: None, port: None, path: Some(end.path.clone()) };
        }
        Self { proto: Some(end.proto), ns, host: Some(end.host.clone()), port: Some(end.port), path: None }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(proto) = self.proto {
            write!(f, "{proto}://")?;
        }
        if let Some(ns) = &self.ns {
            write!(f, "{ns}@")?;
        }
        match &self.host {
            Some(Host::Ip(IpAddr::V6(ip))) => write!(f, "[{ip}]")?,
            Some(host) => host.fmt(f)?,
            None => {}
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if let Some(path) = &self.path {
            f.write_str(path)?;
        }
        Ok(())
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.is_empty() {
            return wrong(0..0, "an URL needs at least one of {proto://}{ns@}{host}{:port}");
        }
        let mut url = Self::default();
        let mut at = 0;
        if let Some(end) = text.find("://") {
            url.proto = Some(text[..end].parse().map_err(|message| UrlError { message, span: 0..end })?);
            at = end + 3;
        }
        if url.proto == Some(Proto::Unix) {
            url.path = Some(unix_path(text, at, &mut url.ns)?);
            return Ok(url);
        }
        if let Some(slash) = text[at..].find('/') {
            return match (url.proto, slash) {
                (None, 0) => wrong(0..text.len(), format!("`{text}` looks like the path of a unix socket: write unix://{text}")),
                _ => wrong(at + slash..text.len(), "only unix:// has a path; tcp and udp end after the port"),
            };
        }
        if let Some(len) = text[at..].find('@') {
            url.ns = Some(ns_ref(&text[at..at + len], at)?);
            at += len + 1;
        }
        host_port(text, at, &mut url)?;
        Ok(url)
    }
}

fn wrong<T>(span: Range<usize>, message: impl Into<String>) -> Result<T, UrlError> {
    Err(UrlError { message: message.into(), span })
}

/// What follows `unix://`: `{ns@}/path`.
fn unix_path(text: &str, at: usize, ns: &mut Option<NsRef>) -> Result<String, UrlError> {
    let rest = &text[at..];
    let Some(slash) = rest.find('/') else {
        if rest.starts_with('@') {
            return wrong(at..text.len(), "abstract unix sockets are not supported: write the path, unix:///path");
        }
        return wrong(at..text.len(), "unix:// needs an absolute path: unix:///path");
    };
    let (before, path) = rest.split_at(slash);
    if let Some(name) = before.strip_suffix('@') {
        *ns = Some(ns_ref(name, at)?);
    } else if !before.is_empty() {
        return wrong(at..at + slash, format!("unix:// needs an absolute path: unix:///{before}{path}"));
    }
    let span = at + slash..text.len();
    if path.len() > UNIX_PATH_MAX {
        return wrong(span, format!("the path has {} bytes; a unix socket's path has at most {UNIX_PATH_MAX}", path.len()));
    }
    if path.ends_with('/') {
        return wrong(span, "the path names a directory: a unix socket needs a file name");
    }
    if path.contains(char::is_control) {
        return wrong(span, "the path contains a control character");
    }
    Ok(path.to_owned())
}

/// `ns@` without the `@`; `at` is where it starts within the URL.
fn ns_ref(text: &str, at: usize) -> Result<NsRef, UrlError> {
    let span = at..at + text.len();
    if text.is_empty() {
        return wrong(at..at + 1, "nothing before the `@`: write a name under /run/netns, pid:N or docker:NAME");
    }
    let Some((kind, name)) = text.split_once(':') else {
        let good =
            text.len() <= 255 && text != "." && text != ".." && text.bytes().all(|b| b.is_ascii_graphic() && !b"/@".contains(&b));
        if !good {
            return wrong(span, format!("`{text}` is not the name of a namespace under /run/netns"));
        }
        return Ok(NsRef::Named(text.to_owned()));
    };
    let name_span = at + kind.len() + 1..span.end;
    match kind {
        "pid" => match number::<u32>(name) {
            Some(pid) if pid > 0 => Ok(NsRef::Pid(pid)),
            _ => wrong(name_span, format!("`{name}` is not a process id")),
        },
        "docker" if is_container(name) => Ok(NsRef::Docker(name.to_owned())),
        "docker" => wrong(name_span, format!("`{name}` is not the id or name of a container")),
        _ => wrong(at..at + kind.len(), format!("unknown kind of namespace `{kind}`: there are NAME@, pid:N@ and docker:NAME@")),
    }
}

/// `{host}{:port}` from `at` to the end.
fn host_port(text: &str, at: usize, url: &mut Url) -> Result<(), UrlError> {
    let rest = &text[at..];
    let (host_len, port_at) = if rest.starts_with('[') {
        let Some(close) = rest.find(']') else {
            return wrong(at..text.len(), "the bracket of the IPv6 address is not closed");
        };
        let inside = &rest[1..close];
        match inside.parse::<Ipv6Addr>() {
            Ok(ip) => url.host = Some(Host::Ip(ip.into())),
            Err(_) if inside.contains('%') => {
                return wrong(at..at + close + 1, "an IPv6 address with a zone (`%`) is not supported");
            }
            Err(_) => return wrong(at..at + close + 1, format!("`{inside}` is not an IPv6 address")),
        }
        let after = &rest[close + 1..];
        if !after.is_empty() && !after.starts_with(':') {
            return wrong(at + close + 1..text.len(), "only `:port` may follow the IPv6 address");
        }
        (close + 1, (!after.is_empty()).then_some(close + 2))
    } else {
        if rest.parse::<Ipv6Addr>().is_ok() {
            return wrong(at..text.len(), format!("an IPv6 address is written in brackets: [{rest}]"));
        }
        let colon = rest.find(':');
        let len = colon.unwrap_or(rest.len());
        if len > 0 {
            url.host = Some(plain_host(&rest[..len], at)?);
        }
        (len, colon.map(|colon| colon + 1))
    };
    let Some(port_at) = port_at else { return Ok(()) };
    let port = &rest[port_at..];
    if port.is_empty() {
        return wrong(at + host_len..text.len(), "the port is missing after the `:`");
    }
    match number::<u16>(port) {
        Some(port) => url.port = Some(port),
        None => return wrong(at + port_at..text.len(), format!("`{port}` is not a port: 0 to 65535")),
    }
    Ok(())
}

/// An IPv4 address or a name; `at` is where it starts within the URL.
fn plain_host(text: &str, at: usize) -> Result<Host, UrlError> {
    let span = at..at + text.len();
    if text == "*" {
        return wrong(span, "`*` is not an address: write 0.0.0.0 or [::] for all of them");
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return wrong(span, format!("`{text}` is not a host; a port is written `:{text}`"));
    }
    let host = text.parse().map_err(|message| UrlError { message, span: span.clone() })?;
    if matches!(host, Host::Name(_)) && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return wrong(span, format!("`{text}` is not an IPv4 address"));
    }
    Ok(host)
}

/// Decimal digits and nothing else: `FromStr` of the standard library would take a `+` too.
fn number<T: FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// True for what may be asked of a resolver.
pub(crate) fn is_host_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 253 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// True for what the engine accepts as a name, which includes every id.
pub(crate) fn is_container(text: &str) -> bool {
    text.len() <= 255
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;
