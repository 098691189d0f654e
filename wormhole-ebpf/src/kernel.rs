//! What is read out of the kernel's own structures. Rust's eBPF has no relocation of field offsets, so userspace takes
//! them from the running kernel's BTF and writes them here before the programs are loaded.
//!
//! The globals are in a section of their own: in `.rodata` LLVM would merge those that begin with equal values.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_get_current_task;
use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_kernel_str_bytes};
use wormhole_common::{EXE_NAME, ExeName, NO_FIELD};

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[$doc])*
        #[unsafe(no_mangle)]
        #[unsafe(link_section = ".rodata.config")]
        pub static $name: Global<$type> = Global::new($value);)*
    };
}

settings! {
    /// `sock.sk_backlog.rmem_alloc`: bytes that wait in the receiver's queues.
    OFF_RMEM: u32 = 0;
    /// `sock.sk_rcvbuf`.
    OFF_RCVBUF: u32 = 0;
    /// `sock.sk_sndbuf`.
    OFF_SNDBUF: u32 = 0;
    /// `sock.sk_shutdown`.
    OFF_SHUTDOWN: u32 = 0;
    /// `sock.sk_user_data`: what the map of sockets keeps with it.
    OFF_USER_DATA: u32 = 0;
    /// `sk_psock.state`.
    OFF_STATE: u32 = 0;
    /// `sk_psock.ingress_msg`: the list of redirected messages that wait.
    OFF_QUEUE: u32 = 0;
    /// `sock.__sk_common.skc_refcnt`.
    OFF_REFS: u32 = 0;
    /// `sock.sk_lock.owned`.
    OFF_OWNED: u32 = 0;
    /// `entry.pprev` of a socket's timers, which hold a reference each while they are pending.
    OFF_TIMER_1: u32 = 0;
    /// As above.
    OFF_TIMER_2: u32 = 0;
    /// As above.
    OFF_TIMER_3: u32 = 0;
    /// `state` of its high-resolution timers, which do so too.
    OFF_HRTIMER_1: u32 = 0;
    /// As above.
    OFF_HRTIMER_2: u32 = 0;
    /// `sock.sk_write_pending`: how many sleep until there is room to send.
    OFF_SLEEPERS: u32 = 0;
    /// `sock.sk_socket`.
    OFF_SOCKET: u32 = 0;
    /// `socket.flags`.
    OFF_SOCKET_FLAGS: u32 = 0;
    /// `socket_alloc.vfs_inode.i_ino`; a `socket_alloc` begins with the `socket`.
    OFF_INODE: u32 = 0;
    /// `tcp_sock.write_seq`.
    OFF_WRITE_SEQ: u32 = 0;
    /// `sock.sk_userlocks`, in bits.
    BIT_USERLOCKS: u32 = 0;
    /// `sock.__sk_common.skc_prot`: what all TCP sockets have in common.
    OFF_PROTO: u32 = 0;
    /// `proto.memory_allocated`: where TCP's memory is counted, in pages.
    OFF_ALLOCATED: u32 = 0;
    /// `proto.memory_pressure`: where stands whether there is little left.
    OFF_PRESSURE: u32 = 0;
    /// `proto.sockets_allocated`: where TCP's sockets are counted.
    OFF_SOCKETS: u32 = 0;
    /// `percpu_counter.count`.
    OFF_COUNT: u32 = 0;
    /// `sock.sk_wmem_queued`.
    OFF_WMEM: u32 = 0;
    /// `proto.sysctl_mem`: where the three limits stand, in pages.
    OFF_LIMITS: u32 = 0;
    /// `task_struct.signal`.
    OFF_SIGNAL: u32 = 0;
    /// `signal_struct.nr_threads`.
    OFF_THREADS: u32 = 0;
    /// `task_struct.io_uring`.
    OFF_RING: u32 = 0;
    /// `task_struct.flags`.
    OFF_FLAGS: u32 = 0;
    /// `task_struct.mm`.
    OFF_MM: u32 = 0;
    /// `mm_struct.exe_file`.
    OFF_EXE_FILE: u32 = 0;
    /// `file.f_path.dentry`.
    OFF_DENTRY: u32 = 0;
    /// `dentry.d_name.name`.
    OFF_NAME: u32 = 0;
    /// Size of a page: 2 to the power of this.
    PAGE_BITS: u32 = 12;
    /// Bytes in front of a reader at which a sender's messages go by TCP.
    LIMIT: u64 = 1;
    /// Nanoseconds from one small message to the next, on an average, at which they are gathered; 0: they never are.
    GATHER: u64 = 0;
}

