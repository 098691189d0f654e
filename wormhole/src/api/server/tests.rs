//! A real server on real sockets, with a controller that only remembers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bodies;
mod sockets;
mod tls;

use super::*;
use crate::api::{Client, ClientError};
use crate::model::{
    BuildInfo, Bytes, Connections, ControlFuture, DockerView, Failure, FailureKind, FastpathView, LimitsView, PingRequest,
    SegmentId, SegmentView, Spec, State, StatusView,
};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Remembers what it was asked to make.
#[derive(Default)]
pub(super) struct Fake {
    made: Mutex<Vec<Spec>>,
    /// How long `create` takes.
    slow: Option<Duration>,
}

fn view(spec: &Spec) -> SegmentView {
    SegmentView {
        id: spec.id.clone().unwrap_or_else(|| "made".to_owned()),
        parent: None,
        spec: spec.clone(),
        head: "tcp://127.0.0.1:80".to_owned(),
        tail: "tcp://127.0.0.1:81".to_owned(),
        state: State::Listening,
        reason: None,
        created: 0,
        connections: Connections::default(),
        bytes: Bytes::default(),
        direct: Bytes::default(),
        injected: Bytes::default(),
        pairs: 0,
        fallbacks: Default::default(),
        open: Vec::new(),
    }
}

impl Control for Fake {
    fn create(&self, spec: Spec) -> ControlFuture<'_, Vec<SegmentView>> {
        Box::pin(async move {
            if spec.id.as_deref() == Some("panic") {
                panic!("as the test asked");
            }
            if let Some(slow) = self.slow {
                tokio::time::sleep(slow).await;
            }
            self.made.lock().unwrap().push(spec.clone());
            Ok(vec![view(&spec)])
        })
    }
    fn delete(&self, id: SegmentId) -> ControlFuture<'_, Vec<SegmentId>> {
        Box::pin(async move {
            let mut made = self.made.lock().unwrap();
            let before = made.len();
            made.retain(|spec| spec.id.as_deref() != Some(&id));
            if made.len() < before { Ok(vec![id]) } else { Err(Failure::new(FailureKind::NotFound, format!("no segment {id}"))) }
        })
    }
    fn delete_all(&self) -> ControlFuture<'_, Vec<SegmentId>> {
        Box::pin(async move { Ok(self.made.lock().unwrap().drain(..).filter_map(|spec| spec.id).collect()) })
    }
    fn list(&self) -> ControlFuture<'_, Vec<SegmentView>> {
        Box::pin(async move { Ok(self.made.lock().unwrap().iter().map(view).collect()) })
    }
    fn inspect(&self, id: SegmentId) -> ControlFuture<'_, SegmentView> {
        Box::pin(async move {
            let made = self.made.lock().unwrap();
            let found = made.iter().find(|spec| spec.id.as_deref() == Some(&id));
            found.map(view).ok_or_else(|| Failure::new(FailureKind::NotFound, format!("no segment {id}")))
        })
    }
    fn status(&self) -> ControlFuture<'_, StatusView> {
        Box::pin(async move {
            Ok(StatusView {
                build: BuildInfo::default(),
                pid: std::process::id(),
                uptime_s: 0,
                listeners: Vec::new(),
                notes: Vec::new(),
                docker: DockerView::default(),
                limits: LimitsView::default(),
                workers: 1,
                segments: self.made.lock().unwrap().len(),
                kernel: String::new(),
                fastpath: FastpathView::default(),
            })
        })
    }
}

/// A server on a unix socket of its own.
pub(super) struct Daemon {
    dir: tempfile::TempDir,
    server: Server,
    fake: Arc<Fake>,
}

impl Daemon {
    async fn start(fake: Fake) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fake = Arc::new(fake);
        let path = dir.path().join("run/wormhole.sock");
        let server = start(vec![ListenAddr::Unix(path)], None, Arc::clone(&fake)).await.unwrap();
        Self { dir, server, fake }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("run/wormhole.sock")
    }

    fn client(&self) -> Client {
        Client::new(&format!("unix://{}", self.path().display()), None).unwrap()
    }
}

async fn start(listeners: Vec<ListenAddr>, key: Option<Identity>, control: Arc<Fake>) -> Result<Server, ServerError> {
    Server::start(ServerConfig { listeners, key, control }).await
}

/// Sends `head` and `body` as they are; status and JSON of the answer.
async fn raw(path: &Path, head: &str, body: &[u8]) -> (u16, Value) {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let text = format!("{head}\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    // The server may answer before it has read everything, and close.
    let _ = stream.write_all(&[text.as_bytes(), body].concat()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    (status, serde_json::from_str(body).unwrap())
}

async fn post(path: &Path, to: &str, body: &str) -> (u16, Value) {
    let head = format!("POST {to} HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {}", body.len());
    raw(path, &head, body.as_bytes()).await
}

fn good() -> Value {
    json!({"spec": {"id": "web", "head": {"proto": "tcp", "port": 80}, "tail": {"proto": "tcp", "port": 81}}})
}
