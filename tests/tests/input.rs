//! Wrong input of every kind, through the real programs: each is refused with its exit code and a message that says what
//! is wrong, and nothing has changed after it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use wormhole_tests::daemon::{self, Setup};
use wormhole_tests::netns::Netns;
use wormhole_tests::room::Room;
use wormhole_tests::run::{self, Output};
use wormhole_tests::{boxed, require};

const NO_DOCKER: &str = "unix:///nonexistent/docker.sock";

// === create ===

/// A line, its exit code, and what has to be in the message.
const LINES: &[(&str, i32, &[&str])] = &[
    // Words.
    ("", 2, &["WORDS"]),
    ("url :7000 tial url :1", 2, &["`tial` is not a word of the language", "^^^^", "did you mean \"tail\"?"]),
    ("ulr :7000 tail url :1", 2, &["`ulr` is not a word", "^^^", "\"url\""]),
    ("banana", 2, &["`banana` is not a word", "the words are url, id"]),
    (":7000 tail url :1", 2, &["did you mean \"url :7000\"?"]),
    ("url", 2, &["`url` needs an URL", "^"]),
    ("url tail url :1", 2, &["`tail` is a word of the language"]),
    ("id", 2, &["`id` needs an ID"]),
    ("url :7000 tail docker-run", 2, &["`docker-run` needs ARGS"]),
    ("url :7000 remote", 2, &["`remote` needs a HOST"]),
    ("url :7000 tunnel tcp://h", 2, &["is not a HOST"]),
    ("url :7000 udptunnel", 2, &["`udptunnel` needs a HOST"]),
    ("url :7000 tail url :1 tail url :2", 2, &["the tail has already begun", "`child` or `chain`"]),
    // URLs.
    ("url :70000 tail url :1", 2, &["70000", "^"]),
    ("url :-1 tail url :1", 2, &["-1"]),
    ("url :http tail url :1", 2, &["http"]),
    ("url tpc://:7000 tail url :1", 2, &["tpc", "did you mean \"tcp\"?"]),
    ("url sctp://:7000 tail url :1", 2, &["sctp"]),
    ("url ::1:7000 tail url :1", 2, &["brackets"]),
    ("url [::1 tail url :1", 2, &["["]),
    ("url [::zz]:7000 tail url :1", 2, &["::zz"]),
    ("url 1.2.3.4.5:7000 tail url :1", 2, &["1.2.3.4.5"]),
    ("url pid:x@:7000 tail url :1", 2, &["pid"]),
    ("url pid:0@:7000 tail url :1", 2, &["0"]),
    ("url ../x@:7000 tail url :1", 2, &["../x"]),
    ("url docker:@:7000 tail url :1", 2, &["docker"]),
    ("url unix://run/s tail url :1", 2, &["unix:///"]),
    ("url unix:///run/s:80/ tail url :1", 2, &["/run/s:80/"]),
    ("url :7000 tail docker-ns -x", 2, &["-x"]),
    // Combinations.
    ("url :7000 url :7001 tail url :1", 2, &["the head's port is already given", "is a `tail` missing before it?"]),
    ("docker-ns a docker-ns b tail url :1", 2, &["namespace is already given"]),
    ("id a id b url :7000 tail url :1", 2, &["already has an id"]),
    ("id a url :7000 child id a url :7001 tail url :1", 2, &["already used in this line"]),
    ("id -a url :7000 tail url :1", 2, &["-a"]),
    ("id a/b url :7000 tail url :1", 2, &["`a/b` is not an id"]),
    ("url udp://:7000 tail url tcp://:1", 2, &["udp head cannot lead to a tcp tail"]),
    ("url unix:///run/w/x tail url udp://:1", 2, &["unix head cannot lead to a udp tail"]),
    ("url unix:///run/w/x tail url tcp://", 2, &["the tail needs a port"]),
    ("url :7000 chain tail url :1", 2, &[""]),
    ("url :7000 tail url :7000", 2, &["would connect to itself"]),
    ("url :7000", 2, &["would connect to itself", "say where it leads to"]),
    ("url :7000 chain url :7001 tail url :7000", 2, &["circle"]),
    ("url :7000 chain url :7001 chain url :7000 tail url :1", 2, &["circle"]),
    ("url :7000 tail url :1 child url :7000 tail url :2", 2, &["another segment of this line already listens"]),
    // What only the daemon can know.
    ("url :7100 tail url :2", 5, &["is already the head of segment mine", "wormhole delete mine"]),
    ("id mine url :7000 tail url :1", 5, &["the id mine is taken"]),
    ("url nowhere@:7000 tail url :1", 4, &["nowhere", "hint:"]),
    ("url pid:2000000000@:7000 tail url :1", 4, &["2000000000", "process id"]),
    ("url 192.0.2.9:7000 tail url :1", 5, &["that namespace has no such address"]),
    ("url :7000 tail url no-such-host.invalid:1", 4, &["cannot resolve host no-such-host.invalid"]),
    ("url unix:///nonexistent/dir/s tail url :1", 1, &["/nonexistent/dir", "the directory must exist"]),
    ("url :7000 tail docker-ns x", 1, &["cannot be reached", "hint:"]),
    ("url :7000 trigger url :1", 5, &["`trigger` is not in this build"]),
    ("url :7000 tail docker-run img", 5, &["`docker-run` is not in this build"]),
];

