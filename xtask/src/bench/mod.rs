//! `cargo xtask bench`: wormhole and other proxies side by side, in one run, on this machine.
//!
//! | file | subject |
//! | --- | --- |
//! | `columns` | what is measured |
//! | `peers/` | what it is measured on |
//! | `measure`, `apps`, `profile` | taking one measurement |
//! | `worker/`, `launch`, `site` | the processes that make the load, how they are started, and where |
//! | `run` | rounds |
//! | `fastpath/` | the places where the fast path is measured, and its targets |
//! | `results`, `stats`, `table`, `plot` | what comes out |
//! | `install`, `binaries` | what must be there first |
//!
//! Variants alternate within each round, medians are taken over the rounds, and ratios are what counts: absolute figures
//! change with the machine and with what else it does.

mod apps;
mod binaries;
mod columns;
mod fastpath;
mod install;
mod launch;
mod measure;
mod net;
mod peers;
mod plot;
mod proc;
mod profile;
mod results;
mod run;
mod segment;
mod site;
mod stats;
mod table;
pub mod worker;

use anyhow::{Context, Result, bail};
#[allow(unused_imports, reason = "for the command that sets a machine up")]
pub use install::{APP_PACKAGES, CONTAINER_PACKAGES, PACKAGES};
use peers::Peer;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measure wormhole and other proxies side by side.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// What to measure.
    #[arg(long, value_enum, default_value_t = Suite::Relay)]
    pub suite: Suite,
    /// Only these columns: ids or groups (rtt, stream, conn, ends, memory, apps; of the suite fastpath: rtt, sizes, early,
    /// conn, apps, and its places host, c2c, h2c, unrelated).
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    pub only: Vec<String>,
    /// Only these peers, beside direct and wormhole.
    #[arg(long, value_delimiter = ',', value_name = "PEER")]
    pub peers: Vec<String>,
    /// Exactly these variants.
    #[arg(long, value_delimiter = ',', value_name = "VARIANT", conflicts_with = "peers")]
    pub variants: Vec<String>,
    /// A smoke test of about a minute; its figures are worth little.
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
    /// Fail when a target of the suite fastpath is missed by more than noise, or could not be measured.
    #[arg(long)]
    pub check: bool,
    /// Use the wormhole and wormholed of this directory instead of building them.
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// TCP congestion control of the bench's own clients and servers, which set it on their sockets; without it the system's.
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
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

/// What is compared.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// The relay with other proxies: every column.
    Relay,
    /// The fast path with no proxy at all, the relay, the best proxy, and container networks; against its targets.
    Fastpath,
}

/// Where things are.
struct Paths {
    root: PathBuf,
    tools: PathBuf,
    out: PathBuf,
}

/// Runs the bench and prints its table.
#[allow(clippy::needless_pass_by_value, reason = "the arguments are this command's own")]
pub fn run(args: Args) -> Result<ExitCode> {
    if let Some(name) = &args.congestion {
        net::set_congestion(name);
    }
    match args.suite {
        Suite::Relay => relay(&args),
        Suite::Fastpath => fastpath::run(&args),
    }
}

fn relay(args: &Args) -> Result<ExitCode> {
    let mut columns = columns::select(columns::RELAY, &args.only, &[columns::APPS])?;
    let effort = run::effort(args);
    columns.retain(|column| effort.includes(column.measure));
    let by_default: Vec<&str> = peers::by_default().map(Peer::name).collect();
    let peers = select_peers(args, peers::ALL, &by_default)?;
    let paths = paths(args)?;
    install::provide(&peers, columns.iter().any(|c| c.group == columns::APPS), false, &paths.tools, may_install(args));
    let bins = bins(args, &paths.root, &peers);
    let mut results = run::run(&run::Plan {
        args,
        title: "relay".into(),
        effort,
        columns: &columns,
        peers: &peers,
        bins: &bins,
        tools: &paths.tools,
        out: &paths.out,
        ground: &run::Ground::new()?,
        containers: None,
    })?;
    results.conclude(&columns);
    let text = table::render(&results, &columns) + &table::verdicts(&results, &columns);
    println!("{text}");
    let file = |extension: &str| paths.out.join(format!("relay.{extension}"));
    std::fs::write(file("txt"), &text).with_context(|| format!("write {}", file("txt").display()))?;
    results.write_csv(&file("csv"))?;
    results.write_json(&file("json"))?;
    plot::write(&results, &columns, &file("svg"))?;
    println!("{} (and .csv, .json, .txt)", file("svg").display());
    Ok(ExitCode::SUCCESS)
}

/// Makes the directory for what comes out. A debug build is replaced by a release build here, and this does not return.
fn paths(args: &Args) -> Result<Paths> {
    if cfg!(debug_assertions) && !args.debug_build {
        binaries::reexec_in_release()?;
    }
    let root = binaries::root()?;
    let target = binaries::target(&root);
    let out = args.out.clone().unwrap_or_else(|| target.join("bench"));
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let out = out.canonicalize().with_context(|| format!("find {}", out.display()))?;
    Ok(Paths { root, tools: target.join("tools"), out })
}

fn may_install(args: &Args) -> bool {
    args.yes || std::env::var_os("CI").is_some_and(|ci| ci == "true")
}

/// Where wormhole's binaries are; they are built when a peer needs them and the arguments name none.
fn bins(args: &Args, root: &Path, peers: &[&'static dyn Peer]) -> Result<PathBuf> {
    match &args.bin_dir {
        Some(dir) => dir.canonicalize().with_context(|| format!("find {}", dir.display())),
        None if peers.iter().any(|peer| is_wormhole(*peer)) => binaries::build(root),
        None => Ok(binaries::target(root).join("release")),
    }
}

/// Whether a peer is the product, in one of its ways.
fn is_wormhole(peer: &dyn Peer) -> bool {
    peers::OWN.contains(&peer.name())
}

/// The peers of `all` that the arguments name, in the order of the table; those of `by_default` when they name none.
fn select_peers(args: &Args, all: &[&'static dyn Peer], by_default: &[&str]) -> Result<Vec<&'static dyn Peer>> {
    let named = if args.variants.is_empty() { &args.peers } else { &args.variants };
    if let Some(unknown) = named.iter().find(|name| !peers::every().any(|peer| peer.name() == **name)) {
        let mut names: Vec<&str> = peers::every().map(Peer::name).collect();
        names.sort_unstable();
        names.dedup();
        bail!("{unknown}: no such variant; there are {}", names.join(", "));
    }
    let wanted = |peer: &&'static dyn Peer| {
        let is_named = named.iter().any(|name| name == peer.name());
        // Named peers come beside those that they are compared with.
        let reference = args.variants.is_empty() && by_default.contains(&peer.name()) && !peers::is_proxy(peer.name());
        if named.is_empty() { by_default.contains(&peer.name()) } else { is_named || reference }
    };
    Ok(all.iter().copied().filter(wanted).collect())
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
        let by_default: Vec<&str> = peers::by_default().map(Peer::name).collect();
        Ok(select_peers(&args, peers::ALL, &by_default)?.iter().map(|peer| peer.name()).collect())
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
