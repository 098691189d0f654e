//! Container events. An event is a reason to look, not a fact: the engine repeats some after a reconnection, and by
//! the time one arrives the container may be in another state again.

use super::{Engine, error};
use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptions, EventsOptionsBuilder};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Events that wait for the reader. More than that are dropped and replaced by one [`ContainerEvent::Resync`].
const QUEUE: usize = 256;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(5);

/// What changed. `id` is always the full id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerEvent {
    /// The event stream was connected (again), or events were lost because the reader was slow: anything may have
    /// changed, read everything anew.
    Resync,
    /// It runs, with a new pid and a new namespace.
    Started {
        /// Which one.
        id: String,
    },
    /// Its first process is gone, and its namespace with it.
    Died {
        /// Which one.
        id: String,
    },
    /// It was removed; its id will not come back.
    Destroyed {
        /// Which one.
        id: String,
    },
    /// It has another name.
    Renamed {
        /// Which one.
        id: String,
    },
}

/// Ends the watch when dropped.
#[derive(Debug)]
pub struct WatchGuard(JoinHandle<()>);

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Engine {
    /// Follows the containers of the engine until the guard or the receiver is dropped. The first event is the
    /// [`ContainerEvent::Resync`] of the first connection; while the engine is down there are none, and it is tried
    /// again every 0.1 s at first and every 5 s later. Needs a tokio runtime.
    pub fn watch(&self) -> (mpsc::Receiver<ContainerEvent>, WatchGuard) {
        let (events, receiver) = mpsc::channel(QUEUE);
        let task = tokio::spawn(follow(self.clone(), events));
        (receiver, WatchGuard(task))
    }
}

async fn follow(engine: Engine, events: mpsc::Sender<ContainerEvent>) {
    let mut backoff = BACKOFF_FIRST;
    let mut reported = false;
    while !events.is_closed() {
        let began = Instant::now();
        let end = follow_once(&engine, &events).await;
        if end.connected {
            reported = false;
        }
        // Only a connection that lasted makes the next attempt quick again: an engine that accepts and hangs up at
        // once must not be asked ten times a second.
        if end.connected && began.elapsed() >= BACKOFF_LAST {
            backoff = BACKOFF_FIRST;
        }
        if reported {
            tracing::debug!(host = engine.host(), reason = end.reason, "no container events");
        } else {
            tracing::warn!(host = engine.host(), reason = end.reason, "no container events; trying again");
            reported = true;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = events.closed() => return,
        }
        backoff = (backoff * 2).min(BACKOFF_LAST);
    }
}

struct End {
    connected: bool,
    reason: String,
}

async fn follow_once(engine: &Engine, events: &mpsc::Sender<ContainerEvent>) -> End {
    let attempt = "following container events";
    let answered = Arc::new(Notify::new());
    let docker = match engine.client(attempt, Some(Arc::clone(&answered))) {
        Ok(docker) => docker,
        Err(error) => return End { connected: false, reason: error.to_string() },
    };
    let mut stream = Box::pin(docker.events(Some(options())));
    let mut connected = false;
    let mut resync = false;
    let end = |connected, reason: &str| End { connected, reason: reason.to_owned() };
    loop {
        tokio::select! {
            biased;
            () = events.closed() => return end(connected, "the reader is gone"),
            () = answered.notified(), if !connected => {
                connected = true;
                resync = true;
                tracing::debug!(host = engine.host(), "following container events");
            }
            // Never waits with the stream unread: the engine drops events for readers that do not keep up.
            permit = events.reserve(), if resync => match permit {
                Ok(permit) => {
                    permit.send(ContainerEvent::Resync);
                    resync = false;
                }
                Err(_) => return end(connected, "the reader is gone"),
            },
            message = stream.next() => match message {
                None => return end(connected, "the engine closed the connection"),
                Some(Err(cause)) => {
                    return End { connected, reason: error::classify(attempt, engine.host(), cause).to_string() };
                }
                Some(Ok(message)) => {
                    // The first events may come in one piece with the head.
                    if !connected {
                        connected = true;
                        resync = true;
                    }
                    // A Resync that is still to come covers whatever happens before it.
                    if !resync
                        && let Some(event) = event(message)
                        && events.try_send(event).is_err()
                    {
                        resync = true;
                    }
                }
            },
        }
    }
}

fn options() -> EventsOptions {
    let filters = HashMap::from([("type", vec!["container"]), ("event", vec!["start", "die", "destroy", "rename"])]);
    // The engine sends the head of its answer a moment before it subscribes. What happens in between, after our
    // reader has read everything anew, would be lost; a second of replay covers it. A clock that differs from the
    // engine's does no harm: `since` limits only the replay.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(Duration::from_secs(1));
    EventsOptionsBuilder::default().since(&since.as_secs().to_string()).filters(&filters).build()
}

fn event(message: EventMessage) -> Option<ContainerEvent> {
    let id = message.actor?.id?;
    match message.action?.as_str() {
        "start" => Some(ContainerEvent::Started { id }),
        "die" => Some(ContainerEvent::Died { id }),
        "destroy" => Some(ContainerEvent::Destroyed { id }),
        "rename" => Some(ContainerEvent::Renamed { id }),
        _ => None,
    }
}
