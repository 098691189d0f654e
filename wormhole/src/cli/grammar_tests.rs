//! Lines that are right, with the spec that they mean; and what must hold for any line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::cli::{fuzz, print};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

fn words(line: &str) -> Vec<String> {
    shell_words::split(line).unwrap()
}

fn spec(line: &str) -> Spec {
    let words = words(line);
    fuzz::check_words(&words).unwrap();
    parse(&words).unwrap_or_else(|error| panic!("{}\n{error}", error.diagram("", &words)))
}

fn tcp(place: Place, port: u16) -> End {
    End { place, port, ..End::local() }
}

fn docker(name: &str) -> Place {
    Place::Docker { name: name.into() }
}

fn run(args: &str) -> Place {
    Place::Run { args: args.into() }
}

fn one(head: End, tail: End) -> Spec {
    Spec { id: None, head, tail, trigger: false, link: None, options: Options::default() }
}

fn with(mut spec: Spec, via: Via, child: Spec) -> Spec {
    spec.link = Some(Box::new(Link { via, spec: child }));
    spec
}

fn triggered(spec: Spec) -> Spec {
    Spec { trigger: true, ..spec }
}

#[test]
fn example_1_host_port_to_container() {
    let expected = one(tcp(Place::Host, 3306), tcp(docker("mysql"), 3306));
    assert_eq!(spec("url :3306 tail docker-ns mysql"), expected);
    // As it is also published: `docker-ns` followed by a word is the host's own namespace.
    assert_eq!(spec("url :3306 docker-ns tail docker-ns mysql"), expected);
}

#[test]
fn example_2_container_to_container() {
    let expected = one(tcp(docker("app"), 3306), tcp(docker("mysql"), 3306));
    assert_eq!(spec("url :3306 docker-ns app tail docker-ns mysql"), expected);
    assert_eq!(spec("url docker:app@:3306 tail url docker:mysql@"), expected);
}

#[test]
fn example_3_trigger_and_child() {
    let child = triggered(one(tcp(Place::Parent, 3306), tcp(run("wormhole/mysql"), 3306)));
    let root = triggered(one(tcp(Place::Host, 80), tcp(run("wormhole/wordpress"), 80)));
    let line = "url :80 trigger docker-run wormhole/wordpress child url :3306 trigger docker-run wormhole/mysql";
    assert_eq!(spec(line), with(root, Via::Child, child));
}

#[test]
fn examples_4_to_6_other_machine() {
    let host = || "myserver".to_owned();
    let hop = || one(tcp(Place::Host, 3306), tcp(Place::Host, 3306));
    let there = || one(tcp(Place::Host, 3306), tcp(docker("mysql"), 3306));
    assert_eq!(spec("url :3306 remote myserver tail docker-ns mysql"), with(hop(), Via::Remote { host: host() }, there()));
    assert_eq!(
        spec("url :3306 tunnel myserver trigger docker-ns mysql"),
        with(hop(), Via::Tunnel { host: host() }, triggered(there()))
    );
    let there = triggered(one(tcp(Place::Host, 3306), tcp(run("wormhole/mysql"), 3306)));
    assert_eq!(
        spec("url :3306 trigger tunnel myserver trigger docker-run wormhole/mysql"),
        with(triggered(hop()), Via::Tunnel { host: host() }, there)
    );
}

#[test]
fn example_7_child_over_a_tunnel() {
    let line = "url :80 trigger docker-run wormhole/wordpress child url :3306 tunnel myserver trigger docker-run wormhole/mysql";
    let last = triggered(one(tcp(Place::Host, 3306), tcp(run("wormhole/mysql"), 3306)));
    let middle = one(tcp(Place::Parent, 3306), tcp(Place::Host, 3306));
    let root = triggered(one(tcp(Place::Host, 80), tcp(run("wormhole/wordpress"), 80)));
    let middle = with(middle, Via::Tunnel { host: "myserver".into() }, last);
    assert_eq!(spec(line), with(root, Via::Child, middle));
}

