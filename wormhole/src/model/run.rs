//! ARGS of `docker-run`: one shell-quoted string in the syntax of `docker run`, as a typed value.
//!
//! What is not listed here is an error that names the option: a container that was started without something the user
//! asked for would be worse than none.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, CommandFactory, Parser};
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// A container to run.
#[derive(Clone, Debug, PartialEq, Parser)]
#[command(name = "docker-run", no_binary_name = true, disable_help_flag = true, disable_version_flag = true)]
pub struct RunSpec {
    /// `KEY=VALUE`, in the order given.
    #[arg(short, long, value_parser = key_value)]
    pub env: Vec<String>,
    /// Files of `KEY=VALUE` lines, absolute, read by the daemon.
    #[arg(long, value_parser = absolute)]
    pub env_file: Vec<String>,
    /// `-v`: `NAME:/path`, `/path:/path`, or `/path`, with `:OPTIONS` after it.
    #[arg(short, long, value_parser = volume)]
    pub volume: Vec<String>,
    /// `--mount type=bind|volume|tmpfs,…`.
    #[arg(long)]
    pub mount: Vec<Mount>,
    /// `--tmpfs /path[:OPTIONS]`.
    #[arg(long, value_parser = absolute)]
    pub tmpfs: Vec<String>,
    /// Name of the container.
    #[arg(long, value_parser = container_name)]
    pub name: Option<String>,
    /// Host name inside the container.
    #[arg(short = 'h', long)]
    pub hostname: Option<String>,
    /// Network of the engine; its own namespace in any case.
    #[arg(long, visible_alias = "net", value_parser = network)]
    pub network: Option<String>,
    /// `NAME:ADDRESS` lines for /etc/hosts.
    #[arg(long, value_parser = add_host)]
    pub add_host: Vec<String>,
    /// Name servers.
    #[arg(long)]
    pub dns: Vec<IpAddr>,
    /// Working directory.
    #[arg(short, long, value_parser = absolute)]
    pub workdir: Option<String>,
    /// `USER[:GROUP]`.
    #[arg(short, long)]
    pub user: Option<String>,
    /// Replaces the image's entry point.
    #[arg(long)]
    pub entrypoint: Option<String>,
    /// `KEY[=VALUE]`.
    #[arg(short, long)]
    pub label: Vec<String>,
    /// The health check, which also decides when a trigger is ready.
    #[command(flatten)]
    pub health: Health,
    /// Memory limit in bytes (`512m`, `2g`).
    #[arg(short, long, value_parser = memory)]
    pub memory: Option<i64>,
    /// `--memory-swap`: memory plus swap in bytes, -1 for no limit.
    #[arg(long, value_parser = swap, allow_hyphen_values = true)]
    pub memory_swap: Option<i64>,
    /// `--shm-size` in bytes.
    #[arg(long, value_parser = memory)]
    pub shm_size: Option<i64>,
    /// CPUs in billionths (`--cpus 1.5` is 1_500_000_000).
    #[arg(long, value_parser = nano_cpus)]
    pub cpus: Option<i64>,
    /// `--pids-limit`, -1 for none.
    #[arg(long, allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// `--ulimit NAME=SOFT[:HARD]`.
    #[arg(long)]
    pub ulimit: Vec<String>,
    /// `--sysctl KEY=VALUE`.
    #[arg(long, value_parser = key_value)]
    pub sysctl: Vec<String>,
    /// Capabilities to add.
    #[arg(long)]
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    #[arg(long)]
    pub cap_drop: Vec<String>,
    /// `--security-opt`.
    #[arg(long)]
    pub security_opt: Vec<String>,
    /// `--device HOST[:CONTAINER[:rwm]]`.
    #[arg(long, value_parser = absolute)]
    pub device: Vec<String>,
    /// `--privileged`.
    #[arg(long, action = ArgAction::SetTrue)]
    pub privileged: bool,
    /// Root file system read-only.
    #[arg(long, action = ArgAction::SetTrue)]
    pub read_only: bool,
    /// A small init as process 1.
    #[arg(long, action = ArgAction::SetTrue)]
    pub init: bool,
    /// `--platform OS/ARCH`.
    #[arg(long)]
    pub platform: Option<String>,
    /// `--pull always|missing|never`.
    #[arg(long, value_parser = ["always", "missing", "never"])]
    pub pull: Option<String>,
    /// `--stop-signal`.
    #[arg(long)]
    pub stop_signal: Option<String>,
    /// `--stop-timeout` in seconds.
    #[arg(long)]
    pub stop_timeout: Option<u32>,
    /// `--rm`: accepted; the segment removes what it started in any case.
    #[arg(long, action = ArgAction::SetTrue)]
    pub rm: bool,
    /// `-d`: accepted; a container of a segment never has a terminal.
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub detach: bool,
    /// The image, then the command with its arguments.
    #[arg(value_name = "IMAGE", required = true, num_args = 1.., trailing_var_arg = true)]
    image_and_command: Vec<String>,
}

