//! Types that the eBPF programs and userspace both see: `#[repr(C)]`, `no_std`, no logic beyond key building.
#![no_std]

mod member;

pub use member::*;

/// The ELF section of the eBPF object that holds the version it was built from, as text without a terminator.
pub const VERSION_SECTION: &str = "wormhole.version";

/// What a socket is to the connection that it belongs to.
///
/// ```text
/// client C ──TCP──> A   wormholed   B ──TCP──> S server
/// ```
///
/// A and B are wormholed's and stay out of the maps; what it puts into the queues of C and S it sends on a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    /// C: an application's socket that connected to a head.
    Client = 0,
    /// S: an application's socket that accepted at a tail.
    Server = 1,
    /// A socket of wormholed's, one for each relay thread, whose sends are put where its [`Door`] says.
    Door = 2,
}

impl Role {
    /// Index into [`Slot::sides`] of an application's socket.
    #[must_use]
    pub const fn side(self) -> usize {
        matches!(self, Self::Server) as usize
    }
}

/// Key of a socket in the map of sockets. Never used twice: the generation of a slot grows with every use.
#[must_use]
pub const fn socket_key(slot: u32, generation: u32, role: u32) -> u64 {
    ((generation as u64) << 32) | ((slot as u64) << 2) | role as u64
}

/// What a relay thread tells the programs: before it connects to a tail, whose connection that carries on; and before it sends on
/// its door, into whose queue that goes. In memory that userspace has mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Door {
    /// One of the `DOOR_` constants. Userspace, and the program that has done what it says.
    pub errand: u32,
    /// The connection's slot. Userspace.
    pub slot: u32,
    /// The slot's generation. Userspace.
    pub generation: u32,
    /// Whose queue, as a [`Role`]. Userspace.
    pub role: u32,
    /// How many segments of a chain come before the one that connects. Userspace.
    pub hop: u32,
    /// Zero.
    pub pad: u32,
    /// The key of the token that was left for whoever accepts the connection. Program.
    pub tuple: Tuple,
}

/// The thread does nothing that concerns the programs.
pub const DOOR_IDLE: u32 = 0;
/// It connects to a tail.
pub const DOOR_CONNECTS: u32 = 1;
/// It does, and a token was left.
pub const DOOR_ANNOUNCED: u32 = 2;
/// It puts bytes into a queue.
pub const DOOR_INJECTS: u32 = 3;

/// Most relay threads that have a door.
pub const DOORS: u32 = 1024;

/// Most slots that [`socket_key`] can tell apart.
pub const MAX_SLOTS: u32 = 1 << 30;

/// A TCP connection as its passive end sees it. IPv4 addresses are mapped into IPv6, so that a dual-stack socket and
/// its IPv4 peer name the same connection. Addresses are in network order, ports in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tuple {
    /// Cookie of the network namespace (`SO_NETNS_COOKIE`): 127.0.0.1 is in all of them.
    pub netns: u64,
    /// Where the connection was accepted.
    pub local: [u32; 4],
    /// Where it came from.
    pub remote: [u32; 4],
    /// Port of `local`.
    pub local_port: u16,
    /// Port of `remote`.
    pub remote_port: u16,
    /// Zero: padding takes part in a map's key.
    pub pad: u32,
}

/// A port on which at least one head listens: the one look-up that a stranger's connect costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct HeadPort {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// The port.
    pub port: u32,
    /// Zero.
    pub pad: u32,
}

/// A head by its address; `::` and `::ffff:0.0.0.0` stand for any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct HeadAddr {
    /// Port and namespace.
    pub port: HeadPort,
    /// As in [`Tuple`].
    pub addr: [u32; 4],
}

/// The value of a head: one of the two below, or 0.
/// Executables that are spared are not enrolled.
pub const HEAD_CHECKS: u32 = 1;
/// No client is enrolled, and what is accepted there is no server: wormholed relays it.
pub const HEAD_OFF: u32 = 2;

/// An offset: this kernel has no such field.
pub const NO_FIELD: u32 = u32::MAX;

/// Bytes of an executable's base name that are compared, zeros after it.
pub const EXE_NAME: usize = 32;

/// An executable's base name.
pub type ExeName = [u8; EXE_NAME];