#[test]
fn chain_makes_the_tail_the_childs_head() {
    let line = "id a url :80 tail docker-ns x chain id b url :81 tail docker-ns y url :82";
    let b = Spec { id: Some("b".into()), ..one(tcp(docker("x"), 81), tcp(docker("y"), 82)) };
    let a = Spec { id: Some("a".into()), ..one(tcp(Place::Host, 80), tcp(docker("x"), 81)) };
    assert_eq!(spec(line), with(a, Via::Chain, b));
    // The container that the tail runs and the one that the child's head runs are the same one.
    let child = one(tcp(Place::Parent, 81), tcp(docker("y"), 81));
    let expected = with(one(tcp(Place::Host, 80), tcp(run("img"), 81)), Via::Chain, child);
    assert_eq!(spec("url :80 tail docker-run img chain url :81 tail docker-ns y"), expected);
    assert_eq!(spec("url :80 chain docker-run img url :81 tail docker-ns y"), expected);
}

#[test]
fn a_chain_of_five() {
    let line = "url :1 chain url :2 chain url :3 docker-ns c chain url :4 chain url :5 docker-ns tail url :6";
    let mut spec = &spec(line);
    for port in 1..=5 {
        assert_eq!((spec.head.port, spec.tail.port), (port, port + 1));
        let inside = if port == 3 { docker("c") } else { Place::Host };
        assert_eq!(spec.head.place, inside);
        match &spec.link {
            Some(link) => spec = &link.spec,
            None => assert_eq!(port, 5),
        }
    }
}

#[test]
fn defaults_follow_the_head() {
    assert_eq!(spec("tail docker-ns x"), one(tcp(Place::Host, 0), tcp(docker("x"), 0)));
    let udp = spec("url udp://:53 tail docker-ns dns");
    assert_eq!((udp.head.proto, udp.tail.proto, udp.tail.port), (Proto::Udp, Proto::Udp, 53));
    let unix = spec("url unix:///run/a.sock tail docker-ns x");
    assert_eq!((unix.tail.proto, unix.tail.path.as_str()), (Proto::Unix, "/run/a.sock"));
    let mixed = spec("url unix:///run/a.sock tail url :80");
    assert_eq!(mixed.tail, tcp(Place::Host, 80));
    let mixed = spec("url :80 tail url unix://docker:db@/run/b.sock");
    assert_eq!((mixed.tail.place, mixed.tail.path.as_str()), (docker("db"), "/run/b.sock"));
    // The head's host is not the tail's: a head on all addresses still leads to loopback.
    assert_eq!(spec("url 0.0.0.0:80 tail docker-ns x").tail.host, Host::localhost());
    let six = spec("url [::1]:80 tail url blue@[2001:db8::1]");
    assert_eq!((six.tail.place, six.tail.host.to_string()), (Place::Named { name: "blue".into() }, "2001:db8::1".into()));
    assert_eq!(spec("url pid:7@:80 tail url :80").head.place, Place::Pid { pid: 7 });
    // Only the port leads away from itself, or only the host.
    assert_eq!(spec("url :80 tail url :81").tail.port, 81);
    assert_eq!(spec("url 127.0.0.2:80 tail url 127.0.0.3").tail.port, 80);
    // The head of a remote segment is a hop and no socket: the same port is the server there.
    assert_eq!(spec("url :80 remote srv").link.unwrap().spec.tail, tcp(Place::Host, 80));
    assert_eq!(spec("remote srv:9998 tail docker-ns x url :80").head.port, 0);
    // A child may leave the namespace of its parent again.
    assert_eq!(
        spec("url :1 tail docker-ns a child docker-ns url :2 tail docker-ns b").link.unwrap().spec.head.place,
        Place::Host
    );
}

#[test]
fn options_go_to_every_segment() {
    let mut spec = spec("url :1 chain url :2 chain url :3 tail url :4");
    let options = Options { idle_timeout_ms: Some(5), ..Options::default() };
    set_options(&mut spec, &options);
    let child = spec.link.unwrap().spec;
    assert_eq!((&spec.options, &child.options, &child.link.unwrap().spec.options), (&options, &options, &options));
}

#[test]
fn print_writes_every_default_out() {
    for (line, printed) in [
        ("url :3306 tail docker-ns mysql", "url tcp://127.0.0.1:3306 tail url tcp://docker:mysql@127.0.0.1:3306"),
        (
            "url :80 trigger docker-run 'a b' chain url :81 tail url :82",
            "url tcp://127.0.0.1:80 trigger docker-run 'a b' chain url tcp://127.0.0.1:81 tail url tcp://127.0.0.1:82",
        ),
        (
            "id r url :1 tail docker-run 'a b' child docker-ns url :2 tail docker-ns b",
            "id r url tcp://127.0.0.1:1 tail url tcp://127.0.0.1:1 docker-run 'a b' child url tcp://127.0.0.1:2 docker-ns \
             tail url tcp://docker:b@127.0.0.1:2",
        ),
        (
            "url :1 trigger tunnel srv:1 tail docker-ns b",
            "url tcp://127.0.0.1:1 trigger tunnel srv:1 url tcp://127.0.0.1:1 tail url tcp://docker:b@127.0.0.1:1",
        ),
    ] {
        assert_eq!(crate::cli::join(&print(&spec(line))), printed);
    }
}

