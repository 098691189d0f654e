//! The unix socket's file: made, guarded, taken over, removed.

use super::super::plan::plan_with;
use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::time::Instant;

fn unix(path: &Path) -> Vec<ListenAddr> {
    vec![ListenAddr::Unix(path.into())]
}

#[tokio::test]
async fn made_with_its_directory_and_removed() {
    let daemon = Daemon::start(Fake::default()).await;
    let path = daemon.path();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
    assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o755);
    if let Ok(Some(group)) = nix::unistd::Group::from_name("wormhole") {
        assert_eq!(std::fs::metadata(&path).unwrap().gid(), group.gid.as_raw());
    }
    daemon.server.close().await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn closes_at_once_with_idle_connections_open() {
    let daemon = Daemon::start(Fake::default()).await;
    let _silent = UnixStream::connect(daemon.path()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let start = Instant::now();
    daemon.server.close().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn dropped_without_close_leaves_no_file() {
    let daemon = Daemon::start(Fake::default()).await;
    let path = daemon.path();
    let Daemon { dir, server, .. } = daemon;
    drop(server);
    assert!(!path.exists());
    drop(dir);
}

#[tokio::test]
async fn a_dead_socket_is_taken_over_and_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = start(unix(&path), None, Arc::default()).await.unwrap();
    let error = start(unix(&path), None, Arc::default()).await.unwrap_err();
    assert!(error.to_string().contains("another wormholed answers there"), "{error}");
    assert!(path.exists());
    first.close().await.unwrap();
}

#[tokio::test]
async fn what_is_no_socket_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    std::fs::write(&path, "precious").unwrap();
    let error = start(unix(&path), None, Arc::default()).await.unwrap_err();
    assert!(error.to_string().contains("something that is not a socket is there"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn somebody_elses_socket_is_not_removed() {
    let daemon = Daemon::start(Fake::default()).await;
    let path = daemon.path();
    std::fs::remove_file(&path).unwrap();
    let _other = StdListener::bind(&path).unwrap();
    daemon.server.close().await.unwrap();
    assert!(path.exists());
}

#[tokio::test]
async fn all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = ListenAddr::Tcp { host: "127.0.0.1".to_owned(), port: taken.local_addr().unwrap().port() };
    let error = start(vec![ListenAddr::Unix(path.clone()), tcp.clone()], None, Arc::default()).await.unwrap_err();
    assert!(error.to_string().contains("TCP needs a key: make one with `wormhole keygen`"), "{error}");
    assert!(!path.exists());
    let key = Some(tls::identity(tls::OURS));
    let error = start(vec![ListenAddr::Unix(path.clone()), tcp], key, Arc::default()).await.unwrap_err();
    assert!(error.to_string().contains("another program has it"), "{error}");
    assert!(!path.exists());
}

#[tokio::test]
async fn errors_of_the_client_have_hints() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let client = Client::new(path.to_str().unwrap(), None).unwrap();
    let error = client.status().await.unwrap_err();
    assert_eq!(error.hint(), Some("is wormholed running? start it with `wormholed`"));
    drop(StdListener::bind(&path).unwrap());
    let ClientError::Unreachable { reason, .. } = client.status().await.unwrap_err() else { panic!() };
    assert_eq!(reason, "Connection refused");
    assert_eq!(client.inspect("../status").await.unwrap_err().failure().unwrap().kind, FailureKind::Invalid);
    assert!(matches!(Client::new("ftp://x", None).unwrap_err(), ClientError::Host(_)));
}

#[test]
fn plans() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key.secret");
    let shown = |plan: &Plan| plan.listeners.iter().map(ToString::to_string).collect::<Vec<_>>();
    let tcp: ListenAddr = "tcp://127.0.0.1:0".parse().unwrap();
    let unix = "unix:///run/wormhole/wormhole.sock";

    let plan = plan_with(&[], None, &key).unwrap();
    assert_eq!(shown(&plan), [unix]);
    assert!(plan.notes[0].starts_with("no TCP listener: there is no key file") && plan.notes[0].contains("wormhole keygen"));
    let error = plan_with(std::slice::from_ref(&tcp), None, &key).unwrap_err().to_string();
    assert!(error.starts_with("listen on tcp://127.0.0.1:0: TCP needs a key. there is no key file"), "{error}");
    assert!(matches!(plan_with(&[], Some(&key), &key).unwrap_err(), ServerError::Key(_)));

    crate::key::generate(&key).unwrap();
    let plan = plan_with(&[], None, &key).unwrap();
    assert_eq!(shown(&plan), [unix, "tcp://0.0.0.0:9999"]);
    assert!(plan.key.is_some() && plan.notes.is_empty());
    assert_eq!(shown(&plan_with(&[tcp], Some(&key), Path::new("/nowhere")).unwrap()), ["tcp://127.0.0.1:0"]);

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let plan = plan_with(&[], None, &key).unwrap();
    assert_eq!(shown(&plan), [unix]);
    assert!(plan.notes[0].contains("`chmod 600 "), "{:?}", plan.notes);
}

/// With curl, as the documentation promises, once as ourselves and once as somebody who has no right.
#[tokio::test(flavor = "multi_thread")]
async fn curl_works_and_strangers_are_told_why_not() {
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    let daemon = Daemon::start(Fake::default()).await;
    let path = daemon.path();
    let curl = || {
        let mut command = std::process::Command::new("curl");
        command.args(["-sS", "-m", "10", "-w", " %{http_code}", "http://localhost/v1/status", "--unix-socket"]).arg(&path);
        command
    };
    let Ok(answer) = curl().output() else {
        eprintln!("not run: no curl here");
        return;
    };
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(text.ends_with(" 200") && text.contains("\"pid\":"), "{answer:?}");
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: becoming somebody else needs root");
        return;
    }
    // The mode is as it should be: the kernel says no.
    std::fs::set_permissions(daemon.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let stranger = || curl().uid(NOBODY).gid(NOBODY).output().unwrap();
    assert_eq!(stranger().status.code(), Some(7), "curl's code for a connection that failed");
    // Somebody widened it: we say no.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let answer = stranger();
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    if unix::is_member(NOBODY, NOBODY) {
        assert!(text.ends_with(" 200"), "{answer:?}");
    } else {
        assert!(text.ends_with(" 403") && text.contains("uid 65534 is neither root nor in group `wormhole`"), "{answer:?}");
        assert!(text.contains("usermod -aG wormhole $USER"), "{text}");
    }
    daemon.server.close().await.unwrap();
}
