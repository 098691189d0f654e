//! HTTP on one connection, with an end.

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;

/// A request's head is there within this time; an idle connection is closed after it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// After the end was announced: how long an answer may take to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What all connections share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) router: Router,
    /// True when the server closes.
    pub(super) stopped: watch::Receiver<bool>,
    /// Held until the connection is over.
    pub(super) alive: mpsc::Sender<Infallible>,
}

/// Returns when the server closes, or is gone.
pub(super) async fn closing(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Serves `router` (the shared one for who is let in) on `io` until the client leaves or the server closes.
pub(super) async fn connection<S>(io: S, router: Router, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let busy = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&busy);
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = Busy::new(Arc::clone(&counter));
        let answer = router.clone().oneshot(request);
        async move {
            let answer = answer.await;
            drop(busy);
            answer
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(64 * 1024);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        ended = connection.as_mut() => return log(ended),
        () = closing(&mut stopped) => connection.as_mut().graceful_shutdown(),
    }
    // A request that is being carried out is answered. A connection on which nobody has asked anything is not waited
    // for; hyper would do so until the header's deadline.
    loop {
        match tokio::time::timeout(FLUSH_TIMEOUT, connection.as_mut()).await {
            Ok(ended) => return log(ended),
            Err(_) if busy.load(Ordering::Relaxed) == 0 => return,
            Err(_) => {}
        }
    }
}

fn log(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the control API broke");
    }
}

/// Counts a request while it is carried out.
struct Busy(Arc<AtomicUsize>);

impl Busy {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
