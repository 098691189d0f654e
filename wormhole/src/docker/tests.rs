//! Against a fake engine on a unix socket that answers what a test tells it to. The real engine is in the end-to-end
//! tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use super::*;
use crate::model::{Failure, FailureKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

const ID_A: &str = "aa11223344556677889900112233445566778899001122334455667788990011";
const ID_B: &str = "aa99223344556677889900112233445566778899001122334455667788990011";

/// Reads the head of one request and returns its path.
async fn path_of(stream: &mut UnixStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("host: docker\r\n"), "a Go server refuses requests without Host: {head}");
    Some(head.split(' ').nth(1).unwrap().to_owned())
}

fn reply(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An engine that answers each path with raw bytes and hangs up.
fn fake(answer: impl Fn(&str) -> String + Send + 'static) -> (tempfile::TempDir, Engine) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if let Some(path) = path_of(&mut stream).await {
                stream.write_all(answer(&path).as_bytes()).await.unwrap();
            }
        }
    });
    let engine = Engine::new(&format!("unix://{}", socket.display())).unwrap();
    (dir, engine)
}

fn listing() -> String {
    let one = |id: &str, name: &str, state: &str| format!(r#"{{"Id":"{id}","Names":["/x/link","/{name}"],"State":"{state}"}}"#);
    format!("[{},{}]", one(ID_A, "mysql", "running"), one(ID_B, "mysqk", "exited"))
}

fn missing(path: &str) -> String {
    if path.starts_with("/containers/json") {
        assert!(path.contains("all=true"), "{path}");
        reply("200 OK", &listing())
    } else {
        reply("404 Not Found", r#"{"message":"No such container: x"}"#)
    }
}

#[tokio::test]
async fn a_container_is_read() {
    let (_dir, engine) = fake(|path| {
        assert_eq!(path, "/containers/web.1_a-b/json");
        let state = r#"{"Running":true,"Pid":42,"StartedAt":"2026-01-02T03:04:05.6Z","Status":"running"}"#;
        let config = r#"{"NetworkMode":"none"}"#;
        reply("200 OK", &format!(r#"{{"Id":"{ID_A}","Name":"/web.1_a-b","State":{state},"HostConfig":{config}}}"#))
    });
    let expected = Container {
        id: ID_A.to_owned(),
        name: "web.1_a-b".to_owned(),
        pid: Some(42),
        running: true,
        started_at: "2026-01-02T03:04:05.6Z".to_owned(),
        network_mode: "none".to_owned(),
    };
    assert_eq!(engine.resolve("/web.1_a-b").await, Ok(expected));
}

#[tokio::test]
async fn a_stopped_container_has_no_pid() {
    let (_dir, engine) = fake(|_| {
        reply("200 OK", &format!(r#"{{"Id":"{ID_A}","Name":"/a","State":{{"Running":false,"Pid":0,"Status":"exited"}}}}"#))
    });
    let container = engine.resolve("a").await.unwrap();
    assert_eq!((container.pid, container.running), (None, false));
}

#[tokio::test]
async fn a_missing_container_gets_the_nearest_running_name() {
    let (_dir, engine) = fake(missing);
    let error = engine.resolve("mysqll").await.unwrap_err();
    assert_eq!(error, DockerError::NotFound { name: "mysqll".into(), nearest: Some("mysql".into()), running: 1 });
    let failure = Failure::from(error);
    assert_eq!(failure.kind, FailureKind::NotFound);
    assert_eq!(failure.message, "there is no container \"mysqll\"");
    assert_eq!(failure.hint.as_deref(), Some("did you mean \"mysql\"? `docker ps` lists what runs"));
    let far = engine.resolve("zebra").await.unwrap_err();
    assert_eq!(far, DockerError::NotFound { name: "zebra".into(), nearest: None, running: 1 });
}

#[tokio::test]
async fn an_ambiguous_prefix_lists_what_fits() {
    // As engine 20.10 and as later ones put it.
    for status in ["500 Internal Server Error", "400 Bad Request", "404 Not Found"] {
        let (_dir, engine) = fake(move |path| {
            let refusal = r#"{"message":"Multiple IDs found with provided prefix: aa"}"#;
            if path.starts_with("/containers/aa/") { reply(status, refusal) } else { missing(path) }
        });
        let failure = Failure::from(engine.resolve("aa").await.unwrap_err());
        assert_eq!(failure.kind, FailureKind::Invalid);
        assert_eq!(failure.message, "container id \"aa\" is ambiguous: aa1122334455 (mysql), aa9922334455 (mysqk)");
    }
}

#[tokio::test]
async fn a_name_never_leaves_its_place_in_the_path() {
    let (_dir, engine) = fake(|path| panic!("asked for {path}"));
    for name in ["", "/", "..", "a/../../version", "a?x", "a#b", "a b", "a%2fb", "ä", "a\r\nX: y"] {
        assert!(matches!(engine.resolve(name).await, Err(DockerError::BadName { .. })), "{name:?}");
    }
}

#[tokio::test]
async fn answers_that_no_engine_gives() {
    let cases = [
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), "does not look like a Docker engine"),
        (reply("200 OK", "<html>hello</html>"), "does not look like a Docker engine"),
        (reply("200 OK", "[]"), "does not look like a Docker engine"),
        (reply("200 OK", ""), "does not look like a Docker engine"),
        (reply("200 OK", "{}"), "has no version"),
        (String::new(), "cannot be reached: connection closed before message completed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"Ver".to_owned(), "cannot be reached: "),
        (reply("500 Oops", r#"{"message":"out of\ndisk"}"#), "answered 500: out of disk"),
        (reply("403 Forbidden", "<b>no</b>"), "answered 403: <b>no</b>"),
    ];
    for (answer, expected) in cases {
        let sent = answer.clone();
        let (_dir, engine) = fake(move |_| sent.clone());
        let failure = Failure::from(engine.version().await.unwrap_err());
        assert!(failure.message.contains(expected), "{answer:?} gave {:?}", failure.message);
        assert!(failure.message.contains(engine.host()), "{:?}", failure.message);
        assert_eq!(failure.kind, FailureKind::Failed);
        assert!(failure.hint.is_some());
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up() {
    for start in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"] {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let mut engine = Engine::new(&format!("unix://{}", dir.path().join("s").display())).unwrap();
        engine.deadline = Duration::from_millis(50);
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            path_of(&mut stream).await.unwrap();
            stream.write_all(start.as_bytes()).await.unwrap();
            // The connection does not outlive the question.
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        });
        assert!(matches!(engine.version().await, Err(DockerError::Timeout { .. })));
        server.await.unwrap();
    }
}

#[tokio::test]
async fn an_engine_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::new(&format!("unix://{}", dir.path().join("s").display())).unwrap();
    let failure = Failure::from(engine.version().await.unwrap_err());
    assert!(failure.message.ends_with("cannot be reached: there is no such socket"), "{failure}");
    assert!(failure.hint.unwrap().contains("systemctl start docker"));
    // A socket file that its owner left behind.
    drop(UnixListener::bind(dir.path().join("s")).unwrap());
    let failure = Failure::from(engine.resolve("a").await.unwrap_err());
    assert!(failure.message.ends_with("cannot be reached: nothing listens there"), "{failure}");
}

#[test]
fn addresses() {
    for good in ["unix:///var/run/docker.sock", "tcp://127.0.0.1:2375", "tcp://[::1]:2375/"] {
        assert!(Engine::new(good).is_ok(), "{good}");
    }
    for bad in ["", "docker", "unix://relative", "tcp://host", "tcp://:1", "tcp://h:0", "tcp://h:99999", "https://h:1"] {
        assert!(matches!(Engine::new(bad), Err(DockerError::BadHost { .. })), "{bad}");
    }
}

/// An engine that serves the event stream: `script` says what each connection gets after the head; then it is held
/// open until the client hangs up, except that `None` hangs up at once.
fn events(script: impl Fn(usize) -> Option<String> + Send + 'static) -> (tempfile::TempDir, Engine, mpsc::Receiver<()>) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let (closed, on_close) = mpsc::channel(8);
    tokio::spawn(async move {
        for turn in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let path = path_of(&mut stream).await.unwrap();
            assert!(path.starts_with("/events?since="), "{path}");
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n").await.unwrap();
            let Some(lines) = script(turn) else { continue };
            stream.write_all(lines.as_bytes()).await.unwrap();
            let closed = closed.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0]).await;
                let _ = closed.send(()).await;
            });
        }
    });
    let engine = Engine::new(&format!("unix://{}", socket.display())).unwrap();
    (dir, engine, on_close)
}

