//! What a connection that has nothing to do with wormhole pays for it: the same measurements with the daemon loaded,
//! without it, and without it once more, which shows how much of a difference is noise.

use crate::bench::columns::measures;
use crate::bench::peers::{self, DIRECT, Peer, WORMHOLE};
use crate::bench::results::{Results, VariantInfo};
use crate::bench::run::{self, Plan, Samples};
use anyhow::{Context, Result};

/// With wormholed, its fast path on, and a segment.
pub const LOADED: &str = "loaded";
/// As `direct`, a second time.
pub const AGAIN: &str = "again";

const TIMES: [(&str, &str); 3] = [
    (DIRECT, "TCP over loopback, no wormholed"),
    (LOADED, "the same while wormholed --fastpath on holds a segment in the same namespace"),
    (AGAIN, "the first once more: what differs is noise"),
];

/// Measures.
pub fn run(plan: &Plan<'_>) -> Result<Results> {
    let header = run::header(plan);
    let bench = run::bench(plan)?;
    let [[direct, _], [head, spare]] = run::ports(plan, 2)?[..] else { anyhow::bail!("four ports are needed") };
    let find = |name| peers::HOST.iter().copied().find(|peer: &&'static dyn Peer| peer.name() == name);
    let direct = run::start(plan, find(DIRECT).context("no direct")?, &bench, [direct, 0])?;
    let wormhole = find(WORMHOLE).context("no wormhole")?;
    let mut samples = Samples::default();
    for round in 0..plan.effort.rounds {
        for turn in 0..TIMES.len() {
            let name = TIMES[(turn + round) % TIMES.len()].0;
            // Ends with this turn, and takes its programs out of the kernel.
            let daemon = (name == LOADED).then(|| run::start(plan, wormhole, &bench, [head, spare])).transpose();
            for measure in measures(plan.columns) {
                let taken = match &daemon {
                    Ok(_) => bench.take(&direct, measure),
                    Err(error) => Err(anyhow::anyhow!("{error:#}")),
                };
                samples.note(name, measure, plan.columns, taken);
            }
        }
    }
    let infos = TIMES.map(|(name, about)| VariantInfo { name: name.into(), about: about.into(), skipped: None });
    Ok(samples.into_results(header, infos.into(), plan.columns, &TIMES.map(|(name, _)| name)))
}
