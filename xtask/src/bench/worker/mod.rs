//! The bench's own processes: load generator, server, and the small shell in which the peers run.
//!
//! They are processes of their own, so that they can be pinned and their CPU time counted. Each prints one line of JSON
//! (name -> number) when it has finished; a server stops when its standard input ends, so that nothing outlives the bench.

mod apps;
mod block;
mod clients;
mod exec;
mod idle;
mod integrity;
mod load;
pub use load::deadline;
mod server;

use super::net::{self, Endpoint};
use super::proc;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

/// What a worker reports.
pub type Report = BTreeMap<String, f64>;

/// `xtask bench-worker …`, not for users.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run on this cpu only.
    #[arg(long)]
    cpu: Option<usize>,
    /// Congestion control of its TCP sockets.
    #[arg(long)]
    congestion: Option<String>,
    #[command(subcommand)]
    role: Role,
}

#[derive(clap::Subcommand, Debug)]
enum Role {
    /// Become another program that dies with the bench.
    Exec {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Run another program until standard input ends.
    Hold {
        /// Where its output goes.
        #[arg(long)]
        log: PathBuf,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// The server behind the proxies.
    Serve {
        #[arg(long)]
        mode: server::Mode,
        #[arg(long, required = true)]
        listen: Vec<Endpoint>,
    },
    /// One byte there and back, many times.
    Rtt {
        #[arg(long)]
        to: Endpoint,
        #[arg(long)]
        seconds: f64,
        #[arg(long)]
        count: u64,
    },
    /// One connection, full of bytes.
    Stream {
        #[arg(long)]
        to: Endpoint,
        #[arg(long)]
        seconds: f64,
        #[arg(long)]
        size: usize,
        /// Wait until the server has spoken.
        #[arg(long)]
        greeted: bool,
    },
    /// Connect, one byte there and back, close, again.
    Connects {
        #[arg(long)]
        to: Endpoint,
        #[arg(long)]
        seconds: f64,
        #[arg(long)]
        count: u64,
        #[arg(long)]
        clients: usize,
    },
    /// Request, end of our side, answer.
    HalfClose {
        #[arg(long)]
        to: Endpoint,
        #[arg(long)]
        times: u32,
    },
    /// Resets in both directions.
    Reset {
        #[arg(long)]
        to: Endpoint,
        #[arg(long)]
        times: u32,
    },
    /// Randomised connections, every byte compared.
    Integrity {
        #[arg(long)]
        to: Endpoint,
        #[arg(long)]
        connections: u64,
        #[arg(long)]
        seed: u64,
    },
    /// Connections that do nothing.
    Idle {
        #[arg(long)]
        to: Endpoint,
        #[arg(long)]
        connections: usize,
    },
    /// Push into a reader that does not read.
    Stall {
        #[arg(long)]
        to: Endpoint,
        #[arg(long)]
        limit: usize,
    },
    /// Point selects over one connection to a MariaDB server.
    Selects {
        #[arg(long)]
        to: Endpoint,
        #[arg(long)]
        seconds: f64,
    },
}

/// Runs one worker to its end.
pub fn run(args: Args) -> Result<()> {
    if let Some(cpu) = args.cpu {
        proc::pin_self(cpu)?;
    }
    if let Some(name) = &args.congestion {
        net::set_congestion(name);
    }
    proc::raise_fd_limit();
    let report = match args.role {
        Role::Exec { command } => return exec::exec(&command),
        Role::Hold { log, command } => return exec::hold(&log, &command),
        Role::Serve { mode, listen } => return server::serve(mode, &listen),
        Role::Idle { to, connections } => return idle::client(&to, connections),
        Role::Rtt { to, seconds, count } => load::rtt(&to, seconds, count)?,
        Role::Stream { to, seconds, size, greeted } => load::stream(&to, seconds, size, greeted)?,
        Role::Connects { to, seconds, count, clients } => load::connects(&to, seconds, count, clients)?,
        Role::HalfClose { to, times } => clients::half_close(&to, times),
        Role::Reset { to, times } => clients::reset(&to, times),
        Role::Integrity { to, connections, seed } => integrity::client(&to, connections, seed),
        Role::Stall { to, limit } => clients::stall(&to, limit)?,
        Role::Selects { to, seconds } => apps::selects(&to, seconds)?,
    };
    print(report)
}

/// Prints a report with this process's CPU time added.
fn print(mut report: Report) -> Result<()> {
    report.insert("cpu_s".into(), proc::own_cpu_seconds());
    let line = serde_json::to_string(&report).context("render the report")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush().context("print the report")
}

/// A report of name-value pairs.
fn report<const N: usize>(values: [(&str, f64); N]) -> Report {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