fn line(action: &str, id: &str) -> String {
    format!("{{\"Type\":\"container\",\"Action\":\"{action}\",\"Actor\":{{\"ID\":\"{id}\",\"Attributes\":{{}}}},\"time\":1}}\n")
}

#[tokio::test]
async fn events_arrive_and_a_new_connection_is_a_resync() {
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&connections);
    let (_dir, engine, mut closed) = events(move |turn| {
        seen.store(turn + 1, Ordering::SeqCst);
        match turn {
            0 => None,
            1 => Some(["start", "exec_start: sh", "die", "destroy", "rename"].map(|a| line(a, ID_A)).concat()),
            _ => panic!("connected again although the stream is open"),
        }
    });
    let (mut receiver, guard) = engine.watch();
    // The first connection ends at once; whether its Resync is seen depends on which end is quicker.
    let mut got = Vec::new();
    while !matches!(got.last(), Some(ContainerEvent::Renamed { .. })) {
        got.push(receiver.recv().await.unwrap());
    }
    let id = || ID_A.to_owned();
    let last: Vec<_> = got.iter().skip_while(|e| **e == ContainerEvent::Resync).cloned().collect();
    // Those that came before the Resync was delivered are covered by it.
    let all = [
        ContainerEvent::Started { id: id() },
        ContainerEvent::Died { id: id() },
        ContainerEvent::Destroyed { id: id() },
        ContainerEvent::Renamed { id: id() },
    ];
    assert_eq!(got[0], ContainerEvent::Resync);
    assert!(all.ends_with(&last), "{got:?}");
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    drop(guard);
    closed.recv().await.expect("the engine sees that the watch is over");
}

