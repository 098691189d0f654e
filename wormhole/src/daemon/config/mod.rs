//! What the daemon is told: flags over environment over file over defaults, all checked before anything is done.
//!
//! Every setting has one name: `--udp-ports`, `WORMHOLE_UDP_PORTS` and `udp-ports = …` in the file are the same text,
//! read by the same parser, and an error says where the text came from.

mod error;
mod file;
mod flags;
mod parse;

pub use error::{ConfigError, Origin};
pub use flags::Flags;
pub use parse::{Cidr, LogFormat, PortRange};

use crate::api::ListenAddr;
use crate::model::Mode;
use clap::Parser;
use parse::Text;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file that is read when it is there and no other was named.
pub const DEFAULT_CONFIG: &str = "/etc/wormhole/wormholed.toml";

/// Connections at a time over all segments, unless the limit of descriptors is lower.
pub const DEFAULT_MAX_CONNECTIONS: u64 = 65_536;

/// Connections on the fast path at a time.
pub const DEFAULT_PAIRS: u32 = 65_536;

/// Small messages a second from which on they are gathered: a third of what a sender that does nothing else sent direct on the
/// machine that this was measured on.
pub const DEFAULT_GATHER: u32 = 100_000;

/// One each nanosecond.
const MAX_GATHER: u64 = 1_000_000_000;

/// A slot takes 128 bytes of kernel memory, used or not.
const MAX_PAIRS: u64 = 4_194_304;

/// Executables that are known to read sockets by splice(2), which does not see redirected bytes.
pub const SPLICING: &[&str] =
    &["haproxy", "docker-proxy", "rootlesskit", "systemd-socket-proxyd", "traefik", "sniproxy", "wormholed"];

/// Names of all settings, as they stand in the file. `--NAME` and `WORMHOLE_NAME` (upper case, `_`) are the same.
pub const SETTINGS: &[&str] = &[
    "keyfile",
    "host",
    "internal-ip",
    "external-ip",
    "overlay-cidr",
    "udp-ports",
    "state-dir",
    "max-connections",
    "workers",
    "log",
    "log-format",
    "docker",
    "drain",
    "idle-timeout",
    "udp-timeout",
    "max-udp-sessions",
    "connect-timeout",
    "keepalive",
    "user-timeout",
    "fastpath",
    "fastpath-pairs",
    "fastpath-gather",
    "fastpath-except",
];

/// Everything that the daemon can be told, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `-K`: the key file that was named; `None`: the default path, if there is a good key.
    pub keyfile: Option<PathBuf>,
    /// `-H`: where the control API listens; empty: the default listeners.
    pub hosts: Vec<ListenAddr>,
    /// `-I`: address for tunnels inside the overlay.
    pub internal_ip: Option<IpAddr>,
    /// `-E`: address under which other machines reach this one.
    pub external_ip: Option<IpAddr>,
    /// `-C`: network that overlay addresses are taken from.
    pub overlay: Cidr,
    /// `-P`: UDP ports for ESP in UDP.
    pub udp_ports: PortRange,
    /// Where the daemon keeps its records.
    pub state_dir: PathBuf,
    /// Most connections open at a time over all segments; the limit of file descriptors may lower it.
    pub max_connections: u64,
    /// Relay threads.
    pub workers: usize,
    /// Filter in the syntax of tracing-subscriber's `EnvFilter`, checked.
    pub log: String,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// The Docker engine: `unix://`, `tcp://` or `http://`.
    pub docker: String,
    /// How long open connections may take to finish after SIGTERM.
    pub drain: Duration,
    /// Close a stream on which no byte moved for this long; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Forget a UDP session on which no datagram moved for this long.
    pub udp_timeout: Duration,
    /// Most UDP sessions at a time, per segment.
    pub max_udp_sessions: usize,
    /// Give up on a tail after this.
    pub connect_timeout: Duration,
    /// TCP keepalive starts after this; `None`: off.
    pub keepalive: Option<Duration>,
    /// TCP_USER_TIMEOUT; `None`: the kernel's default.
    pub user_timeout: Option<Duration>,
    /// Which connections may leave the relay.
    pub fastpath: Mode,
    /// Most connections on the fast path at a time.
    pub fastpath_pairs: u32,
    /// Small messages a second from which on those of one sender are gathered into larger ones; 0: never.
    pub fastpath_gather: u32,
    /// Executables, by base name, that `auto` keeps off the fast path.
    pub fastpath_except: Vec<String>,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// Lines for the log and `StatusView::notes`: settings that were understood but are worth a word.
    pub notes: Vec<String>,
}

