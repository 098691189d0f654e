//! Why a connection takes the relay.

use std::fmt;
use std::sync::Arc;
use wormhole_common::Refusal;

/// The reason, as `inspect` shows it and as connections are counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// `--fastpath off`, for the segment or for the daemon.
    Off,
    /// The programs are not loaded; `status` says why.
    Unavailable,
    /// One end is a unix socket.
    Unix,
    /// The client was not seen.
    ClientUnseen,
    /// The client was seen and not enrolled.
    Client(Refusal),
    /// The server was not seen.
    ServerUnseen,
    /// The server's executable is on the list.
    ServerSpared(Arc<str>),
    /// The server has an io_uring.
    ServerRing,
    /// Who listens at the tail is not known yet.
    ServerUnknown,
    /// An application used splice(2) on the connection.
    Spliced,
    /// An application sends by io_uring.
    Ring,
    /// The server's socket was made by the first bytes, which went by TCP.
    ServerLate,
    /// The kernel had no memory for redirected bytes.
    Memory,
}

impl Why {
    /// A few words to count by.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Unavailable => "unavailable",
            Self::Unix => "unix",
            Self::ClientUnseen => "client-unseen",
            Self::Client(Refusal::Executable) => "client-spared",
            Self::Client(Refusal::Mptcp) => "client-mptcp",
            Self::Client(Refusal::NoSlot) => "no-slot",
            Self::Client(Refusal::NoRoom) => "no-room",
            Self::ServerUnseen => "server-unseen",
            Self::ServerSpared(_) => "server-spared",
            Self::ServerRing => "server-ring",
            Self::ServerUnknown => "server-unknown",
            Self::Spliced => "spliced",
            Self::Ring => "ring",
            Self::ServerLate => "server-late",
            Self::Memory => "no-memory",
            Self::Client(Refusal::Ring) => "client-ring",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "the fast path is off for this segment",
            Self::Unavailable => "the fast path is not available, see `wormhole status`",
            Self::Unix => "one end is a unix socket",
            Self::ClientUnseen => {
                "the client is in another namespace or on another machine, its address was translated, or it has gone already"
            }
            Self::Client(Refusal::Executable) => "the client's executable is kept off the fast path",
            Self::Client(Refusal::Mptcp) => "the client uses Multipath TCP",
            Self::Client(Refusal::NoSlot) => "all places on the fast path are taken, see --fastpath-pairs",
            Self::Client(Refusal::NoRoom) => "the client's socket could not be enrolled; another program may own it",
            Self::ServerUnseen => "the server is in another namespace or on another machine, or uses Multipath TCP",
            Self::ServerSpared(exe) => return write!(f, "the server's executable {exe} is kept off the fast path"),
            Self::ServerRing => "the server uses io_uring",
            Self::ServerUnknown => "it was not known yet which executable listens at the tail",
            Self::Spliced => "an application used splice(2), which does not see redirected bytes",
            Self::Ring => "an application sends by io_uring",
            Self::ServerLate => {
                "the server's socket was not there when the first bytes came (TCP_DEFER_ACCEPT, or an address that is translated): they go by TCP"
            }
            Self::Memory => "the kernel had no memory for redirected bytes (net.ipv4.tcp_mem)",
            Self::Client(Refusal::Ring) => "the client uses io_uring",
        })
    }
}
