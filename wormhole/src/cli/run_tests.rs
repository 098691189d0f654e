#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::model::{Failure, Mode};
use clap::CommandFactory;

fn args(line: &str) -> Result<Args, clap::Error> {
    let words = shell_words::split(line).unwrap();
    Args::try_parse_from(protect(words.into_iter().map(OsString::from)))
}

fn create(line: &str) -> (Create, super::super::args::Global) {
    let args = args(line).unwrap();
    match args.command {
        Command::Create(create) => (create, args.global),
        other => panic!("{other:?}"),
    }
}

/// Exit code, stdout, stderr.
fn outcome(line: &str) -> (u8, String, String) {
    let args = args(line).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut out = String::new();
    match runtime.block_on(carry_out(&args, &mut out)) {
        Ok(()) => (0, out, String::new()),
        Err(trouble) => (trouble.code, out, trouble.render(false)),
    }
}

#[test]
fn the_definition_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn options_stand_before_and_after_the_words() {
    for line in [
        "wormhole -H tcp://a:1 create --dry-run --fastpath off --idle-stop 5m url :80 tail docker-run '-e A=1 -H x img' url :81",
        "wormhole create url :80 tail docker-run '-e A=1 -H x img' url :81 --idle-stop 5m --fastpath=off --dry-run -H tcp://a:1",
        "wormhole create url :80 --fastpath off tail --idle-stop=300s docker-run '-e A=1 -H x img' -Htcp://a:1 url :81 --dry-run",
    ] {
        let (create, global) = create(line);
        assert_eq!(create.words, ["url", ":80", "tail", "docker-run", "-e A=1 -H x img", "url", ":81"], "{line}");
        assert_eq!((create.dry_run, global.host.as_str()), (true, "tcp://a:1"), "{line}");
        let options = create.options();
        assert_eq!((options.fastpath, options.idle_stop_ms), (Some(Mode::Off), Some(300_000)), "{line}");
    }
    // `-h` is help everywhere but in ARGS, where it is the host name of the container.
    assert_eq!(create("wormhole create tail docker-run '-h name img'").0.words[2], "-h name img");
    assert_eq!(args("wormhole create -h").unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp);
}

#[test]
fn wrong_options_are_usage_errors() {
    for (line, fragment) in [
        ("wormhole", "Usage"),
        ("wormhole create", "WORDS"),
        ("wormhole create --dryrun url :80", "--dry-run"),
        ("wormhole create --idle-stop soon url :80", "500ms"),
        ("wormhole create --idle-stop 0s url :80", "at least 1ms"),
        ("wormhole create --fastpath maybe url :80", "auto, on and off"),
        ("wormhole delete", "ID"),
        ("wormhole delete --all x", "cannot be used"),
        ("wormhole -o yaml list", "json"),
        ("wormhole lst", "list"),
        ("wormhole inspect", "ID"),
    ] {
        let error = args(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(fragment), "{line}: {error}");
    }
}

#[test]
fn a_mistyped_word_is_shown_with_a_caret() {
    let (code, out, err) = outcome("wormhole create url :3306 tial docker-ns mysql");
    assert_eq!((code, out.as_str()), (2, ""));
    assert_eq!(
        err,
        "\
error: `tial` is not a word of the language
  wormhole create url :3306 tial docker-ns mysql
                            ^^^^
hint: did you mean \"tail\"?
"
    );
}

#[test]
fn a_dry_run_asks_nobody() {
    let (code, out, _) = outcome("wormhole -H unix:///nowhere create --dry-run url :80 trigger docker-run img");
    assert_eq!(code, 0);
    assert!(out.contains("docker run img") && out.contains("└─"), "{out}");
    let (code, out, _) = outcome("wormhole create --dry-run -o json url :80 tail docker-ns x --udp-timeout 2s");
    assert_eq!(code, 0);
    let spec: crate::model::Spec = serde_json::from_str(&out).unwrap();
    assert_eq!(spec.options.udp_timeout_ms, Some(2000));
}

#[test]
fn help_on_every_topic() {
    for command in Args::command().get_subcommands() {
        let (code, out, _) = outcome(&format!("wormhole help {}", command.get_name()));
        assert!(code == 0 && out.contains("Usage"), "{out}");
    }
    let (_, out, _) = outcome("wormhole help create");
    assert!(out.contains("--dry-run") && out.contains("docker-ns [ID]") && out.contains("Examples:"), "{out}");
    assert!(outcome("wormhole help").1.contains("Exit codes:"));
    assert!(outcome("wormhole help exit-codes").1.contains("3  the daemon cannot be reached"));
    assert_eq!(outcome("wormhole help craete").2, "error: there is no help on `craete`\nhint: did you mean \"create\"?\n");
}

#[test]
fn the_examples_of_the_help_are_right() {
    // clap breaks longer lines, and with them the columns.
    assert!(help::LANGUAGE.lines().all(|line| line.len() < 100));
    let text = help::LANGUAGE.replace("\\\n", " ");
    let examples = text.lines().filter_map(|line| line.trim().strip_prefix("wormhole create "));
    let mut count = 0;
    for example in examples {
        let (create, _) = create(&format!("wormhole create {example}"));
        grammar::parse(&create.words).unwrap_or_else(|error| panic!("{example}: {error}"));
        count += 1;
    }
    assert!(count >= 7);
}

#[test]
fn no_daemon_is_exit_code_3() {
    for line in
        ["list", "status", "ping", "ping other", "inspect x", "delete x", "delete --all", "create url :1 tail docker-ns x"]
    {
        let (code, out, err) = outcome(&format!("wormhole -H unix:///nonexistent/wormhole.sock {line}"));
        assert_eq!((code, out.as_str()), (3, ""), "{line}: {err}");
        assert!(err.starts_with("error: ") && err.contains("\nhint: "), "{line}: {err}");
    }
}

#[test]
fn failures_become_exit_codes() {
    for (kind, code) in [
        (FailureKind::Invalid, 2),
        (FailureKind::NotFound, 4),
        (FailureKind::Refused, 5),
        (FailureKind::NotInThisBuild, 5),
        (FailureKind::Failed, 1),
    ] {
        let trouble = Trouble::from(ClientError::Refused(Failure::new(kind, "a\u{1b}b").hint("c")));
        assert_eq!(trouble.code, code);
        assert_eq!(trouble.render(false), "error: a\\u{1b}b\nhint: c\n");
        assert!(trouble.render(true).starts_with("\x1b[1;31merror:\x1b[0m "));
    }
}
