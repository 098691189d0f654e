//! The maps. Sizes that are settings are changed by userspace before it loads the object.

use crate::atomic::fetch_add;
use crate::kernel::is_owned;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_sk_storage_get};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, Queue, RingBuf, SockHash};
use core::ffi::c_void;
use core::ptr;
use wormhole_common::{
    COUNTS, Count, DOORS, Door, ExeName, HeadAddr, HeadPort, MEMBER_ENROLLED, Member, Role, Slot, SlotSide, Token, Tuple,
};

/// All enrolled sockets. The program that sees their messages is attached here.
#[map]
pub static WH_SOCKS: SockHash<u64> = SockHash::with_max_entries(2 * 65_536, 0);

/// The sockets of wormholed that put bytes into their queues. Another program is attached here.
#[map]
pub static WH_DOOR_SOCKS: SockHash<u32> = SockHash::with_max_entries(DOORS, 0);

/// What each of them is for.
#[map]
pub static WH_DOORS: Array<Door> = Array::with_max_entries(DOORS, BPF_F_MMAPABLE);

/// Which of them a relay thread has: by the address of its task.
#[map]
pub static WH_THREADS: HashMap<u64, u32> = HashMap::with_max_entries(DOORS, 0);

/// wormholed's process, as [`process`](crate::kernel::process) knows it.
#[map]
pub static WH_SELF: Array<u64> = Array::with_max_entries(1, 0);

/// What is kept with a socket.
#[btf_map]
pub static WH_MEMBER: SkStorage<Member> = SkStorage::new();

/// The connections.
#[map]
pub static WH_SLOTS: Array<Slot> = Array::with_max_entries(65_536, BPF_F_MMAPABLE);

/// Slots that are free.
#[map]
pub static WH_FREE: Queue<u32> = Queue::with_max_entries(65_536, 0);

/// What waits to be claimed by whoever accepts the connection.
#[map]
pub static WH_TUPLES: HashMap<Tuple, Token> = HashMap::with_max_entries(2 * 65_536, BPF_F_NO_PREALLOC);

/// Ports that have a head. The value is how many.
#[map]
pub static WH_PORTS: HashMap<HeadPort, u32> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// The heads.
#[map]
pub static WH_HEADS: HashMap<HeadAddr, u32> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Executables that are not to be enrolled where a head checks that.
#[map]
pub static WH_EXES: HashMap<ExeName, u32> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// What happened, see [`Count`].
#[map]
pub static WH_COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTS, 0);

/// Who used splice(2).
#[map]
pub static WH_EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// What is kept with `sk`, a pointer that the verifier knows as one to a socket and not null.
#[inline(always)]
pub fn member<'a>(sk: *mut c_void) -> Option<&'a mut Member> {
    // SAFETY: the helper is given the map and a socket that the kernel handed to the program, and gives null or a value
    // that lives as long as the socket, which the caller of the program holds.
    unsafe { bpf_sk_storage_get(storage(), sk, ptr::null_mut(), 0).cast::<Member>().as_mut() }
}

/// True for an application's socket that is enrolled; wormholed's doors are members, too.
#[inline(always)]
pub fn is_application(me: &Member) -> bool {
    me.state == MEMBER_ENROLLED && me.role <= Role::Server as u32
}

/// As [`member`], and makes one with these values where there is none.
#[inline(always)]
pub fn make_member<'a>(sk: *mut c_void, value: &mut Member) -> Option<&'a mut Member> {
    const CREATE: u64 = 1; // BPF_SK_STORAGE_GET_F_CREATE
    // SAFETY: as in `member`; `value` is read before the helper returns.
    unsafe { bpf_sk_storage_get(storage(), sk, ptr::from_mut(value).cast(), CREATE).cast::<Member>().as_mut() }
}

#[inline(always)]
fn storage() -> *mut c_void {
    (&raw const WH_MEMBER).cast_mut().cast()
}

/// A connection's slot.
#[inline(always)]
pub fn slot<'a>(index: u32) -> Option<&'a mut Slot> {
    // SAFETY: the map hands out a pointer to the whole element, which lives as long as the program's map.
    WH_SLOTS.get_ptr_mut(index).and_then(|slot| unsafe { slot.as_mut() })
}

/// What a relay thread is at.
#[inline(always)]
pub fn door_of<'a>(index: u32) -> Option<&'a mut Door> {
    // SAFETY: as in `slot`.
    WH_DOORS.get_ptr_mut(index).and_then(|door| unsafe { door.as_mut() })
}

/// The application's end that `role` names, while the slot is still in this use.
#[inline(always)]
pub fn side<'a>(index: u32, generation: u32, role: u32) -> Option<&'a mut SlotSide> {
    let [client, server] = &mut slot(index)?.sides;
    let side = if role == Role::Client as u32 { client } else { server };
    (side.generation == generation).then_some(side)
}

/// Both ends of an application's connection, its own first, while the slot is still in this use.
#[inline(always)]
pub fn sides<'a>(me: &Member) -> Option<(&'a mut SlotSide, &'a mut SlotSide)> {
    let [client, server] = &mut slot(me.slot)?.sides;
    let (mine, peer) = if me.role == Role::Client as u32 { (client, server) } else { (server, client) };
    (mine.generation == me.generation).then_some((mine, peer))
}

/// True when whoever has counted a message for the queue of `mine` holds a reference to its socket by now, or is done.
///
/// The program of a sender runs, and the reference is taken, while the sender's socket is owned. A sender's socket may also
/// be owned for long by a reader that does not get the cpu; but nobody takes so long for the few instructions between.
#[inline(always)]
pub fn is_settled(mine: &mut SlotSide, peer: &SlotSide) -> bool {
    const LONG_AGO: u64 = 100_000_000; // nanoseconds
    // Not the coarse one, which not every kind of program may ask for; it is behind by a tick at most.
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let settled = mine.queued_at + LONG_AGO < now || (!is_owned(peer.sock) && !is_owned(mine.door));
    // SAFETY: an aligned field of the slot, which only atomic operations change; adding nothing orders what is read later.
    unsafe { fetch_add(&raw mut mine.queued, 0) };
    settled
}

/// Counts an event.
#[inline(always)]
pub fn count(what: Count) {
    if let Some(counter) = WH_COUNTS.get_ptr_mut(what as u32) {
        // SAFETY: this cpu's own counter; two programs that interrupt each other may lose a count, never more.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}
