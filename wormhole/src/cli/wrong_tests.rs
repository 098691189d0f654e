//! Lines that are wrong: the message, and what the carets stand under.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

/// The line, a part of the message or of its advice, and the text above the carets (empty: the end of the line).
const WRONG: &[(&str, &str, &str)] = &[
    (r#"tial docker-ns x"#, "", ""),
    (r#"url :80 tial docker-ns x"#, "", ""),
    (r#"url :80 TAIL docker-ns x"#, "", ""),
    (r#"url :80 docker_ns a tail docker-ns x"#, "", ""),
    (r#"url :80 tail dockerrun img"#, "", ""),
    (r#"uri :80 tail docker-ns x"#, "", ""),
    (r#"url :80 triger docker-run img"#, "", ""),
    (r#"url :80 tail docker-ns x chian url :81"#, "", ""),
    (r#"url :80 tail docker-ns x chlid url :81"#, "", ""),
    (r#":80 tail docker-ns x"#, "", ""),
    (r#"3306 tail docker-ns x"#, "", ""),
    (r#"/run/a.sock tail docker-ns x"#, "", ""),
    (r#"url :80 tail web:80"#, "", ""),
    (r#"url :80 tail banana"#, "", ""),
    (r#"url :80 tail docker-ns x mysql"#, "", ""),
    (r#"''"#, "", ""),
    (r#"'url :80'"#, "", ""),
    (r#"url"#, "", ""),
    (r#"url tail"#, "", ""),
    (r#"url ''"#, "", ""),
    (r#"url 80 tail docker-ns x"#, "", ""),
    (r#"url :99999 tail docker-ns x"#, "", ""),
    (r#"url :-1 tail docker-ns x"#, "", ""),
    (r#"url :80: tail docker-ns x"#, "", ""),
    (r#"url : tail docker-ns x"#, "", ""),
    (r#"url http://:80 tail docker-ns x"#, "", ""),
    (r#"url tpc://:80 tail docker-ns x"#, "", ""),
    (r#"url ://x tail docker-ns x"#, "", ""),
    (r#"url tcp:/x tail docker-ns x"#, "", ""),
    (r#"url ::1 tail docker-ns x"#, "", ""),
    (r#"url [::1 tail docker-ns x"#, "", ""),
    (r#"url [::g]:80 tail docker-ns x"#, "", ""),
    (r#"url [::1]80 tail docker-ns x"#, "", ""),
    (r#"url [fe80::1%eth0]:80 tail docker-ns x"#, "", ""),
    (r#"url 1.2.3:80 tail docker-ns x"#, "", ""),
    (r#"url 256.1.1.1:80 tail docker-ns x"#, "", ""),
    (r#"url '*:80' tail docker-ns x"#, "", ""),
    (r#"url 'ex ample:80' tail docker-ns x"#, "", ""),
    (r#"url @:80 tail docker-ns x"#, "", ""),
    (r#"url pid:0@:80 tail docker-ns x"#, "", ""),
    (r#"url pid:self@:80 tail docker-ns x"#, "", ""),
    (r#"url dokcer:db@:80 tail docker-ns x"#, "", ""),
    (r#"url docker:@:80 tail docker-ns x"#, "", ""),
    (r#"url docker:-x@:80 tail docker-ns x"#, "", ""),
    (r#"url ..@:80 tail docker-ns x"#, "", ""),
    (r#"url a/b@:80 tail docker-ns x"#, "", ""),
    (r#"url /run/a.sock tail docker-ns x"#, "", ""),
    (r#"url unix:// tail docker-ns x"#, "", ""),
    (r#"url unix://run/a.sock tail docker-ns x"#, "", ""),
    (r#"url unix://@abstract tail docker-ns x"#, "", ""),
    (r#"url unix:///run/ tail docker-ns x"#, "", ""),
    (r#"url tcp://a:80/path tail docker-ns x"#, "", ""),
    (r#"url unix:///a url :80 tail docker-ns x"#, "", ""),
    (r#"url :80 docker-ns a docker-ns b"#, "", ""),
    (r#"url :80 url :81"#, "", ""),
    (r#"url :80 tail docker-ns a url blue@"#, "", ""),
    (r#"url tcp://a url udp://b tail docker-ns x"#, "", ""),
    (r#"id"#, "", ""),
    (r#"id tail url :80"#, "", ""),
    (r#"id -x tail docker-ns x"#, "", ""),
    (r#"id 'a b' tail docker-ns x"#, "", ""),
    (r#"id a id b tail docker-ns x"#, "", ""),
    (r#"id a url :80 tail docker-ns x child id a url :81 tail docker-ns y"#, "", ""),
    (r#"docker-ns :80 tail docker-ns x"#, "", ""),
    (r#"docker-ns '' tail docker-ns x"#, "", ""),
    (r#"url :80 tail docker-ns /run/x"#, "", ""),
    (r#"url :80 tail docker-run"#, "", ""),
    (r#"url :80 tail docker-run trigger"#, "", ""),
    (r#"url :80 tail docker-run ''"#, "", ""),
    (r#"url :80 tail docker-run '-e A=1'"#, "", ""),
    (r#"url :80 tail docker-run -e A=1 img"#, "", ""),
    (r#"url :80 tail docker-run '-e A=1 --gpsu all img'"#, "", ""),
    (r#"url :80 tail docker-run '-p 80:80 img'"#, "", ""),
    (r#"url :80 tail docker-run '--restart always img'"#, "", ""),
    (r#"url :80 tail docker-run '--memroy 1g img'"#, "", ""),
    (r#"url :80 tail docker-run '--memory lots img'"#, "", ""),
    (r#"url :80 tail docker-run '-e "A=1 img'"#, "", ""),
    (r#"url :80 tail docker-run '--network host img'"#, "", ""),
    (r#"url :80 tail tail docker-ns x"#, "", ""),
    (r#"url :80 tail docker-ns x tail docker-ns y"#, "", ""),
    (r#"url :80 trigger docker-run img trigger"#, "", ""),
    (r#"url :80 trigger tail docker-ns x"#, "", ""),
    (r#"url :80 remote"#, "", ""),
    (r#"url :80 remote tail docker-ns x"#, "", ""),
    (r#"url :80 remote tcp://srv tail docker-ns x"#, "", ""),
    (r#"url :80 tunnel a@srv tail docker-ns x"#, "", ""),
    (r#"url :80 udptunnel srv:0 tail docker-ns x"#, "", ""),
    (r#"url :80 tail docker-ns x remote srv tail docker-ns y"#, "", ""),
    (r#"url :80"#, "", ""),
    (r#"url :80 tail"#, "", ""),
    (r#"url :80 tail url localhost:80"#, "", ""),
    (r#"url 0.0.0.0:80 tail url 127.0.0.5"#, "", ""),
    (r#"url docker:a@:80 tail docker-ns a"#, "", ""),
    (r#"url unix:///a tail url unix:///a"#, "", ""),
    (r#"tail url :0"#, "", ""),
    (r#"url :80 chain"#, "", ""),
    (r#"url :80 chain url :81 chain url :82 tail url :80"#, "", ""),
    (r#"url udp://:53 tail url tcp://a"#, "", ""),
    (r#"url :53 tail url udp://a:53"#, "", ""),
    (r#"url unix:///a tail url tcp://"#, "", ""),
    (r#"url :80 tail docker-ns x child docker-ns url :80 tail docker-ns y"#, "", ""),
    (r#"url :80 tail docker-ns x chain url :0 tail docker-ns y"#, "", ""),
    (r#"url :80 tail docker-run img chain url blue@:81 tail docker-ns y"#, "", ""),
    (r#"remote srv tail docker-ns x"#, "", ""),
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
    for (line, fragment, marked) in WRONG {
        let words = words(line);
        let error = parse(&words).expect_err(line);
        let diagram = error.diagram("create", &words);
        let (column, under) = carets(&diagram);
        let shown = format!("{line}\n{error}\n{:?}\n{diagram}", error.advice());
        assert!(error.message.contains(fragment) || error.advice().is_some_and(|advice| advice.contains(fragment)), "{shown}");
        assert_eq!(under, *marked, "{shown}");
        // The same text may stand at several places of a line: the caret belongs to the word that the error names.
        let before = super::super::error::WordError::at(&words, error.word, "").diagram("create", &words);
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
