//! Where a head listens or a tail leads, for finding two that are the same or in each other's way.

use crate::model::Proto;
use crate::netns::NamespaceId;
use std::net::SocketAddr;

/// Where a head listens or a tail leads, for comparing them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spot {
    /// A port in a namespace.
    Port(NamespaceId, Proto, SocketAddr),
    /// A socket file: the root's process, or none for the daemon's own, and the path.
    Path(Option<u32>, String),
}

impl Spot {
    /// False for port 0, which stands for any free port and so meets nothing.
    pub fn leads_somewhere(&self) -> bool {
        !matches!(self, Self::Port(_, _, addr) if addr.port() == 0)
    }

    /// True when a listener at `self` would take what goes to `other`, or would stand in its way.
    pub fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Port(ns, proto, a), Self::Port(other_ns, other_proto, b)) => {
                let (a_ip, b_ip) = (a.ip().to_canonical(), b.ip().to_canonical());
                ns == other_ns
                    && proto == other_proto
                    && a.port() == b.port()
                    && (a_ip == b_ip || a_ip.is_unspecified() || b_ip.is_unspecified())
            }
            (a, b) => a == b,
        }
    }
}