/// What the program that saw a connection begin leaves for whoever accepts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Token {
    /// The slot, for all kinds but [`TOKEN_REFUSED`].
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
    /// One of the `TOKEN_` constants.
    pub kind: u32,
    /// For [`TOKEN_LINK`]: how many segments came before. For [`TOKEN_REFUSED`]: a [`Refusal`].
    pub detail: u32,
}

/// An enrolled client waits to be accepted at a head.
pub const TOKEN_CLIENT: u32 = 0;
/// B connects to a tail: the socket that is accepted there is its server.
pub const TOKEN_SERVER: u32 = 1;
/// B connects to another head: the segment behind it carries on the same connection.
pub const TOKEN_LINK: u32 = 2;
/// A client of a head that was not enrolled.
pub const TOKEN_REFUSED: u32 = 3;

/// Why a socket was not enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Refusal {
    /// Its executable is on the list of those that must not be.
    Executable = 0,
    /// A Multipath TCP socket.
    Mptcp = 1,
    /// All slots are taken.
    NoSlot = 2,
    /// A map was full, or another program owns the socket.
    NoRoom = 3,
    /// The task that connects uses io_uring.
    Ring = 4,
}

impl Refusal {
    /// From [`Token::detail`].
    #[must_use]
    pub const fn from_u32(raw: u32) -> Self {
        match raw {
            0 => Self::Executable,
            1 => Self::Mptcp,
            2 => Self::NoSlot,
            4 => Self::Ring,
            _ => Self::NoRoom,
        }
    }
}

/// What is known of an executable: heads with a check do not enrol it.
pub const EXE_SPARED: u32 = 0;
/// Or no head does.
pub const EXE_NEVER: u32 = 1;

/// One application's end of a connection, in memory that userspace has mapped. Every field has one writer at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct SlotSide {
    /// Grows when the slot is given back; the same on both sides. Written by whoever owns the slot.
    pub generation: u32,
    /// 1 once the socket is enrolled. Program.
    pub enrolled: u8,
    /// 1 when the application closed the socket with redirected bytes unread: TCP would have sent a reset. Program.
    pub unread: u8,
    /// 1 when the application used splice(2) on it. Program, or the watchdog.
    pub spliced: u8,
    /// Not 0 when nothing that this side sends shall be redirected any more: one of the `OFF_` constants. Program, or userspace.
    pub off: u8,
    /// Address of the kernel's `tcp_sock`, for a look at its backlog. Program.
    pub sock: u64,
    /// Bytes that this side sent straight into the other's queue. Program.
    pub direct_bytes: u64,
    /// Address of the door by which bytes are being put into this side's queue, or 0. Program, and userspace afterwards.
    pub door: u64,
    /// Bytes of this side that userspace has put into the other's queue, published after the send. Userspace.
    pub injected: u64,
    /// How many segments of a chain come before the last one. Program; only in the server's side.
    pub hops: u32,
    /// While the relay moves bytes of this side into the other's queue: the cpu it runs on, plus 1. Userspace.
    pub mover: u16,
    /// How this side sends: [`SEVERAL`], [`RINGS`], and [`GATHERS`] or [`ENDS`]. Program.
    pub manner: u8,
    /// 1 when the ring of whoever sends here is for files, and it sends by send(2) all the same. Userspace, before the socket is there.
    pub files: u8,
    /// Messages that were, or are about to be, put into this side's queue; or [`LEFT`]. Programs, atomically.
    pub queued: u64,
    /// When that was last raised: `CLOCK_MONOTONIC_COARSE`, in nanoseconds. Programs.
    pub queued_at: u64,
}

/// In [`SlotSide::manner`]: another task than the first one has sent; several may be at it at a time.
pub const SEVERAL: u8 = 1;
/// In [`SlotSide::manner`]: its small messages go by TCP, which makes few large ones of them.
pub const GATHERS: u8 = 2;
/// In [`SlotSide::manner`]: they did. It is acknowledged before anybody can answer, so that Nagle's algorithm can be taken back
/// while nothing waits.
pub const ENDS: u8 = 4;
/// In [`SlotSide::manner`]: by io_uring.
pub const RINGS: u8 = 8;