impl Config {
    /// Reads flags (`args` with the program's name first), the environment of this process, and the file.
    ///
    /// # Errors
    /// [`ConfigError`]; also for `--help` and `--version`, which [`ConfigError::report`] prints with exit code 0.
    pub fn load(args: impl IntoIterator<Item = OsString>) -> Result<Self, ConfigError> {
        Self::load_from(args, std::env::vars_os(), Path::new(DEFAULT_CONFIG))
    }

    /// As [`Config::load`], with everything that is read given.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load_from(
        args: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        default_file: &Path,
    ) -> Result<Self, ConfigError> {
        let flags = Flags::try_parse_from(args)?;
        let env: BTreeMap<String, OsString> = env
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            // An empty variable is an unset one: `WORMHOLE_HOST= wormholed`.
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let mut notes = Vec::new();
        note_unknown_variables(&env, &mut notes);

        let named = flags.config.clone().or_else(|| env.get("WORMHOLE_CONFIG").map(PathBuf::from));
        let mut texts = BTreeMap::new();
        let file = file::read(named.as_deref(), default_file, &mut texts)?;
        for setting in SETTINGS {
            let variable = variable(setting);
            if let Some(value) = env.get(&variable) {
                let origin = Origin::Environment { variable };
                let Some(value) = value.to_str() else {
                    return Err(ConfigError::value(&origin, "is not UTF-8".to_owned(), None));
                };
                let values = if *setting == "host" { split(value) } else { vec![value.to_owned()] };
                texts.insert(*setting, Text { values, origin });
            }
        }
        for (setting, values) in flags.texts() {
            texts.insert(setting, Text { values, origin: Origin::Flag { flag: format!("--{setting}") } });
        }
        build(&texts, &env, file, notes)
    }
}

