//! A connection whose ends are both on this machine, and the place of one segment in it.

mod way;

use super::slots::Side;
use super::{Door, Fastpath, Why};
use crate::model::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use wormhole_common::{
    ASK_COMING, ASK_ENDURANCE, ASK_INODE, ASK_REDIRECTED, ENDS, GATHERS, OFF_ALONE, OFF_ENDED, OFF_PLAIN, OFF_RING, OFF_SPLICED,
    OFF_STARVED, QUESTION_WORDS, RINGS, Role, SEVERAL, socket_key,
};

/// A client that is enrolled, and its server once that is too. Given back when the last segment that carries the
/// connection lets go.
#[derive(Debug)]
pub struct Pair {
    fastpath: Arc<Fastpath>,
    slot: u32,
    generation: u32,
    injected: [AtomicU64; 2],
    /// It was told that an application uses splice(2).
    noticed: AtomicBool,
    /// The last segment that has told the programs of its tail, by how many come before it, plus 1.
    announced: AtomicU32,
    /// The server will be made by the first bytes, and stays out of the map.
    left_out: AtomicBool,
    condemned: AtomicBool,
}

/// One segment's part of a [`Pair`]: its two sockets of wormholed's, somewhere between the client and the server.
#[derive(Clone, Debug)]
pub struct Link {
    pair: Arc<Pair>,
    /// How many segments come before this one.
    hop: u32,
}

impl Pair {
    pub(super) fn new(fastpath: Arc<Fastpath>, slot: u32, generation: u32) -> Self {
        let injected = [AtomicU64::new(0), AtomicU64::new(0)];
        let [noticed, left_out, condemned] = [const { AtomicBool::new(false) }; 3];
        let announced = AtomicU32::new(0);
        Self { fastpath, slot, generation, injected, noticed, announced, left_out, condemned }
    }

    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    pub(super) fn fastpath(&self) -> &Fastpath {
        &self.fastpath
    }

    /// True once the server's socket is enrolled.
    pub fn has_server(&self) -> bool {
        self.server().is_some_and(|server| server.enrolled() != 0)
    }

    fn side(&self, role: Role) -> Option<Side<'_>> {
        self.fastpath.slots.side(self.slot, role.side())
    }

    /// The other end than that of the application in `role`.
    fn sender_to(&self, role: Role) -> Option<Side<'_>> {
        self.fastpath.slots.side(self.slot, 1 - role.side())
    }

    fn client(&self) -> Option<Side<'_>> {
        self.side(Role::Client)
    }

    fn server(&self) -> Option<Side<'_>> {
        self.side(Role::Server)
    }

    /// Says, before there is a server, that the ring of this one is for files: it is no reason to leave what it sends to TCP.
    pub fn expects_ring_for_files(&self) {
        if let Some(server) = self.server() {
            server.set_files();
        }
    }

    /// Bytes that went straight from socket to socket.
    pub fn direct(&self) -> Bytes {
        let of = |side: Option<Side<'_>>| side.map_or(0, Side::direct_bytes);
        Bytes { to_tail: of(self.client()), to_head: of(self.server()) }
    }

    /// Bytes that the relay put into the receivers' queues.
    pub fn injected(&self) -> Bytes {
        let [to_tail, to_head] = &self.injected;
        Bytes { to_tail: to_tail.load(Relaxed), to_head: to_head.load(Relaxed) }
    }

    /// True once both applications' sockets are enrolled and nothing is switched off: both can send direct.
    pub fn is_complete(&self) -> bool {
        // Who sends by io_uring is not left to the relay before the socket has left the map, which takes no time. And the answer to
        // an end goes by TCP as it should.
        let direct = |side: Side<'_>| side.spliced() == 0 && matches!(side.off(), 0 | OFF_RING | OFF_ENDED);
        self.has_server() && [self.client(), self.server()].into_iter().flatten().all(direct)
    }

    /// True while one of them streams small messages, which gather.
    pub fn gathers(&self) -> bool {
        [self.client(), self.server()].into_iter().flatten().any(|side| side.manner() & GATHERS != 0)
    }

    /// What keeps the bytes of enrolled applications from going direct, if something does.
    pub fn hindrance(&self) -> Option<Why> {
        let off = |why| [self.client(), self.server()].into_iter().flatten().any(|side| side.off() == why);
        if self.spliced().is_some() {
            Some(Why::Spliced)
        } else if off(OFF_ALONE) {
            Some(Why::Ring)
        } else if off(OFF_STARVED) {
            Some(Why::Memory)
        } else if self.left_out.load(Relaxed) || (off(OFF_PLAIN) && self.has_server()) {
            Some(Why::ServerLate)
        } else {
            None
        }
    }

    /// The application, if one used splice(2).
    pub fn spliced(&self) -> Option<Role> {
        [Role::Client, Role::Server].into_iter().find(|role| self.uses_splice(*role))
    }

    /// True when the application in `role` used splice(2).
    pub(super) fn uses_splice(&self, role: Role) -> bool {
        self.side(role).is_some_and(|side| side.spliced() != 0)
    }

    fn ask(&self, role: Role, what: u32) -> u32 {
        let words = [self.slot.into(), self.generation.into(), role as u64, what.into()];
        // As in `Link::waiting`.
        self.fastpath.reader.ask(&words).unwrap_or_default()
    }

    /// Bytes that were redirected to the application in `role` and that it has not read. 0 when there are none, whatever
    /// came by TCP.
    pub(super) fn redirected(&self, role: Role) -> u32 {
        self.ask(role, ASK_REDIRECTED)
    }

    /// The inode of its socket; 0 when nobody holds it.
    pub(super) fn inode(&self, role: Role) -> u32 {
        self.ask(role, ASK_INODE)
    }

    /// From now on the application in `role` is one that uses splice(2): nothing more goes straight to it.
    pub(super) fn set_spliced(&self, role: Role) {
        if let (Some(mine), Some(sender)) = (self.side(role), self.sender_to(role)) {
            mine.set_spliced();
            sender.set_off(OFF_SPLICED);
        }
    }

    /// True when the application in `role` uses splice(2) and redirected bytes wait in front of it, which it will never see.
    pub fn is_lost(&self, role: Role) -> bool {
        self.uses_splice(role) && self.redirected(role) > 0
    }

    /// True for the first one who asks.
    pub(super) fn notice(&self) -> bool {
        !self.noticed.swap(true, Relaxed)
    }

    /// From now on it can only end with a reset.
    pub fn condemn(&self) {
        self.condemned.store(true, Relaxed);
    }

    /// True once it was condemned.
    pub fn is_condemned(&self) -> bool {
        self.condemned.load(Relaxed)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.fastpath.retire(self);
        for side in [self.client(), self.server()].into_iter().flatten() {
            side.retire();
        }
        // Fails only when the queue is full, which it cannot be of slots that were taken from it.
        if let Err(error) = self.fastpath.free.push(self.slot) {
            tracing::error!(%error, slot = self.slot, "a slot of the fast path could not be given back");
        }
    }
}