#[test]
fn wrong_lines_of_create() {
    require!(Box);
    assert!(LINES.len() >= 40);
    let room = Room::alone();
    room.create("id mine url :7100 tail url :1");
    let (before, listed) = (room.settled(&[]), room.list());
    for (words, code, fragments) in LINES {
        room.refused(words, *code, fragments);
        assert_eq!(room.list(), listed, "{words:?} changed something");
    }
    before.wait_equal(|| room.state(&[]));
}

#[test]
fn wrong_words_that_hold_blanks_or_worse() {
    require!(Box);
    let room = Room::alone();
    for (words, code, fragment) in [
        (&["url", ""][..], 2, "an URL needs at least one of"),
        (&["id", "a b", "url", ":7000", "tail", "url", ":1"], 2, "`a b` is not an id"),
        (&["tail", "docker-run", "--privilegd img"], 2, "--privilegd"),
        (&["tail", "docker-run", "-e A=1"], 2, "image"),
        (&["tail", "docker-run", "'unclosed img"], 2, "quote"),
        (&["tail", "docker-run", "--gpus all img"], 2, "--gpus"),
        (&["url", "tcp://a\nb:80", "tail", "url", ":1"], 2, "error:"),
        (&["url", "\u{1b}[31m:80", "tail", "url", ":1"], 2, "error:"),
        (&["url", ":80 ", "tail", "url", ":1"], 2, "80"),
        (&["--idle-timeout", "soon", "url", ":7000", "tail", "url", ":1"], 2, "soon"),
        (&["--udp-timeout", "0s", "url", ":7000", "tail", "url", ":1"], 2, "at least 1ms"),
        (&["--connect-timeout", "2years", "url", ":7000", "tail", "url", ":1"], 2, "out of range"),
        (&["--fastpath", "maybe", "url", ":7000", "tail", "url", ":1"], 2, "auto, on and off"),
        (&["--dryrun", "url", ":7000", "tail", "url", ":1"], 2, "--dry-run"),
    ] {
        let done = room.daemon.cli(&[&["create"], words].concat());
        assert_eq!(done.code(), code, "{words:?}: {}{}", done.stdout, done.stderr);
        assert!(done.stderr.contains(fragment), "{words:?}: {fragment:?} is missing in\n{}", done.stderr);
    }
    let long = "url :7000 ".to_owned() + &"chain url :7001 ".repeat(40) + "tail url :1";
    room.refused(&long, 2, &["more than 32 segments in one line"]);
    assert_eq!(room.list().len(), 0);
}

#[test]
fn what_moves_the_cursor_is_not_printed_as_it_is() {
    require!(Box);
    for word in ["\u{1b}[31m:80", "docker:\u{1b}c@:80", "\u{7}"] {
        for words in [&["create", "url", word][..], &["create", word], &["create", "id", word], &["help", word]] {
            let done = daemon::cli(words);
            assert_eq!(done.code(), 2, "{words:?}: {}", done.stderr);
            assert!(!done.stderr.contains(['\u{1b}', '\u{7}']), "{words:?}: {:?}", done.stderr);
        }
    }
}

