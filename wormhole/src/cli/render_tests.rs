#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::model::{BuildInfo, Bytes, ConnectionView, Connections, DockerView, FastpathView, LimitsView, PairsView, ProbeView};

fn view(id: &str, parent: Option<&str>) -> SegmentView {
    let words = ["url", ":80", "tail", "docker-ns", "x"].map(str::to_owned);
    SegmentView {
        id: id.to_owned(),
        parent: parent.map(str::to_owned),
        spec: crate::cli::parse(&words).unwrap(),
        head: "tcp://127.0.0.1:80".to_owned(),
        tail: "tcp://docker:x@127.0.0.1:80".to_owned(),
        state: State::Listening,
        reason: None,
        created: age(0) - 65,
        connections: Connections { open: 1, total: 12, failed: 2, reset: 3, last_error: None },
        bytes: Bytes { to_tail: 1500, to_head: 12 << 20 },
        direct: Bytes { to_tail: 1000, to_head: 12 << 20 },
        injected: Bytes { to_tail: 500, to_head: 0 },
        pairs: 1,
        fallbacks: [("server-unseen".to_owned(), 2)].into(),
        open: Vec::new(),
    }
}

#[test]
fn children_are_indented_under_their_parents() {
    let mut waiting = view("c", Some("b"));
    waiting.state = State::Waiting;
    waiting.reason = Some("container\nx stopped".to_owned());
    let views = [waiting, view("a", None), view("b", Some("z")), view("d", Some("a"))];
    assert_eq!(
        list(&views, Look::default()),
        "\
ID   HEAD -> TAIL                                       STATE      OPEN  TOTAL  FAILED  TO TAIL   TO HEAD   DIRECT  RELAYED          LAST ERROR
a    tcp://127.0.0.1:80 -> tcp://docker:x@127.0.0.1:80  listening     1     12       2  1.46 KiB  12.0 MiB    99 %  2 server-unseen
└ d  tcp://127.0.0.1:80 -> tcp://docker:x@127.0.0.1:80  listening     1     12       2  1.46 KiB  12.0 MiB    99 %  2 server-unseen
b    tcp://127.0.0.1:80 -> tcp://docker:x@127.0.0.1:80  listening     1     12       2  1.46 KiB  12.0 MiB    99 %  2 server-unseen
└ c  tcp://127.0.0.1:80 -> tcp://docker:x@127.0.0.1:80  waiting       1     12       2  1.46 KiB  12.0 MiB    99 %  2 server-unseen  container\\nx stopped
"
    );
    let deep = list(&[view("a", None), view("b", Some("a")), view("c", Some("b"))], Look::default());
    assert_eq!(deep.lines().skip(1).map(|line| &line[..7]).collect::<Vec<_>>(), ["a      ", "└ b  ", "  └ c"]);
    let wide = list(&views, Look { wide: true, ..Look::default() });
    assert!(wide.contains("RESET") && wide.contains("1m 5s") && wide.contains("create"), "{wide}");
    assert!(list(&views, Look { color: true, ..Look::default() }).contains("\x1b["));
    assert_eq!(list(&[], Look::default()), "no segments\n");
}

#[test]
fn parents_in_a_circle_are_shown_once() {
    let views = [view("a", Some("b")), view("b", Some("a")), view("c", Some("c"))];
    let mut ids: Vec<_> = tree(&views).into_iter().map(|(_, view)| view.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["a", "b", "c"]);
}

#[test]
fn one_segment_is_a_sheet_and_a_table() {
    let mut view = view("a", None);
    view.connections.open = 5;
    view.connections.last_error = Some("connect: refused".to_owned());
    view.spec.options.idle_timeout_ms = Some(90_000);
    let open = ConnectionView {
        client: String::new(),
        tail: "127.0.0.1:80".to_owned(),
        path: "relay".to_owned(),
        reason: Some("one end is a unix socket".to_owned()),
        age_s: 61,
        bytes: Bytes { to_tail: 1, to_head: 2 },
        direct: Bytes::default(),
        injected: Bytes { to_tail: 1, to_head: 0 },
    };
    view.open = vec![open];
    assert_eq!(
        inspect(&view, Look::default()),
        "\
id           a
head         tcp://127.0.0.1:80
tail         tcp://docker:x@127.0.0.1:80
state        listening
age          1m 5s
options      --idle-timeout 1m30s
connections  5 open, 12 total, 2 failed, 3 reset
last error   connect: refused
bytes        1.46 KiB to the tail, 12.0 MiB to the head
direct       1000 B to the tail, 12.0 MiB to the head
injected     500 B to the tail, 0 B to the head
pairs        1 open
relayed      2 server-unseen

CLIENT     TAIL          PATH   AGE    TO TAIL  TO HEAD  DIRECT  WHY THE RELAY
(unnamed)  127.0.0.1:80  relay  1m 1s      1 B      2 B     0 %  one end is a unix socket
and 4 more
"
    );
}

#[test]
fn the_daemon_is_a_sheet() {
    let text = render_status(&a_status());
    for line in [
        "daemon       0.1.0 (pid 7, up 1h 1m)",
        "ebpf         none in this build",
        "docker       not reached at unix:///d: refused",
        "connections  1 of at most 2",
        "listener     unix:///a",
        "             tcp://0.0.0.0:9999",
        "note         no key",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
}

#[test]
fn what_the_fast_path_did_is_in_the_status() {
    let fastpath = FastpathView {
        active: true,
        auto: true,
        summary: "yes".into(),
        pairs: PairsView { open: 1, max: 9, total: 5 },
        enrolled: 10,
        direct: Bytes { to_tail: 1, to_head: 2 },
        injected: Bytes { to_tail: 3, to_head: 4 },
        relayed: Bytes { to_tail: 5, to_head: 6 },
        reasons: [("server-unseen".to_owned(), 7)].into(),
        fallbacks: [("order".to_owned(), 8)].into(),
        off_for: vec!["haproxy".into(), "traefik".into()],
        probes: vec![ProbeView { name: "oob".into(), passed: false, detail: "in band".into() }],
        ..FastpathView::default()
    };
    let text = render_status(&StatusView { fastpath, ..a_status() });
    for line in [
        "fast path    yes",
        "pairs        1 of at most 9, 5 since the start",
        "enrolled     10 sockets since the start",
        "direct       1 B to the tail, 2 B to the head",
        "injected     3 B to the tail, 4 B to the head",
        "by relay     5 B to the tail, 6 B to the head",
        "probe        oob: NO; in band",
        "relayed      7 server-unseen",
        "by TCP       8 order",
        "not for      haproxy, traefik",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
}

fn a_status() -> StatusView {
    StatusView {
        build: BuildInfo { version: "0.1.0".into(), ebpf: None },
        pid: 7,
        uptime_s: 3661,
        listeners: vec!["unix:///a".into(), "tcp://0.0.0.0:9999".into()],
        notes: vec!["no key".into()],
        docker: DockerView { host: "unix:///d".into(), version: None, error: Some("refused".into()) },
        limits: LimitsView { connections: 1, max_connections: 2, max_fds: 3 },
        workers: 2,
        segments: 4,
        kernel: "6.12".into(),
        fastpath: FastpathView { summary: "off".into(), ..FastpathView::default() },
    }
}

fn render_status(view: &StatusView) -> String {
    status(view, Look::default())
}
