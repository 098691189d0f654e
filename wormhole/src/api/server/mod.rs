//! The server of the control API: owner of its listeners and connections.

mod accept;
mod plan;
mod serve;
mod sources;
mod tcp;
mod unix;

pub use plan::{Plan, plan};

use super::addr::ListenAddr;
use super::routes::{App, router};
use crate::key::{Identity, IdentityError, KeyError};
use crate::model::Control;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How long `close` waits for requests that are being carried out.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a server is started with.
pub struct ServerConfig {
    /// Where to listen. At least one.
    pub listeners: Vec<ListenAddr>,
    /// Who this daemon is; needed for TCP and for `ping HOST`.
    pub key: Option<Identity>,
    /// Who carries out what is asked.
    pub control: Arc<dyn Control>,
}

/// A running server. [`Server::close`] ends it; dropping it without that stops it at once and removes its sockets.
pub struct Server {
    bound: Vec<ListenAddr>,
    stop: watch::Sender<bool>,
    loops: JoinSet<()>,
    sockets: Vec<unix::Socket>,
    done: mpsc::Receiver<Infallible>,
}

/// Why the server did not start, or not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// TCP without a key would be open to everybody.
    #[error("listen on {addr}: TCP needs a key. {source}")]
    NeedsKey {
        /// The listener.
        addr: ListenAddr,
        /// What is wrong with the key file.
        source: KeyError,
    },
    /// As [`ServerError::NeedsKey`], where no key file was looked for.
    #[error("listen on {0}: TCP needs a key: make one with `wormhole keygen` and restart wormholed")]
    NoKey(ListenAddr),
    /// `-K` names a bad key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No identity could be made of the key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Another process answers on the socket.
    #[error("listen on unix://{}: another wormholed answers there: stop it, or choose another socket with -H unix:///path", .0.display())]
    Taken(PathBuf),
    /// Something that is no socket is in the way.
    #[error("listen on unix://{}: something that is not a socket is there: move it away, or choose another path with -H", .0.display())]
    NotASocket(PathBuf),
    /// The kernel refused.
    #[error("{action} {addr}: {source}: {hint}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The listener.
        addr: ListenAddr,
        /// What the kernel said.
        source: io::Error,
        /// What the user can do about it.
        hint: &'static str,
    },
    /// Requests were still being carried out when the server was closed.
    #[error("close the control API: requests were still being carried out after {} s and go on", .0.as_secs())]
    StillBusy(Duration),
}

impl Server {
    /// Binds all listeners, or none, and serves them on the current tokio runtime.
    ///
    /// # Errors
    /// [`ServerError`]; nothing listens then, and no socket file is left.
    pub async fn start(config: ServerConfig) -> Result<Self, ServerError> {
        let (alive, done) = mpsc::channel(1);
        let (stop, stopped) = watch::channel(false);
        let app = App { control: config.control, identity: config.key.clone(), alive: alive.clone() };
        let shared = serve::Shared { router: router(app), stopped, alive };
        let mut server = Self { bound: Vec::new(), stop, loops: JoinSet::new(), sockets: Vec::new(), done };

        // Everything is bound before anything is served.
        let mut unixes = Vec::new();
        let mut tcps = Vec::new();
        for addr in config.listeners {
            match &addr {
                ListenAddr::Unix(path) => {
                    let (listener, socket) = unix::bind(path, &addr)?;
                    server.sockets.push(socket);
                    unixes.push(listener);
                    server.bound.push(addr);
                }
                ListenAddr::Tcp { host, port } => {
                    let Some(identity) = &config.key else { return Err(ServerError::NoKey(addr)) };
                    let tls = identity.server_config(&[b"http/1.1"])?;
                    let (listener, bound) = tcp::bind(host, *port, &addr).await?;
                    tcps.push((listener, tls));
                    server.bound.push(bound);
                }
            }
        }
        for listener in unixes {
            server.loops.spawn(unix::run(listener, shared.clone()));
        }
        let gate = Arc::new(tcp::Gate::default());
        for (listener, tls) in tcps {
            server.loops.spawn(tcp::run(listener, tls, Arc::clone(&gate), shared.clone()));
        }
        for addr in &server.bound {
            tracing::info!(%addr, "control API listens");
        }
        Ok(server)
    }

    /// Where it listens, with the ports that were got.
    pub fn bound(&self) -> &[ListenAddr] {
        &self.bound
    }

    /// Stops accepting, closes idle connections, and waits (30 s at most) for requests that are being carried out.
    /// Removes the socket files unless somebody else has put theirs there.
    ///
    /// # Errors
    /// [`ServerError::StillBusy`].
    pub async fn close(mut self) -> Result<(), ServerError> {
        self.sockets.clear();
        // Fails when nobody listens to it any more, which is what it is for.
        let _ = self.stop.send(true);
        let loops = &mut self.loops;
        let done = &mut self.done;
        let ended = tokio::time::timeout(CLOSE_TIMEOUT, async {
            while loops.join_next().await.is_some() {}
            done.recv().await;
        });
        ended.await.map_err(|_| ServerError::StillBusy(CLOSE_TIMEOUT))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("bound", &self.bound).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