#[test]
fn other_commands() {
    require!(Box);
    let room = Room::alone();
    room.create("id a1 url :7000 tail url :1");
    room.create("id a2 url :7001 tail url :1");
    for (args, code, fragment) in [
        (&["delete"][..], 2, "ID"),
        (&["delete", "nosuch"], 4, "there is no segment nosuch"),
        (&["delete", "a"], 2, "a is the beginning of several ids: a1, a2"),
        (&["delete", "../status"], 2, "is not an id"),
        (&["delete", "--all", "a1"], 2, "cannot be used"),
        (&["inspect", "nosuch"], 4, "there is no segment nosuch"),
        (&["inspect"], 2, "ID"),
        (&["inspect", ""], 2, "is not an id"),
        (&["lst"], 2, "list"),
        (&[], 2, "Usage"),
        (&["-o", "yaml", "list"], 2, "json"),
        (&["--color", "green", "list"], 2, "never"),
        (&["help", "creat"], 2, "create"),
        (&["ping", "tcp://h:99999"], 2, "99999"),
        (&["ping", "192.0.2.1"], 5, "wormhole keygen"),
        (&["list", "extra"], 2, "extra"),
    ] {
        let done = room.daemon.cli(args);
        assert_eq!(done.code(), code, "{args:?}: {}{}", done.stdout, done.stderr);
        assert!(done.stderr.contains(fragment), "{args:?}: {fragment:?} is missing in\n{}", done.stderr);
        assert_eq!(room.list().len(), 2, "{args:?}");
    }
    for (host, code, fragment) in [
        ("unix:///nonexistent/s", 3, "hint:"),
        ("ftp://h", 2, "ftp"),
        ("unix://relative", 2, "three slashes"),
        ("tcp://127.0.0.1:99999", 2, "99999"),
        ("tcp://127.0.0.1:9", 2, "wormhole keygen"),
        ("", 2, ""),
    ] {
        let done = daemon::cli(&["-H", host, "-K", "/nonexistent/key", "list"]);
        assert_eq!(done.code(), code, "{host}: {}", done.stderr);
        assert!(done.stderr.contains(fragment), "{host}: {fragment:?} is missing in\n{}", done.stderr);
    }
}

// === configuration files ===

#[track_caller]
fn refused(setup: Setup) -> Output {
    let done = setup.docker(NO_DOCKER).refused().unwrap_or_else(|e| panic!("it was not refused: {e:#}"));
    assert_eq!(done.stdout, "");
    done
}

#[test]
fn wrong_configuration_files() {
    require!(Root);
    for (text, fragments) in [
        ("udp-port = \"1-2\"", &["config.toml:1: unknown setting `udp-port`", "did you mean `udp-ports`?"][..]),
        ("\n\nmax_connections = 5", &["config.toml:3: unknown setting", "did you mean `max-connections`?"]),
        ("zzzz = 1", &["unknown setting `zzzz`"]),
        ("[relay]\nx = 1", &["unknown setting `relay`"]),
        ("workers = \"4\"", &["config.toml:1: workers is a string, a number without quotes is expected"]),
        ("workers = 0", &["is not a number from 1 to 1024"]),
        ("drain = 30", &["did you mean 30s?"]),
        ("drain = \"soon\"", &["is not a duration"]),
        ("fastpath = \"yes\"", &["is none of auto, on, off"]),
        ("log-format = \"xml\"", &["is neither plain nor json"]),
        ("keyfile = 7", &["a string in quotes is expected"]),
        ("keepalive = \"1us\"", &["is shorter than a millisecond"]),
        ("max-udp-sessions = true", &["a number without quotes is expected"]),
        ("udp-ports = \"9-1\"", &["did you mean 1-9?"]),
        ("overlay-cidr = \"127.0.0.0/8\"", &["is not a network"]),
        ("workers = ", &["config.toml:1:"]),
        ("workers = 1\nworkers = 2", &["config.toml:2:"]),
        ("a b c", &["config.toml:1:"]),
    ] {
        let setup = Setup::new().unwrap();
        std::fs::write(setup.dir().join("config.toml"), text).unwrap();
        let socket = setup.dir().join("s");
        println!("{text}");
        let done = refused(setup);
        assert_eq!(done.code(), 2, "{text}: {}", done.stderr);
        for fragment in fragments {
            assert!(done.stderr.contains(fragment), "{text}: {fragment:?} is missing in\n{}", done.stderr);
        }
        assert!(!socket.exists(), "{text}");
    }
    for (bytes, fragment) in [(&[b'a', 0xff][..], "UTF-8"), (&[0][..], ":1:")] {
        let setup = Setup::new().unwrap();
        std::fs::write(setup.dir().join("config.toml"), bytes).unwrap();
        let done = refused(setup);
        assert!(done.code() == 2 && done.stderr.contains(fragment), "{}", done.stderr);
    }
    let setup = Setup::new().unwrap();
    std::fs::remove_file(setup.dir().join("config.toml")).unwrap();
    let done = refused(setup);
    assert!(done.code() == 2 && done.stderr.contains("No such file"), "{}", done.stderr);
}

