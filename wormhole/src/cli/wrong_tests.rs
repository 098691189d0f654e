//! Lines that are wrong: the message, and what the carets stand under.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

/// The line, parts of the message and of the advice, and the text above the carets (empty: the end of the line).
const WRONG: &[(&str, &str, &str, &str)] = &[
    ("tial docker-ns x", "`tial` is not a word of the language", r#"did you mean "tail"?"#, "tial"),
    ("url :80 tial docker-ns x", "`tial` is not a word of the language", r#"did you mean "tail"?"#, "tial"),
    ("url :80 TAIL docker-ns x", "`TAIL` is not a word of the language", r#"did you mean "tail"?"#, "TAIL"),
    (
        "url :80 docker_ns a tail docker-ns x",
        "`docker_ns` is not a word of the language",
        r#"did you mean "docker-ns"?"#,
        "docker_ns",
    ),
    ("url :80 tail dockerrun img", "`dockerrun` is not a word of the language", r#"did you mean "docker-run"?"#, "dockerrun"),
    ("uri :80 tail docker-ns x", "`uri` is not a word of the language", r#"did you mean "url"?"#, "uri"),
    ("url :80 triger docker-run img", "`triger` is not a word of the language", r#"did you mean "trigger"?"#, "triger"),
    ("url :80 tail docker-ns x chian url :81", "`chian` is not a word of the language", r#"did you mean "chain"?"#, "chian"),
    ("url :80 tail docker-ns x chlid url :81", "`chlid` is not a word of the language", r#"did you mean "child"?"#, "chlid"),
    (":80 tail docker-ns x", "`:80` is not a word of the language", r#"did you mean "url :80"?"#, ":80"),
    ("3306 tail docker-ns x", "`3306` is not a word of the language", r#"did you mean "url :3306"?"#, "3306"),
    (
        "/run/a.sock tail docker-ns x",
        "`/run/a.sock` is not a word of the language",
        r#"did you mean "url unix:///run/a.sock"?"#,
        "/run/a.sock",
    ),
    ("url :80 tail web:80", "`web:80` is not a word of the language", r#"did you mean "url web:80"?"#, "web:80"),
    (
        "url :80 tail banana",
        "`banana` is not a word of the language",
        "the words are url, id, docker-ns, docker-run, child, chain,",
        "banana",
    ),
    (
        "url :80 tail docker-ns x mysql",
        "`mysql` is not a word of the language",
        "the words are url, id, docker-ns, docker-run, child, chain,",
        "mysql",
    ),
    ("''", "an empty word", "an unset variable of the shell?", "''"),
    ("'url :80'", "`url :80` is not a word of the language", "quotes make one word of it: write url :80 without them", "url :80"),
    ("url", "`url` needs an URL such as :3306", "", ""),
    ("url tail", "`url` needs an URL such as :3306, but `tail` is a word of the language", "", "tail"),
    ("url ''", "an URL needs at least one of {proto://}{ns@}{host}{:port}", "", "''"),
    ("url 80 tail docker-ns x", "`80` is not a host; a port is written `:80`", "", "80"),
    ("url :99999 tail docker-ns x", "`99999` is not a port: 0 to 65535", "", "99999"),
    ("url :-1 tail docker-ns x", "`-1` is not a port: 0 to 65535", "", "-1"),
    ("url :80: tail docker-ns x", "`80:` is not a port: 0 to 65535", "", "80:"),
    ("url : tail docker-ns x", "the port is missing after the `:`", "", ":"),
    ("url http://:80 tail docker-ns x", "unknown protocol `http`: there are tcp, udp and unix", "", "http"),
    ("url tpc://:80 tail docker-ns x", "unknown protocol `tpc`: there are tcp, udp and unix", r#"did you mean "tcp"?"#, "tpc"),
    ("url ://x tail docker-ns x", "unknown protocol ``: there are tcp, udp and unix", "", "://x"),
    ("url tcp:/x tail docker-ns x", "only unix:// has a path; tcp and udp end after the port", "", "/x"),
    ("url ::1 tail docker-ns x", "an IPv6 address is written in brackets: [::1]", "", "::1"),
    ("url [::1 tail docker-ns x", "the bracket of the IPv6 address is not closed", "", "[::1"),
    ("url [::g]:80 tail docker-ns x", "`::g` is not an IPv6 address", "", "[::g]"),
    ("url [::1]80 tail docker-ns x", "only `:port` may follow the IPv6 address", "", "80"),
    ("url [fe80::1%eth0]:80 tail docker-ns x", "an IPv6 address with a zone (`%`) is not supported", "", "[fe80::1%eth0]"),
    ("url 1.2.3:80 tail docker-ns x", "`1.2.3` is not an IPv4 address", "", "1.2.3"),
    ("url 256.1.1.1:80 tail docker-ns x", "`256.1.1.1` is not an IPv4 address", "", "256.1.1.1"),
    ("url '*:80' tail docker-ns x", "`*` is not an address: write 0.0.0.0 or [::] for all of them", "", "*"),
    ("url 'ex ample:80' tail docker-ns x", "`ex ample` is neither an address nor a host name", "", "ex ample"),
    ("url @:80 tail docker-ns x", "nothing before the `@`: write a name under /run/netns, pid:N or", "", "@"),
    ("url pid:0@:80 tail docker-ns x", "`0` is not a process id", "", "0"),
    ("url pid:self@:80 tail docker-ns x", "`self` is not a process id", "", "self"),
    (
        "url dokcer:db@:80 tail docker-ns x",
        "unknown kind of namespace `dokcer`: there are NAME@, pid:N@ and",
        r#"did you mean "docker"?"#,
        "dokcer",
    ),
    ("url docker:@:80 tail docker-ns x", "`` is not the id or name of a container", "", "docker:@:80"),
    ("url docker:-x@:80 tail docker-ns x", "`-x` is not the id or name of a container", "", "-x"),
    ("url ..@:80 tail docker-ns x", "`..` is not the name of a namespace under /run/netns", "", ".."),
    ("url a/b@:80 tail docker-ns x", "only unix:// has a path; tcp and udp end after the port", "", "/b@:80"),
    ("url /run/a.sock tail docker-ns x", "`/run/a.sock` looks like the path of a unix socket: write", "", "/run/a.sock"),
    ("url unix:// tail docker-ns x", "unix:// needs an absolute path: unix:///path", "", "unix://"),
    ("url unix://run/a.sock tail docker-ns x", "unix:// needs an absolute path: unix:///run/a.sock", "", "run"),
    (
        "url unix://@abstract tail docker-ns x",
        "abstract unix sockets are not supported: write the path, unix:///path",
        "",
        "@abstract",
    ),
    ("url unix:///run/ tail docker-ns x", "the path names a directory: a unix socket needs a file name", "", "/run/"),
    ("url tcp://a:80/path tail docker-ns x", "only unix:// has a path; tcp and udp end after the port", "", "/path"),
    ("url unix:///a url :80 tail docker-ns x", "a unix socket has neither host nor port", "", ":80"),
    ("url :80 docker-ns a docker-ns b", "the head's namespace is already given", "is a `tail` missing before it?", "b"),
    ("url :80 url :81", "the head's port is already given", "is a `tail` missing before it?", ":81"),
    (
        "url :80 tail docker-ns a url blue@",
        "the tail's namespace is already given",
        "a further segment begins with `child` or `chain`",
        "blue@",
    ),
    ("url tcp://a url udp://b tail docker-ns x", "the head's host is already given", "is a `tail` missing before it?", "udp://b"),
    ("id", "`id` needs an ID", "", ""),
    ("id tail url :80", "`id` needs an ID, but `tail` is a word of the language", "", "tail"),
    ("id -x tail docker-ns x", "`-x` is not an id: 1 to 63 of A-Z a-z 0-9 . _ -, a letter or digit", "", "-x"),
    ("id 'a b' tail docker-ns x", "`a b` is not an id: 1 to 63 of A-Z a-z 0-9 . _ -, a letter or digit", "", "a b"),
    ("id a id b tail docker-ns x", "the segment already has an id", "", "b"),
    ("id a url :80 tail docker-ns x child id a url :81 tail docker-ns y", "the id `a` is already used in this line", "", "a"),
    ("docker-ns :80 tail docker-ns x", "`:80` is not the id or name of a container", r#"did you mean "url :80"?"#, ":80"),
    ("docker-ns '' tail docker-ns x", "an empty word is not the id or name of a container: an unset variable", "", "''"),
    (
        "url :80 tail docker-ns /run/x",
        "`/run/x` is not the id or name of a container",
        r#"did you mean "url unix:///run/x"?"#,
        "/run/x",
    ),
    ("url :80 tail docker-run", r#"`docker-run` needs ARGS, quoted as one word: docker-run "-e A=B IMAGE""#, "", ""),
    ("url :80 tail docker-run trigger", r#"`docker-run` needs ARGS, quoted as one word: docker-run "-e A=B"#, "", "trigger"),
    ("url :80 tail docker-run ''", "docker-run needs an image", r#"ARGS is one word: docker-run "-e A=B IMAGE""#, "''"),
    ("url :80 tail docker-run '-e A=1'", "docker-run needs an image", "", "-e A=1"),
    (
        "url :80 tail docker-run -e A=1 img",
        "docker-run: `--env` needs a value",
        r#"ARGS is one word: docker-run "-e A=B IMAGE""#,
        "-e",
    ),
    (
        "url :80 tail docker-run '-e A=1 --gpsu all img'",
        "docker-run: the option `--gpsu` is not supported",
        r#"did you mean "--cpus"?"#,
        "--gpsu",
    ),
    ("url :80 tail docker-run '-p 80:80 img'", "docker-run: `-p` is refused: a segment reaches the port inside the", "", "-p"),
    (
        "url :80 tail docker-run '--restart always img'",
        "docker-run: `--restart` is refused: the segment owns the container's",
        "",
        "--restart",
    ),
    (
        "url :80 tail docker-run '--memroy 1g img'",
        "docker-run: the option `--memroy` is not supported",
        r#"did you mean "--memory"?"#,
        "--memroy",
    ),
    (
        "url :80 tail docker-run '--memory lots img'",
        "docker-run: `--memory lots`: a size is a number with b, k, m or g",
        "",
        "--memory",
    ),
    (r#"url :80 tail docker-run '-e "A=1 img'"#, "ARGS of docker-run: a quote is not closed", "", r#"-e "A=1 img"#),
    (
        "url :80 tail docker-run '--network host img'",
        "docker-run: `--network host`: the container needs a namespace of its",
        "",
        "--network",
    ),
    (
        "url :80 tail tail docker-ns x",
        "`tail`: the tail has already begun",
        "a further segment begins with `child` or `chain`",
        "tail",
    ),
    (
        "url :80 tail docker-ns x tail docker-ns y",
        "`tail`: the tail has already begun",
        "a further segment begins with `child` or `chain`",
        "tail",
    ),
    (
        "url :80 trigger docker-run img trigger",
        "`trigger`: the tail has already begun",
        "a further segment begins with `child` or `chain`",
        "trigger",
    ),
    (
        "url :80 trigger tail docker-ns x",
        "`tail`: the tail has already begun",
        "a further segment begins with `child` or `chain`",
        "tail",
    ),
    ("url :80 remote", "`remote` needs a HOST", "", ""),
    ("url :80 remote tail docker-ns x", "`remote` needs a HOST, but `tail` is a word of the language", "", "tail"),
    (
        "url :80 remote tcp://srv tail docker-ns x",
        "`tcp://srv` is not a HOST: write a name or an address, with :PORT if",
        "",
        "tcp://srv",
    ),
    (
        "url :80 tunnel a@srv tail docker-ns x",
        "`a@srv` is not a HOST: write a name or an address, with :PORT if need",
        "",
        "a@srv",
    ),
    (
        "url :80 udptunnel srv:0 tail docker-ns x",
        "`srv:0` is not a HOST: write a name or an address, with :PORT if need",
        "",
        "srv:0",
    ),
    (
        "url :80 tail docker-ns x remote srv tail docker-ns y",
        "the tail has a namespace, but it leads to another machine",
        "write it after `remote`",
        "x",
    ),
    (
        "url :80",
        "the segment would connect to itself at tcp://127.0.0.1:80",
        "say where it leads to: `tail docker-ns NAME` or `tail url",
        "",
    ),
    (
        "url :80 tail",
        "the segment would connect to itself at tcp://127.0.0.1:80",
        "give the tail another namespace, host or port",
        "tail",
    ),
    (
        "url :80 tail url localhost:80",
        "the segment would connect to itself at tcp://127.0.0.1:80",
        "give the tail another namespace, host or port",
        "localhost:80",
    ),
    (
        "url 0.0.0.0:80 tail url 127.0.0.5",
        "the segment would connect to itself at tcp://0.0.0.0:80",
        "give the tail another namespace, host or port",
        "127.0.0.5",
    ),
    (
        "url docker:a@:80 tail docker-ns a",
        "the segment would connect to itself at tcp://docker:a@127.0.0.1:80",
        "give the tail another namespace, host or port",
        "a",
    ),
    (
        "url unix:///a tail url unix:///a",
        "the segment would connect to itself at unix:///a",
        "give the tail another namespace, host or port",
        "unix:///a",
    ),
    (
        "tail url :0",
        "the segment would connect to itself at tcp://127.0.0.1:0",
        "give the tail another namespace, host or port",
        ":0",
    ),
    (
        "url :80 chain",
        "the segment would connect to itself at tcp://127.0.0.1:80",
        "say where it leads to: `tail docker-ns NAME` or `tail url",
        "chain",
    ),
    (
        "url :80 chain url :81 chain url :82 tail url :80",
        "the segments would connect in a circle: this tail leads back to",
        "give the tail another namespace, host or port",
        ":80",
    ),
    ("url udp://:53 tail url tcp://a", "a udp head cannot lead to a tcp tail: datagrams are no stream", "", "tcp://a"),
    ("url :53 tail url udp://a:53", "a tcp head cannot lead to a udp tail: datagrams are no stream", "", "udp://a:53"),
    (
        "url unix:///a tail url tcp://",
        "the tail needs a port: the head has none that it could take over",
        "add `url :PORT` to the tail",
        "tcp://",
    ),
    (
        "url :80 tail docker-ns x child docker-ns url :80 tail docker-ns y",
        "another segment of this line already listens on tcp://127.0.0.1:80",
        "give one of the two heads another port",
        ":80",
    ),
    (
        "url :80 tail docker-ns x chain url :0 tail docker-ns y",
        "a chained head needs a port: the tail before it has to know where to",
        "add `url :PORT`",
        ":0",
    ),
    (
        "url :80 tail docker-run img chain url blue@:81 tail docker-ns y",
        "`chain` makes this the parent's tail, which already runs a container",
        "leave one of the two namespaces out, or use `child`",
        "blue@:81",
    ),
    (
        "remote srv tail docker-ns x",
        "the tail needs a port: the head has none that it could take over",
        "add `url :PORT` to the tail",
        "x",
    ),
];

fn words(line: &str) -> Vec<String> {
    shell_words::split(line).unwrap()
}

/// The column of the first caret and the text above all of them.
fn carets(diagram: &str) -> (usize, String) {
    let (line, carets) = diagram.split_once('\n').unwrap();
    let from = carets.find('^').unwrap();
    (from, line.chars().skip(from).take(carets.len() - from).collect())
}

#[test]
fn each_wrong_line_is_refused_at_the_right_place() {
    assert!(WRONG.len() >= 60);
    for (line, message, advice, marked) in WRONG {
        let words = words(line);
        let error = parse(&words).expect_err(line);
        let diagram = error.diagram("create", &words);
        let (column, under) = carets(&diagram);
        let shown = format!("{line}\n{error}\n{:?}\n{diagram}", error.advice());
        assert!(error.message.contains(message), "{shown}");
        // No advice is asserted as none: a hint that says nothing is noise.
        assert!(error.advice().map_or(advice.is_empty(), |text| !advice.is_empty() && text.contains(advice)), "{shown}");
        assert_eq!(under, *marked, "{shown}");
        // The same text may stand at several places of a line: the caret belongs to the word that the error names.
        let before = WordError::at(&words, error.word, "").diagram("create", &words);
        let (start, word) = carets(&before);
        assert!((start..=start + word.chars().count()).contains(&column), "{shown}");
        assert!(!error.message.contains('\n'), "{shown}");
    }
}

#[test]
fn too_many_segments() {
    let mut line = vec!["url".to_owned(), ":1".to_owned()];
    for port in 2..=MAX_SEGMENTS + 1 {
        line.extend(["chain".to_owned(), "url".to_owned(), format!(":{port}")]);
    }
    let error = parse(&line).unwrap_err();
    assert!(error.message.contains("more than 32 segments"), "{error}");
    assert_eq!(line[error.word], "chain");
    line.truncate(2 + 3 * (MAX_SEGMENTS - 1));
    line.extend(["tail", "docker-ns", "x"].map(str::to_owned));
    let spec = parse(&line).unwrap();
    // The depth survives the wire.
    serde_json::from_str::<Spec>(&serde_json::to_string(&spec).unwrap()).unwrap();
}
