//! `cargo xtask bench`: wormhole and other proxies side by side, in one run, on this machine.
//!
//! | file | subject |
//! | --- | --- |
//! | `columns` | what is measured |
//! | `peers/` | what it is measured on |
//! | `measure`, `apps`, `profile` | taking one measurement |
//! | `worker/` | the processes that make the load |
//! | `run` | rounds |
//! | `results`, `stats`, `table`, `plot` | what comes out |
//! | `install`, `binaries` | what must be there first |
//!
//! Variants alternate within each round, medians are taken over the rounds, and ratios are what counts: absolute figures
//! change with the machine and with what else it does.

mod apps;
mod binaries;
mod columns;
mod install;
mod measure;
mod net;
mod peers;
mod plot;
mod proc;
mod profile;
mod results;
mod run;
mod stats;
mod table;
pub mod worker;

use anyhow::{Context, Result, bail};
#[allow(unused_imports, reason = "for the command that sets a machine up")]
pub use install::{APP_PACKAGES, PACKAGES};
use peers::Peer;
use std::path::PathBuf;

/// Measure wormhole and other proxies side by side.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// What to measure.
    #[arg(long, value_enum, default_value_t = Suite::Relay)]
    pub suite: Suite,
    /// Only these columns: ids or groups (rtt, stream, conn, ends, memory, apps).
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    pub only: Vec<String>,
    /// Only these peers, beside direct and wormhole.
    #[arg(long, value_delimiter = ',', value_name = "PEER")]
    pub peers: Vec<String>,
    /// Exactly these variants.
    #[arg(long, value_delimiter = ',', value_name = "VARIANT", conflicts_with = "peers")]
    pub variants: Vec<String>,
    /// A smoke test of less than a minute; its figures are worth little.
    #[arg(long)]
    pub quick: bool,
    /// Rounds over which medians are taken.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..1000))]
    pub rounds: Option<u16>,
    /// Where table, CSV, JSON, plot and profiles go.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Record where wormholed spends its time (perf), during round trips, streams and connections.
    #[arg(long)]
    pub profile: bool,
    /// Use the wormhole and wormholed of this directory instead of building them.
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// Seed of the randomised connections.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Install missing packages without asking.
    #[arg(long, short)]
    pub yes: bool,
    /// Do not replace a debug build of this program by a release build.
    #[arg(long, hide = true)]
    pub debug_build: bool,
}

/// A set of columns.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Every column of the comparison with other proxies.
    Relay,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Relay => "relay",
        }
    }

    fn columns(self) -> &'static [columns::Column] {
        match self {
            Self::Relay => columns::RELAY,
        }
    }
}

/// Runs the bench and prints its table.
#[allow(clippy::needless_pass_by_value, reason = "the arguments are this command's own")]
pub fn run(args: Args) -> Result<()> {
    let mut columns = columns::select(args.suite.columns(), &args.only)?;
    columns.retain(|column| run::effort(&args).includes(column.measure));
    let peers = select_peers(&args)?;
    if cfg!(debug_assertions) && !args.debug_build {
        return binaries::reexec_in_release();
    }
    let root = binaries::root()?;
    let target = binaries::target(&root);
    let out = args.out.clone().unwrap_or_else(|| target.join("bench"));
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let out = out.canonicalize().with_context(|| format!("find {}", out.display()))?;
    let tools = target.join("tools");
    let yes = args.yes || std::env::var_os("CI").is_some_and(|ci| ci == "true");
    install::provide(&peers, columns.iter().any(|c| c.group == columns::APPS), &tools, yes);
    let bins = match &args.bin_dir {
        Some(dir) => dir.canonicalize().with_context(|| format!("find {}", dir.display())),
        None if peers.iter().any(|peer| peer.name() == peers::WORMHOLE) => binaries::build(&root),
        None => Ok(target.join("release")),
    };
    let mut results = run::run(&run::Plan { args: &args, columns: &columns, peers: &peers, bins, tools: &tools, out: &out })?;
    results.conclude(&columns);
    let text = table::render(&results, &columns);
    println!("{text}");
    let file = |extension: &str| out.join(format!("{}.{extension}", args.suite.name()));
    std::fs::write(file("txt"), &text).with_context(|| format!("write {}", file("txt").display()))?;
    results.write_csv(&file("csv"))?;
    results.write_json(&file("json"))?;
    plot::write(&results, &columns, &file("svg"))?;
    println!("{} (and .csv, .json, .txt)", file("svg").display());
    Ok(())
}

/// The peers that the arguments name, in the order of the table.
fn select_peers(args: &Args) -> Result<Vec<&'static dyn Peer>> {
    let named = if args.variants.is_empty() { &args.peers } else { &args.variants };
    if let Some(unknown) = named.iter().find(|name| !peers::ALL.iter().any(|peer| peer.name() == **name)) {
        let names: Vec<&str> = peers::ALL.iter().map(|peer| peer.name()).collect();
        bail!("{unknown}: no such variant; there are {}", names.join(", "));
    }
    if named.is_empty() {
        return Ok(peers::by_default().collect());
    }
    let reference = |name: &str| args.variants.is_empty() && [peers::DIRECT, peers::WORMHOLE].contains(&name);
    let wanted = |peer: &&dyn Peer| named.iter().any(|name| name == peer.name()) || reference(peer.name());
    Ok(peers::ALL.iter().copied().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn names(words: &[&str]) -> Result<Vec<&'static str>> {
        let args = Cli::try_parse_from(["bench"].iter().chain(words))?.args;
        Ok(select_peers(&args)?.iter().map(|peer| peer.name()).collect())
    }

    #[test]
    fn peers_and_variants() -> Result<()> {
        assert!(!names(&[])?.contains(&peers::UNIX_PAIR));
        assert_eq!(names(&["--peers", "socat,haproxy"])?, ["direct", "wormhole", "haproxy", "socat"]);
        assert_eq!(names(&["--variants", "wormhole"])?, ["wormhole"]);
        assert!(names(&["--peers", "squid"]).is_err());
        assert!(names(&["--peers", "nginx", "--variants", "direct"]).is_err());
        Ok(())
    }
}
