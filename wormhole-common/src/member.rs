//! What the programs keep with a socket, and what its fields may say.

use crate::Tuple;

/// What is kept with a socket (`BPF_MAP_TYPE_SK_STORAGE`). It goes when the socket goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Member {
    /// The connection's slot; for [`Role::Door`](crate::Role::Door) the index of its [`Door`](crate::Door).
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
    /// A [`Role`](crate::Role).
    pub role: u32,
    /// One of the `MEMBER_` constants.
    pub state: u32,
    /// Address of the kernel's `tcp_sock`.
    pub sock: u64,
    /// `write_seq` before its first byte: what was sent by TCP is counted from here, modulo 2^32.
    pub base: u32,
    /// What `write_seq` will be when the message that was last let through has been given to TCP as a whole.
    pub whole: u32,
    /// The length of that message.
    pub length: u32,
    /// 1 while its send buffer is as small as can be.
    pub tight: u32,
    /// What small redirected messages cost besides their bytes, since the receiver's queue was last seen empty.
    pub burst: u32,
    /// 1 since the receiver's queue was found full; 0 once there was room.
    pub stalled: u32,
    /// Bytes redirected since the receiver was last seen with none on their way to its queue.
    pub ahead: u32,
    /// How many may wait there so that the message that waits for room fits.
    pub most: u32,
    /// 1 once it was tried to make its receive buffer large.
    pub wide: u32,
    /// How often in a row the end of a message was late with such a buffer.
    pub late: u32,
    /// How it waits for room there.
    pub room: Patience,
    /// How it waits for a receiver that is just reading.
    pub turn: Patience,
    /// The task that sends.
    pub sender: u64,
    /// How many messages it has sent in a row; [`SHARED`] once others send too.
    pub streak: u32,
    /// How often another task began to send.
    pub changes: u32,
    /// 1 when that task is the only one of its process.
    pub single: u32,
    /// 1 once the application gives it up.
    pub closing: u32,
    /// One of the `GATHER_` constants.
    pub gathers: u32,
    /// Small messages in a row; at the end of gathering, all.
    pub run: u32,
    /// When that row began: `CLOCK_MONOTONIC`, in nanoseconds.
    pub run_since: u64,
    /// One of the `NAGLE_` constants.
    pub nagle: u32,
    /// While it gathers: messages in a row before which nothing was on its way.
    pub pauses: u32,
    /// Likewise: how often something came from the other side before a message.
    pub answers: u32,
    /// One of the `HOLD_` constants.
    pub hold: u32,
    /// Bytes that had come from the other side when it last sent.
    pub heard: u64,
    /// When it began: `CLOCK_MONOTONIC_COARSE`, in nanoseconds.
    pub alone_since: u64,
    /// When a message last began to go by TCP with such a buffer: `CLOCK_MONOTONIC`, in nanoseconds.
    pub tight_since: u64,
    /// The key of the token that the socket has left.
    pub tuple: Tuple,
}

/// What was learnt from waiting: the more often in vain, the less often it is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Patience {
    /// How often in a row it was in vain, as 2^n - 1.
    pub vain: u32,
    /// So many times more it is not tried.
    pub spare: u32,
}

/// Its messages go direct, if they can.
pub const GATHER_NOT: u32 = 0;
/// It streams small messages, which go by TCP and become few large ones.
pub const GATHER_STREAMS: u32 = 1;
/// It does not any more, but Nagle's algorithm has not been taken back yet.
pub const GATHER_ENDS: u32 = 2;

/// Nagle's algorithm is as the application has it (TCP_NODELAY).
pub const NAGLE_ITS: u32 = 0;
/// The application had it off, and now it is on.
pub const NAGLE_ON: u32 = 1;
/// It is on anyhow.
pub const NAGLE_ANYHOW: u32 = 2;
/// It cannot be set, or the application sets it time and again: nothing is gathered.
pub const NAGLE_NEVER: u32 = 3;

/// The send buffer is the kernel's own.
pub const HOLD_NEVER: u32 = 0;
/// It is small: what goes by TCP while the receiver's queue is full is little.
pub const HOLD_SHORT: u32 = 1;
/// It has been made large again, or is the application's, or the receive buffer is too small for that: it stays.
pub const HOLD_DONE: u32 = 2;
/// In [`Member::streak`]: so many messages of one task in a row say something.
pub const STREAK: u32 = 32;
/// And this, that several tasks send.
pub const SHARED: u32 = u32::MAX;

/// The connection is being set up.
pub const MEMBER_NEW: u32 = 0;
/// In a map of sockets.
pub const MEMBER_ENROLLED: u32 = 1;
/// Not enrolled; only its token is to be cleaned up.
pub const MEMBER_REFUSED: u32 = 2;