#[tokio::test]
async fn a_slow_reader_gets_a_resync_instead_of_a_backlog() {
    let (_dir, engine, _closed) = events(|_| Some(line("start", ID_A).repeat(5_000) + &line("die", ID_B)));
    let (mut receiver, _guard) = engine.watch();
    // Nothing is read until the queue is full for good.
    while receiver.len() < 256 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut got = 0;
    loop {
        got += 1;
        match receiver.recv().await.unwrap() {
            ContainerEvent::Resync if got > 1 => break,
            _ => assert!(got < 5_000, "no Resync after the overflow"),
        }
    }
}

#[tokio::test]
async fn a_watch_begins_when_the_engine_comes_up() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let (mut receiver, _guard) = Engine::new(&format!("unix://{}", socket.display())).unwrap().watch();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(receiver.try_recv().is_err());
    let listener = UnixListener::bind(&socket).unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    path_of(&mut stream).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    assert_eq!(receiver.recv().await, Some(ContainerEvent::Resync));
    // Garbage in the stream is the end of this connection, not of the watch.
    stream.write_all(b"nonsense}\n").await.unwrap();
    let (mut again, _) = listener.accept().await.unwrap();
    path_of(&mut again).await.unwrap();
}

#[test]
fn futures_are_small_and_can_move_between_threads() {
    fn movable<T: Send>(value: &T) -> usize {
        size_of_val(value)
    }
    let engine = Engine::new("unix:///s").unwrap();
    assert!(movable(&engine.resolve("a")) < 1024);
    assert!(movable(&engine.version()) < 1024);
}
