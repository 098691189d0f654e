//! Wrong requests, and right ones that look wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use serde_json::{Value, json};

/// A good request as JSON, with `change` merged over it.
fn spec(change: Value) -> Spec {
    let mut base = json!({"head": {"proto": "tcp", "port": 80}, "tail": {"proto": "tcp", "port": 81}});
    merge(&mut base, change);
    serde_json::from_value(base).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[track_caller]
fn refused(change: Value, said: &str) {
    let failure = validate(&spec(change)).unwrap_err();
    assert_eq!(failure.message, said);
    assert!(failure.hint.is_some());
}

#[track_caller]
fn good(change: Value) {
    validate(&spec(change)).unwrap();
}

#[test]
fn ids() {
    for id in ["a", "0", "web-1.x_y", &"a".repeat(63)] {
        good(json!({"id": id}));
    }
    for id in ["", "-a", ".a", "a b", "a/b", "ä", &"a".repeat(64)] {
        refused(json!({"id": id}), &format!("spec.id: `{id}` is not an id"));
    }
    refused(json!({"id": "a\u{1b}[31m"}), "spec.id: `a\\u{1b}[31m` is not an id");
}

#[test]
fn an_id_is_used_once() {
    let child =
        json!({"via": {"kind": "child"}, "spec": {"id": "a", "head": {"proto": "tcp"}, "tail": {"proto": "tcp", "port": 9}}});
    refused(json!({"id": "a", "link": child}), "spec.link.spec.id: `a` is used twice");
}

#[test]
fn paths() {
    good(json!({"tail": {"proto": "unix", "path": "/run/a"}}));
    good(json!({"head": {"proto": "unix", "path": format!("/{}", "x".repeat(106))}}));
    refused(json!({"tail": {"proto": "unix"}}), "spec.tail.path: a unix end needs a path");
    refused(json!({"tail": {"proto": "unix", "path": "run/a"}}), "spec.tail.path: `run/a` is not absolute");
    refused(json!({"tail": {"proto": "unix", "path": "/run/"}}), "spec.tail.path: `/run/` is a directory");
    refused(json!({"tail": {"proto": "unix", "path": "/a\0b"}}), "spec.tail.path: holds a NUL");
    let long = format!("/{}", "x".repeat(107));
    refused(json!({"tail": {"proto": "unix", "path": long}}), "spec.tail.path: has 108 bytes, the kernel takes 107");
    refused(json!({"head": {"path": "/run/a"}}), "spec.head.path: a tcp end has no path");
}

#[test]
fn places() {
    for name in ["", "a/b", ".", "..", "../etc/passwd"] {
        let change = json!({"tail": {"place": {"kind": "named", "name": name}}});
        refused(change, &format!("spec.tail.place.name: `{name}` is not the name of a namespace"));
    }
    good(json!({"tail": {"place": {"kind": "named", "name": "blue"}}}));
    refused(json!({"head": {"place": {"kind": "pid", "pid": 0}}}), "spec.head.place.pid: 0 is not a process id");
    let pid = 1_u64 << 31;
    refused(json!({"head": {"place": {"kind": "pid", "pid": pid}}}), "spec.head.place.pid: 2147483648 is not a process id");
    for name in ["", "-f", "../../secrets", "a?b", "a b"] {
        let change = json!({"head": {"place": {"kind": "docker", "name": name}}});
        refused(change, &format!("spec.head.place.name: `{name}` is not the id or name of a container"));
    }
    refused(
        json!({"tail": {"place": {"kind": "run", "args": " "}}}),
        "spec.tail.place.args: `docker-run` needs at least an image",
    );
    refused(json!({"head": {"place": {"kind": "parent"}}}), "spec.head.place: the first segment has no parent");
    refused(json!({"tail": {"place": {"kind": "parent"}}}), "spec.tail.place: `parent` is a place for heads only");
    good(json!({"link": {"via": {"kind": "child"}, "spec":
        {"head": {"proto": "tcp", "place": {"kind": "parent"}}, "tail": {"proto": "tcp", "port": 9}}}}));
}

#[test]
fn protocols() {
    good(json!({"head": {"proto": "udp"}, "tail": {"proto": "udp"}}));
    refused(json!({"head": {"proto": "udp"}}), "spec.tail.proto: a udp head cannot lead to a tcp tail");
    refused(
        json!({"head": {"proto": "unix", "path": "/a"}, "tail": {"proto": "udp"}}),
        "spec.tail.proto: a unix head cannot lead to a udp tail",
    );
}

#[test]
fn peers() {
    let remote = |host: &str| json!({"link": {"via": {"kind": "remote", "host": host}, "spec": {"head": {"proto": "tcp"}, "tail": {"proto": "tcp", "port": 9}}}});
    good(remote("myserver:77"));
    refused(remote("my server"), "spec.link.via.host: `my server`: `my server` is neither an address nor a host name");
}

#[test]
fn durations() {
    good(json!({"options": {"idle_timeout_ms": 0, "start_timeout_ms": 60_000}}));
    for name in ["udp_timeout_ms", "connect_timeout_ms", "start_timeout_ms", "idle_stop_ms"] {
        refused(json!({"options": {name: 0}}), &format!("spec.options.{name}: 0 is out of range"));
        let change = json!({"options": {name: u64::MAX}});
        refused(change, &format!("spec.options.{name}: {} is out of range", u64::MAX));
    }
}

#[test]
fn to_itself() {
    let said = "spec: the segment would connect to itself";
    for change in [
        json!({"tail": {"port": 80}}),
        json!({"tail": {"port": 0}}),
        json!({"head": {"port": 0}, "tail": {"port": 0}}),
        json!({"head": {"host": "0.0.0.0"}, "tail": {"port": 80}}),
        json!({"head": {"host": "::"}, "tail": {"port": 80}}),
        json!({"head": {"host": "::"}, "tail": {"port": 80, "host": "::1"}}),
        json!({"tail": {"port": 80, "host": "0.0.0.0"}}),
        json!({"tail": {"port": 80, "host": "localhost"}}),
        json!({"tail": {"port": 80, "host": "::ffff:127.0.0.1"}}),
        json!({"head": {"proto": "unix", "path": "/a"}, "tail": {"proto": "unix", "path": "/a"}}),
        json!({"head": {"place": {"kind": "docker", "name": "a"}}, "tail": {"port": 80, "place": {"kind": "docker", "name": "a"}}}),
    ] {
        refused(change.clone(), said);
        assert_eq!(validate(&spec(change)).unwrap_err().kind, FailureKind::Refused);
    }
    for change in [
        json!({"tail": {"port": 80, "host": "127.0.0.2"}}),
        json!({"tail": {"port": 80, "host": "::1"}}),
        json!({"head": {"host": "0.0.0.0"}, "tail": {"port": 80, "host": "::1"}}),
        json!({"tail": {"port": 80, "place": {"kind": "docker", "name": "a"}}}),
        json!({"tail": {"port": 80}, "link": {"via": {"kind": "remote", "host": "h"},
            "spec": {"head": {"proto": "tcp", "port": 80}, "tail": {"proto": "tcp", "port": 9}}}}),
    ] {
        good(change);
    }
}

#[test]
fn depth() {
    let chain = |segments: usize| {
        let mut spec = json!({"head": {"proto": "tcp", "port": 1}, "tail": {"proto": "tcp", "port": 2}});
        for _ in 1..segments {
            spec = json!({"head": {"proto": "tcp", "port": 1}, "tail": {"proto": "tcp", "port": 2},
                "link": {"via": {"kind": "child"}, "spec": spec}});
        }
        spec
    };
    // As text, because that is what the parser's own limit is about.
    let parse = |segments| serde_json::from_str::<Spec>(&chain(segments).to_string()).unwrap();
    validate(&parse(MAX_DEPTH)).unwrap();
    let failure = validate(&parse(MAX_DEPTH + 1)).unwrap_err();
    assert_eq!(failure.message, "spec: more than 60 segments hang on one another");
}
