//! The rounds: in each, every measurement on every variant, one after the other.

use super::columns::{Column, Measure, measures};
use super::fastpath::containers::Containers;
use super::measure::{Bench, Effort, Values, Variant, idle_fits};
use super::peers::{Peer, Place};
use super::results::{Cell, ColumnInfo, Header, Results, VariantInfo};
use super::{Args, Suite, net, proc};
use anyhow::{Context, Result, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tempfile::TempDir;

/// What to run.
pub struct Plan<'a> {
    pub args: &'a Args,
    /// What is measured, for titles.
    pub title: String,
    pub effort: Effort,
    pub columns: &'a [&'static Column],
    pub peers: &'a [&'static dyn Peer],
    /// Where wormhole's binaries are, or why there are none.
    pub bins: &'a Result<PathBuf>,
    pub tools: &'a Path,
    pub out: &'a Path,
    pub ground: &'a Ground,
    /// The two containers, where they are what is measured.
    pub containers: Option<&'a Containers>,
}

/// What processes on both sides of a measurement know: a directory, and the server's port.
pub struct Ground {
    pub dir: TempDir,
    pub tail: u16,
}

impl Ground {
    /// A fresh one.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("wormhole-bench-").tempdir().context("make a temporary directory")?;
        let tail = *net::free_ports(1)?.first().context("no port for the server")?;
        Ok(Self { dir, tail })
    }
}

/// Values of the rounds by column and variant, and the last reason why one is missing.
#[derive(Default)]
pub struct Samples {
    values: HashMap<(&'static str, &'static str), Vec<f64>>,
    failed: HashMap<(&'static str, &'static str), String>,
    /// Variants that ended by themselves, and during what.
    deaths: Vec<String>,
}

/// Starts the variants, measures, and ends them.
pub fn run(plan: &Plan<'_>) -> Result<Results> {
    // Before anything else runs: what the machine was doing without us.
    let mut header = header(plan);
    let bench = bench(plan)?;
    let ports = ports(plan, plan.peers.len())?;
    let mut variants = Vec::new();
    let mut infos = Vec::new();
    for (peer, ports) in plan.peers.iter().zip(ports) {
        let started = start(plan, *peer, &bench, ports);
        let skipped = started.as_ref().err().map(|error| format!("{error:#}"));
        infos.push(VariantInfo { name: peer.name().into(), about: peer.about().into(), skipped });
        variants.extend(started);
    }
    let samples = rounds(plan, &bench, &mut variants);
    for variant in &variants {
        if let Some(segment) = &variant.running.segment {
            let said = segment.summary().unwrap_or_else(|error| format!("{error:#}"));
            header.notes.push(format!("{}: {said}", variant.name));
        }
    }
    let names: Vec<&'static str> = variants.iter().map(|variant| variant.name).collect();
    Ok(samples.into_results(header, infos, plan.columns, &names))
}

/// Two free ports for each of `count` variants.
pub fn ports(plan: &Plan<'_>, count: usize) -> Result<Vec<[u16; 2]>> {
    let mut free = net::free_ports(1 + 2 * count)?;
    free.retain(|port| *port != plan.ground.tail);
    Ok(free.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect())
}

/// How long and how often, by the arguments.
pub fn effort(args: &Args) -> Effort {
    let full = if args.suite == Suite::Fastpath { Effort::FASTPATH } else { Effort::FULL };
    let mut effort = if args.quick { Effort::QUICK } else { full };
    if let Some(rounds) = args.rounds {
        effort.rounds = usize::from(rounds);
    }
    effort
}

/// What all measurements of a plan share.
pub fn bench(plan: &Plan<'_>) -> Result<Bench> {
    let fastpath = plan.args.suite == Suite::Fastpath;
    Ok(Bench {
        exe: std::env::current_exe().context("find this program")?,
        tail: plan.ground.tail,
        cpus: proc::cpus(),
        effort: plan.effort,
        fd_limit: proc::raise_fd_limit(),
        seed: plan.args.seed,
        dir: plan.ground.dir.path().to_owned(),
        profiles: plan.args.profile.then(|| plan.out.to_owned()),
        profile_all: fastpath,
        pin_apps: fastpath,
    })
}

/// Starts one variant on two free ports.
pub fn start(plan: &Plan<'_>, peer: &'static dyn Peer, bench: &Bench, ports: [u16; 2]) -> Result<Variant> {
    let dir = bench.dir.join(peer.name());
    // Started again, wormhole would find its segment in the records of the first time.
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    // Only wormhole needs its binaries: the others run without.
    let bins = match plan.bins {
        Ok(bins) => bins.as_path(),
        Err(error) if super::is_wormhole(peer) => return Err(anyhow!("{error:#}")),
        Err(_) => Path::new(""),
    };
    let tail_unix = bench.dir.join("tail.sock");
    let [head, spare] = ports;
    let place = Place {
        exe: &bench.exe,
        dir,
        head,
        spare,
        tail: bench.tail,
        tail_unix: &tail_unix,
        tools: plan.tools,
        bins,
        containers: plan.containers,
    };
    let running = peer.start(&place)?;
    Ok(Variant { peer, ports, name: peer.name(), forks: peer.forks(), running })
}

