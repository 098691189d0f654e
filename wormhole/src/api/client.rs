//! The client of the control API: one connection a call, bounded in time, every error with a hint.

use super::addr::{AddrError, ListenAddr};
use super::validate_id;
use crate::key::{DEFAULT_KEYFILE, Identity, IdentityError, Key, KeyError};
use crate::model::{
    CreateReply, CreateRequest, Failure, FailureKind, PingReply, PingRequest, SegmentId, SegmentView, Spec, StatusView,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

/// Connecting, TLS included, takes at most this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A call takes at most this, plus for `create` what its triggers may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long starting a container may take unless the spec says otherwise.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// A daemon with 65,536 segments stays below this.
const MAX_REPLY: usize = 256 * 1024 * 1024;

/// A daemon, as seen by a client. Holds no connection.
#[derive(Debug)]
pub struct Client {
    addr: ListenAddr,
    tls: Option<Arc<ClientConfig>>,
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The host cannot be one.
    #[error("host {0}")]
    Host(#[from] AddrError),
    /// The daemon could not be spoken to. Exit code 3.
    #[error("reach wormholed at {host}: {reason}")]
    Unreachable {
        /// The daemon's address.
        host: String,
        /// What stood against it.
        reason: String,
        /// What the user can do about it.
        hint: String,
    },
    /// The daemon (or, before anything was sent, this client) said no.
    #[error("{0}")]
    Refused(Failure),
    /// TCP needs a key and there is none, or no good one.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// TCP needs a key and this daemon runs without one.
    #[error("reach wormholed at {host}: this daemon has no key")]
    NoKey {
        /// The daemon's address.
        host: String,
    },
    /// No identity could be made of the key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The daemon took the request and did not answer in time; it may still carry it out.
    #[error("wormholed at {host} did not answer within {} s: it may still be busy with it, see `wormhole list`", after.as_secs())]
    Deadline {
        /// The daemon's address.
        host: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// What came back is not the answer of a wormholed of this version.
    #[error("wormholed at {host} answered {what}: is it another program, or another version?")]
    Protocol {
        /// The daemon's address.
        host: String,
        /// What came back.
        what: String,
    },
}

impl ClientError {
    /// The failure that the daemon answered with, if it answered.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused(failure) => Some(failure),
            _ => None,
        }
    }

    /// What the user can do about it, where the text does not say so itself.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused(failure) => failure.hint.as_deref(),
            Self::Unreachable { hint, .. } => Some(hint),
            _ => None,
        }
    }
}

