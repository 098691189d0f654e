//! One connection per request.
//!
//! The library's own connectors refuse to exist while the socket file does not, hide the reason why a connection
//! failed, and do not tell when the answer to an endless request has begun. A pool would buy nothing: questions are
//! rare, and a pooled connection to an engine that was restarted only fails later.

use super::error::DockerError;
use bollard::BollardRequest;
use bollard::errors::Error as ApiError;
use hyper::Response;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;

/// Told when the head of the answer has arrived.
pub(super) type Connected = Arc<Notify>;

/// Where an engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Unix(PathBuf),
    Tcp(String),
}

impl Address {
    pub(super) fn parse(host: &str) -> Result<Self, DockerError> {
        let bad = |reason| DockerError::BadHost { host: host.to_owned(), reason };
        if let Some(path) = host.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(PathBuf::from(path)))
            } else {
                Err(bad("the path of a unix socket starts with a slash"))
            };
        }
        if let Some(rest) = host.strip_prefix("tcp://") {
            let authority = rest.trim_end_matches('/');
            let port = authority.rsplit_once(':').and_then(|(name, port)| (!name.is_empty()).then_some(port));
            return match port.map(str::parse::<u16>) {
                Some(Ok(port)) if port != 0 => Ok(Self::Tcp(authority.to_owned())),
                _ => Err(bad("a TCP address is HOST:PORT")),
            };
        }
        Err(bad("it starts neither with unix:// nor with tcp://"))
    }
}

/// Carries requests to an [`Address`].
#[derive(Clone)]
pub(super) struct Transport {
    address: Address,
    connected: Option<Connected>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Incoming>, ApiError>> + Send>>;

impl Transport {
    pub(super) fn new(address: Address, connected: Option<Connected>) -> Self {
        Self { address, connected }
    }

    pub(super) fn send(self, request: BollardRequest) -> Answer {
        Box::pin(async move {
            let answer = match &self.address {
                Address::Unix(path) => exchange(UnixStream::connect(path).await?, request).await,
                Address::Tcp(authority) => {
                    let stream = TcpStream::connect(authority).await?;
                    // The event stream is silent for days: without keepalive a vanished engine would look the same.
                    let keepalive = socket2::TcpKeepalive::new()
                        .with_time(Duration::from_secs(30))
                        .with_interval(Duration::from_secs(10))
                        .with_retries(3);
                    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                    exchange(stream, request).await
                }
            };
            if let (Ok(answer), Some(connected)) = (&answer, &self.connected)
                && answer.status().is_success()
            {
                connected.notify_one();
            }
            answer
        })
    }
}

async fn exchange<S>(stream: S, mut request: BollardRequest) -> Result<Response<Incoming>, ApiError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // On a bare connection nobody else turns the URI into a path and adds the Host that HTTP/1.1 asks for.
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).parse()?;
    *request.uri_mut() = path;
    request.headers_mut().insert(HOST, HeaderValue::from_static("docker"));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends by itself: with the body of the answer, or when that body is dropped.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the Docker engine ended");
        }
    });
    Ok(sender.send_request(request).await?)
}
