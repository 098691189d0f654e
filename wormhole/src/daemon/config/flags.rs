//! The flags. Values are texts here; [`super::parse`] reads them as it reads those of file and environment.

use clap::Parser;
use std::path::PathBuf;

/// Owns listeners, namespaces and containers of this machine's segments, and serves the control API.
#[derive(Clone, Debug, Parser)]
#[command(name = "wormholed", version, after_help = AFTER)]
pub struct Flags {
    /// Key that all machines share [default: /etc/wormhole/key.secret if it is there]
    #[arg(short = 'K', long, value_name = "FILE")]
    keyfile: Option<String>,
    /// Where the control API listens, repeatable: tcp://HOST:PORT or unix:///PATH [default:
    /// unix:///run/wormhole/wormhole.sock, and with a key tcp://0.0.0.0:9999]
    #[arg(short = 'H', long, value_name = "ADDR")]
    host: Vec<String>,
    /// Address of this machine inside the overlay
    #[arg(short = 'I', long, value_name = "IP")]
    internal_ip: Option<String>,
    /// Address under which other machines reach this one
    #[arg(short = 'E', long, value_name = "IP")]
    external_ip: Option<String>,
    /// Network that overlay addresses are taken from [default: 100.65.0.0/14]
    #[arg(short = 'C', long, value_name = "CIDR")]
    overlay_cidr: Option<String>,
    /// UDP ports for ESP in UDP [default: 4500-4599]
    #[arg(short = 'P', long, value_name = "FIRST-LAST")]
    udp_ports: Option<String>,
    /// Where the records are kept [default: /var/lib/wormhole]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// Most connections at a time over all segments; the limit of open files may lower it [default: 65536]
    #[arg(long, value_name = "N")]
    max_connections: Option<String>,
    /// Relay threads [default: one for each CPU]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// What is logged, e.g. `debug` or `info,wormhole::relay=trace` [default: info]
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// `plain` or `json` [default: plain]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// The Docker engine [default: $DOCKER_HOST or unix:///var/run/docker.sock]
    #[arg(long, value_name = "ADDR")]
    docker: Option<String>,
    /// How long open connections may take to finish after SIGTERM [default: 30s]
    #[arg(long, value_name = "DURATION")]
    drain: Option<String>,
    /// Close a stream on which no byte moved for this long; 0: never [default: 0]
    #[arg(long, value_name = "DURATION")]
    idle_timeout: Option<String>,
    /// Forget a UDP session on which nothing moved for this long [default: 60s]
    #[arg(long, value_name = "DURATION")]
    udp_timeout: Option<String>,
    /// Most UDP sessions at a time, per segment [default: 16384]
    #[arg(long, value_name = "N")]
    max_udp_sessions: Option<String>,
    /// Give up on a tail after this [default: 10s]
    #[arg(long, value_name = "DURATION")]
    connect_timeout: Option<String>,
    /// TCP keepalive starts after this; 0: off [default: 30s]
    #[arg(long, value_name = "DURATION")]
    keepalive: Option<String>,
    /// TCP_USER_TIMEOUT: reset a peer that takes or acknowledges nothing for this long; 0: the kernel decides [default: 0]
    #[arg(long, value_name = "DURATION")]
    user_timeout: Option<String>,
    /// Let the kernel carry the bytes: `auto`, `on` or `off` [default: auto]
    #[arg(long, value_name = "WHEN")]
    fastpath: Option<String>,
    /// Most connections on the fast path at a time [default: 65536]
    #[arg(long, value_name = "N")]
    fastpath_pairs: Option<String>,
    /// Gather the small messages of a stream from so many a second on; 0: never, for the least delay [default: 100000]
    #[arg(long, value_name = "RATE")]
    fastpath_gather: Option<String>,
    /// Executables that `auto` keeps off the fast path, by comma [default: those known to use splice(2)]
    #[arg(long, value_name = "NAMES")]
    fastpath_except: Option<String>,
    /// Read settings from here [default: /etc/wormhole/wormholed.toml if it is there]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

const AFTER: &str = "Every flag is also a key of the file (`udp-ports = \"4500-4599\"`) and an environment variable \
(WORMHOLE_UDP_PORTS; several hosts by comma). A flag wins over the environment, the environment over the file.\n\n\
Exit codes: 0 ended by SIGTERM or SIGINT, 1 failed, 2 wrong flags or configuration.";

impl Flags {
    /// The settings that were given, under their names.
    pub(super) fn texts(self) -> impl Iterator<Item = (&'static str, Vec<String>)> {
        let one = |name, value: Option<String>| (name, value.into_iter().collect::<Vec<_>>());
        [
            one("keyfile", self.keyfile),
            ("host", self.host),
            one("internal-ip", self.internal_ip),
            one("external-ip", self.external_ip),
            one("overlay-cidr", self.overlay_cidr),
            one("udp-ports", self.udp_ports),
            one("state-dir", self.state_dir),
            one("max-connections", self.max_connections),
            one("workers", self.workers),
            one("log", self.log),
            one("log-format", self.log_format),
            one("docker", self.docker),
            one("drain", self.drain),
            one("idle-timeout", self.idle_timeout),
            one("udp-timeout", self.udp_timeout),
            one("max-udp-sessions", self.max_udp_sessions),
            one("connect-timeout", self.connect_timeout),
            one("keepalive", self.keepalive),
            one("user-timeout", self.user_timeout),
            one("fastpath", self.fastpath),
            one("fastpath-pairs", self.fastpath_pairs),
            one("fastpath-gather", self.fastpath_gather),
            one("fastpath-except", self.fastpath_except),
        ]
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
    }
}
