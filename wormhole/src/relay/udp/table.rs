//! The sessions of all heads: found by client, ordered by their last datagram, counted. No system calls.

use super::head::{Head, Key};
use super::lru::{Link, Linked, List};
use super::{HeadId, MAX_VIEWS};
use crate::model::{Bytes, ConnectionView};
use rustix::fd::OwnedFd;
use slab::Slab;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// Kind of list: the sessions of one head.
const OF_HEAD: usize = 0;
/// Kind of list: all sessions.
const OF_ALL: usize = 1;

/// One client's conversation with the tail.
#[derive(Debug)]
pub(super) struct Session {
    /// Connected to the tail, in the tail's namespace.
    pub(super) fd: OwnedFd,
    pub(super) head: HeadId,
    pub(super) key: Key,
    pub(super) tail: SocketAddr,
    /// The tail has other addresses, and this one has not answered yet.
    pub(super) doubtful: bool,
    pub(super) to_tail: u64,
    pub(super) to_head: u64,
    opened: Instant,
    used: Instant,
    links: [Link; 2],
}

impl Session {
    pub(super) fn new(fd: OwnedFd, head: HeadId, key: Key, tail: SocketAddr, doubtful: bool, now: Instant) -> Self {
        Self { fd, head, key, tail, doubtful, to_tail: 0, to_head: 0, opened: now, used: now, links: Default::default() }
    }

    fn view(&self, now: Instant) -> ConnectionView {
        let client = SocketAddr::new(self.key.client.ip().to_canonical(), self.key.client.port());
        ConnectionView {
            client: client.to_string(),
            tail: self.tail.to_string(),
            path: "relay".to_owned(),
            reason: None,
            age_s: now.saturating_duration_since(self.opened).as_secs(),
            bytes: Bytes { to_tail: self.to_tail, to_head: self.to_head },
            direct: Bytes::default(),
            injected: Bytes::default(),
        }
    }
}

impl Linked for Session {
    fn links(&mut self) -> &mut [Link; 2] {
        &mut self.links
    }
}

/// All heads and their sessions.
#[derive(Debug, Default)]
pub(super) struct Table {
    heads: HashMap<HeadId, Head>,
    sessions: Slab<Session>,
    order: List,
}

impl Table {
    pub(super) fn add(&mut self, id: HeadId, head: Head) {
        self.heads.insert(id, head);
    }

    pub(super) fn head(&self, id: HeadId) -> Option<&Head> {
        self.heads.get(&id)
    }

    pub(super) fn head_mut(&mut self, id: HeadId) -> Option<&mut Head> {
        self.heads.get_mut(&id)
    }

    /// Takes a head out; its sessions must be gone.
    pub(super) fn remove_head(&mut self, id: HeadId) -> Option<Head> {
        self.heads.remove(&id)
    }

    /// A session and the head that it belongs to.
    pub(super) fn session(&mut self, at: u32) -> Option<(&mut Session, &mut Head)> {
        let session = self.sessions.get_mut(at as usize)?;
        let head = self.heads.get_mut(&session.head)?;
        Some((session, head))
    }

    pub(super) fn find(&self, id: HeadId, key: &Key) -> Option<u32> {
        self.heads.get(&id)?.sessions.get(key).copied()
    }

    /// The slot that the next [`Table::insert`] takes.
    pub(super) fn next_slot(&self) -> Option<u32> {
        u32::try_from(self.sessions.vacant_key()).ok().filter(|&slot| slot != u32::MAX)
    }

    /// Adds a session that has no equal, in the slot that [`Table::next_slot`] named.
    pub(super) fn insert(&mut self, session: Session) {
        let Some(head) = self.heads.get_mut(&session.head) else { return };
        let Ok(at) = u32::try_from(self.sessions.vacant_key()) else { return };
        head.sessions.insert(session.key, at);
        head.route.counters.open.fetch_add(1, Relaxed);
        head.route.counters.total.fetch_add(1, Relaxed);
        self.sessions.insert(session);
        head.order.push(&mut self.sessions, OF_HEAD, at);
        self.order.push(&mut self.sessions, OF_ALL, at);
    }

    /// Takes a session out; its socket closes when the caller drops it.
    pub(super) fn remove(&mut self, at: u32) -> Option<Session> {
        let head = self.sessions.get(at as usize)?.head;
        self.order.unlink(&mut self.sessions, OF_ALL, at);
        if let Some(head) = self.heads.get_mut(&head) {
            head.order.unlink(&mut self.sessions, OF_HEAD, at);
            head.route.counters.open.fetch_sub(1, Relaxed);
        }
        let session = self.sessions.try_remove(at as usize)?;
        if let Some(head) = self.heads.get_mut(&head) {
            head.sessions.remove(&session.key);
            // After a burst, give most of the index back.
            if head.sessions.capacity() > 1024 && head.sessions.len() < head.sessions.capacity() / 8 {
                head.sessions.shrink_to(head.sessions.len() * 2);
            }
        }
        Some(session)
    }

    /// A datagram of this session went through.
    pub(super) fn touch(&mut self, at: u32, now: Instant) {
        let Some(session) = self.sessions.get_mut(at as usize) else { return };
        session.used = now;
        let head = session.head;
        self.order.touch(&mut self.sessions, OF_ALL, at);
        if let Some(head) = self.heads.get_mut(&head) {
            head.order.touch(&mut self.sessions, OF_HEAD, at);
        }
    }

    /// The session that has to go before this head may have one more; none when there is room.
    pub(super) fn superfluous(&self, id: HeadId, max_total: usize) -> Option<u32> {
        let head = self.heads.get(&id)?;
        if head.sessions.len() >= head.route.options.udp_sessions.max(1) {
            return head.order.oldest();
        }
        if self.sessions.len() >= max_total.max(1) { self.order.oldest() } else { None }
    }

    /// The oldest session of a head.
    pub(super) fn oldest(&self, id: HeadId) -> Option<u32> {
        self.heads.get(&id)?.order.oldest()
    }

    pub(super) fn ids(&self) -> Vec<HeadId> {
        self.heads.keys().copied().collect()
    }

    /// When the next session of a head expires; none for never. A head's sessions share one timeout, so it is the one
    /// that was silent for longest.
    pub(super) fn deadline(&self, id: HeadId) -> Option<Instant> {
        let head = self.heads.get(&id)?;
        let session = self.sessions.get(head.order.oldest()? as usize)?;
        // Overflow: later than any clock will show.
        session.used.checked_add(head.route.options.udp_timeout)
    }

    /// A head's sessions, newest first.
    pub(super) fn views(&self, id: HeadId, now: Instant) -> Vec<ConnectionView> {
        let Some(head) = self.heads.get(&id) else { return Vec::new() };
        let mut sessions: Vec<&Session> = head.sessions.values().filter_map(|&at| self.sessions.get(at as usize)).collect();
        sessions.sort_unstable_by_key(|session| std::cmp::Reverse(session.opened));
        sessions.iter().take(MAX_VIEWS).map(|session| session.view(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_costs_what_the_docs_say() {
        // The slab and the index both grow by doubling, so at worst each holds twice what it needs, and the index at
        // most 7/8 of its room with a byte of control each.
        let worst = 2 * size_of::<Session>() + 2 * (size_of::<(Key, u32)>() + 1) * 8 / 7;
        assert!(worst <= 1024, "{worst} bytes: {} + {}", size_of::<Session>(), size_of::<(Key, u32)>());
        let tight = size_of::<Session>() + (size_of::<(Key, u32)>() + 1) * 8 / 7;
        assert!(tight <= 512, "{tight} bytes");
    }
}