/// `--health-…`: `None` leaves the image's own setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Health {
    /// Shell command; exit code 0 means healthy.
    #[arg(long = "health-cmd")]
    pub cmd: Option<String>,
    /// Between two checks.
    #[arg(long = "health-interval", value_parser = humantime::parse_duration)]
    pub interval: Option<Duration>,
    /// For one check.
    #[arg(long = "health-timeout", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// So many failures in a row make it unhealthy.
    #[arg(long = "health-retries")]
    pub retries: Option<u32>,
    /// Failures in this time do not count.
    #[arg(long = "health-start-period", value_parser = humantime::parse_duration)]
    pub start_period: Option<Duration>,
    /// Between two checks within the start period.
    #[arg(long = "health-start-interval", value_parser = humantime::parse_duration)]
    pub start_interval: Option<Duration>,
    /// `--no-healthcheck`: also not the image's own.
    #[arg(long = "no-healthcheck", action = ArgAction::SetTrue, conflicts_with = "cmd")]
    pub none: bool,
}

/// One `--mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// bind, volume or tmpfs.
    pub kind: MountKind,
    /// Volume name or absolute path; `None` for tmpfs and for anonymous volumes.
    pub source: Option<String>,
    /// Absolute path inside the container.
    pub target: String,
    /// Not writable.
    pub read_only: bool,
}

/// `type=` of a [`Mount`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A path of the daemon's machine.
    Bind,
    /// A volume of the engine.
    Volume,
    /// Memory.
    Tmpfs,
}

/// Why ARGS are not understood, in one line, and the supported option that is nearest to what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RunError {
    /// What is wrong, naming the option.
    pub message: String,
    /// The option or word within ARGS that is wrong, if it is one.
    pub culprit: Option<String>,
    /// The nearest supported option.
    pub suggestion: Option<String>,
}

/// Options of `docker run` that make no sense here, with the reason.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["-p", "--publish", "-P", "--publish-all"],
        "a segment reaches the port inside the container; nothing needs to be published",
    ),
    (&["--restart"], "the segment owns the container's life cycle: it starts it on a connection and stops it"),
    (&["-i", "--interactive", "-t", "--tty", "-it", "-ti", "-a", "--attach"], "a container of a segment has no terminal"),
    (&["--cidfile"], "`inspect` shows the container"),
    (&["--help"], "`wormhole help create` shows what is supported"),
];

impl RunSpec {
    /// The image.
    pub fn image(&self) -> &str {
        self.image_and_command.first().map_or("", String::as_str)
    }

    /// What follows the image: the command with its arguments.
    pub fn command(&self) -> &[String] {
        self.image_and_command.get(1..).unwrap_or_default()
    }
}

impl FromStr for RunSpec {
    type Err = RunError;

    fn from_str(args: &str) -> Result<Self, RunError> {
        let words = shell_words::split(args).map_err(|_| plain("ARGS of docker-run: a quote is not closed"))?;
        if words.iter().any(|word| word.contains('\0')) {
            return Err(plain("ARGS of docker-run: a zero byte"));
        }
        let spec = Self::try_parse_from(&words).map_err(|error| explain(&error, &words))?;
        if spec.image().is_empty() || spec.image().contains(char::is_whitespace) {
            return Err(plain("docker-run: the image has no name"));
        }
        Ok(spec)
    }
}

fn plain(message: impl Into<String>) -> RunError {
    RunError { message: message.into(), culprit: None, suggestion: None }
}

