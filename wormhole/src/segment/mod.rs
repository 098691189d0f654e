//! One wormhole: from a spec to a head that listens and a tail that is known, kept so while containers come and go.

mod error;
mod head;
mod site;
mod spot;

pub use error::SegmentError;
pub use head::addresses;
pub use site::{Site, Trace, find};
pub use spot::Spot;

use crate::docker::Engine as Docker;
use crate::fastpath::{Fastpath, Owners, Server};
use crate::model::{End, Mode, Options, Place, Proto, SegmentId, SegmentView, Spec, State, Url};
use crate::relay::stream::Engine as Streams;
use crate::relay::udp::UdpEngine;
use crate::relay::{FastCounters, RelayOptions, Route, Tail, Target, TargetAddr};
use head::Head;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The two engines that carry bytes.
pub struct Relays {
    /// TCP and unix streams.
    pub streams: Streams,
    /// UDP.
    pub datagrams: UdpEngine,
    /// The programs in the kernel, where there are any.
    pub fastpath: Option<Arc<Fastpath>>,
    /// Who listens at the tails, for them.
    pub owners: Option<Arc<Owners>>,
    /// Whether `--fastpath auto` may use them on this kernel.
    pub auto: bool,
}

/// What all segments need.
#[derive(Clone)]
pub struct Context {
    /// The Docker engine.
    pub docker: Docker,
    /// The relay.
    pub relays: Arc<Relays>,
    /// The daemon's defaults.
    pub defaults: RelayOptions,
}

/// One segment.
pub struct Segment {
    /// Its id.
    pub id: SegmentId,
    /// The segment it hangs on.
    pub parent: Option<SegmentId>,
    /// What was asked for, without what hangs on it.
    pub spec: Spec,
    /// Seconds since the epoch when it was made.
    pub created: u64,
    /// Its connections.
    pub route: Arc<Route>,
    context: Context,
    observed: Mutex<Observed>,
}

/// What is there at this moment.
#[derive(Default)]
struct Observed {
    head: Option<Head>,
    /// The port that the head got first; it keeps it over restarts of its container.
    port: u16,
    head_trace: Option<Trace>,
    tail_trace: Option<Trace>,
    tail_addr: Option<SocketAddr>,
    reason: Option<String>,
    draining: bool,
}

