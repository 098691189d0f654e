//! The command line of `wormhole`.

use super::help;
use crate::model::{Mode, Options};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Where the daemon is asked unless the user says otherwise.
pub const DEFAULT_HOST: &str = "unix:///run/wormhole/wormhole.sock";

/// Connects ports of containers and network namespaces, so that every application simply talks to localhost.
#[derive(Debug, Parser)]
#[command(name = "wormhole", version, disable_help_subcommand = true, after_help = help::EXIT_CODES)]
pub struct Args {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, ClapArgs)]
pub struct Global {
    /// The daemon: unix:///path or tcp://host:port.
    #[arg(short = 'H', long, global = true, env = "WORMHOLE_HOST", value_name = "URL", default_value = DEFAULT_HOST)]
    pub host: String,
    /// The key that both ends of a TCP connection know.
    #[arg(short = 'K', long, global = true, env = "WORMHOLE_KEYFILE", value_name = "FILE")]
    pub keyfile: Option<PathBuf>,
    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
    /// When to use colours; `auto` also respects NO_COLOR.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// Everything, for programs.
    Json,
    /// For people with wide screens.
    Wide,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Also into a pipe.
    Always,
    /// Not at all.
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a segment and what hangs on it; prints `ID URL`.
    #[command(after_help = "`wormhole help create` shows the language with examples.", after_long_help = help::LANGUAGE)]
    Create(Create),
    /// Undo segments and what hangs on them; prints their ids.
    #[command(visible_alias = "rm")]
    Delete {
        /// Ids, or unambiguous prefixes of ids.
        #[arg(value_name = "ID", required_unless_present = "all")]
        ids: Vec<String>,
        /// All segments.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
    /// Show all segments.
    #[command(visible_alias = "ls")]
    List,
    /// Show one segment with its open connections.
    Inspect {
        /// Id, or an unambiguous prefix of it.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// Measure the round trip in milliseconds: to the daemon, or from it to the daemon of HOST.
    Ping {
        /// Another machine: name or address, with :PORT if it is not 9999.
        #[arg(value_name = "HOST")]
        peer: Option<String>,
    },
    /// Show the daemon: versions, listeners, limits.
    Status,
    /// Make an IPsec tunnel to another machine (not in this build).
    TunnelCreate {
        /// The other machine.
        #[arg(value_name = "HOST")]
        peer: String,
    },
    /// Undo an IPsec tunnel (not in this build).
    TunnelDelete {
        /// The other machine.
        #[arg(value_name = "HOST")]
        peer: String,
    },
    /// Make a key, to be copied to every machine.
    Keygen {
        /// Where to write it.
        #[arg(default_value = crate::key::DEFAULT_KEYFILE)]
        file: PathBuf,
    },
    /// Show help on a command, on the `language`, or on `exit-codes`.
    Help {
        /// A command, `language` or `exit-codes`.
        topic: Option<String>,
    },
}

/// `create`
#[derive(Debug, ClapArgs)]
pub struct Create {
    /// The words of the language.
    #[arg(required = true, value_name = "WORDS", value_parser = unprotect)]
    pub words: Vec<String>,
    /// Print the plan as a tree; ask and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Which connections may leave the relay for the kernel's fast path.
    #[arg(long, value_name = "auto|on|off", value_parser = mode)]
    pub fastpath: Option<Mode>,
    /// Close a TCP or unix connection on which no byte moved for so long.
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    pub idle_timeout: Option<u64>,
    /// Forget a UDP session on which no datagram moved for so long.
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    pub udp_timeout: Option<u64>,
    /// Give up on reaching the tail after so long.
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    pub connect_timeout: Option<u64>,
    /// How long a trigger may take.
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    pub start_timeout: Option<u64>,
    /// Stop what the trigger started after so long without a connection.
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    pub idle_stop: Option<u64>,
}

impl Create {
    /// The options, for every segment of the line.
    pub fn options(&self) -> Options {
        Options {
            fastpath: self.fastpath,
            idle_timeout_ms: self.idle_timeout,
            udp_timeout_ms: self.udp_timeout,
            connect_timeout_ms: self.connect_timeout,
            start_timeout_ms: self.start_timeout,
            idle_stop_ms: self.idle_stop,
        }
    }
}

/// Stands before ARGS that clap must not take for options; no shell word begins with it by accident.
const MARK: char = '\u{1}';

/// Marks ARGS of `docker-run`, which begin with a hyphen but are one word of the language, so that the options of
/// `create` can still stand anywhere.
pub fn protect(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::new();
    let mut create = false;
    for arg in args {
        create |= arg == "create";
        let is_args = create && out.last().is_some_and(|last| last == "docker-run");
        if is_args && arg.to_str().is_some_and(|text| text.starts_with('-')) {
            let mut marked = OsString::from(MARK.to_string());
            marked.push(arg);
            out.push(marked);
        } else {
            out.push(arg);
        }
    }
    out
}

// clap wants a function that may fail.
#[allow(clippy::unnecessary_wraps)]
fn unprotect(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.strip_prefix(MARK).unwrap_or(text).to_owned())
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "auto" => Ok(Mode::Auto),
        "on" => Ok(Mode::On),
        "off" => Ok(Mode::Off),
        _ => Err("there are auto, on and off".to_owned()),
    }
}

fn milliseconds(text: &str) -> Result<u64, String> {
    let duration = humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 500ms, 30s or 1h30m"))?;
    match u64::try_from(duration.as_millis()) {
        Ok(ms) if ms > 0 => Ok(ms),
        Ok(_) => Err("a duration is at least 1ms".to_owned()),
        Err(_) => Err("too long".to_owned()),
    }
}
