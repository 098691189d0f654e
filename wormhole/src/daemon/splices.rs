//! Applications that use splice(2) on the fast path, where it does not see redirected bytes: each is told in the log, kept
//! off from then on, and its connection is rescued or reset.

use super::Daemon;
use crate::fastpath::{Fastpath, Role, Spliced, Splices, Watchdog};
use crate::relay::Tail;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// With `--fastpath on` the same executable may do it with every connection: one line for all that.
const SAME_AGAIN: Duration = Duration::from_secs(10);

/// Runs until it is dropped.
pub(super) async fn follow(daemon: &Daemon) {
    let Some(fastpath) = daemon.context.relays.fastpath.as_ref() else { return };
    let seen = fastpath.splices().unwrap_or_else(|error| {
        tracing::warn!(%error, "what the kernel tells about splice(2) cannot be followed");
        None
    });
    let told = Told::default();
    let events = async {
        if let Some(seen) = seen {
            let error = listen(daemon, fastpath, seen, &told).await;
            tracing::error!(%error, "what the kernel tells about splice(2) cannot be followed any more");
        }
    };
    let looks = async {
        let mut watchdog = Watchdog::new(Arc::clone(fastpath));
        loop {
            for spliced in watchdog.next().await {
                handle(daemon, fastpath, &spliced, &told);
            }
        }
    };
    // Side by side, and not whichever is first: a look that is broken off would lose what it found.
    tokio::join!(events, looks);
}

/// Until it fails.
async fn listen(daemon: &Daemon, fastpath: &Fastpath, mut seen: Splices, told: &Told) -> std::io::Error {
    loop {
        match seen.next().await {
            Ok(spliced) => handle(daemon, fastpath, &spliced, told),
            Err(error) => return error,
        }
    }
}

/// Executables that the log was told of, and when.
#[derive(Default)]
struct Told(Mutex<HashMap<String, Instant>>);

impl Told {
    /// True when it is time to tell of it, again or for the first time.
    fn tells(&self, exe: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| at.elapsed() < SAME_AGAIN);
        if told.contains_key(exe) {
            return false;
        }
        told.insert(exe.to_owned(), Instant::now());
        true
    }
}

fn handle(daemon: &Daemon, fastpath: &Fastpath, spliced: &Spliced, told: &Told) {
    let Spliced { pair, role, exe } = spliced;
    let segments = daemon.segments();
    let mut ids = Vec::new();
    for segment in &segments {
        if pair.as_ref().is_none_or(|pair| !segment.route.counters.carry(pair)) {
            continue;
        }
        ids.push(segment.id.as_str());
        if let (Role::Server, false, Tail::Ready(target)) = (role, exe.is_empty(), &**segment.route.tail())
            && let Some(server) = &target.server
        {
            server.keep_off(exe);
        }
    }
    if !exe.is_empty() {
        fastpath.spare(exe);
        if let Some(owners) = &daemon.context.relays.owners {
            owners.judge();
        }
    }
    let lost = pair.as_ref().filter(|pair| pair.is_lost(*role));
    if let Some(pair) = lost {
        daemon.context.relays.streams.condemn(pair);
    }
    if told.tells(exe) {
        let what = if lost.is_some() { "was reset, for there were bytes that it cannot see" } else { "goes on by the relay" };
        tracing::warn!(
            exe,
            segments = ids.join(", "),
            "an application used splice(2), which does not see redirected bytes; its connection {what}. From now on \
             `--fastpath auto` keeps the executable off; to keep it off from the start, put it into --fastpath-except"
        );
    }
}