/// How long connections of a namespace that is gone may still deliver what is in flight.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Segment {
    /// A segment that does nothing yet; [`Segment::reconcile`] brings it to life. `port` is the one that it had in an
    /// earlier life of the daemon, or 0.
    pub fn new(id: SegmentId, parent: Option<SegmentId>, mut spec: Spec, created: u64, port: u16, context: Context) -> Self {
        spec.link = None;
        let port = if spec.head.port == 0 { port } else { spec.head.port };
        let route = Route::new(id.clone(), options(&spec.options, &context.defaults));
        let observed = Mutex::new(Observed { port, ..Observed::default() });
        Self { id, parent, spec, created, route, context, observed }
    }

    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings what is there to what was asked for: listens again when the head's container has a new namespace, leads
    /// to the tail's new one, lets go of those that are gone. Calls must not overlap (the daemon sees to that).
    ///
    /// # Errors
    /// The first thing that is missing. The segment waits for it and keeps the reason.
    pub async fn reconcile(&self) -> Result<(), SegmentError> {
        let tail = find(&self.spec.tail.place, &self.context.docker).await;
        let head = self.reconcile_head().await;
        // The tail's port may be the one that the head got, so it is set last.
        let tail = match tail {
            Ok(site) => self.set_tail(site).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &tail {
            let was_there = self.observed().tail_trace.take().is_some();
            self.observed().tail_addr = None;
            self.route.set_tail(Tail::Absent(error.to_string()));
            if was_there {
                self.forget_connections();
            }
        }
        let result = head.and(tail);
        let mut observed = self.observed();
        let reason = result.as_ref().err().map(ToString::to_string);
        if observed.reason != reason {
            match &reason {
                Some(reason) => tracing::info!(segment = %self.id, reason, "waiting"),
                None => tracing::info!(segment = %self.id, "listening"),
            }
            observed.reason = reason;
        }
        result
    }

    async fn set_tail(&self, site: Site) -> Result<(), SegmentError> {
        let end = &self.spec.tail;
        let trace = site.trace(&end.place);
        let addr = if end.proto == Proto::Unix {
            TargetAddr::Unix { root: site.root()?, path: end.path.clone() }
        } else {
            let port = if end.port == 0 { self.observed().port } else { end.port };
            let all = addresses(&end.host).await?;
            TargetAddr::Inet(all.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
        };
        let server = self.server(&site, &addr).await;
        let first = match &addr {
            TargetAddr::Inet(all) => all.first().copied(),
            TargetAddr::Unix { .. } => None,
        };
        let moved = {
            let mut observed = self.observed();
            let moved = observed.tail_trace.as_ref().is_some_and(|old| old.namespace != trace.namespace);
            observed.tail_trace = Some(trace);
            observed.tail_addr = first;
            moved
        };
        self.route.set_tail(Tail::Ready(Target { namespace: site.namespace, addr, server }));
        if moved {
            self.forget_connections();
        }
        Ok(())
    }

    /// Whoever listens at the tail, where that decides about the fast path.
    async fn server(&self, site: &Site, addr: &TargetAddr) -> Option<Arc<Server>> {
        let owners = self.context.relays.owners.as_ref()?;
        let TargetAddr::Inet(addrs) = addr else { return None };
        let mode = self.route.options.fastpath;
        if self.spec.tail.proto != Proto::Tcp || mode == Mode::Off {
            return None;
        }
        let known = match &**self.route.tail() {
            Tail::Ready(target) => target.server.clone().filter(|server| server.is_at(&site.namespace, addrs)),
            Tail::Absent(_) => None,
        };
        match known {
            Some(known) => Some(known),
            None => Some(owners.server(site.namespace.clone(), addrs.clone(), mode).await),
        }
    }

    /// Connections with an end in a namespace that is gone would keep it alive for as long as the other end stays. They
    /// get a moment for what is still in flight and are reset then. UDP sessions are closed at once; the next datagram
    /// starts a new one.
    fn forget_connections(&self) {
        let (relays, route, now) = (Arc::clone(&self.context.relays), Arc::clone(&self.route), Instant::now());
        tokio::spawn(async move {
            tokio::time::sleep(LAST_WORDS).await;
            // Silence means that the engine has stopped.
            let _ = relays.streams.reset(&route, now).await;
        });
        if let Some(id) = self.observed().head.as_ref().and_then(Head::datagrams) {
            // Nobody has to wait for the sessions to be closed.
            drop(self.context.relays.datagrams.retarget(id));
        }
    }

    async fn reconcile_head(&self) -> Result<(), SegmentError> {
        let site = match find(&self.spec.head.place, &self.context.docker).await {
            Ok(site) => site,
            Err(error) => {
                if self.unlisten().await {
                    self.forget_connections();
                }
                return Err(error);
            }
        };
        let trace = site.trace(&self.spec.head.place);
        let port = {
            let mut observed = self.observed();
            let there = observed.head.as_ref().map(|head| head.namespace);
            // A container on the host's network, or on another one's, comes back into the same namespace, and what listens
            // there stays. Its files are others, though.
            let same_files = observed.head_trace.as_ref().map(Trace::pid) == Some(trace.pid());
            if there == Some(trace.namespace) && (self.spec.head.proto != Proto::Unix || same_files) {
                observed.head_trace = Some(trace);
                return Ok(());
            }
            observed.port
        };
        if self.unlisten().await {
            self.forget_connections();
        }
        let head = Head::listen(&self.context.relays, &self.route, &site, &self.spec.head, port).await?;
        let mut observed = self.observed();
        if let Some(addr) = head.addr {
            observed.port = addr.port();
        }
        observed.head_trace = Some(trace);
        observed.head = Some(head);
        // It may be another segment's tail.
        if let Some(owners) = &self.context.relays.owners {
            owners.wake();
        }
        Ok(())
    }

    /// True when it had listened.
    async fn unlisten(&self) -> bool {
        let head = {
            let mut observed = self.observed();
            observed.head_trace = None;
            observed.head.take()
        };
        match head {
            Some(head) => {
                head.close().await;
                true
            }
            None => false,
        }
    }

    /// True when the head and the tail are still in the namespaces that they were in.
    pub fn holds(&self) -> bool {
        let observed = self.observed();
        observed.reason.is_none() && observed.head_trace.iter().chain(&observed.tail_trace).all(Trace::holds)
    }

    /// True when an event of this container may concern the segment.
    pub fn concerns(&self, container: &str) -> bool {
        let observed = self.observed();
        let known = observed.head_trace.iter().chain(&observed.tail_trace).any(|t| t.container.as_deref() == Some(container));
        known || observed.reason.is_some()
    }

    /// Stops listening; open connections go on.
    pub async fn drain(&self) {
        self.observed().draining = true;
        self.unlisten().await;
    }

    /// Stops listening, resets what is open, lets go of all namespaces.
    pub async fn close(&self) {
        self.drain().await;
        // Speaks when all sockets are closed; silence means that the engine has stopped, and then they are too.
        let _ = self.context.relays.streams.reset(&self.route, Instant::now()).await;
        self.route.set_tail(Tail::Absent("the segment is deleted".to_owned()));
        let mut observed = self.observed();
        observed.tail_trace = None;
        observed.tail_addr = None;
    }

    /// True when a container is one of its places.
    pub fn uses_docker(&self) -> bool {
        [&self.spec.head, &self.spec.tail].iter().any(|end| matches!(end.place, Place::Docker { .. }))
    }

    /// True when `spot` is this segment's head, or would be if its container ran: `end` is what the spot comes from.
    pub fn claims(&self, spot: &Spot, end: &End) -> bool {
        match self.head_spot() {
            Some(own) => spot.leads_somewhere() && own.meets(spot),
            None => {
                let own = &self.spec.head;
                let same_host = own.host == end.host || own.proto == Proto::Unix;
                own.place == end.place && own.proto == end.proto && same_host && end.port == self.port() && own.path == end.path
            }
        }
    }

    /// Where it listens now.
    pub fn head_spot(&self) -> Option<Spot> {
        let observed = self.observed();
        let head = observed.head.as_ref()?;
        Some(match head.addr {
            Some(addr) => Spot::Port(head.namespace, self.spec.head.proto, addr),
            None => Spot::Path(observed.head_trace.as_ref()?.pid(), self.spec.head.path.clone()),
        })
    }

    /// Where it leads to now.
    pub fn tail_spot(&self) -> Option<Spot> {
        let observed = self.observed();
        let trace = observed.tail_trace.as_ref()?;
        Some(match observed.tail_addr {
            Some(addr) => Spot::Port(trace.namespace, self.spec.tail.proto, addr),
            None => Spot::Path(trace.pid(), self.spec.tail.path.clone()),
        })
    }

    /// The port that the head has, or had last; 0 for unix.
    pub fn port(&self) -> u16 {
        self.observed().port
    }

    /// The head's URL with the port that it got.
    pub fn head_url(&self) -> String {
        let mut end = self.spec.head.clone();
        end.port = self.port();
        Url::from(&end).to_string()
    }

    /// How `list` shows it.
    pub fn view(&self) -> SegmentView {
        let port = self.port();
        let mut tail = self.spec.tail.clone();
        if tail.port == 0 {
            tail.port = port;
        }
        let observed = self.observed();
        let state = match (&observed.reason, observed.draining) {
            (_, true) => State::Draining,
            (Some(_), false) => State::Waiting,
            (None, false) => State::Listening,
        };
        let reason = observed.reason.clone();
        drop(observed);
        let FastCounters { direct, injected, pairs } = self.route.counters.fast();
        SegmentView {
            id: self.id.clone(),
            parent: self.parent.clone(),
            spec: self.spec.clone(),
            head: self.head_url(),
            tail: Url::from(&tail).to_string(),
            state,
            reason,
            created: self.created,
            connections: self.route.counters.connections(),
            bytes: self.route.counters.relayed() + direct,
            direct,
            injected,
            pairs,
            fallbacks: self.route.counters.fallbacks(),
            open: Vec::new(),
        }
    }

    /// How `inspect` shows it: with the open connections.
    pub async fn inspect(&self) -> SegmentView {
        let mut view = self.view();
        let datagrams = self.observed().head.as_ref().and_then(Head::datagrams);
        view.open = match datagrams {
            Some(id) => self.context.relays.datagrams.sessions(id).await.unwrap_or_default(),
            None => self.context.relays.streams.connections(&self.route).await,
        };
        view
    }
}

/// The segment's own settings over the daemon's.
fn options(own: &Options, defaults: &RelayOptions) -> RelayOptions {
    let ms = |value: Option<u64>| value.map(Duration::from_millis);
    RelayOptions {
        connect_timeout: ms(own.connect_timeout_ms).unwrap_or(defaults.connect_timeout),
        idle_timeout: ms(own.idle_timeout_ms).or(defaults.idle_timeout),
        udp_timeout: ms(own.udp_timeout_ms).unwrap_or(defaults.udp_timeout),
        fastpath: own.fastpath.unwrap_or(defaults.fastpath),
        ..defaults.clone()
    }
}
