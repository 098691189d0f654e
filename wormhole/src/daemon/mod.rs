//! The owner of all state: what was asked for (records) against what is there (segments), and the order in which things
//! are made and undone.
//!
//! Changes happen one after the other (`changes`), readers never wait for them. A segment is made from its end
//! backwards, so that a head is listened on only when everything behind it is there, and undone from its head on.

pub mod config;
mod create;
mod fast;
mod follow;
mod plan;
mod records;
mod splices;

pub use follow::follow;
pub use records::RecordError;

use crate::docker::{DockerError, Engine as Docker};
use crate::model::{
    BuildInfo, Control, ControlFuture, DockerView, Failure, FailureKind, LimitsView, SegmentId, SegmentView, Spec, StatusView,
};
use crate::relay::RelayOptions;
use crate::relay::stream::Engine as Streams;
use crate::relay::udp::UdpEngine;
use crate::segment::{Context, Relays, Segment};
use fast::Fast;
use plan::Planned;
use records::{Record, Records};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What the daemon is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where records live.
    pub state_dir: PathBuf,
    /// Address of the Docker engine.
    pub docker: String,
    /// Relay threads.
    pub workers: usize,
    /// Open streams over all segments.
    pub max_connections: usize,
    /// UDP sessions over all segments.
    pub max_udp_sessions: usize,
    /// Connections on the fast path at once.
    pub fastpath_pairs: u32,
    /// Small messages a second from which on they are gathered; 0: never.
    pub fastpath_gather: u32,
    /// Executables that `auto` keeps off the fast path.
    pub fastpath_except: Vec<String>,
    /// Timeouts and socket options where a segment says nothing.
    pub defaults: RelayOptions,
}

