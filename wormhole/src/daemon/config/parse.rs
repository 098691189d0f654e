//! From the text of a setting to its value. Each problem is a phrase that says what would be right.

use super::error::{ConfigError, Origin};
use crate::api::ListenAddr;
use crate::model::Mode;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// What was given for one setting. Only `host` may have several values.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) values: Vec<String>,
    pub(super) origin: Origin,
}

impl Text {
    pub(super) fn read<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        let value = self.values.last().map_or("", String::as_str);
        parse(value).map_err(|problem| ConfigError::value(&self.origin, problem, Some(value)))
    }

    pub(super) fn read_all<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, ConfigError> {
        let one = |value: &String| parse(value).map_err(|problem| ConfigError::value(&self.origin, problem, Some(value)));
        self.values.iter().map(one).collect()
    }
}

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// Its first address.
    pub network: Ipv4Addr,
    /// Bits of the network, 8 to 30.
    pub prefix: u8,
}

impl Cidr {
    /// 100.65.0.0/14 as it is documented, without its host bits.
    pub(super) const DEFAULT: Self = Self { network: Ipv4Addr::new(100, 64, 0, 0), prefix: 14 };
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// A network, and how it was written if it had host bits.
pub(super) struct Written {
    pub(super) cidr: Cidr,
    pub(super) host_bits: Option<String>,
}

/// A range of ports, both ends in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last, not before the first.
    pub last: u16,
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Plain,
    /// One JSON object a line.
    Json,
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("is not a path".to_owned());
    }
    Ok(PathBuf::from(text))
}

pub(super) fn host(text: &str) -> Result<ListenAddr, String> {
    text.parse().map_err(|e: crate::api::AddrError| e.reason)
}

pub(super) fn ip(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| "is not an IP address, e.g. 192.0.2.7 or 2001:db8::7".to_owned())?;
    if ip.is_unspecified() || ip.is_multicast() {
        return Err("is not the address of a machine".to_owned());
    }
    Ok(ip)
}

pub(super) fn cidr(text: &str) -> Result<Written, String> {
    let form = || "is not an IPv4 network, e.g. 100.65.0.0/14".to_owned();
    let (address, prefix) = text.split_once('/').ok_or_else(form)?;
    let address: Ipv4Addr = address.parse().map_err(|_| form())?;
    let prefix: u8 = prefix.parse().map_err(|_| form())?;
    if !(8..=30).contains(&prefix) {
        return Err("has a prefix that is not between 8 and 30".to_owned());
    }
    let network = Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - prefix)));
    if network.is_loopback() || network.is_multicast() || network.octets()[0] == 0 {
        return Err("is not a network that machines can have addresses in".to_owned());
    }
    Ok(Written { cidr: Cidr { network, prefix }, host_bits: (network != address).then(|| text.to_owned()) })
}

pub(super) fn ports(text: &str) -> Result<PortRange, String> {
    let form = || "is not a range of ports, e.g. 4500-4599".to_owned();
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(form);
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("ends before it begins, did you mean {last}-{first}?"));
    }
    Ok(PortRange { first, last })
}

pub(super) fn number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let range = || format!("is not a number from {least} to {most}");
    text.trim().parse().ok().filter(|n| (least..=most).contains(n)).ok_or_else(range)
}

pub(super) fn log(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        Ok(_) => Err("is empty, say e.g. info or debug".to_owned()),
        Err(e) => Err(format!("is not a log filter ({e}), e.g. debug or info,wormhole::relay=trace")),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "plain" => Ok(LogFormat::Plain),
        "json" => Ok(LogFormat::Json),
        _ => Err("is neither plain nor json".to_owned()),
    }
}

pub(super) fn fastpath(text: &str) -> Result<Mode, String> {
    match text {
        "auto" => Ok(Mode::Auto),
        "on" => Ok(Mode::On),
        "off" => Ok(Mode::Off),
        _ => Err("is none of auto, on, off".to_owned()),
    }
}

/// Base names of executables, by comma. An empty text is an empty list.
pub(super) fn executables(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    match names.iter().find(|name| name.contains('/') || name.contains('\0')) {
        Some(name) => Err(format!("has {name:?}, which is not the base name of an executable, e.g. haproxy")),
        None => Ok(names),
    }
}

pub(super) fn docker(text: &str) -> Result<String, String> {
    match text.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(text.to_owned()),
        Some(("tcp" | "http", rest)) if !rest.is_empty() => Ok(text.to_owned()),
        Some(("ssh" | "https" | "npipe" | "fd", _)) => {
            Err("is a way to reach Docker that this build does not have, use unix:///path or tcp://host:port".to_owned())
        }
        _ => Err("is not the address of a Docker engine, use unix:///path or tcp://host:port".to_owned()),
    }
}

/// A duration that may be zero, which switches something off.
pub(super) fn pause(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("has no unit, did you mean {text}s?"));
    }
    let duration = humantime::parse_duration(text).map_err(|_| "is not a duration, e.g. 30s, 5m, 1h30m, 500ms".to_owned())?;
    if duration > Duration::from_secs(366 * 24 * 3600) {
        return Err("is longer than a year".to_owned());
    }
    if !duration.is_zero() && duration < Duration::from_millis(1) {
        return Err("is shorter than a millisecond".to_owned());
    }
    Ok(duration)
}

/// A duration that must not be zero, because everything would fail at once.
pub(super) fn deadline(text: &str) -> Result<Duration, String> {
    pause(text).and_then(|d| if d.is_zero() { Err("must not be 0".to_owned()) } else { Ok(d) })
}