impl Link {
    pub(super) fn new(pair: Arc<Pair>, hop: u32) -> Self {
        Self { pair, hop }
    }

    /// The whole connection.
    pub fn pair(&self) -> &Arc<Pair> {
        &self.pair
    }

    /// A door for the current thread, by which it announces and injects; none when there is none left: all is relayed then.
    pub fn door(&self) -> Option<Door> {
        Door::take(&self.pair.fastpath)
    }

    /// How many segments come before this one.
    pub(super) fn hop(&self) -> u32 {
        self.hop
    }

    /// What was being put into the queue of the application in `role` is there, or is not.
    pub(super) fn has_put(&self, role: Role) {
        if let Some(side) = self.pair.side(role) {
            side.leaves_door();
        }
    }

    /// The programs were told of this segment's tail.
    pub(super) fn announced(&self) {
        self.pair.announced.store(self.hop + 1, Relaxed);
    }

    /// True when this segment's head is where the client connected to.
    pub fn is_first(&self) -> bool {
        self.hop == 0
    }

    /// True when this segment's tail is where the server accepted.
    pub fn is_last(&self) -> bool {
        self.pair.server().is_some_and(|server| server.hops() == self.hop)
    }

    /// True when what this segment hands on to the application in `role` goes through another segment of the chain, and the
    /// sender goes direct while there is room.
    pub fn hands_on(&self, role: Role) -> bool {
        let ended = || self.pair.sender_to(role).is_some_and(|side| side.off() == OFF_ENDED);
        self.passes_on(role) && self.pair.is_complete() && !ended()
    }

    /// True when what this segment hands on to the application in `role` goes through another segment of the chain.
    pub fn passes_on(&self, role: Role) -> bool {
        !self.reaches(role)
    }

    /// As above, and whoever sends to the application in `role` is at this segment's end, and will go direct again. Only then is
    /// all published in the end: what one sends by io_uring may go by TCP to a receiver that was enrolled too late.
    pub fn leads(&self, role: Role) -> bool {
        self.reaches(opposite(role)) && self.hands_on(role) && self.pair.sender_to(role).is_some_and(|side| side.off() == 0)
    }

