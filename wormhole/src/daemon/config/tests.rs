//! What is refused, with the text that is shown, and who wins over whom.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

struct Run {
    dir: tempfile::TempDir,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
}

impl Run {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), args: vec!["wormholed".into()], env: Vec::new() }
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(OsString::from));
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    fn file(self, text: &str) -> Self {
        std::fs::write(self.default_file(), text).unwrap();
        self
    }

    fn default_file(&self) -> PathBuf {
        self.dir.path().join("wormholed.toml")
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load_from(self.args.clone(), self.env.clone(), &self.default_file())
    }

    /// The whole text of the refusal, with the file's path as FILE.
    #[track_caller]
    fn refused(&self, said: &str) {
        let error = self.load().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.to_string().replace(self.default_file().to_str().unwrap(), "FILE"), said);
    }
}

#[test]
fn defaults() {
    let config = Run::new().load().unwrap();
    assert_eq!(config.keyfile, None);
    assert_eq!(config.hosts, []);
    assert_eq!(config.overlay.to_string(), "100.64.0.0/14");
    assert_eq!(config.udp_ports.to_string(), "4500-4599");
    assert_eq!(config.state_dir, Path::new("/var/lib/wormhole"));
    assert_eq!(config.max_connections, 65536);
    assert!(config.workers >= 1);
    assert_eq!((config.log.as_str(), config.log_format), ("info", LogFormat::Plain));
    assert_eq!(config.docker, "unix:///var/run/docker.sock");
    assert_eq!(config.drain, Duration::from_secs(30));
    assert_eq!(config.idle_timeout, None);
    assert_eq!(config.udp_timeout, Duration::from_secs(60));
    assert_eq!(config.connect_timeout, Duration::from_secs(10));
    assert_eq!(config.keepalive, Some(Duration::from_secs(30)));
    assert_eq!(config.user_timeout, None);
    assert_eq!((config.fastpath, config.fastpath_pairs, config.fastpath_gather), (Mode::Auto, 65_536, 100_000));
    assert_eq!(config.fastpath_except, SPLICING);
    assert_eq!((config.file, config.notes), (None, Vec::new()));
}

#[test]
fn every_setting_from_each_source_and_who_wins() {
    // (setting, in the file, in the environment, as flag, as short flag)
    let rows = [
        ("keyfile", "\"/f\"", "/e", "/a"),
        ("host", "[\"tcp://f:1\", \"unix:///f\"]", "tcp://e:1,unix:///e", "tcp://[::1]:1"),
        ("internal-ip", "\"10.0.0.1\"", "10.0.0.2", "10.0.0.3"),
        ("external-ip", "\"10.0.0.1\"", "10.0.0.2", "::1"),
        ("overlay-cidr", "\"10.0.0.0/8\"", "11.0.0.0/8", "12.0.0.0/8"),
        ("udp-ports", "\"1-2\"", "3-4", "5"),
        ("state-dir", "\"/f\"", "/e", "/a"),
        ("max-connections", "1", "2", "3"),
        ("workers", "1_0", "2", "3"),
        ("log", "\"warn\"", "debug", "info,wormhole::relay=trace"),
        ("log-format", "\"json\"", "plain", "json"),
        ("docker", "\"unix:///f\"", "unix:///e", "tcp://a:2375"),
        ("drain", "\"1s\"", "2s", "0"),
        ("idle-timeout", "\"1s\"", "2s", "3m"),
        ("udp-timeout", "\"1s\"", "2s", "3s"),
        ("max-udp-sessions", "1", "2", "3"),
        ("connect-timeout", "\"1s\"", "500ms", "3s"),
        ("keepalive", "0", "2s", "3s"),
        ("user-timeout", "\"1s\"", "2s", "0"),
        ("fastpath", "\"on\"", "off", "auto"),
        ("fastpath-pairs", "1", "2", "3"),
        ("fastpath-gather", "0", "2", "3"),
        ("fastpath-except", "\"a\"", "b,c", "d"),
    ];
    assert_eq!(rows.map(|row| row.0).as_slice(), SETTINGS);
    for (name, file, env, flag) in rows {
        let variable = variable(name);
        let line = format!("{name} = {file}\n");
        let flags = [format!("--{name}"), flag.to_owned()];
        let flags = [flags[0].as_str(), flags[1].as_str()];
        let strip = |mut config: Config| {
            config.file = None;
            config
        };
        let load = |run: Run| strip(run.load().unwrap());

        let only = [load(Run::new().file(&line)), load(Run::new().env(&variable, env)), load(Run::new().args(&flags))];
        assert!(only[0] != only[1] && only[1] != only[2], "{name}: {only:?}");
        assert_eq!(load(Run::new().file(&line).env(&variable, env)), only[1], "{name}: environment over file");
        assert_eq!(load(Run::new().file(&line).env(&variable, env).args(&flags)), only[2], "{name}: flag over all");
    }
}

