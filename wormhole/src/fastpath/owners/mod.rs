//! Who listens at the tails: a server whose executable reads sockets by splice(2) must not be enrolled in `auto`, and
//! another wormholed never. The programs ask that of clients, in whose connect they run. A connection is accepted in
//! nobody's context, so of servers it is known beforehand: who listens is found out when a tail is set, looked at again
//! from time to time, and a connection only reads the verdict.

mod holders;
mod listening;

use super::{Fastpath, Why, is_wormholed};
use crate::model::Mode;
use crate::netns::Namespace;
use arc_swap::ArcSwap;
use holders::Holder;
use holders::holders;
pub(super) use holders::{holders_of, socket_inode};
use listening::{elsewhere, listening};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often the listening sockets are compared with those that were there before.
const LOOK: Duration = Duration::from_secs(2);

/// How often /proc is gone through although nothing has changed: the socket may have been handed on.
const AGAIN: Duration = Duration::from_secs(30);

/// The pause after a look, as a multiple of what the look took: connections to servers that stay unknown ask for looks
/// all the time.
const REST: u32 = 9;

/// Executables that listen for others, who accept or are handed what was accepted.
const FOR_OTHERS: &[&str] = &["systemd", "systemd-executor", "systemd-socket-activate", "inetd", "xinetd"];

/// Executables whose io_uring is for files, and which send by send(2): database servers. (A thread of one that has handed a read to
/// its ring would else count as one that sends by it.)
const RING_FOR_FILES: &[&str] = &["mariadbd", "mysqld", "postgres"];

/// What is known of the executables that listen at a tail.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// All may be enrolled.
    Free,
    /// All may be, and a ring of theirs is for files.
    Files,
    /// This one may not.
    Spared(Arc<str>),
    /// One uses io_uring.
    Ring,
    /// Nobody listens, or on somebody's behalf, or it cannot be seen who.
    Unknown,
}

/// Whoever listens at a tail.
#[derive(Debug)]
pub struct Server {
    /// Whatever it is, unless it is another wormholed.
    any: bool,
    namespace: Namespace,
    addrs: Vec<SocketAddr>,
    verdict: ArcSwap<Verdict>,
    seen: Mutex<Seen>,
    wake: Arc<Notify>,
}

/// What was seen when /proc was last gone through.
#[derive(Debug, Default)]
struct Seen {
    sockets: BTreeSet<u64>,
    /// By socket.
    holders: Vec<Vec<Holder>>,
    at: Option<Instant>,
    /// When the last look began that is over.
    looked: Option<Instant>,
    /// Whoever used splice(2) on what was accepted from these sockets.
    spliced: Option<Arc<str>>,
}

/// All servers that are looked at.
#[derive(Debug)]
pub struct Owners {
    fastpath: Arc<Fastpath>,
    servers: Mutex<Vec<Weak<Server>>>,
    /// Held over a look, so that an older one cannot overwrite what a newer one found.
    looking: Mutex<()>,
    wake: Arc<Notify>,
}

impl Server {
    /// Why it is not to be enrolled, if so. Asks for a look when that is not known, for the next connection's sake.
    pub fn objection(&self) -> Option<Why> {
        match &**self.verdict.load() {
            Verdict::Free | Verdict::Files => None,
            Verdict::Spared(exe) => Some(Why::ServerSpared(Arc::clone(exe))),
            // Whatever the mode: what it sends might not arrive whole.
            Verdict::Ring => Some(Why::ServerRing),
            _ if self.any => None,
            Verdict::Unknown => {
                self.wake.notify_one();
                Some(Why::ServerUnknown)
            }
        }
    }

    /// True when it uses io_uring, but not for its sockets.
    pub fn has_ring_for_files(&self) -> bool {
        **self.verdict.load() == Verdict::Files
    }

    /// True when nobody listened when it was last looked, and that was before `since`: whoever accepts a connection that
    /// has come since then has just started, and will be known in some milliseconds. Asks for the look.
    pub fn is_about_to_be_known(&self, since: Instant) -> bool {
        let is_known = || **self.verdict.load() != Verdict::Unknown;
        if is_known() {
            return false;
        }
        // A look changes both while it has this, and may just have done so.
        let seen = self.seen();
        if is_known() {
            return false;
        }
        let waits = seen.sockets.is_empty() && seen.looked.is_none_or(|looked| looked < since);
        if waits {
            self.wake.notify_one();
        }
        waits
    }

    /// True when it is whoever listens at these addresses.
    pub fn is_at(&self, namespace: &Namespace, addrs: &[SocketAddr]) -> bool {
        self.namespace == *namespace && self.addrs == addrs
    }