/// The other side uses splice(2).
pub const OFF_SPLICED: u8 = 1;
/// This side sends by io_uring.
pub const OFF_RING: u8 = 2;
/// The first bytes of this side were handed on by TCP, because the other was not enrolled: so are the others.
pub const OFF_PLAIN: u8 = 3;
/// The kernel had no memory to put what this side sent into the other's queue, or for the door: it goes by TCP from then on.
pub const OFF_STARVED: u8 = 4;

/// This side sends by io_uring, and its socket has left the map.
pub const OFF_ALONE: u8 = 5;
/// The other side has left the map, because it sends no more or is about to close; or it uses splice(2). What comes for it goes
/// by TCP.
pub const OFF_ENDED: u8 = 6;

/// Set in [`SlotSide::queued`]: the socket leaves the map, and nothing more may be put into its queue.
pub const LEFT: u64 = 1 << 63;

/// A connection whose ends are both on this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Slot {
    /// By [`Role::side`]: the client's, the server's.
    pub sides: [SlotSide; 2],
}

/// What `wh_backlog` and `wh_quiet` are asked, as the words of a raw tracepoint's context: slot, generation, [`Role`].
pub const QUESTION_WORDS: usize = 3;

/// Where `struct socket` has its `sk`; userspace compares that with the running kernel's types. A constant, because the
/// verifier wants to know it.
pub const SOCKET_SK: u32 = 24;

/// What `wh_reader` is asked, as the fourth word after those of `wh_backlog`: bytes that were redirected and not read.
pub const ASK_REDIRECTED: u32 = 0;
/// Or the number of the socket's inode.
pub const ASK_INODE: u32 = 1;
/// Or how many bytes may wait there so that the kernel still takes every packet.
pub const ASK_ENDURANCE: u32 = 2;
/// Or whether something may be on its way there.
pub const ASK_COMING: u32 = 3;

/// What the program that saw a splice(2) on an enrolled socket tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SpliceEvent {
    /// The connection's slot.
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
    /// A [`Role`].
    pub role: u32,
    /// Zero.
    pub pad: u32,
    /// Who did it.
    pub exe: ExeName,
}

/// Counters of the programs, one of each a cpu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Count {
    /// Clients enrolled.
    Clients = 0,
    /// Servers enrolled.
    Servers = 1,
    /// Messages passed by TCP because earlier ones were still on their way through the relay.
    Order = 2,
    /// Messages passed by TCP because the receiver's queue was full.
    Full = 3,
    /// Messages passed by TCP because the receiver is not, or no longer, there.
    Gone = 4,
    /// Sockets that no slot was left for.
    NoSlot = 5,
    /// Sockets that a map refused.
    NoRoom = 6,
    /// Sockets of listed executables.
    Executable = 7,
    /// Multipath TCP sockets.
    Mptcp = 8,
    /// Socket options that were refused on an enrolled socket.
    Sockopt = 9,
    /// Sockets of tasks that use io_uring.
    Ring = 10,
    /// Messages passed by TCP because TCP has little memory left.
    Memory = 11,
    /// Small messages passed by TCP so that few large ones are made of them.
    Gathered = 12,
}

/// How many [`Count`]s there are.
pub const COUNTS: u32 = 13;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_sockets_share_a_key() {
        let mut keys = [0u64; 8];
        let mut at = 0;
        for slot in [0, MAX_SLOTS - 1] {
            for generation in [0, u32::MAX] {
                for role in [Role::Client, Role::Server].map(|role| role as u32) {
                    keys[at] = socket_key(slot, generation, role);
                    at += 1;
                }
            }
        }
        keys.sort_unstable();
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn keys_have_no_hidden_padding() {
        assert_eq!(size_of::<SlotSide>(), 64);
        assert_eq!(size_of::<Tuple>(), 8 + 16 + 16 + 2 + 2 + 4);
        assert_eq!(size_of::<HeadAddr>(), 8 + 4 + 4 + 16);
        assert_eq!(size_of::<Slot>(), 128);
        assert_eq!(size_of::<Door>(), 128);
        assert_eq!(size_of::<Member>(), 4 * 4 + 8 + 10 * 4 + 2 * 8 + 8 + 6 * 4 + 8 + 4 * 4 + 3 * 8 + size_of::<Tuple>());
    }
}
