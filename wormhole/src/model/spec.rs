//! What the user asked for: the desired side of a segment, complete with defaults, as the parser leaves it and as the
//! wire carries it.

use super::url::{Host, Proto};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The name of a segment: 1 to 63 of `[A-Za-z0-9._-]`, starting with a letter or a digit.
pub type SegmentId = String;

/// One segment and, through [`Spec::link`], the segments that hang on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The id that the user chose; the daemon makes a short random one where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<SegmentId>,
    /// Where the segment listens.
    pub head: End,
    /// Where the segment connects to.
    pub tail: End,
    /// True when the tail's place is made by the first connection (`trigger`) and not by `create`.
    #[serde(default)]
    pub trigger: bool,
    /// The next segment, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    pub link: Option<Box<Link>>,
    /// What can be set per segment.
    #[serde(default)]
    pub options: Options,
}

/// How the next segment hangs on this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Through what the next segment is reached.
    pub via: Via,
    /// The next segment.
    #[schema(no_recursion)]
    pub spec: Spec,
}

/// The relation between a segment and the one that follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Via {
    /// `child`: starts where this segment's tail is.
    Child,
    /// `chain`: as `child`, and this segment's tail is the child's head.
    Chain,
    /// `remote HOST`: the child lives on HOST's daemon.
    Remote {
        /// Name or address of the other machine.
        host: String,
    },
    /// `tunnel HOST`: as remote, over ESP.
    Tunnel {
        /// Name or address of the other machine.
        host: String,
    },
    /// `udptunnel HOST`: as remote, over ESP in UDP.
    Udptunnel {
        /// Name or address of the other machine.
        host: String,
    },
}

/// One end of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// tcp, udp or unix.
    pub proto: Proto,
    /// The namespace that the socket is made in.
    #[serde(default)]
    pub place: Place,
    /// Host to listen on or to connect to; 127.0.0.1 unless the user said otherwise. Not used by unix.
    #[serde(default = "Host::localhost")]
    pub host: Host,
    /// Port. 0 at the head: any free one. 0 at the tail: the port that the head got. Not used by unix.
    #[serde(default)]
    pub port: u16,
    /// Path of a unix socket, seen from inside the place; empty for tcp and udp.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
}

/// Where an end lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Place {
    /// The daemon's own namespace.
    #[default]
    Host,
    /// A namespace under /run/netns.
    Named {
        /// File name under /run/netns.
        name: String,
    },
    /// The namespace of a process.
    Pid {
        /// Process id as the daemon sees it.
        pid: u32,
    },
    /// The namespace of a running container.
    Docker {
        /// Id, unambiguous prefix of an id, or name.
        name: String,
    },
    /// The namespace of a container that this segment runs (`docker-run`).
    Run {
        /// One shell-quoted string in the syntax of `docker run`.
        args: String,
    },
    /// Wherever the parent's tail is, once it is there: the head of a child of a segment whose tail is a `docker-run`.
    Parent,
}

/// Which connections may leave the relay for the kernel's fast path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Where this kernel passed the self-test and neither end is known to suffer.
    #[default]
    Auto,
    /// Wherever possible.
    On,
    /// Never.
    Off,
}

/// What can be set per segment; `None` means the daemon's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// `--fastpath`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fastpath: Option<Mode>,
    /// `--idle-timeout`: close a TCP or unix connection on which no byte moved for this many milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout_ms: Option<u64>,
    /// `--udp-timeout`: forget a UDP session on which no datagram moved for this many milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_timeout_ms: Option<u64>,
    /// `--connect-timeout`: give up on the tail after this many milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<u64>,
    /// `--start-timeout`: how long a trigger may take, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_timeout_ms: Option<u64>,
    /// `--idle-stop`: stop what the trigger started after this many milliseconds without a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_stop_ms: Option<u64>,
}

/// True for the syntax of a [`SegmentId`].
pub(crate) fn is_segment_id(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

impl Via {
    /// True when the next segment lives on another machine.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Remote { .. } | Self::Tunnel { .. } | Self::Udptunnel { .. })
    }
}

impl End {
    /// The end that every part of an URL changes: tcp, the daemon's own namespace, 127.0.0.1, port 0.
    pub fn local() -> Self {
        Self { proto: Proto::Tcp, place: Place::Host, host: Host::localhost(), port: 0, path: String::new() }
    }
}
