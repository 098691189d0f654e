#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

#[test]
fn the_common_options_are_typed() {
    let run: RunSpec = "-d --rm -e MYSQL_ROOT_PASSWORD='a b' -v data:/var/lib/mysql:ro -v /cache --memory 512m --cpus=1.5 \
        --mount type=bind,src=/etc,dst=/conf,readonly --health-cmd 'mysqladmin ping' --health-interval 1m30s --name=db \
        -h dbhost --network back --add-host a:10.0.0.1 --dns 1.1.1.1 -w /srv -u 1:2 -l x=y --cap-drop ALL --read-only \
        --tmpfs /run --init --entrypoint sh wormhole/mysql --rm -e not-ours"
        .parse()
        .unwrap();
    assert_eq!((run.image(), run.command().join(" ").as_str()), ("wormhole/mysql", "--rm -e not-ours"));
    assert_eq!(run.env, ["MYSQL_ROOT_PASSWORD=a b"]);
    assert_eq!(run.volume, ["data:/var/lib/mysql:ro", "/cache"]);
    assert_eq!((run.memory, run.cpus), (Some(512 << 20), Some(1_500_000_000)));
    assert_eq!(
        run.mount,
        [Mount { kind: MountKind::Bind, source: Some("/etc".into()), target: "/conf".into(), read_only: true }]
    );
    assert_eq!((run.health.interval, run.health.cmd.as_deref()), (Some(Duration::from_secs(90)), Some("mysqladmin ping")));
    assert_eq!((run.hostname.as_deref(), run.name.as_deref(), run.user.as_deref()), (Some("dbhost"), Some("db"), Some("1:2")));
    assert!(run.read_only && run.init && run.detach && run.rm && !run.privileged);
}

#[test]
fn what_is_wrong_is_named() {
    for (args, fragment, suggestion) in [
        ("", "needs an image", None),
        ("--rm", "needs an image", None),
        ("''", "image has no name", None),
        ("-e A=1 'img", "a quote is not closed", None),
        ("-e img", "KEY=VALUE", None),
        ("-e", "`--env` needs a value", None),
        ("-p 80:80 img", "`-p` is refused: a segment reaches the port", None),
        ("--publish=80:80 img", "`--publish` is refused", None),
        ("--restart always img", "`--restart` is refused: the segment owns", None),
        ("-it img", "is refused: a container of a segment has no terminal", None),
        ("--gpus all img", "`--gpus` is not supported", Some("--cpus")),
        ("--memmory 1g img", "`--memmory` is not supported", Some("--memory")),
        ("--memory 1x img", "a number with b, k, m or g", None),
        ("--cpus 0 img", "between 0.001 and 1024", None),
        ("--network host img", "a namespace of its own", None),
        ("-v ./data:/data img", "neither the name of a volume nor an absolute path", None),
        ("-v data:rel img", "must be absolute", None),
        ("--mount type=nfs,dst=/x img", "unknown type `nfs`", None),
        ("--mount type=bind,dst=/x img", "needs source=/path", None),
        ("--env-file env img", "must be absolute", None),
        ("--health-interval soon img", "--health-interval soon", None),
        ("--pull sometimes img", "--pull", None),
        ("--add-host x img", "NAME:ADDRESS", None),
    ] {
        let error = args.parse::<RunSpec>().expect_err(args);
        assert!(error.message.contains(fragment), "{args}: {error}");
        assert_eq!(error.suggestion.as_deref(), suggestion, "{args}: {error}");
        assert!(!error.message.contains('\n'), "{args}: {error}");
    }
}