    /// Keeps whoever listens there off for as long as its sockets are open: `exe` used splice(2) on what was accepted from
    /// them, and may not be who listens.
    pub fn keep_off(&self, exe: &str) {
        let mut seen = self.seen();
        // A head of ours hands on to somebody, who may be another one the next time.
        if !self.any && seen.holders.iter().flatten().any(|holder| holder.pid != std::process::id()) {
            seen.spliced = Some(exe.into());
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when /proc has to be gone through to know who holds `sockets`.
    fn is_stale(&self, sockets: &BTreeSet<u64>) -> bool {
        let seen = self.seen();
        seen.sockets != *sockets
            || (**self.verdict.load() == Verdict::Unknown && !sockets.is_empty())
            || seen.at.is_none_or(|at| at.elapsed() >= AGAIN)
            || !seen.holders.iter().flatten().all(Holder::is_unchanged)
    }

    /// By what was `seen` of it.
    fn judge(&self, seen: &Seen, fastpath: &Fastpath) {
        let verdict = if let Some(exe) = &seen.spliced {
            Verdict::Spared(Arc::clone(exe))
        } else if seen.sockets.is_empty() && elsewhere(&self.namespace, &self.addrs) {
            // The programs will not see it either.
            Verdict::Free
        } else {
            judge(&seen.holders, std::process::id(), |exe| if self.any { is_wormholed(exe) } else { fastpath.is_spared(exe) })
        };
        if **self.verdict.load() != verdict {
            tracing::debug!(addrs = ?self.addrs, ?verdict, "who listens at a tail");
            self.verdict.store(Arc::new(verdict));
        }
    }
}

/// Judges by who holds each of the listening sockets. Those of this very process are heads of ours: what is accepted there
/// is a link of a chain, and no server.
fn judge(sockets: &[Vec<Holder>], own: u32, spared: impl Fn(&str) -> bool) -> Verdict {
    let others = || sockets.iter().flatten().filter(|holder| holder.pid != own);
    if let Some(exe) = others().filter_map(|holder| holder.exe.as_ref()).find(|exe| spared(exe)) {
        return Verdict::Spared(Arc::clone(exe));
    }
    let is_for_files = |holder: &Holder| holder.exe.as_deref().is_some_and(|exe| RING_FOR_FILES.contains(&exe));
    if others().any(|holder| holder.ring && !is_for_files(holder)) {
        return Verdict::Ring;
    }
    let accepts = |holder: &Holder| holder.pid == own || holder.exe.as_deref().is_some_and(|exe| !FOR_OTHERS.contains(&exe));
    let known = !sockets.is_empty() && sockets.iter().all(|holders| holders.iter().any(accepts));
    if !known || !others().all(|holder| holder.exe.is_some()) {
        return Verdict::Unknown;
    }
    if others().any(|holder| holder.ring) { Verdict::Files } else { Verdict::Free }
}

impl Owners {
    /// Looks at nothing yet.
    pub fn new(fastpath: Arc<Fastpath>) -> Arc<Self> {
        Arc::new(Self { fastpath, servers: Mutex::default(), looking: Mutex::default(), wake: Arc::default() })
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Weak<Server>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever listens at these addresses, looked at once; again by [`Owners::follow`] for as long as it is held.
    pub async fn server(self: &Arc<Self>, namespace: Namespace, addrs: Vec<SocketAddr>, mode: Mode) -> Arc<Server> {
        let server = Arc::new(Server {
            any: mode == Mode::On,
            namespace,
            addrs,
            verdict: ArcSwap::from_pointee(Verdict::Unknown),
            seen: Mutex::default(),
            wake: Arc::clone(&self.wake),
        });
        self.servers().push(Arc::downgrade(&server));
        self.look(vec![Arc::clone(&server)]).await;
        server
    }

    /// Asks for a look: something listens that did not.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Judges all servers anew by what is known of them: the list of executables has grown.
    pub fn judge(&self) {
        let servers: Vec<Arc<Server>> = self.servers().iter().filter_map(Weak::upgrade).collect();
        for server in servers {
            server.judge(&server.seen(), &self.fastpath);
        }
    }

    /// Looks again and again, until it is dropped.
    pub async fn follow(self: Arc<Self>) {
        loop {
            // Both are a reason to look.
            let _ = tokio::time::timeout(LOOK, self.wake.notified()).await;
            let servers: Vec<Arc<Server>> = {
                let mut all = self.servers();
                all.retain(|server| server.strong_count() > 0);
                all.iter().filter_map(Weak::upgrade).collect()
            };
            if !servers.is_empty() {
                let took = self.look(servers).await;
                tokio::time::sleep(took * REST).await;
            }
        }
    }

    async fn look(self: &Arc<Self>, servers: Vec<Arc<Server>>) -> Duration {
        let owners = Arc::clone(self);
        let look = move || {
            let _one = owners.looking.lock().unwrap_or_else(PoisonError::into_inner);
            let began = Instant::now();
            look(&owners.fastpath, &servers);
            began.elapsed()
        };
        // It fails only when the runtime ends.
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }
}

fn look(fastpath: &Fastpath, servers: &[Arc<Server>]) {
    let began = Instant::now();
    let new_sockets = |server: &Arc<Server>| {
        let sockets = listening(&server.namespace, &server.addrs).unwrap_or_else(|error| {
            tracing::debug!(%error, addrs = ?server.addrs, "cannot see who listens at a tail");
            BTreeSet::new()
        });
        server.is_stale(&sockets).then_some(sockets)
    };
    let looked_at: Vec<_> = servers.iter().map(|server| (server, new_sockets(server))).collect();
    let wanted: BTreeMap<_, _> = looked_at
        .iter()
        .flat_map(|(server, sockets)| sockets.iter().flatten().map(|inode| (*inode, server.namespace.id())))
        .collect();
    let found = if wanted.is_empty() { BTreeMap::new() } else { holders(&wanted) };
    for (server, sockets) in looked_at {
        // Judged before anybody else sees it: a connection that waits for that would find one who listens, and no verdict.
        let mut seen = server.seen();
        if let Some(sockets) = sockets {
            let holders = sockets.iter().map(|inode| found.get(inode).cloned().unwrap_or_default()).collect();
            let spliced = seen.spliced.take().filter(|_| seen.sockets == sockets);
            *seen = Seen { sockets, holders, at: Some(Instant::now()), looked: None, spliced };
        }
        // Also where nothing is new: the list of executables may have grown.
        server.judge(&seen, fastpath);
        seen.looked = Some(began);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const OWN: u32 = 1;

    fn verdict(sockets: &[&[(u32, &str)]]) -> Verdict {
        let holder = |(pid, exe): &(u32, &str)| Holder {
            pid: *pid,
            exe: (!exe.is_empty()).then(|| exe.trim_start_matches("+").into()),
            ring: exe.starts_with('+'),
        };
        let sockets: Vec<Vec<Holder>> = sockets.iter().map(|holders| holders.iter().map(holder).collect()).collect();
        judge(&sockets, OWN, |exe| ["haproxy", "wormholed"].contains(&exe))
    }

    #[test]
    fn a_server_is_judged_by_all_who_may_accept() {
        assert_eq!(verdict(&[&[(7, "nginx"), (8, "nginx")]]), Verdict::Free);
        assert_eq!(verdict(&[&[(7, "nginx")], &[(8, "haproxy")]]), Verdict::Spared("haproxy".into()));
        assert_eq!(verdict(&[&[(7, "nginx"), (8, "haproxy")]]), Verdict::Spared("haproxy".into()));
        assert_eq!(verdict(&[&[(7, ""), (8, "haproxy")]]), Verdict::Spared("haproxy".into()));
    }

    #[test]
    fn who_uses_io_uring_is_kept_off() {
        assert_eq!(verdict(&[&[(7, "nginx"), (8, "+echo")]]), Verdict::Ring);
        assert_eq!(verdict(&[&[(7, "+echo"), (8, "haproxy")]]), Verdict::Spared("haproxy".into()));
    }

    #[test]
    fn a_ring_for_files_does_not_count() {
        assert_eq!(verdict(&[&[(7, "mariadbd")]]), Verdict::Free);
        assert_eq!(verdict(&[&[(7, "+mariadbd")]]), Verdict::Files);
        assert_eq!(verdict(&[&[(7, "+mariadbd"), (8, "+echo")]]), Verdict::Ring);
        assert_eq!(verdict(&[&[(7, "+mariadbd"), (8, "")]]), Verdict::Unknown);
    }

    #[test]
    fn who_listens_for_others_does_not_count() {
        assert_eq!(verdict(&[&[(7, "systemd")]]), Verdict::Unknown);
        assert_eq!(verdict(&[&[(7, "systemd"), (8, "systemd-executor")]]), Verdict::Unknown);
        assert_eq!(verdict(&[&[(7, "systemd"), (8, "sshd")]]), Verdict::Free);
        assert_eq!(verdict(&[&[(7, "systemd"), (8, "haproxy")]]), Verdict::Spared("haproxy".into()));
    }

    #[test]
    fn what_cannot_be_seen_is_unknown() {
        assert_eq!(verdict(&[]), Verdict::Unknown);
        assert_eq!(verdict(&[&[]]), Verdict::Unknown);
        assert_eq!(verdict(&[&[(7, "")]]), Verdict::Unknown);
        assert_eq!(verdict(&[&[(7, "nginx"), (8, "")]]), Verdict::Unknown);
        assert_eq!(verdict(&[&[(7, "nginx")], &[]]), Verdict::Unknown);
    }

    #[test]
    fn a_head_of_ours_is_free_and_another_daemons_is_not() {
        assert_eq!(verdict(&[&[(OWN, "wormholed")]]), Verdict::Free);
        assert_eq!(verdict(&[&[(7, "wormholed")]]), Verdict::Spared("wormholed".into()));
        assert_eq!(verdict(&[&[(OWN, "wormholed")], &[(7, "haproxy")]]), Verdict::Spared("haproxy".into()));
    }
}
