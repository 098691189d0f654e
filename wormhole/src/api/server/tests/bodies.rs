//! Requests that are wrong, as somebody with `curl` would send them: each is refused in JSON, and nothing is made.

use super::*;

#[tokio::test]
async fn a_good_life() {
    let daemon = Daemon::start(Fake::default()).await;
    let client = daemon.client();
    let request = serde_json::from_value(good()).unwrap();
    assert_eq!(client.create(&request).await.unwrap().segments[0].id, "web");
    assert_eq!(client.list().await.unwrap().len(), 1);
    assert_eq!(client.inspect("web").await.unwrap().id, "web");
    assert_eq!(client.status().await.unwrap().segments, 1);
    assert_eq!(client.delete("web").await.unwrap(), ["web"]);
    let error = client.delete("web").await.unwrap_err();
    assert_eq!(error.failure().unwrap().kind, FailureKind::NotFound);
    client.create(&request).await.unwrap();
    assert_eq!(client.delete_all().await.unwrap(), ["web"]);
    let pong = client.ping(&PingRequest::default()).await.unwrap();
    assert_eq!((pong.peer_ms, pong.version.as_str()), (None, env!("CARGO_PKG_VERSION")));

    // As curl asks, and with a body as small as can be.
    let (status, answer) = raw(&daemon.path(), "GET /v1/openapi.json HTTP/1.1", b"").await;
    assert_eq!((status, answer["info"]["title"].as_str()), (200, Some("wormhole control API")));
    let (status, _) = raw(&daemon.path(), "POST /v1/ping HTTP/1.1\r\ncontent-length: 0", b"").await;
    assert_eq!(status, 200);
    daemon.server.close().await.unwrap();
}

#[tokio::test]
async fn wrong_bodies() {
    let daemon = Daemon::start(Fake::default()).await;
    let with = |pointer: &str, value: Value| {
        let mut body = good();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[key] = value;
        body.to_string()
    };
    let ends = "\"head\":{\"proto\":\"tcp\"},\"tail\":{\"proto\":\"tcp\"},\"link\":{\"via\":{\"kind\":\"child\"},\"spec\":{";
    let deep = format!("{{\"spec\":{{{}{}}}}}", ends.repeat(1000), "}}".repeat(1000));
    for (body, status, said) in [
        (String::new(), 400, "the body is empty"),
        ("{".to_owned(), 400, "the body: EOF while parsing an object at line 1 column 1"),
        ("[]".to_owned(), 400, "the body: invalid length 0, expected struct CreateRequest with 1 element"),
        ("null".to_owned(), 400, "the body: invalid type: null, expected struct CreateRequest"),
        ("{}".to_owned(), 400, "the body: missing field `spec`"),
        (deep, 400, "the body: recursion limit exceeded"),
        (format!("{} x", good()), 400, "the body: trailing characters"),
        ("{\"spec\": \"url :80\"}".to_owned(), 400, "the body: invalid type: string \"url :80\", expected struct Spec"),
        (with("/force", json!(true)), 400, "the body: unknown field `force`, expected `spec`"),
        (with("/spec/tial", json!({})), 400, "the body: unknown field `tial`, expected one of `id`, `head`, `tail`"),
        (with("/spec/tail/prot", json!("tcp")), 400, "the body: unknown field `prot`, expected one of `proto`"),
        (with("/spec/tail", Value::Null), 400, "the body: invalid type: null, expected struct End"),
        (with("/spec/tail/proto", json!("sctp")), 400, "the body: unknown variant `sctp`, expected one of `tcp`, `udp`, `unix`"),
        (with("/spec/tail/port", json!(65536)), 400, "the body: invalid value: integer `65536`, expected u16"),
        (with("/spec/tail/port", json!(-1)), 400, "the body: invalid value: integer `-1`, expected u16"),
        (with("/spec/tail/port", json!("80")), 400, "the body: invalid type: string \"80\", expected u16"),
        (with("/spec/tail/host", json!("a b")), 400, "the body: `a b` is neither an address nor a host name"),
        (with("/spec/tail/place", json!({"kind": "pod"})), 400, "the body: unknown variant `pod`"),
        (
            with("/spec/tail/place", json!({"kind": "host", "name": "blue"})),
            400,
            "the body: unknown field `name`, `host` has no fields",
        ),
        (with("/spec/options", json!({"idle": 1})), 400, "the body: unknown field `idle`"),
        (with("/spec/id", json!("a b")), 400, "spec.id: `a b` is not an id"),
        (with("/spec/id", json!("x".repeat(64))), 400, "spec.id: `xxx"),
        (with("/spec/tail/path", json!("/run/x")), 400, "spec.tail.path: a tcp end has no path"),
        (with("/spec/tail", json!({"proto": "unix", "path": "x"})), 400, "spec.tail.path: `x` is not absolute"),
        (with("/spec/tail/proto", json!("udp")), 400, "spec.tail.proto: a tcp head cannot lead to a udp tail"),
        (with("/spec/tail/place", json!({"kind": "pid", "pid": 0})), 400, "spec.tail.place.pid: 0 is not a process id"),
        (
            with("/spec/tail/place", json!({"kind": "named", "name": "../x"})),
            400,
            "spec.tail.place.name: `../x` is not the name of a namespace",
        ),
        (with("/spec/options", json!({"udp_timeout_ms": 0})), 400, "spec.options.udp_timeout_ms: 0 is out of range"),
        (with("/spec/tail/port", json!(80)), 409, "spec: the segment would connect to itself"),
        (with("/spec/pad", json!("x".repeat(300_000))), 413, "the body is larger than 262144 bytes"),
    ] {
        let (got, answer) = post(&daemon.path(), "/v1/segments", &body).await;
        let shown: String = body.chars().take(200).collect();
        let message = answer["message"].as_str().unwrap();
        assert!(got == status && message.starts_with(said), "{shown}\n{got}: {message}");
        assert!(answer["hint"].is_string() && answer["kind"].is_string(), "{shown}: {answer}");
        assert!(daemon.client().list().await.unwrap().is_empty(), "{shown}");
    }
}