#[test]
fn short_flags_and_several_hosts() {
    let run = Run::new().args(&["-K", "/k", "-H", "tcp://h:1", "-H", "unix:///s", "-I", "10.0.0.1", "-E", "192.0.2.1"]);
    let config = run.args(&["-C", "100.65.0.0/14", "-P", "4500-4510"]).load().unwrap();
    assert_eq!(config.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(), ["tcp://h:1", "unix:///s"]);
    assert_eq!(config.overlay, Cidr::DEFAULT);
    assert_eq!(config.notes, ["overlay-cidr 100.65.0.0/14 has host bits, the network is 100.64.0.0/14"]);
}

#[test]
fn zero_switches_off() {
    let config = Run::new().file("keepalive = 0\nuser-timeout = \"0\"\nidle-timeout = \"0s\"\ndrain = 0\n").load().unwrap();
    assert_eq!((config.keepalive, config.user_timeout, config.idle_timeout), (None, None, None));
    assert_eq!(config.drain, Duration::ZERO);
}

#[test]
fn the_file_may_be_named_and_must_then_be_there() {
    let run = Run::new();
    let other = run.dir.path().join("other.toml");
    std::fs::write(&other, "workers = 7").unwrap();
    let by_flag = Run::new().args(&["--config", other.to_str().unwrap()]).load().unwrap();
    let by_env = Run::new().env("WORMHOLE_CONFIG", other.to_str().unwrap()).load().unwrap();
    assert_eq!((by_flag.workers, by_env.workers, by_env.file), (7, 7, Some(other)));

    let text = Run::new().args(&["--config", "/nowhere/x.toml"]).load().unwrap_err().to_string();
    assert!(
        text.starts_with("read /nowhere/x.toml: No such file") && text.ends_with("check the path given with --config"),
        "{text}"
    );
    let text = Run::new().args(&["--config", "/tmp"]).load().unwrap_err().to_string();
    assert!(text.starts_with("read /tmp: not a regular file"), "{text}");
}

#[test]
fn docker_host_is_a_default_and_never_an_error() {
    assert_eq!(Run::new().env("DOCKER_HOST", "tcp://d:1").load().unwrap().docker, "tcp://d:1");
    assert_eq!(Run::new().env("DOCKER_HOST", "tcp://d:1").file("docker = \"unix:///f\"").load().unwrap().docker, "unix:///f");
    let config = Run::new().env("DOCKER_HOST", "ssh://d").load().unwrap();
    assert_eq!(config.docker, "unix:///var/run/docker.sock");
    assert!(
        config.notes[0].starts_with("DOCKER_HOST is a way to reach Docker that this build does not have"),
        "{:?}",
        config.notes
    );
}

#[test]
fn mistyped_variables_are_noted() {
    let config = Run::new().env("WORMHOLE_UDP_PORT", "1-2").env("WORMHOLE_SOMETHING_ELSE", "x").load().unwrap();
    assert_eq!(config.notes, ["environment variable WORMHOLE_UDP_PORT is not a setting, did you mean WORMHOLE_UDP_PORTS?"]);
}

#[test]
fn wrong_files() {
    for (text, said) in [
        ("udp-port = \"1-2\"", "FILE:1: unknown setting `udp-port`, did you mean `udp-ports`?"),
        ("\n# x\nmax_connections = 5", "FILE:3: unknown setting `max_connections`, did you mean `max-connections`?"),
        ("key-file = \"/k\"", "FILE:1: unknown setting `key-file`, did you mean `keyfile`?"),
        ("hosts = []", "FILE:1: unknown setting `hosts`, did you mean `host`?"),
        ("Log = \"info\"", "FILE:1: unknown setting `Log`, did you mean `log`?"),
        ("zzzz = 1", "FILE:1: unknown setting `zzzz`; see `wormholed --help` for all of them"),
        ("workers = 1\n[relay]\nx = 1", "FILE:2: unknown setting `relay`; see `wormholed --help` for all of them"),
        ("workers = \"4\"", "FILE:1: workers is a string, a number without quotes is expected"),
        ("workers = 1.5", "FILE:1: workers is a number with a point, a number without quotes is expected"),
        ("workers = 0", "FILE:1: workers `0`: is not a number from 1 to 1024"),
        ("max-connections = -1", "FILE:1: max-connections `-1`: is not a number from 1 to 100000000"),
        ("max-udp-sessions = true", "FILE:1: max-udp-sessions is true or false, a number without quotes is expected"),
        ("\n\nkeyfile = 7", "FILE:3: keyfile is a number, a string in quotes is expected"),
        ("keyfile = \"\"", "FILE:1: keyfile ``: is not a path"),
        (
            "host = 9999",
            "FILE:1: host is a number, a list of strings, e.g. [\"tcp://0.0.0.0:9999\", \"unix:///run/wormhole/wormhole.sock\"], is expected",
        ),
        ("host = \"localhost\"", "FILE:1: host `localhost`: needs `tcp://host:port` or `unix:///path`"),
        (
            "host = [\"tcp://h:1\", \"unix://run/s\"]",
            "FILE:1: host `unix://run/s`: a socket path is absolute, three slashes in all: `unix:///run/s`",
        ),
        ("drain = 30", "FILE:1: drain `30`: has no unit, did you mean 30s?"),
        ("drain = true", "FILE:1: drain is true or false, a duration in quotes, e.g. \"30s\", is expected"),
        ("drain = \"soon\"", "FILE:1: drain `soon`: is not a duration, e.g. 30s, 5m, 1h30m, 500ms"),
        ("udp-timeout = \"0\"", "FILE:1: udp-timeout `0`: must not be 0"),
        ("connect-timeout = \"2years\"", "FILE:1: connect-timeout `2years`: is longer than a year"),
        ("keepalive = \"1us\"", "FILE:1: keepalive `1us`: is shorter than a millisecond"),
        ("fastpath = true", "FILE:1: fastpath is true or false, \"auto\", \"on\" or \"off\" is expected"),
        ("fastpath = \"yes\"", "FILE:1: fastpath `yes`: is none of auto, on, off"),
        ("log-format = \"xml\"", "FILE:1: log-format `xml`: is neither plain nor json"),
        ("log = \"\"", "FILE:1: log ``: is empty, say e.g. info or debug"),
        ("state-dir = 1979-05-27", "FILE:1: state-dir is a date, a string in quotes is expected"),
        (
            "docker = \"ssh://h\"",
            "FILE:1: docker `ssh://h`: is a way to reach Docker that this build does not have, use unix:///path or tcp://host:port",
        ),
        (
            "docker = \"docker.sock\"",
            "FILE:1: docker `docker.sock`: is not the address of a Docker engine, use unix:///path or tcp://host:port",
        ),
        ("udp-ports = \"9-1\"", "FILE:1: udp-ports `9-1`: ends before it begins, did you mean 1-9?"),
        ("overlay-cidr = \"10.0.0.0\"", "FILE:1: overlay-cidr `10.0.0.0`: is not an IPv4 network, e.g. 100.65.0.0/14"),
    ] {
        Run::new().file(text).refused(said);
    }
    assert_eq!(Run::new().file("workers = 0x10").load().unwrap().workers, 16);
}