/// Kernel memory that a redirected message costs besides its bytes: a `struct sk_msg` of about 700 bytes.
pub const MESSAGE_COST: u32 = 768;

/// A field of the structure at `base`; none where this kernel has no such field.
#[inline(always)]
pub fn read<T>(base: u64, offset: &Global<u32>) -> Option<T> {
    // Known to the verifier, which leaves out what is never done.
    match offset.load() {
        NO_FIELD => None,
        offset => read_at(base.wrapping_add(u64::from(offset))),
    }
}

/// What is at an address.
#[inline(always)]
pub fn read_at<T>(at: u64) -> Option<T> {
    // SAFETY: the helper reads any address without faulting; what is read is a number and used as one.
    unsafe { bpf_probe_read_kernel(at as *const T) }.ok()
}

/// Bytes that wait in front of the owner of this socket. Something large when it cannot be told.
#[inline(always)]
pub fn backlog(sock: u64) -> u64 {
    u64::from(read::<u32>(sock, &OFF_RMEM).unwrap_or(u32::MAX))
}

/// Size of a socket's receive buffer, in bytes as the kernel counts them; 0 when it cannot be told.
#[inline(always)]
pub fn receive_buffer(sock: u64) -> u64 {
    u64::from(read::<u32>(sock, &OFF_RCVBUF).unwrap_or_default())
}

/// As above, of its send buffer.
#[inline(always)]
pub fn send_buffer(sock: u64) -> u64 {
    u64::from(read::<u32>(sock, &OFF_SNDBUF).unwrap_or_default())
}

/// Sequence number after the last byte that was given to TCP.
#[inline(always)]
pub fn write_seq(sock: u64) -> u32 {
    read(sock, &OFF_WRITE_SEQ).unwrap_or_default()
}

/// True when the application has set the size of its send buffer (SO_SNDBUF). Then, or when it cannot be told.
#[inline(always)]
pub fn has_own_buffer(sock: u64) -> bool {
    /// `SOCK_SNDBUF_LOCK`.
    const SNDBUF: u8 = 1;
    let bit = BIT_USERLOCKS.load();
    let locks = read_at::<u8>(sock.wrapping_add(u64::from(bit / 8)));
    !locks.is_some_and(|locks| (locks >> (bit % 8)) & SNDBUF == 0)
}

/// True when nothing that was redirected to this socket waits in it, or it is in no map any more.
#[inline(always)]
pub fn is_drained(sock: u64) -> bool {
    let Some(psock) = psock(sock) else { return false };
    if psock == 0 {
        return true;
    }
    let head = psock.wrapping_add(u64::from(OFF_QUEUE.load()));
    read::<u64>(psock, &OFF_QUEUE) == Some(head)
}

/// True while a process is in a system call on this socket, or waits to be.
#[inline(always)]
pub fn is_owned(sock: u64) -> bool {
    sock != 0 && read::<u32>(sock, &OFF_OWNED) != Some(0)
}

/// True when nobody but the socket itself, its queue and its timers refers to it. Whoever redirects a message to it holds a
/// reference from the program's verdict until the message is in the queue (`sk_psock_msg_verdict`, net/core/skmsg.c, and
/// `tcp_bpf_send_verdict`, net/ipv4/tcp_bpf.c). A packet that is just being received may hold one too.
#[inline(always)]
pub fn is_left_alone(sock: u64) -> bool {
    /// The socket's own one, and that of the queue of redirected messages (`sk_psock_init`).
    const OWN: u32 = 2;
    // Without branches, of which the verifier would follow each. What cannot be read counts as not pending.
    let flag = |value: u64| ((value | value.wrapping_neg()) >> 63) as u32;
    let pending = |timer| flag(read::<u64>(sock, timer).unwrap_or_default());
    let queued = |timer| u32::from(read::<u8>(sock, timer).unwrap_or_default() & 1);
    let timers = pending(&OFF_TIMER_1) + pending(&OFF_TIMER_2) + pending(&OFF_TIMER_3);
    let timers = timers + queued(&OFF_HRTIMER_1) + queued(&OFF_HRTIMER_2);
    read::<u32>(sock, &OFF_REFS).is_some_and(|refs| refs <= OWN + timers)
}

