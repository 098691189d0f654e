//! `cargo xtask bench --suite fastpath`: wormhole's fast path against no proxy at all.
//!
//! | file | subject |
//! | --- | --- |
//! | `setting` | between what, and what is measured there |
//! | `containers` | the two containers of it |
//! | `unrelated` | what a connection that is none of wormhole's pays |
//! | `targets` | what has to be reached |
//! | `sizes` | the plot over sizes |
//!
//! All of it happens in a box: the Docker engine is a private one, and nothing is left behind. Settings come one after the
//! other, so that no two daemons with a fast path are loaded at a time.

pub mod containers;
mod setting;
mod sizes;
mod targets;
mod unrelated;

use super::columns::{self, Column};
use super::peers::Peer;
use super::results::{self, Results};
use super::run::{self, Ground, Plan};
use super::{Args, Paths, install, plot, table};
use anyhow::{Context, Result};
use containers::Containers;
use setting::{Choice, Setting};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use wormhole_tests::boxed;
use wormhole_tests::engine::Engine;
use wormhole_tests::images::{self, Image};

/// What a reader must know.
const NOTES: [&str; 5] = [
    "round trips: 1 byte; on one cpu client, server and proxy are pinned to it, on two the server is on the first, the client on the second",
    "streams and real servers: the server on the first cpu, the client on the second, a proxy free; \"one cpu\": all on the first; connections: nothing is pinned",
    "the buffers of streams begin where a page begins: some CPUs copy slowly to a place a few bytes further on in its page than where it comes from",
    "streams by size begin when the server has spoken; \"directly after connect\" begins before anything in between can be ready",
    "CPU: client, server and proxy together; what the kernel does for loopback it does in their time",
];

/// Runs the suite, in a box.
pub fn run(args: &Args) -> Result<ExitCode> {
    let choice = setting::choose(&args.only, args.quick)?;
    let peers = peers_of(args, &choice)?;
    let paths = super::paths(args)?;
    if boxed::in_box() {
        return inside(args, &choice, &paths);
    }
    if let Some(why) = boxed::obstacle() {
        eprintln!("bench: only what needs no container: {why}");
        return inside(args, &choice, &paths);
    }
    let has = |group: &str| choice.iter().any(|(_, columns)| columns.iter().any(|column| column.group == group));
    let in_containers = choice.iter().any(|(setting, _)| setting.has_containers());
    install::provide(&peers, has(columns::APPS), in_containers, &paths.tools, super::may_install(args));
    let bins = super::bins(args, &paths.root, &peers)?;
    if in_containers && let Err(error) = images::prepare(Image::Bench) {
        eprintln!("bench: cannot make the image for containers: {error:#}");
    }
    let mut again = Command::new(std::env::current_exe().context("find this program")?);
    again.args(std::env::args_os().skip(1));
    if args.bin_dir.is_none() {
        again.arg("--bin-dir").arg(bins);
    }
    let status = boxed::enter(&again)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Every peer that is going to run, some of them more than once.
fn peers_of(args: &Args, choice: &Choice) -> Result<Vec<&'static dyn Peer>> {
    let each = choice.iter().map(|(setting, _)| super::select_peers(args, setting.peers(), &setting.by_default()));
    Ok(each.collect::<Result<Vec<_>>>()?.concat())
}

/// One setting that was measured.
struct Part {
    setting: Setting,
    columns: Vec<&'static Column>,
    results: Results,
}

/// The part of the run that is in the box.
fn inside(args: &Args, choice: &Choice, paths: &Paths) -> Result<ExitCode> {
    let bins = super::bins(args, &paths.root, &peers_of(args, choice)?);
    let engine = match choice.iter().any(|(setting, _)| setting.has_containers()) {
        true => Some(Engine::start().map_err(|error| format!("no Docker engine: {error:#}"))),
        false => None,
    };
    let mut text = String::new();
    let mut parts = Vec::new();
    let mut outcomes = Vec::new();
    let mut complete = true;
    for (setting, columns) in choice {
        match measure(args, *setting, columns, paths, &bins, engine.as_ref()) {
            Ok(results) => {
                let mut shown = table::render(&results, columns);
                if !results.verdicts.is_empty() {
                    shown.push_str(&table::verdicts(&results, columns));
                }
                println!("{shown}");
                text.push_str(&format!("{shown}\n"));
                outcomes.extend(targets::judge(*setting, &results, columns));
                parts.push(Part { setting: *setting, columns: columns.clone(), results });
            }
            Err(error) => {
                complete = false;
                let line = format!("{}: not measured: {error:#}", setting.name());
                println!("{line}\n");
                text.push_str(&format!("{line}\n\n"));
            }
        }
    }
    if let Some(Ok(engine)) = engine {
        engine.stop().context("stop the Docker engine")?;
    }
    let notes = NOTES.map(|note| format!("  {note}\n")).concat();
    let end = format!("{notes}\n{}", targets::render(&outcomes));
    println!("{end}");
    text.push_str(&end);
    write(&paths.out, &text, &parts, &outcomes)?;
    let reached = complete && outcomes.iter().all(|outcome| outcome.verdict.passes());
    Ok(if reached || !args.check { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(
    args: &Args,
    setting: Setting,
    columns: &[&'static Column],
    paths: &Paths,
    bins: &Result<PathBuf>,
    engine: Option<&Result<Engine, String>>,
) -> Result<Results> {
    let ground = Ground::new()?;
    let containers = match engine.filter(|_| setting.has_containers()) {
        Some(Ok(engine)) => Some(Containers::start(engine, &ground).context("start the two containers")?),
        Some(Err(why)) => anyhow::bail!("{why}"),
        None => None,
    };
    let peers = super::select_peers(args, setting.peers(), &setting.by_default())?;
    let plan = Plan {
        args,
        title: format!("fastpath, {} ({})", setting.name(), setting.about()),
        effort: run::effort(args),
        columns,
        peers: &peers,
        bins,
        tools: &paths.tools,
        out: &paths.out,
        ground: &ground,
        containers: containers.as_ref(),
    };
    let mut results = if setting == Setting::Unrelated { unrelated::run(&plan) } else { run::run(&plan) }?;
    results.conclude(columns);
    Ok(results)
}

/// Writes what came out: tables, CSV, JSON, plots.
fn write(out: &Path, text: &str, parts: &[Part], outcomes: &[targets::Outcome]) -> Result<()> {
    let file = |name: &str| out.join(format!("fastpath{name}"));
    std::fs::write(file(".txt"), text).with_context(|| format!("write {}", file(".txt").display()))?;
    let all: Vec<_> = parts.iter().map(|part| (part.setting.name(), &part.results)).collect();
    results::write_json(&serde_json::json!({ "settings": all, "targets": outcomes }), &file(".json"))?;
    let mut csv = csv::Writer::from_path(file(".csv")).with_context(|| format!("create {}", file(".csv").display()))?;
    csv.write_record(["setting"].into_iter().chain(results::CSV))?;
    for (name, results) in all {
        for record in results.records() {
            csv.write_record([name.to_owned()].into_iter().chain(record))?;
        }
    }
    csv.flush().context("write the CSV file")?;
    println!("{} (and .csv, .json)", file(".txt").display());
    for part in parts {
        let path = file(&format!("-{}.svg", part.setting.name()));
        plot::write(&part.results, &part.columns, &path)?;
        println!("{}", path.display());
        let path = file(&format!("-{}-sizes.svg", part.setting.name()));
        if part.setting != Setting::Unrelated && sizes::write(&part.results, &path)? {
            println!("{}", path.display());
        }
    }
    Ok(())
}
