#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

#[test]
fn every_part_may_be_missing() {
    for (text, proto, ns, host, port) in [
        (":3306", None, None, None, Some(3306)),
        ("db", None, None, Some("db"), None),
        ("tcp://", Some(Proto::Tcp), None, None, None),
        ("udp://10.0.0.1:53", Some(Proto::Udp), None, Some("10.0.0.1"), Some(53)),
        ("[::1]:80", None, None, Some("::1"), Some(80)),
        ("blue@", None, Some(NsRef::Named("blue".into())), None, None),
        ("pid:17@:80", None, Some(NsRef::Pid(17)), None, Some(80)),
        ("tcp://docker:my.db-1@localhost:0", Some(Proto::Tcp), Some(NsRef::Docker("my.db-1".into())), Some("localhost"), Some(0)),
    ] {
        let url: Url = text.parse().unwrap();
        assert_eq!((url.proto, &url.ns, url.port, &url.path), (proto, &ns, port, &None), "{text}");
        assert_eq!(url.host.as_ref().map(ToString::to_string).as_deref(), host, "{text}");
        assert_eq!(url.to_string(), text);
    }
}

#[test]
fn unix_has_a_path_and_may_have_a_namespace() {
    let url: Url = "unix:///run/a@b:1".parse().unwrap();
    assert_eq!((url.path.as_deref(), url.ns.clone()), (Some("/run/a@b:1"), None));
    let url: Url = "unix://docker:db@/run/mysqld.sock".parse().unwrap();
    assert_eq!((url.path.as_deref(), url.ns.clone()), (Some("/run/mysqld.sock"), Some(NsRef::Docker("db".into()))));
    assert_eq!(url.to_string(), "unix://docker:db@/run/mysqld.sock");
}

#[test]
fn what_is_wrong_and_where() {
    for (text, fragment, span) in [
        ("", "at least one of", 0..0),
        ("http://x", "unknown protocol `http`", 0..4),
        ("tcp://x:y", "`y` is not a port", 8..9),
        ("a:+1", "`+1` is not a port", 2..4),
        ("a:65536", "0 to 65535", 2..7),
        ("::1", "in brackets: [::1]", 0..3),
        ("[::1", "not closed", 0..4),
        ("[::1]80", "only `:port`", 5..7),
        ("[fe80::1%eth0]", "zone", 0..14),
        ("1.2.3:1", "not an IPv4 address", 0..5),
        ("pid:0@", "not a process id", 4..5),
        ("dokcer:a@", "unknown kind of namespace", 0..6),
        ("unix://rel/x", "unix:///rel/x", 7..10),
        ("unix://@abs", "abstract", 7..11),
        ("tcp://a:1/x", "only unix:// has a path", 9..11),
    ] {
        let error = text.parse::<Url>().expect_err(text);
        assert!(error.message.contains(fragment), "{text}: {error}");
        assert_eq!(error.span, span, "{text}: {error}");
    }
}
