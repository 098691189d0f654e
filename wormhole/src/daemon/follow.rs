//! Follows containers, processes and named namespaces: what changed is reconciled. Events of the engine tell at once;
//! a look at /proc every two seconds finds what no event tells (`ip netns del`, a process that ended, a lost event).

use super::Daemon;
use crate::docker::ContainerEvent;
use crate::segment::Segment;
use std::sync::Arc;
use std::time::Duration;

/// How often segments are looked at without an event.
const LOOK: Duration = Duration::from_secs(2);

/// Runs until it is dropped.
pub async fn follow(daemon: Arc<Daemon>) {
    let owners = daemon.context.relays.owners.clone();
    let servers = async {
        if let Some(owners) = owners {
            owners.follow().await;
        }
    };
    tokio::join!(places(&daemon), servers, super::splices::follow(&daemon));
}

async fn places(daemon: &Daemon) {
    let (mut events, _guard) = daemon.context.docker.watch();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => on_event(daemon, &event).await,
                // The watcher never ends by itself; should it, the looks go on.
                None => { look.tick().await; }
            },
            _ = look.tick() => reconcile(daemon, |segment| !segment.holds()).await,
        }
    }
}

async fn on_event(daemon: &Daemon, event: &ContainerEvent) {
    tracing::debug!(?event, "engine");
    match event {
        ContainerEvent::Resync => reconcile(daemon, Segment::uses_docker).await,
        ContainerEvent::Started { id }
        | ContainerEvent::Died { id }
        | ContainerEvent::Destroyed { id }
        | ContainerEvent::Renamed { id } => {
            reconcile(daemon, |segment| segment.uses_docker() && segment.concerns(id)).await;
        }
    }
}

async fn reconcile(daemon: &Daemon, which: impl Fn(&Segment) -> bool) {
    if !daemon.segments().iter().any(|s| which(s)) {
        return;
    }
    let _changes = daemon.changes.lock().await;
    if daemon.state().stopping {
        return;
    }
    for segment in daemon.segments() {
        if which(&segment) {
            // The segment keeps the reason and says it in the log when it changes.
            let _ = segment.reconcile().await;
        }
    }
}