/// clap's error as one line of ours.
fn explain(error: &clap::Error, words: &[String]) -> RunError {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let named = text(ContextKind::InvalidArg).unwrap_or_default();
    // clap names the argument as `--memory <MEMORY>`; the option alone is what the user wrote.
    let option = named.split([' ', '=']).next().unwrap_or_default().to_owned();
    let culprit = words.iter().find(|word| !option.is_empty() && word.starts_with(&option)).cloned();
    let message = match error.kind() {
        ErrorKind::UnknownArgument => {
            if let Some((_, reason)) = REFUSED.iter().find(|(names, _)| names.contains(&option.as_str())) {
                return RunError { message: format!("docker-run: `{option}` is refused: {reason}"), culprit, suggestion: None };
            }
            let suggestion = nearest_option(&option);
            return RunError { message: format!("docker-run: the option `{option}` is not supported"), culprit, suggestion };
        }
        ErrorKind::MissingRequiredArgument => "docker-run needs an image".to_owned(),
        ErrorKind::InvalidValue if text(ContextKind::InvalidValue).is_none_or(|value| value.is_empty()) => {
            format!("docker-run: `{option}` needs a value")
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let value = text(ContextKind::InvalidValue).unwrap_or_default();
            let reason = std::error::Error::source(error).map_or("not one of its values".to_owned(), ToString::to_string);
            format!("docker-run: `{option} {value}`: {reason}")
        }
        ErrorKind::ArgumentConflict => format!("docker-run: `{option}` is given twice or stands against another option"),
        _ => format!("docker-run: {}", error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ")),
    };
    RunError { message, culprit, suggestion: None }
}

fn nearest_option(option: &str) -> Option<String> {
    let known = RunSpec::command_names();
    let near = known.into_iter().map(|name| (strsim::jaro_winkler(&name, option), name));
    near.filter(|(score, _)| *score > 0.85).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

impl RunSpec {
    fn command_names() -> Vec<String> {
        let command = <Self as CommandFactory>::command();
        command.get_arguments().filter_map(|arg| arg.get_long()).map(|long| format!("--{long}")).collect()
    }
}

fn key_value(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(text.to_owned()),
        // `docker run -e KEY` takes the value from the caller's environment, which the daemon does not have.
        _ => Err("write KEY=VALUE: the daemon, which starts the container, does not have your environment".to_owned()),
    }
}

fn absolute(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Err("the path must be absolute: the daemon has another working directory".to_owned())
}

fn volume(text: &str) -> Result<String, String> {
    let mut parts = text.split(':');
    let (source, target) = (parts.next().unwrap_or_default(), parts.next());
    let inside = target.unwrap_or(source);
    if !inside.starts_with('/') {
        return Err("the path inside the container must be absolute".to_owned());
    }
    if target.is_some() && !source.starts_with('/') && !super::is_container(source) {
        return Err(format!("`{source}` is neither the name of a volume nor an absolute path"));
    }
    if parts.count() > 1 {
        return Err("more than SOURCE:PATH:OPTIONS".to_owned());
    }
    Ok(text.to_owned())
}

fn container_name(text: &str) -> Result<String, String> {
    if super::is_container(text) { Ok(text.to_owned()) } else { Err("not a name: [a-zA-Z0-9][a-zA-Z0-9_.-]*".to_owned()) }
}

fn network(text: &str) -> Result<String, String> {
    if text == "host" || text.starts_with("container:") || text.starts_with("ns:") {
        return Err("the container needs a namespace of its own; for another one use `docker-ns` or `url NS@`".to_owned());
    }
    container_name(text)
}

fn add_host(text: &str) -> Result<String, String> {
    match text.split_once([':', '=']) {
        Some((name, ip))
            if !name.is_empty() && (ip == "host-gateway" || ip.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()) =>
        {
            Ok(text.to_owned())
        }
        _ => Err("write NAME:ADDRESS".to_owned()),
    }
}

fn memory(text: &str) -> Result<i64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        _ => return Err("a size is a number with b, k, m or g after it".to_owned()),
    };
    let bytes = digits.parse::<u32>().ok().map(|number| i64::from(number) << shift);
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "a size is a number with b, k, m or g after it".to_owned())
}

fn swap(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { memory(text) }
}

#[allow(clippy::cast_possible_truncation)] // bounded by the check: at most 1024 CPUs
fn nano_cpus(text: &str) -> Result<i64, String> {
    let cpus: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if !(0.001..=1024.0).contains(&cpus) {
        return Err("between 0.001 and 1024".to_owned());
    }
    Ok((cpus * 1e9).round() as i64)
}

impl FromStr for Mount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut kind, mut source, mut target, mut read_only) = (MountKind::Volume, None, None, false);
        for field in text.split(',') {
            match field.split_once('=').unwrap_or((field, "")) {
                ("type", "bind") => kind = MountKind::Bind,
                ("type", "volume") => kind = MountKind::Volume,
                ("type", "tmpfs") => kind = MountKind::Tmpfs,
                ("type", other) => return Err(format!("unknown type `{other}`: bind, volume or tmpfs")),
                ("source" | "src", value) => source = Some(value.to_owned()),
                ("target" | "destination" | "dst", value) => target = Some(absolute(value)?),
                ("readonly" | "ro", "" | "true" | "1") => read_only = true,
                ("readonly" | "ro", "false" | "0") => read_only = false,
                (other, _) => return Err(format!("`{other}` is not supported: type, source, target, readonly")),
            }
        }
        let target = target.ok_or("target=/path is missing")?;
        match (kind, &source) {
            (MountKind::Bind, Some(path)) => absolute(path).map(drop)?,
            (MountKind::Bind, None) => return Err("a bind mount needs source=/path".to_owned()),
            (MountKind::Tmpfs, Some(_)) => return Err("tmpfs has no source".to_owned()),
            (MountKind::Volume, Some(name)) => container_name(name).map(drop)?,
            (MountKind::Volume | MountKind::Tmpfs, None) => {}
        }
        Ok(Self { kind, source, target, read_only })
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