#[tokio::test]
async fn wrong_requests() {
    let daemon = Daemon::start(Fake::default()).await;
    let body = good().to_string();
    let length = body.len();
    for (head, body, status, said) in [
        (format!("POST /v1/segments HTTP/1.1\r\ncontent-length: {length}"), body.as_str(), 415, "the body has no content type"),
        (
            format!("POST /v1/segments HTTP/1.1\r\ncontent-type: text/plain\r\ncontent-length: {length}"),
            body.as_str(),
            415,
            "the body has content type `text/plain`, not `application/json`",
        ),
        ("GET / HTTP/1.1".to_owned(), "", 404, "there is no `/`"),
        ("GET /v2/status HTTP/1.1".to_owned(), "", 404, "there is no `/v2/status`"),
        ("GET /v1/segments/a/b HTTP/1.1".to_owned(), "", 404, "there is no `/v1/segments/a/b`"),
        ("PUT /v1/segments HTTP/1.1\r\ncontent-length: 0".to_owned(), "", 405, "`/v1/segments` does not take PUT"),
        ("DELETE /v1/status HTTP/1.1".to_owned(), "", 405, "`/v1/status` does not take DELETE"),
        ("GET /v1/segments/-x HTTP/1.1".to_owned(), "", 400, "id: `-x` is not an id"),
        ("GET /v1/segments/a%2fb HTTP/1.1".to_owned(), "", 400, "id: `a/b` is not an id"),
        ("GET /v1/segments/%ff HTTP/1.1".to_owned(), "", 400, "id: Invalid URL: Invalid UTF-8 in `id`"),
        ("GET /v1/segments/nobody HTTP/1.1".to_owned(), "", 404, "no segment nobody"),
    ] {
        let (got, answer) = raw(&daemon.path(), &head, body.as_bytes()).await;
        let message = answer["message"].as_str().unwrap();
        assert!(got == status && message.starts_with(said), "{head}\n{got}: {message}");
    }
    for (body, status, said) in [
        ("{\"hots\": \"x\"}", 400, "the body: unknown field `hots`, expected `host`"),
        ("{\"host\": \"a b\"}", 400, "ping a b: host `a b`: `a b` is neither an address nor a host name"),
        ("{\"host\": \"127.0.0.1:1\"}", 409, "ping 127.0.0.1:1: reach wormholed at tcp://127.0.0.1:1: this daemon has no key"),
        ("{\"host\": \"unix:///nowhere\"}", 500, "ping unix:///nowhere: reach wormholed at unix:///nowhere: No such file"),
    ] {
        let (got, answer) = post(&daemon.path(), "/v1/ping", body).await;
        let message = answer["message"].as_str().unwrap();
        assert!(got == status && message.starts_with(said), "{body}\n{got}: {message}");
    }
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let daemon = Daemon::start(Fake::default()).await;
    let mut body = good();
    body["spec"]["id"] = json!("panic");
    let (status, answer) = post(&daemon.path(), "/v1/segments", &body.to_string()).await;
    assert_eq!((status, answer["kind"].as_str()), (500, Some("failed")));
    assert!(daemon.client().list().await.unwrap().is_empty());
}

#[tokio::test]
async fn who_hangs_up_does_not_stop_the_work() {
    let daemon = Daemon::start(Fake { slow: Some(Duration::from_millis(200)), ..Fake::default() }).await;
    let body = good().to_string();
    let mut stream = UnixStream::connect(daemon.path()).await.unwrap();
    let head = format!(
        "POST /v1/segments HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(stream);
    // And close waits for it.
    let fake = Arc::clone(&daemon.fake);
    daemon.server.close().await.unwrap();
    assert_eq!(fake.made.lock().unwrap().len(), 1);
}