/// Why the daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// `--docker`.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// Without /proc.
    #[error(transparent)]
    Netns(#[from] crate::netns::NetnsError),
    /// Threads or descriptors for the relay.
    #[error("cannot start the relay: {0}")]
    Relay(#[from] std::io::Error),
}

/// The controller.
pub struct Daemon {
    context: Context,
    records: Records,
    /// Held while something is made, undone or reconciled.
    changes: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    started: Instant,
    fast: Fast,
    api: OnceLock<(Vec<String>, Vec<String>)>,
}

#[derive(Default)]
struct State {
    segments: BTreeMap<SegmentId, Arc<Segment>>,
    /// By the id of the root.
    trees: BTreeMap<SegmentId, Record>,
    stopping: bool,
}

impl Daemon {
    /// Starts the relay and brings back the segments of an earlier life.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left behind then.
    pub async fn start(settings: Settings) -> Result<Arc<Self>, StartError> {
        // Now, so that a daemon holds the same before its first segment and after its last.
        crate::netns::Namespace::own()?;
        let records = Records::open(&settings.state_dir)?;
        let docker = Docker::new(&settings.docker)?;
        let fast = Fast::start(&settings);
        let relays = Relays {
            streams: Streams::start(settings.workers, settings.max_connections)?,
            datagrams: UdpEngine::start(crate::relay::udp::UdpConfig { max_sessions_total: settings.max_udp_sessions })?,
            fastpath: fast.programs(),
            owners: fast.programs().map(crate::fastpath::Owners::new),
            auto: fast.auto(),
        };
        let context = Context { docker, relays: Arc::new(relays), defaults: settings.defaults };
        let loaded = records.load()?;
        let daemon = Arc::new(Self {
            context,
            records,
            changes: tokio::sync::Mutex::new(()),
            state: Mutex::new(State::default()),
            started: Instant::now(),
            fast,
            api: OnceLock::new(),
        });
        for record in loaded {
            daemon.bring_back(record).await;
        }
        Ok(daemon)
    }

    /// Tells where the control API listens and what is worth knowing about it, for `status`.
    pub fn set_api(&self, listeners: Vec<String>, notes: Vec<String>) {
        // Set once, at start.
        let _ = self.api.set((listeners, notes));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments(&self) -> Vec<Arc<Segment>> {
        self.state().segments.values().cloned().collect()
    }

    async fn bring_back(&self, record: Record) {
        let planned = match plan::flatten(&record.spec) {
            Ok(planned) => planned,
            Err(error) => {
                tracing::error!(%error, id = record.spec.id, "a recorded segment is not for this build; left out");
                return;
            }
        };
        let mut made: Vec<Arc<Segment>> = Vec::new();
        for planned in planned.into_iter().rev() {
            let port = record.ports.get(&planned.id).copied().unwrap_or_default();
            let segment = Arc::new(self.segment(planned, record.created, port, made.last()));
            if let Err(reason) = segment.reconcile().await {
                tracing::warn!(segment = %segment.id, %reason, "brought back; it waits");
            }
            made.push(segment);
        }
        let mut state = self.state();
        if let Some(root) = record.spec.id.clone() {
            state.trees.insert(root, record);
        }
        state.segments.extend(made.into_iter().map(|s| (s.id.clone(), s)));
    }

    /// `next` is the segment that hangs on this one.
    fn segment(&self, planned: Planned, created: u64, port: u16, next: Option<&Arc<Segment>>) -> Segment {
        let mut spec = planned.spec;
        if let Some(next) = next.filter(|_| planned.chained)
            && spec.tail.port == 0
        {
            spec.tail.port = next.port();
        }
        Segment::new(planned.id, planned.parent, spec, created, port, self.context.clone())
    }

    // === delete ===

    async fn remove(&self, id: &str) -> Result<Vec<SegmentId>, Failure> {
        let _changes = self.changes.lock().await;
        let id = self.find(id)?.id.clone();
        self.remove_tree(&id).await
    }

    async fn remove_tree(&self, id: &str) -> Result<Vec<SegmentId>, Failure> {
        let (root, old) = {
            let state = self.state();
            let mut root = id.to_owned();
            while let Some(parent) = state.segments.get(&root).and_then(|s| s.parent.clone()) {
                root = parent;
            }
            let old = state.trees.get(&root).cloned();
            (root, old)
        };
        // The record first: should the daemon die now, what was deleted must not come back.
        let left = old.and_then(|record| plan::without(&record.spec, id).map(|spec| Record { spec, ..record }));
        let saved = match &left {
            Some(record) => self.records.save(&root, record),
            None => self.records.remove(&root),
        };
        saved.map_err(|error| Failure::new(FailureKind::Failed, error.to_string()).hint("mend --state-dir"))?;
        let gone = {
            let mut state = self.state();
            match left {
                Some(record) => drop(state.trees.insert(root, record)),
                None => drop(state.trees.remove(&root)),
            }
            let mut gone: Vec<Arc<Segment>> = state.segments.remove(id).into_iter().collect();
            while let Some(child) = gone.last().and_then(|last| child_of(&state.segments, &last.id)) {
                gone.extend(state.segments.remove(&child));
            }
            gone
        };
        for segment in &gone {
            segment.close().await;
        }
        Ok(gone.iter().map(|s| s.id.clone()).collect())
    }

    async fn remove_all(&self) -> Result<Vec<SegmentId>, Failure> {
        let _changes = self.changes.lock().await;
        let roots: Vec<SegmentId> = self.state().trees.keys().cloned().collect();
        let mut gone = Vec::new();
        for root in roots {
            gone.extend(self.remove_tree(&root).await?);
        }
        Ok(gone)
    }

    // === look ===

    /// A segment by its id or an unambiguous beginning of it.
    fn find(&self, id: &str) -> Result<Arc<Segment>, Failure> {
        let state = self.state();
        if let Some(segment) = state.segments.get(id) {
            return Ok(Arc::clone(segment));
        }
        let matching: Vec<&Arc<Segment>> = state.segments.values().filter(|s| !id.is_empty() && s.id.starts_with(id)).collect();
        match matching.as_slice() {
            [one] => Ok(Arc::clone(one)),
            [] => Err(Failure::new(FailureKind::NotFound, format!("there is no segment {id}")).hint("see them: wormhole list")),
            many => {
                let ids: Vec<&str> = many.iter().map(|s| s.id.as_str()).collect();
                let message = format!("{id} is the beginning of several ids: {}", ids.join(", "));
                Err(Failure::new(FailureKind::Invalid, message).hint("give more letters"))
            }
        }
    }

    async fn look(&self) -> StatusView {
        let asked = tokio::time::timeout(Duration::from_secs(2), self.context.docker.version()).await;
        let (version, error) = match asked {
            Ok(Ok(version)) => (Some(version), None),
            Ok(Err(error)) => (None, Some(error.to_string())),
            Err(_) => (None, Some("no answer within 2 s".to_owned())),
        };
        let (listeners, mut notes) = self.api.get().cloned().unwrap_or_default();
        let ebpf = crate::fastpath::inspect_embedded();
        notes.extend(ebpf.as_ref().err().map(ToString::to_string));
        let streams = &self.context.relays.streams;
        let segments = self.segments();
        StatusView {
            build: BuildInfo {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ebpf: ebpf.ok().map(|embedded| embedded.version.to_owned()),
            },
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            listeners,
            notes,
            docker: DockerView { host: self.context.docker.host().to_owned(), version, error },
            limits: LimitsView {
                connections: streams.open() as u64,
                max_connections: streams.max_connections() as u64,
                max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX),
            },
            workers: streams.workers(),
            segments: segments.len(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            fastpath: self.fast.view(&segments),
        }
    }

    // === end ===

    /// Stops accepting everywhere, waits until the open connections have ended or `drain` is over or `hurry` is done,
    /// resets the rest and lets go of everything. The records stay: what was asked for comes back with the next start.
    pub async fn stop(&self, drain: Duration, hurry: impl Future<Output = ()>) {
        self.state().stopping = true;
        let _changes = self.changes.lock().await;
        let segments = self.segments();
        for segment in &segments {
            segment.drain().await;
        }
        let streams = &self.context.relays.streams;
        let ended = async {
            while streams.open() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if streams.open() > 0 {
            tracing::info!(open = streams.open(), ?drain, "waiting for open connections");
            tokio::select! {
                () = ended => {}
                () = tokio::time::sleep(drain) => tracing::warn!(open = streams.open(), "the time is over; resetting the rest"),
                () = hurry => tracing::warn!(open = streams.open(), "told to hurry; resetting the rest"),
            }
        }
        for segment in &segments {
            segment.close().await;
        }
        self.state().segments.clear();
        streams.stop();
    }
}

fn child_of(segments: &BTreeMap<SegmentId, Arc<Segment>>, parent: &str) -> Option<SegmentId> {
    segments.values().find(|s| s.parent.as_deref() == Some(parent)).map(|s| s.id.clone())
}

/// Parents before their children, otherwise by age and id.
fn in_order(segments: &BTreeMap<SegmentId, Arc<Segment>>) -> Vec<SegmentView> {
    let mut roots: Vec<&Arc<Segment>> = segments.values().filter(|s| s.parent.is_none()).collect();
    roots.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.id.cmp(&b.id)));
    let mut views = Vec::new();
    // A segment whose parent was deleted with its children is gone too, so that every one hangs on a root.
    for root in roots {
        let mut next = Some(root.id.clone());
        while let Some(segment) = next.as_ref().and_then(|id| segments.get(id)) {
            views.push(segment.view());
            next = child_of(segments, &segment.id);
        }
    }
    views
}

impl Control for Daemon {
    fn create(&self, spec: Spec) -> ControlFuture<'_, Vec<SegmentView>> {
        Box::pin(self.make(spec))
    }

    fn delete(&self, id: SegmentId) -> ControlFuture<'_, Vec<SegmentId>> {
        Box::pin(async move { self.remove(&id).await })
    }

    fn delete_all(&self) -> ControlFuture<'_, Vec<SegmentId>> {
        Box::pin(self.remove_all())
    }

    fn list(&self) -> ControlFuture<'_, Vec<SegmentView>> {
        Box::pin(async { Ok(in_order(&self.state().segments)) })
    }

    fn inspect(&self, id: SegmentId) -> ControlFuture<'_, SegmentView> {
        Box::pin(async move {
            let segment = self.find(&id)?;
            Ok(segment.inspect().await)
        })
    }

    fn status(&self) -> ControlFuture<'_, StatusView> {
        Box::pin(async { Ok(self.look().await) })
    }
}