/// Every round starts with another variant, so that none always comes after the same one.
fn rounds(plan: &Plan<'_>, bench: &Bench, variants: &mut [Variant]) -> Samples {
    let measures = measures(plan.columns);
    let mut samples = Samples::default();
    let repeated = measures.iter().filter(|m| m.repeats()).count();
    let steps = variants.len() * (measures.len() + repeated * (bench.effort.rounds - 1));
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) = ProgressStyle::with_template("bench {bar:30} {pos}/{len} {elapsed} {msg}") {
        bar.set_style(style);
    }
    for round in 0..bench.effort.rounds {
        for measure in measures.iter().filter(|measure| round == 0 || measure.repeats()) {
            for turn in 0..variants.len() {
                let index = (turn + round) % variants.len();
                if let Some(variant) = variants.get_mut(index) {
                    bar.set_message(format!("round {}: {measure:?} on {}", round + 1, variant.name));
                    // Memory that earlier columns left behind would be used again, and the idle connections look free.
                    if matches!(measure, Measure::Idle(_)) {
                        samples.restart(plan, bench, variant);
                    }
                    samples.take(bench, variant, *measure, plan.columns);
                    samples.revive(plan, bench, variant, *measure);
                    bar.inc(1);
                }
            }
        }
    }
    bar.finish_and_clear();
    samples
}

impl Samples {
    /// Everything that was measured, under its header.
    pub fn into_results(
        self,
        mut header: Header,
        variants: Vec<VariantInfo>,
        columns: &[&'static Column],
        names: &[&'static str],
    ) -> Results {
        header.notes.extend(self.deaths);
        let mut results = Results { header, variants, columns: Vec::new(), cells: Vec::new(), verdicts: Vec::new() };
        for column in columns {
            results.columns.push(ColumnInfo::from(*column));
            for name in names {
                let key = (column.id, *name);
                let (values, failed) = (self.values.get(&key).cloned().unwrap_or_default(), self.failed.get(&key).cloned());
                results.cells.push(Cell::new(column.id, name, values, failed));
            }
        }
        results
    }

    /// Starts a variant again that did not survive a measurement: it shall lose that column, not all that follow.
    fn revive(&mut self, plan: &Plan<'_>, bench: &Bench, variant: &mut Variant, measure: Measure) {
        if let Err(error) = variant.check_alive() {
            self.deaths.push(format!("{measure:?}: {error:#}; it was started again"));
            self.restart(plan, bench, variant);
        }
    }

    fn restart(&mut self, plan: &Plan<'_>, bench: &Bench, variant: &mut Variant) {
        // First the old one's end: the new one takes its port.
        variant.running.groups.clear();
        match start(plan, variant.peer, bench, variant.ports) {
            Ok(again) => *variant = again,
            Err(error) => self.deaths.push(format!("{}: does not start again: {error:#}", variant.name)),
        }
    }

    fn take(&mut self, bench: &Bench, variant: &Variant, measure: Measure, columns: &[&'static Column]) {
        self.note(variant.name, measure, columns, bench.take(variant, measure));
    }

    /// Keeps the values of a round, or why there are none.
    pub fn note(&mut self, name: &'static str, measure: Measure, columns: &[&'static Column], taken: Result<Values>) {
        match taken {
            Ok(values) => values.into_iter().for_each(|(id, v)| self.values.entry((id, name)).or_default().push(v)),
            Err(error) => {
                for column in columns.iter().filter(|column| column.measure == measure) {
                    self.failed.insert((column.id, name), format!("{error:#}"));
                }
            }
        }
    }
}

const SYSTEMS_CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Where and how a plan is run.
pub fn header(plan: &Plan<'_>) -> Header {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let cpu =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()));
    let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
    let words: Vec<String> = std::env::args().skip(1).collect();
    Header {
        date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        congestion: net::congestion().map_or_else(|| read(SYSTEMS_CONGESTION).trim().to_owned(), str::to_owned),
        cpu: cpu.unwrap_or_else(|| "unknown cpu".into()),
        cpus: proc::cpus().len(),
        load,
        command: format!("cargo xtask {}", words.join(" ")),
        suite: plan.title.clone(),
        rounds: plan.effort.rounds,
        seed: plan.args.seed,
        notes: notes(plan),
    }
}

/// What a reader must know, by the suite.
fn notes(plan: &Plan<'_>) -> Vec<String> {
    match plan.args.suite {
        Suite::Relay => relay_notes(plan.columns, &plan.effort, plan.args.profile),
        // Those of its parts are the same, and are said once at the end.
        Suite::Fastpath => Vec::new(),
    }
}

fn relay_notes(columns: &[&'static Column], effort: &Effort, profile: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if profile {
        notes.push(
            "--profile: wormhole alone runs under perf in the columns of speed, which slows it down: do not compare them".into(),
        );
    }
    if !effort.long_ones {
        notes.push("--quick: 10,000 idle and 30,000 sequential connections are left out".into());
    }
    let has = |group: &str| columns.iter().any(|column| column.group == group);
    if has("rtt") {
        notes.push("round trips: on one cpu client, server and proxy are pinned to it; on two the server is on the first, the client on the second, the proxy free".into());
    }
    if has("stream") || has("conn") {
        notes.push("streams and connections: nothing is pinned; CPU is that of client, proxy and server together".into());
    }
    if has("memory") {
        let fits = idle_fits(10_000, proc::raise_fd_limit());
        let scaled =
            if fits < 10_000 { format!("; the limit of open files allows {fits} instead of 10,000") } else { String::new() };
        notes.push(format!("memory: each variant freshly started; kernel is the whole machine's growth, the sockets of client and server included{scaled}"));
    }
    notes.push(format!("columns that are not speed are measured once; integrity over {} connections", effort.integrity));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::columns::{RELAY, select};

    #[test]
    fn notes_fit_the_columns() -> Result<()> {
        let of = |only: &str| {
            Ok::<_, anyhow::Error>(relay_notes(&select(RELAY, &[only.into()], &[])?, &Effort::QUICK, false).join("\n"))
        };
        assert!(of("rtt")?.contains("pinned to it"));
        assert!(!of("conn")?.contains("pinned to it"));
        Ok(())
    }
}