#[test]
fn files_that_are_not_toml_name_the_line() {
    for (text, line) in [("workers = ", 1), ("workers = 1\nworkers = 2", 2), ("\n\nlog = 'a", 3), ("a b c", 1)] {
        let run = Run::new().file(text);
        let error = run.load().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:{line}: ", run.default_file().display())), "{text:?}: {error}");
    }
    let run = Run::new();
    std::fs::write(run.default_file(), [b'a', 0xff, 0xfe]).unwrap();
    let error = run.load().unwrap_err().to_string();
    assert!(error.ends_with("a configuration is UTF-8 text"), "{error}");
}

#[test]
fn wrong_flags_and_variables() {
    for (flag, value, problem) in [
        ("overlay-cidr", "10.0.0.0/31", "has a prefix that is not between 8 and 30"),
        ("overlay-cidr", "127.0.0.0/8", "is not a network that machines can have addresses in"),
        ("internal-ip", "10.0.0", "is not an IP address, e.g. 192.0.2.7 or 2001:db8::7"),
        ("external-ip", "0.0.0.0", "is not the address of a machine"),
        ("udp-ports", "0-9", "is not a range of ports, e.g. 4500-4599"),
        ("udp-ports", "4500-70000", "is not a range of ports, e.g. 4500-4599"),
        ("host", "tcp://h:99999", "`99999` is not a port, 0 to 65535"),
        ("host", "tcp://::1:9999x", "an IPv6 address stands in brackets, e.g. `tcp://[::1]:9999`"),
        ("host", "http://h", "`http://` is not a way to reach a daemon, use `tcp://host:port` or `unix:///path`"),
        ("drain", "30 parsecs", "is not a duration, e.g. 30s, 5m, 1h30m, 500ms"),
        ("max-connections", "lots", "is not a number from 1 to 100000000"),
    ] {
        Run::new().args(&[&format!("--{flag}={value}")]).refused(&format!("--{flag} `{value}`: {problem}"));
        // Several hosts in a variable are parted by space.
        if !value.contains(' ') {
            let variable = variable(flag);
            Run::new().env(&variable, value).refused(&format!("environment {variable} `{value}`: {problem}"));
        }
    }
    let text = Run::new().args(&["--log", "a=b=c"]).load().unwrap_err().to_string();
    assert!(text.starts_with("--log `a=b=c`: is not a log filter"), "{text}");
}

#[test]
fn what_clap_refuses() {
    for (args, said) in [
        (&["--keyfil", "x"][..], "a similar argument exists: '--keyfile'"),
        (&["-X"], "unexpected argument '-X'"),
        (&["extra"], "unexpected argument 'extra'"),
        (&["--drain"], "a value is required for '--drain <DURATION>'"),
        (&["--workers", "1", "--workers", "2"], "cannot be used multiple times"),
    ] {
        let error = Run::new().args(args).load().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(said), "{args:?}: {error}");
    }
    for args in [&["--help"][..], &["--version"]] {
        assert_eq!(Run::new().args(args).load().unwrap_err().exit_code(), 0);
    }
}

#[test]
fn an_empty_variable_is_not_set() {
    assert_eq!(Run::new().env("WORMHOLE_HOST", "").load().unwrap().hosts, []);
}