#[test]
fn seeds_of_the_fuzzer() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/create_words");
    let mut count = 0;
    for seed in std::fs::read_dir(seeds).unwrap() {
        let path = seed.unwrap().path();
        fuzz::check(&std::fs::read(&path).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        count += 1;
    }
    assert!(count >= 10);
}

// === properties ===

fn token() -> impl Strategy<Value = String> {
    let word = prop::sample::select(Word::ALL.map(Word::as_str).to_vec()).prop_map(str::to_owned);
    let argument = prop::sample::select(vec![
        ":80",
        ":0",
        "db",
        "x",
        "blue@",
        "docker:x@:81",
        "pid:7@",
        "udp://:53",
        "tcp://",
        "unix:///run/a",
        "unix://x@/b",
        "[::1]:80",
        "0.0.0.0:80",
        "localhost",
        "srv",
        "srv:9999",
        "[::1]",
        "-e A=1 img",
        "img",
        "-e 'A=1 2' img --x",
        "--bad img",
        "",
        "'",
        "a b",
    ]);
    prop_oneof![4 => word, 4 => argument.prop_map(str::to_owned), 1 => ".*", 1 => "[a-z:@/\\[\\].0-9-]{0,12}"]
}

fn place() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![
        2 => Just(vec![]),
        1 => Just(vec!["docker-ns".to_owned()]),
        2 => "[a-z][a-z0-9_.-]{0,8}x".prop_map(|name| vec!["docker-ns".to_owned(), name]),
        1 => "[a-z]{1,8}x".prop_map(|image| vec!["docker-run".to_owned(), format!("-e 'A=1 2' {image}")]),
    ]
}

fn address() -> impl Strategy<Value = Vec<String>> {
    let host = prop_oneof![Just(String::new()), Just("0.0.0.0".into()), Just("[::1]".into()), "[a-z]{1,6}x"];
    let url = (host, 1..u16::MAX).prop_map(|(host, port)| format!("{host}:{port}"));
    prop_oneof![4 => url, 1 => "/[a-z]{1,9}".prop_map(|path| format!("unix://{path}")), 1 => Just("tcp://".to_owned())]
        .prop_map(|url| vec!["url".to_owned(), url])
}

/// The words of a line that is well formed; only segments that meet each other may still be refused.
fn line() -> impl Strategy<Value = Vec<String>> {
    let link = prop::sample::select(vec!["child", "chain", "remote srv", "tunnel [::1]:9", "udptunnel 10.0.0.1"]);
    let tail = prop::sample::select(vec!["tail", "trigger"]);
    let segment = (link, place(), address(), tail, place(), address(), any::<bool>());
    prop::collection::vec(segment, 1..6).prop_map(|segments| {
        let mut line = Vec::new();
        for (index, (link, head_place, head, tail, tail_place, tail_url, bare)) in segments.into_iter().enumerate() {
            if index > 0 {
                line.extend(link.split(' ').map(str::to_owned));
            }
            line.extend(head_place);
            line.extend(head);
            line.push(tail.to_owned());
            line.extend(tail_place.into_iter().filter(|_| !bare));
            line.extend(tail_url);
        }
        line
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tokens_parse_or_are_refused(words in prop::collection::vec(token(), 0..14)) {
        fuzz::check_words(&words).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn any_bytes_parse_or_are_refused(data in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz::check(&data).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn any_line_means_what_it_prints(words in line()) {
        fuzz::check_words(&words).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_spec_survives_the_wire(words in line()) {
        if let Ok(spec) = parse(&words) {
            let json = serde_json::to_string(&spec).unwrap();
            prop_assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec);
        }
    }
}

/// The generator above is only worth something if most of its lines are valid.
#[test]
fn most_generated_lines_are_valid() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let valid = (0..500).filter(|_| parse(&line().new_tree(&mut runner).unwrap().current()).is_ok()).count();
    assert!(valid > 150, "{valid} of 500");
}