/// The queue of redirected messages and what belongs to it; 0 when the socket is in no map.
#[inline(always)]
fn psock(sock: u64) -> Option<u64> {
    /// Flags that the kernel keeps in the lowest bits (`SK_USER_DATA_PTRMASK`).
    const FLAGS: u64 = 7;
    read::<u64>(sock, &OFF_USER_DATA).map(|pointer| pointer & !FLAGS)
}

/// True when somebody waits for room to send.
#[inline(always)]
pub fn waits_for_room(sock: u64) -> bool {
    /// `SOCK_NOSPACE`.
    const NOSPACE: u64 = 1 << 2;
    match read::<u64>(sock, &OFF_SOCKET) {
        Some(socket) if socket != 0 => read::<u64>(socket, &OFF_SOCKET_FLAGS).is_some_and(|flags| flags & NOSPACE != 0),
        _ => false,
    }
}

/// True when somebody sleeps in a call until there is room to send; one that polls does not (`sk_stream_wait_memory`,
/// net/core/stream.c).
#[inline(always)]
pub fn sleeps_for_room(sock: u64) -> bool {
    read::<u32>(sock, &OFF_SLEEPERS).is_some_and(|sleepers| sleepers != 0)
}

/// Number of the socket's inode; 0 when no application holds it.
#[inline(always)]
pub fn inode(sock: u64) -> u64 {
    match read::<u64>(sock, &OFF_SOCKET) {
        Some(socket) if socket != 0 => read(socket, &OFF_INODE).unwrap_or_default(),
        _ => 0,
    }
}

/// True when the socket is being closed: both directions are shut, and it is not in the map any more, which it leaves
/// when it is closed, and not when its sending side is shut after the other side has sent its FIN.
#[inline(always)]
pub fn is_closing(sock: u64) -> bool {
    /// `BIT(SK_PSOCK_TX_ENABLED)`: close(2) takes it from a queue that somebody is still writing into.
    const OPEN: u64 = 1;
    if read::<u8>(sock, &OFF_SHUTDOWN) != Some(3) {
        return false;
    }
    let Some(psock) = psock(sock) else { return false };
    psock == 0 || read::<u64>(psock, &OFF_STATE).is_some_and(|state| state & OPEN == 0)
}

/// What tells the process of a task from others, as long as it lives; 0 when it cannot be told.
#[inline(always)]
pub fn process(task: u64) -> u64 {
    read(task, &OFF_SIGNAL).unwrap_or_default()
}

/// True when this task is the only one of its process.
#[inline(always)]
pub fn is_single(task: u64) -> bool {
    read::<u32>(process(task), &OFF_THREADS) == Some(1)
}

/// True when this task uses io_uring, or does its work. Its sends with MSG_WAITALL must not come to a socket in the map: one
/// that is cut short there has taken more from the caller than it says, and io_uring goes on behind that
/// (`tcp_bpf_sendmsg` does not revert the iterator, and `io_send` does not begin a new one; seen on 6.18).
#[inline(always)]
pub fn uses_ring(task: u64) -> bool {
    has_ring(task) || works_for_ring(task)
}

/// True when this task has made a ring, or has handed something to one.
#[inline(always)]
pub fn has_ring(task: u64) -> bool {
    read::<u64>(task, &OFF_RING).is_some_and(|ring| ring != 0)
}

/// True when this task is one of the kernel's that do what was handed to a ring; it does nothing else in its life.
#[inline(always)]
pub fn works_for_ring(task: u64) -> bool {
    const PF_IO_WORKER: u32 = 0x10;
    read::<u32>(task, &OFF_FLAGS).is_some_and(|flags| flags & PF_IO_WORKER != 0)
}

/// The base name of the executable that the current task runs; zeros when it has none.
#[inline(always)]
pub fn executable() -> ExeName {
    let mut name = [0; EXE_NAME];
    // SAFETY: no arguments; an address as a number.
    let task = unsafe { bpf_get_current_task() };
    let Some(mm) = read::<u64>(task, &OFF_MM) else { return name };
    let Some(file) = read::<u64>(mm, &OFF_EXE_FILE) else { return name };
    let Some(dentry) = read::<u64>(file, &OFF_DENTRY) else { return name };
    let Some(text) = read::<u64>(dentry, &OFF_NAME) else { return name };
    // SAFETY: as in `read`. What does not fit is cut off, here as in userspace.
    let _ = unsafe { bpf_probe_read_kernel_str_bytes(text as *const u8, &mut name) };
    name
}