/// An open connection, and the task that drives it.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Client {
    /// A client of the daemon at `host`: `unix:///path`, `tcp://host:port`, `host`, `host:port`. TCP needs the key at
    /// `keyfile` (default /etc/wormhole/key.secret), which is read here; a unix socket needs none.
    ///
    /// # Errors
    /// [`ClientError::Host`], [`ClientError::Key`] or [`ClientError::Identity`].
    pub fn new(host: &str, keyfile: Option<&Path>) -> Result<Self, ClientError> {
        let addr = ListenAddr::parse_peer(host)?;
        let identity = match addr {
            ListenAddr::Unix(_) => None,
            ListenAddr::Tcp { .. } => Some(Identity::derive(&Key::load(keyfile.unwrap_or(Path::new(DEFAULT_KEYFILE)))?)?),
        };
        Self::with_identity(host, identity.as_ref())
    }

    /// As [`Client::new`], with an identity that is derived already.
    ///
    /// # Errors
    /// [`ClientError::Host`], or [`ClientError::NoKey`] for TCP without an identity.
    pub fn with_identity(host: &str, identity: Option<&Identity>) -> Result<Self, ClientError> {
        let addr = ListenAddr::parse_peer(host)?;
        let tls = match (&addr, identity) {
            (ListenAddr::Unix(_), _) => None,
            (ListenAddr::Tcp { .. }, Some(identity)) => Some(identity.client_config(&[b"http/1.1"])?),
            (ListenAddr::Tcp { .. }, None) => return Err(ClientError::NoKey { host: addr.to_string() }),
        };
        Ok(Self { addr, tls })
    }

    /// Makes a segment and what hangs on it, or nothing at all.
    ///
    /// # Errors
    /// [`ClientError`]; after [`ClientError::Deadline`] the segment may still come.
    pub async fn create(&self, request: &CreateRequest) -> Result<CreateReply, ClientError> {
        let body = serde_json::to_vec(request).map_err(|e| self.protocol(format!("nothing, the request is no JSON: {e}")))?;
        self.call(Method::POST, "/v1/segments", Some(body), CALL_TIMEOUT + starting(&request.spec)).await
    }

    /// Undoes a segment and what hangs on it; the ids that are gone.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&self, id: &str) -> Result<Vec<SegmentId>, ClientError> {
        validate_id(id).map_err(ClientError::Refused)?;
        self.call(Method::DELETE, &format!("/v1/segments/{id}"), None, CALL_TIMEOUT).await
    }

    /// Undoes all segments; the ids that are gone.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_all(&self) -> Result<Vec<SegmentId>, ClientError> {
        self.call(Method::DELETE, "/v1/segments", None, CALL_TIMEOUT).await
    }

    /// All segments.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list(&self) -> Result<Vec<SegmentView>, ClientError> {
        self.call(Method::GET, "/v1/segments", None, CALL_TIMEOUT).await
    }

    /// One segment with its open connections; `id` may be an unambiguous prefix.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn inspect(&self, id: &str) -> Result<SegmentView, ClientError> {
        validate_id(id).map_err(ClientError::Refused)?;
        self.call(Method::GET, &format!("/v1/segments/{id}"), None, CALL_TIMEOUT).await
    }

    /// The daemon itself.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<StatusView, ClientError> {
        self.call(Method::GET, "/v1/status", None, CALL_TIMEOUT).await
    }

    /// Asks the daemon to measure the round trip to `request.host`, or only to answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ping(&self, request: &PingRequest) -> Result<PingReply, ClientError> {
        let body = serde_json::to_vec(request).map_err(|e| self.protocol(format!("nothing, the request is no JSON: {e}")))?;
        self.call(Method::POST, "/v1/ping", Some(body), CALL_TIMEOUT).await
    }

    /// The round trip on an established connection: the first question warms up, the best of the next three counts.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn measure(&self) -> Result<PingReply, ClientError> {
        let work = async {
            let mut connection = self.connect().await?;
            let mut reply: PingReply = self.exchange(&mut connection, Method::GET, "/v1/ping", None).await?;
            let mut best = f64::INFINITY;
            for _ in 0..3 {
                let start = Instant::now();
                reply = self.exchange(&mut connection, Method::GET, "/v1/ping", None).await?;
                best = best.min(start.elapsed().as_secs_f64() * 1000.0);
            }
            reply.peer_ms = Some(best);
            Ok(reply)
        };
        self.within(CALL_TIMEOUT, work).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        deadline: Duration,
    ) -> Result<T, ClientError> {
        let work = async {
            let mut connection = self.connect().await?;
            self.exchange(&mut connection, method, path, body).await
        };
        self.within(deadline, work).await
    }

    async fn within<T>(&self, after: Duration, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        match tokio::time::timeout(after, work).await {
            Ok(result) => result,
            Err(_) => Err(ClientError::Deadline { host: self.addr.to_string(), after }),
        }
    }

    /// One request and its answer on an open connection.
    async fn exchange<T: DeserializeOwned>(
        &self,
        connection: &mut Connection,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, ClientError> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|e| self.protocol(format!("nothing, the request is no HTTP: {e}")))?;
        let broken = |e: hyper::Error| self.broken(&e);
        connection.sender.ready().await.map_err(broken)?;
        let response = connection.sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_REPLY)
            .collect()
            .await
            .map_err(|e| self.protocol(format!("{status} and broke off: {e}")))?
            .to_bytes();
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|e| self.protocol(format!("what cannot be read ({e})")));
        }
        match serde_json::from_slice(&body) {
            Ok(failure) => Err(ClientError::Refused(failure)),
            Err(_) => Err(self.protocol(format!("{status} without a reason"))),
        }
    }

    async fn connect(&self) -> Result<Connection, ClientError> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.connect_unbounded()).await {
            Ok(result) => result,
            Err(_) => Err(self.unreachable(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()), self.down_hint())),
        }
    }

    async fn connect_unbounded(&self) -> Result<Connection, ClientError> {
        match (&self.addr, &self.tls) {
            (ListenAddr::Tcp { host, port }, Some(tls)) => {
                let stream = self.dial(host, *port).await?;
                // A failure to set it costs milliseconds and nothing else.
                let _ = stream.set_nodelay(true);
                let name = rustls::pki_types::ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
                let stream = tokio_rustls::TlsConnector::from(Arc::clone(tls))
                    .connect(name, stream)
                    .await
                    .map_err(|e| self.handshake(&e))?;
                self.http(stream).await
            }
            (ListenAddr::Tcp { .. }, None) => Err(ClientError::NoKey { host: self.addr.to_string() }),
            (ListenAddr::Unix(path), _) => {
                let stream = UnixStream::connect(path).await.map_err(|e| self.unreachable(said(&e), self.hint_for(&e)))?;
                self.http(stream).await
            }
        }
    }

    /// Tries all addresses of a name, each with its share of the time, so that one that drops packets cannot hide one
    /// that answers.
    async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, ClientError> {
        let addresses: Vec<_> = tokio::net::lookup_host((host, port))
            .await
            .map_err(|e| self.unreachable(format!("look up `{host}`: {e}"), "check the name, or give an address".to_owned()))?
            .collect();
        let share = CONNECT_TIMEOUT / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut last = self.unreachable("the name has no address".to_owned(), "give an address".to_owned());
        for address in addresses {
            last = match tokio::time::timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(e)) => self.unreachable(said(&e), self.hint_for(&e)),
                Err(_) => self.unreachable(format!("no answer within {} s", share.as_secs()), self.down_hint()),
            };
        }
        Err(last)
    }

    async fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) -> Result<Connection, ClientError> {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broken(&e))?;
        // Its error reaches the caller through `sender`.
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Connection { sender, driver })
    }

    /// TLS did not come about.
    fn handshake(&self, error: &io::Error) -> ClientError {
        match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) => self.other_key(),
            Some(e) => self.unreachable(format!("TLS: {e}"), "is it a wormholed that listens there?".to_owned()),
            None => self.unreachable(
                format!("the connection broke during the handshake: {}", said(error)),
                "is it a wormholed that listens there? After many failures it drops connections for a while".to_owned(),
            ),
        }
    }

    /// The connection broke under a request. A server that refuses our certificate says so only now.
    fn broken(&self, error: &hyper::Error) -> ClientError {
        let mut source = std::error::Error::source(error);
        while let Some(e) = source {
            if let Some(io) = e.downcast_ref::<io::Error>()
                && let Some(rustls::Error::AlertReceived(_)) = io.get_ref().and_then(|e| e.downcast_ref())
            {
                return self.other_key();
            }
            source = e.source();
        }
        let reason = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        self.unreachable(format!("the connection broke: {reason}"), self.down_hint())
    }

    fn other_key(&self) -> ClientError {
        let failure = Failure::new(FailureKind::Refused, format!("wormholed at {} holds another key than we do", self.addr));
        ClientError::Refused(failure.hint("copy the same key.secret to both machines (or name it with -K) and restart wormholed"))
    }

    fn unreachable(&self, reason: String, hint: String) -> ClientError {
        ClientError::Unreachable { host: self.addr.to_string(), reason, hint }
    }

    fn protocol(&self, what: String) -> ClientError {
        ClientError::Protocol { host: self.addr.to_string(), what }
    }

    fn hint_for(&self, error: &io::Error) -> String {
        match (&self.addr, error.kind()) {
            (ListenAddr::Unix(_), io::ErrorKind::PermissionDenied) => {
                "only root and group `wormhole` may: `sudo usermod -aG wormhole $USER`, then log in again".to_owned()
            }
            _ => self.down_hint(),
        }
    }

    fn down_hint(&self) -> String {
        match &self.addr {
            ListenAddr::Unix(_) => "is wormholed running? start it with `wormholed`".to_owned(),
            ListenAddr::Tcp { port, .. } => {
                format!("is wormholed running there with a key, and does a firewall let TCP port {port} through?")
            }
        }
    }
}

/// What the kernel said, without the number.
fn said(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// How long the containers of a spec may take to start, one after the other.
fn starting(spec: &Spec) -> Duration {
    let mut total = Duration::ZERO;
    let mut next = Some(spec);
    while let Some(spec) = next {
        total = total.saturating_add(spec.options.start_timeout_ms.map_or(START_TIMEOUT, Duration::from_millis));
        next = spec.link.as_deref().map(|link| &link.spec);
    }
    total
}
