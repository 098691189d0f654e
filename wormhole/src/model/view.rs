//! What is observed: what `list`, `inspect` and `status` show, and the requests and replies of the control API.

use super::spec::{Mode, SegmentId, Spec};
use std::collections::BTreeMap;
use std::ops::Add;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /v1/segments`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    /// The segment and what hangs on it.
    pub spec: Spec,
}

/// Answer to `POST /v1/segments`: all segments that were made, the root first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CreateReply {
    /// The new segments, the root first.
    pub segments: Vec<SegmentView>,
}

/// Body of `POST /v1/ping`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PingRequest {
    /// Another machine's daemon, `host` or `host:port`; none: the daemon that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// Answer to `POST /v1/ping`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PingReply {
    /// Round trip between the asked daemon and HOST's daemon in milliseconds; absent without a HOST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_ms: Option<f64>,
    /// Version of the daemon that answered last.
    pub version: String,
}

/// The state of one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The head listens and the tail's place is there.
    Listening,
    /// The head's or the tail's place is not there (container stopped, namespace gone); it comes back by itself.
    Waiting,
    /// Deleted; open connections are finishing.
    Draining,
}

/// Counters of connections, or of sessions for UDP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Connections {
    /// Open now.
    pub open: u64,
    /// Accepted since the segment was made.
    pub total: u64,
    /// Accepted, but the tail could not be reached.
    pub failed: u64,
    /// Ended by a reset from either side.
    pub reset: u64,
    /// Why the last one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Payload bytes each way since the segment was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bytes {
    /// From head to tail.
    pub to_tail: u64,
    /// From tail to head.
    pub to_head: u64,
}

impl Bytes {
    /// What is left of them without `part`, a part of them that was counted at another moment.
    #[must_use]
    pub fn without(self, part: Self) -> Self {
        Self { to_tail: self.to_tail.saturating_sub(part.to_tail), to_head: self.to_head.saturating_sub(part.to_head) }
    }
}

impl Add for Bytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { to_tail: self.to_tail + other.to_tail, to_head: self.to_head + other.to_head }
    }
}

/// One open connection (or UDP session).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConnectionView {
    /// The client's address; empty for an unnamed unix socket.
    pub client: String,
    /// The tail's address.
    pub tail: String,
    /// Which way the bytes take: `fastpath`, `relay`, or `connecting`.
    pub path: String,
    /// Why they take the relay, or, on the fast path, why they do not go direct.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds since it was accepted.
    pub age_s: u64,
    /// Payload bytes each way, whatever way they took.
    pub bytes: Bytes,
    /// Those of them that went from socket to socket.
    #[serde(default)]
    pub direct: Bytes,
    /// Those of them that the relay put into the receiver's queue.
    #[serde(default)]
    pub injected: Bytes,
}

/// A segment: desired and observed side by side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SegmentView {
    /// Its id.
    pub id: SegmentId,
    /// The segment that it hangs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<SegmentId>,
    /// What was asked for; `link` left out, the linked segment is a view of its own.
    pub spec: Spec,
    /// The head as it is: an URL with the port that was got.
    pub head: String,
    /// The tail as it is.
    pub tail: String,
    /// Listening, waiting, draining.
    pub state: State,
    /// Why it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds since the epoch when it was made.
    pub created: u64,
    /// Connection counters.
    pub connections: Connections,
    /// Byte counters, whatever way the bytes took.
    pub bytes: Bytes,
    /// Bytes that went from socket to socket.
    #[serde(default)]
    pub direct: Bytes,
    /// Bytes that the relay put into the receivers' queues.
    #[serde(default)]
    pub injected: Bytes,
    /// Open connections whose client is enrolled.
    #[serde(default)]
    pub pairs: u64,
    /// Connections that took the relay, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fallbacks: BTreeMap<String, u64>,
    /// The open connections, newest first, at most 1000; only in `inspect`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub open: Vec<ConnectionView>,
}

/// What one part of the build is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildInfo {
    /// Version of the daemon.
    pub version: String,
    /// Version of the embedded eBPF object, or none when it was built without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ebpf: Option<String>,
}

/// The Docker engine as the daemon sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DockerView {
    /// Where it is expected.
    pub host: String,
    /// Its version when it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Limits and how much of them is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitsView {
    /// Connections open over all segments.
    pub connections: u64,
    /// At most so many (`--max-connections`).
    pub max_connections: u64,
    /// File descriptors that the process may open.
    pub max_fds: u64,
}

/// Answer to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    /// Versions.
    pub build: BuildInfo,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Where the control API listens.
    pub listeners: Vec<String>,
    /// What is worth knowing and not an error, e.g. why there is no TCP listener.
    pub notes: Vec<String>,
    /// The Docker engine.
    pub docker: DockerView,
    /// Limits.
    pub limits: LimitsView,
    /// Relay threads.
    pub workers: usize,
    /// Number of segments.
    pub segments: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// The fast path.
    pub fastpath: FastpathView,
}

/// The fast path as the daemon found and uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FastpathView {
    /// What segments do that say nothing: `auto`, `on` or `off`.
    pub mode: Mode,
    /// True when connections can be carried from socket to socket.
    pub active: bool,
    /// True when segments in `auto` do that: this kernel passed the self-test.
    pub auto: bool,
    /// In one line: what it does, or why it does nothing.
    pub summary: String,
    /// What this kernel was found to do, asked at the start by trying it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeView>,
    /// Connections whose client is enrolled.
    pub pairs: PairsView,
    /// Sockets enrolled since the start.
    pub enrolled: u64,
    /// Payload bytes that went from socket to socket.
    pub direct: Bytes,
    /// Payload bytes that the relay put into receivers' queues.
    pub injected: Bytes,
    /// Payload bytes that relay threads moved, those that they put into queues among them, in all segments that there are; a chain's
    /// segments each count theirs.
    #[serde(default)]
    pub relayed: Bytes,
    /// Connections that took the relay, by reason, of all segments that there are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<String, u64>,
    /// How often the programs sent something by TCP or did not enrol a socket, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fallbacks: BTreeMap<String, u64>,
    /// Executables that `auto` does not enrol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub off_for: Vec<String>,
}

/// One question of the self-test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProbeView {
    /// What was asked.
    pub name: String,
    /// True when this kernel does it as plain TCP would, or as the fast path needs it.
    pub passed: bool,
    /// What was seen, and what it means.
    pub detail: String,
}

/// Connections on the fast path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PairsView {
    /// Open now.
    pub open: u64,
    /// At most so many (`--fastpath-pairs`).
    pub max: u64,
    /// Since the start.
    pub total: u64,
}
