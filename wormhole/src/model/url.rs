//! `{proto://}{ns@}{host}{:port}`: every part may be missing.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
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
    pub span: std::ops::Range<usize>,
}

impl Host {
    /// 127.0.0.1, the default of both ends.
    pub fn localhost() -> Self {
        Self::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST))
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
        let text = String::deserialize(deserializer)?;
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        if text.is_empty() || text.len() > 253 || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
            return Err(D::Error::custom(format!("`{text}` is neither an address nor a host name")));
        }
        Ok(Self::Name(text))
    }
}

impl PartialSchema for Host {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).description(Some("IPv4 or IPv6 address, or a name")).build().into()
    }
}

impl ToSchema for Host {}