fn build(
    texts: &BTreeMap<&'static str, Text>,
    env: &BTreeMap<String, OsString>,
    file: Option<PathBuf>,
    mut notes: Vec<String>,
) -> Result<Config, ConfigError> {
    let get = |setting: &str| texts.get(setting);
    let docker = match get("docker") {
        Some(text) => text.read(parse::docker)?,
        None => default_docker(env, &mut notes),
    };
    let overlay = match get("overlay-cidr") {
        Some(text) => text.read(parse::cidr)?,
        // Written with host bits in the documentation; the network is 100.64.0.0/14.
        None => parse::Written { cidr: Cidr::DEFAULT, host_bits: None },
    };
    if let Some(written) = &overlay.host_bits {
        notes.push(format!("overlay-cidr {written} has host bits, the network is {}", overlay.cidr));
    }
    let workers = match get("workers") {
        Some(text) => text.read(|t| parse::number(t, 1, 1024))?,
        None => std::thread::available_parallelism().map_or(1, NonZeroUsize::get) as u64,
    };
    let seconds = Duration::from_secs;
    Ok(Config {
        keyfile: opt(get("keyfile"), parse::path)?,
        hosts: get("host").map_or(Ok(Vec::new()), |text| text.read_all(parse::host))?,
        internal_ip: opt(get("internal-ip"), parse::ip)?,
        external_ip: opt(get("external-ip"), parse::ip)?,
        overlay: overlay.cidr,
        udp_ports: opt(get("udp-ports"), parse::ports)?.unwrap_or(PortRange { first: 4500, last: 4599 }),
        state_dir: opt(get("state-dir"), parse::path)?.unwrap_or_else(|| PathBuf::from("/var/lib/wormhole")),
        max_connections: opt(get("max-connections"), |t| parse::number(t, 1, 100_000_000))?.unwrap_or(DEFAULT_MAX_CONNECTIONS),
        workers: usize::try_from(workers).unwrap_or(1),
        log: opt(get("log"), parse::log)?.unwrap_or_else(|| "info".to_owned()),
        log_format: opt(get("log-format"), parse::log_format)?.unwrap_or_default(),
        docker,
        drain: opt(get("drain"), parse::pause)?.unwrap_or(seconds(30)),
        idle_timeout: opt(get("idle-timeout"), parse::pause)?.filter(|d| !d.is_zero()),
        udp_timeout: opt(get("udp-timeout"), parse::deadline)?.unwrap_or(seconds(60)),
        max_udp_sessions: opt(get("max-udp-sessions"), |t| parse::number(t, 1, 10_000_000))?
            .map_or(16384, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        connect_timeout: opt(get("connect-timeout"), parse::deadline)?.unwrap_or(seconds(10)),
        keepalive: Some(opt(get("keepalive"), parse::pause)?.unwrap_or(seconds(30))).filter(|d| !d.is_zero()),
        user_timeout: opt(get("user-timeout"), parse::pause)?.filter(|d| !d.is_zero()),
        fastpath: opt(get("fastpath"), parse::fastpath)?.unwrap_or_default(),
        fastpath_pairs: opt(get("fastpath-pairs"), |t| parse::number(t, 1, MAX_PAIRS))?
            .map_or(DEFAULT_PAIRS, |n| u32::try_from(n).unwrap_or(DEFAULT_PAIRS)),
        fastpath_gather: opt(get("fastpath-gather"), |t| parse::number(t, 0, MAX_GATHER))?
            .map_or(DEFAULT_GATHER, |n| u32::try_from(n).unwrap_or(DEFAULT_GATHER)),
        fastpath_except: opt(get("fastpath-except"), parse::executables)?
            .unwrap_or_else(|| SPLICING.iter().map(|name| (*name).to_owned()).collect()),
        file,
        notes,
    })
}

fn opt<T>(text: Option<&Text>, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, ConfigError> {
    text.map(|text| text.read(parse)).transpose()
}

/// Docker's own variable is not ours to complain about: what we cannot use in it is a note.
fn default_docker(env: &BTreeMap<String, OsString>, notes: &mut Vec<String>) -> String {
    let default = "unix:///var/run/docker.sock".to_owned();
    let Some(value) = env.get("DOCKER_HOST").and_then(|v| v.to_str()) else { return default };
    match parse::docker(value) {
        Ok(host) => host,
        Err(why) => {
            notes.push(format!("DOCKER_HOST {why}; using {default}"));
            default
        }
    }
}

/// `udp-ports` -> `WORMHOLE_UDP_PORTS`.
fn variable(setting: &str) -> String {
    format!("WORMHOLE_{}", setting.to_ascii_uppercase().replace('-', "_"))
}

/// Several hosts in one variable: by comma or space.
fn split(value: &str) -> Vec<String> {
    value.split([',', ' ']).map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// A variable that looks mistyped. Only a note: other programs may have variables with our prefix, as the client does.
fn note_unknown_variables(env: &BTreeMap<String, OsString>, notes: &mut Vec<String>) {
    let known: Vec<String> = SETTINGS.iter().map(|s| variable(s)).chain(["WORMHOLE_CONFIG".to_owned()]).collect();
    for name in env.keys().filter(|name| name.starts_with("WORMHOLE_") && !known.contains(name)) {
        // Without the prefix, which makes all of them alike.
        let short = |name: &str| name.trim_start_matches("WORMHOLE_").to_owned();
        let candidates: Vec<String> = known.iter().map(|known| short(known)).collect();
        if let Some(near) = error::nearest(&short(name), candidates.iter().map(String::as_str)) {
            notes.push(format!("environment variable {name} is not a setting, did you mean WORMHOLE_{near}?"));
        }
    }
}

#[cfg(test)]
mod tests;
