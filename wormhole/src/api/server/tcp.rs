//! TCP under TLS: the handshake is bounded in time and number before anything else is done for a stranger.

use super::ServerError;
use super::accept::Backoff;
use super::serve::{Shared, closing, connection};
use super::sources::{Sources, Ticket};
use crate::api::addr::ListenAddr;
use rustls::{Error as TlsError, ServerConfig};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

/// A handshake is over after this, one way or the other.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// So many handshakes at a time; more wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 64;
/// So many connections at a time, handshakes included.
const MAX_CONNECTIONS: usize = 1024;

/// The bounds, shared by all TCP listeners.
pub(super) struct Gate {
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    sources: Arc<Sources>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            sources: Arc::default(),
        }
    }
}

/// Binds `host:port`, the first address of a name that works. Returns it with the port that was got.
pub(super) async fn bind(host: &str, port: u16, addr: &ListenAddr) -> Result<(TcpListener, ListenAddr), ServerError> {
    let refused = |source: io::Error| {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => "another program has it (`ss -ltnp` says which): choose another with -H tcp://host:port",
            io::ErrorKind::AddrNotAvailable => "this machine has no such address: see `ip address`",
            io::ErrorKind::PermissionDenied => "ports below 1024 need root",
            _ => "check the host of -H",
        };
        ServerError::Io { action: "listen on", addr: addr.clone(), source, hint }
    };
    let listener = TcpListener::bind((host, port)).await.map_err(refused)?;
    let port = listener.local_addr().map_err(refused)?.port();
    Ok((listener, ListenAddr::Tcp { host: host.to_owned(), port }))
}

/// Accepts until the server closes.
pub(super) async fn run(listener: TcpListener, tls: Arc<ServerConfig>, gate: Arc<Gate>, mut shared: Shared) {
    let acceptor = TlsAcceptor::from(tls);
    let mut backoff = Backoff::default();
    loop {
        let next = async {
            // Before accept: who cannot be served yet is not accepted yet. They are never closed, so there is no error.
            let connection = Arc::clone(&gate.connections).acquire_owned().await.ok();
            let handshake = Arc::clone(&gate.handshakes).acquire_owned().await.ok();
            (connection, handshake, listener.accept().await)
        };
        let (slot, handshake, accepted) = tokio::select! {
            next = next => next,
            () = closing(&mut shared.stopped) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff.reset();
                let Some(ticket) = gate.sources.begin(peer.ip()) else {
                    tracing::debug!(%peer, "dropped: too many failed or simultaneous handshakes of this source");
                    continue;
                };
                tokio::spawn(one(stream, peer, acceptor.clone(), ticket, handshake, slot, shared.clone()));
            }
            Err(error) => backoff.after(&error).await,
        }
    }
}

async fn one(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    ticket: Ticket,
    handshake: Option<OwnedSemaphorePermit>,
    slot: Option<OwnedSemaphorePermit>,
    mut shared: Shared,
) {
    // Neither is worth refusing a connection for.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_keepalive(true);
    let done = tokio::select! {
        done = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)) => done,
        () = closing(&mut shared.stopped) => return,
    };
    drop(handshake);
    match done {
        Ok(Ok(stream)) => {
            drop(ticket);
            // Boxed: hyper's connection is large, and this task holds it next to the handshake.
            Box::pin(connection(stream, shared.router, shared.stopped)).await;
        }
        Ok(Err(error)) => match reason(&error) {
            Some(reason) => refused(&ticket, peer, &reason),
            None => tracing::debug!(%peer, %error, "gone before the handshake was over"),
        },
        Err(_) => refused(&ticket, peer, "no handshake within 5 s"),
    }
    drop((slot, shared.alive));
}

fn refused(ticket: &Ticket, peer: SocketAddr, reason: &str) {
    if ticket.failed() {
        tracing::warn!(source = %peer.ip(), reason, "refused at the control API; further refusals of this source are logged at debug");
    } else {
        tracing::debug!(%peer, reason, "refused at the control API");
    }
}

/// Why the handshake failed; `None` when the other side just left, as port scans and health checks do.
fn reason(error: &io::Error) -> Option<String> {
    let tls = error.get_ref()?.downcast_ref::<TlsError>()?;
    Some(match tls {
        TlsError::InvalidCertificate(_) => "wrong key".to_owned(),
        TlsError::NoCertificatesPresented => "no certificate".to_owned(),
        TlsError::AlertReceived(_) => format!("wrong key: the client does not accept ours ({tls})"),
        tls => format!("not TLS 1.3 as wormhole speaks it ({tls})"),
    })
}