    /// True when the application in `role` is at this segment's end, and not behind another segment of the chain.
    fn reaches(&self, role: Role) -> bool {
        if role == Role::Client { self.is_first() } else { self.is_last() }
    }

    /// Bytes that wait in front of the application in `role`.
    pub fn waiting(&self, role: Role) -> u64 {
        // It cannot fail for a program that is loaded; if it does, the kernel's own limits hold.
        self.pair.fastpath.backlog.ask(&self.words(role)).unwrap_or_default().into()
    }

    /// True while a message of another task may be on its way to the application in `role`. What is put there meanwhile might
    /// come before it; a part of a message must not. Once the relay has bytes that it has not published, nothing more sets out.
    pub fn is_coming(&self, role: Role) -> bool {
        self.pair.sender_to(role).is_some_and(|sender| sender.manner() & SEVERAL != 0) && self.pair.ask(role, ASK_COMING) != 0
    }

    /// True while small messages for the application in `role` gather until their sender gets an acknowledgement.
    pub fn gathers(&self, role: Role) -> bool {
        self.pair.sender_to(role).is_some_and(|sender| sender.manner() & GATHERS != 0)
    }

    /// True when they did, and Nagle's algorithm is to be taken back from that sender.
    pub fn ends_gathering(&self, role: Role) -> bool {
        self.pair.sender_to(role).is_some_and(|sender| sender.manner() & ENDS != 0)
    }

    /// The key in the map of the socket in `role`.
    fn key(&self, role: Role) -> u64 {
        socket_key(self.pair.slot, self.pair.generation, role as u32)
    }

    fn words(&self, role: Role) -> [u64; QUESTION_WORDS] {
        let Pair { slot, generation, .. } = *self.pair;
        [slot.into(), generation.into(), role as u64]
    }

    /// True when whoever sends to the application in `role` does so by io_uring: its socket is to leave the map.
    pub fn sends_by_ring(&self, role: Role) -> bool {
        self.pair.sender_to(role).is_some_and(|side| side.manner() & RINGS != 0 && side.off() != OFF_ALONE)
    }

    /// Takes the socket of whoever sends to the application in `role` out of the map. Tells whether that is done; it is not
    /// while something is in its own queue, and from now on nothing more is put there.
    pub fn let_go(&self, role: Role) -> bool {
        let sender = opposite(role);
        let Some(side) = self.pair.side(sender) else { return false };
        side.shut();
        if self.pair.fastpath.quiet.ask(&self.words(sender)).unwrap_or_default() == 0 {
            return false;
        }
        // One that is not there any more is as good.
        let _ = self.pair.fastpath.sockets.remove(&self.key(sender));
        side.set_alone();
        true
    }

    /// Bytes that may wait in front of the application in `role` when the relay puts more there, at most as much again: together
    /// that is what its sender leaves of what the kernel endures, and less than a sender may put there itself, so that a
    /// stream that had to wait for a reader goes on for a while before it must again.
    pub fn low_water(&self, role: Role) -> u64 {
        /// However small the application's buffers are.
        const LEAST: u64 = 8 << 10;
        let endured = u64::from(self.pair.ask(role, ASK_ENDURANCE));
        (endured / 8).clamp(LEAST, (self.pair.fastpath.limit / 4).max(LEAST))
    }

    /// Says that bytes for the application in `role` are being moved on this cpu from now on, or are not: their sender
    /// waits for a moment while they are.
    pub fn moves(&self, role: Role, moving: bool) {
        if let Some(sender) = self.pair.sender_to(role) {
            sender.set_mover(moving.then(rustix::thread::sched_getcpu));
        }
    }

    /// Publishes that `total` bytes have been put into the queue of the application in `role` so far.
    pub fn publish(&self, role: Role, total: u64) {
        let index = 1 - role.side();
        if let Some(counter) = self.pair.injected.get(index) {
            counter.store(total, Relaxed);
        }
        // By the sender, who is on the other side.
        if let Some(sender) = self.pair.sender_to(role) {
            sender.publish(total);
        }
    }

    /// How many bytes those are so far.
    pub fn published(&self, role: Role) -> u64 {
        self.pair.injected.get(1 - role.side()).map_or(0, |counter| counter.load(Relaxed))
    }

    /// True when the application in `role`, a direct neighbour of this segment, closed its socket with bytes unread.
    pub fn left_unread(&self, role: Role) -> bool {
        match role {
            Role::Client => self.is_first() && self.pair.client().is_some_and(|side| side.unread() != 0),
            _ => self.is_last() && self.pair.server().is_some_and(|side| side.unread() != 0),
        }
    }
}

/// The application at the other end.
fn opposite(role: Role) -> Role {
    if role == Role::Client { Role::Server } else { Role::Client }
}