#[test]
fn wrong_flags_and_places_of_the_daemon() {
    require!(Root);
    for (args, code, fragment) in [
        (&["--drain", "soon"][..], 2, "is not a duration"),
        (&["--worker", "1"], 2, "--workers"),
        (&["--max-connections", "0"], 2, "is not a number from 1"),
        (&["-H", "ftp://x"], 2, "ftp"),
        (&["-I", "nonsense"], 2, "is not an IP address"),
        (&["extra"], 2, "extra"),
        (&["-H", "tcp://127.0.0.1:0"], 1, "wormhole keygen"),
        (&["-H", "unix:///dev/null/s"], 1, "/dev/null/s"),
    ] {
        println!("{args:?}");
        let done = refused(Setup::new().unwrap().args(args));
        assert_eq!(done.code(), code, "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(fragment), "{args:?}: {fragment:?} is missing in\n{}", done.stderr);
    }
    // The state directory is a file; the socket's place is taken by a file, which stays.
    let setup = Setup::new().unwrap();
    std::fs::write(setup.dir().join("state"), "not a directory").unwrap();
    let done = refused(setup);
    assert!(done.code() == 1 && done.stderr.contains("state"), "{}", done.stderr);
    let setup = Setup::new().unwrap();
    let socket = setup.dir().join("s");
    std::fs::write(&socket, "a file of somebody").unwrap();
    let done = refused(setup);
    assert!(done.code() == 1 && done.stderr.contains("not a socket"), "{}", done.stderr);
    assert_eq!(std::fs::read_to_string(socket).unwrap(), "a file of somebody");
}

// === key files ===

#[test]
fn wrong_key_files() {
    require!(Root);
    let dir = boxed::fresh_dir().unwrap();
    let good = "0123456789abcdef0123456789abcdef\n";
    let key = |name: &str, text: &str, mode: u32| -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let link = dir.join("link");
    symlink(key("target", good, 0o600), &link).unwrap();
    let owned = key("owned", good, 0o600);
    std::os::unix::fs::chown(&owned, Some(1234), None).unwrap();
    let pipe = dir.join("pipe");
    run::text(&mut run::command("mkfifo", [&pipe])).unwrap();
    let cases: Vec<(PathBuf, &[&str])> = vec![
        (dir.join("absent"), &["there is no key file", "wormhole keygen"]),
        (key("group", good, 0o640), &["has mode 0640", "chmod 600"]),
        (key("world", good, 0o604), &["has mode 0604", "chmod 600"]),
        (key("executable", good, 0o777), &["has mode 0777", "chmod 600"]),
        (link, &["is a symbolic link", "cp --remove-destination"]),
        (owned, &["belongs to uid 1234", "chown 0"]),
        (key("short", "0123456789abcdef0123456789abcde\n", 0o600), &["holds 31 characters, at least 32"]),
        (key("empty", "", 0o600), &["holds 0 characters"]),
        (key("newlines", &"\n".repeat(64), 0o600), &["holds 0 characters"]),
        (key("long", &"x".repeat(70_000), 0o600), &["key file"]),
        (dir.clone(), &["is a directory, not a regular file"]),
        (pipe, &["is a pipe, not a regular file"]),
        (PathBuf::from("/dev/null"), &["is a device, not a regular file"]),
    ];
    for (path, fragments) in &cases {
        let text = path.to_str().unwrap();
        let server = refused(Setup::new().unwrap().args(&["-K", text]));
        let client = daemon::cli(&["-H", "tcp://127.0.0.1:9", "-K", text, "list"]);
        assert_eq!((server.code(), client.code()), (1, 2), "{text}: {}{}", server.stderr, client.stderr);
        for fragment in *fragments {
            for said in [&server.stderr, &client.stderr] {
                assert!(said.contains(fragment), "{text}: {fragment:?} is missing in\n{said}");
            }
        }
        for said in [server.stderr, client.stderr] {
            assert!(!said.contains("0123456789abcdef"), "the key is in the message: {said}");
        }
    }
    // keygen never overwrites, not even through a link.
    for name in ["group", "link", "absent/deeper/still"] {
        let done = daemon::cli(&["keygen", dir.join(name).to_str().unwrap()]);
        assert_eq!(done.code(), 1, "{name}: {}", done.stderr);
    }
    assert_eq!(std::fs::read_to_string(dir.join("target")).unwrap(), good);
}

#[test]
fn a_key_that_was_made_is_good() {
    require!(Box);
    let (netns, path) = (Netns::create("k").unwrap(), boxed::fresh_dir().unwrap().join("new/key.secret"));
    daemon::cli(&["keygen", path.to_str().unwrap()]).ok();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let setup = Setup::new().unwrap().docker(NO_DOCKER).args(&["-K", path.to_str().unwrap()]);
    let daemon = setup.netns(&netns).start().unwrap();
    let secret = std::fs::read_to_string(&path).unwrap();
    assert!(!daemon.log().contains(secret.trim()));
    daemon.stop();
}
