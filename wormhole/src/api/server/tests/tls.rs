//! TCP: only who holds the key, and the rest costs little.

use super::*;
use crate::key::Key;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;
use tokio::net::TcpStream;

pub(super) const OURS: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

fn keyfile(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join(&text[..4]);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

pub(super) fn identity(text: &str) -> Identity {
    let dir = tempfile::tempdir().unwrap();
    Identity::derive(&Key::load(&keyfile(dir.path(), text)).unwrap()).unwrap()
}

async fn daemon(host: &str) -> Server {
    let tcp = ListenAddr::Tcp { host: host.to_owned(), port: 0 };
    start(vec![tcp], Some(identity(OURS)), Arc::default()).await.unwrap()
}

#[tokio::test]
async fn the_right_key_is_let_in() {
    for host in ["127.0.0.1", "::1", "localhost"] {
        let server = daemon(host).await;
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(&server.bound()[0].to_string(), Some(&keyfile(dir.path(), OURS))).unwrap();
        assert_eq!(client.status().await.unwrap().pid, std::process::id());
        server.close().await.unwrap();
    }
}

#[tokio::test]
async fn the_wrong_key_is_refused() {
    let server = daemon("127.0.0.1").await;
    let client = Client::with_identity(&server.bound()[0].to_string(), Some(&identity(OTHER))).unwrap();
    let error = client.status().await.unwrap_err();
    let failure = error.failure().unwrap();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(failure.message.ends_with("holds another key than we do"), "{failure}");
    // More than the burst: from now on connections are dropped, and the right key gets in again soon.
    for _ in 0..40 {
        client.status().await.unwrap_err();
    }
    let good = Client::with_identity(&server.bound()[0].to_string(), Some(&identity(OURS))).unwrap();
    assert!(matches!(good.status().await.unwrap_err(), ClientError::Unreachable { .. }));
    tokio::time::sleep(Duration::from_millis(500)).await;
    good.status().await.unwrap();
    server.close().await.unwrap();
}

#[tokio::test]
async fn no_key_no_client() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::new("tcp://127.0.0.1:1", Some(&dir.path().join("absent"))).unwrap_err();
    assert!(matches!(error, ClientError::Key(KeyError::Absent(_))), "{error}");
    let client = Client::with_identity("127.0.0.1:1", Some(&identity(OURS))).unwrap();
    let error = client.status().await.unwrap_err();
    assert_eq!(error.to_string(), "reach wormholed at tcp://127.0.0.1:1: Connection refused");
    assert_eq!(error.hint(), Some("is wormholed running there with a key, and does a firewall let TCP port 1 through?"));
}

#[tokio::test]
async fn plain_http_gets_no_answer() {
    let server = daemon("127.0.0.1").await;
    let ListenAddr::Tcp { port, .. } = server.bound()[0] else { panic!() };
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    server.close().await.unwrap();
}

#[tokio::test]
async fn the_silent_are_dropped_and_hinder_nobody() {
    let server = daemon("127.0.0.1").await;
    let ListenAddr::Tcp { port, .. } = server.bound()[0] else { panic!() };
    // Fewer than one source may have open at a time.
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let start = Instant::now();
    let good = Client::with_identity(&server.bound()[0].to_string(), Some(&identity(OURS))).unwrap();
    good.status().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_secs(8), silent[0].read(&mut byte)).await.expect("never dropped");
    assert!(matches!(read, Ok(0) | Err(_)));
    assert!(start.elapsed() > Duration::from_secs(4));
    server.close().await.unwrap();
}

#[tokio::test]
async fn ping_from_daemon_to_daemon() {
    let peer = daemon("127.0.0.1").await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let near = start(vec![ListenAddr::Unix(path.clone())], Some(identity(OURS)), Arc::default()).await.unwrap();
    let client = Client::new(path.to_str().unwrap(), None).unwrap();
    let host = peer.bound()[0].to_string().replace("tcp://", "");
    let reply = client.ping(&PingRequest { host: Some(host.clone()) }).await.unwrap();
    assert!((0.0..1000.0).contains(&reply.peer_ms.unwrap()), "{reply:?}");
    let reply = client.ping(&PingRequest { host: Some(format!("unix://{}", path.display())) }).await.unwrap();
    assert!(reply.peer_ms.is_some());
    peer.close().await.unwrap();
    let error = client.ping(&PingRequest { host: Some(host) }).await.unwrap_err();
    assert_eq!(error.failure().unwrap().kind, FailureKind::Failed);
    assert!(error.hint().unwrap().starts_with("is wormholed running there"), "{error:?}");
    near.close().await.unwrap();
}
