//! The fast path as the daemon sees it: loaded or not, why, and what it has done.

use super::Settings;
use crate::fastpath::{Count, Fastpath, SelfTest, Tuning, WORMHOLED, self_test};
use crate::model::{Bytes, FastpathView, Mode, PairsView, ProbeView, SegmentView};
use crate::segment::Segment;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What came of loading the programs.
pub(super) struct Fast {
    mode: Mode,
    loaded: Result<Loaded, String>,
}

/// The programs, and what they are good for on this kernel.
struct Loaded {
    fastpath: Arc<Fastpath>,
    tested: SelfTest,
}

impl Fast {
    /// Loads the programs unless they are off, and tries them.
    pub(super) fn start(settings: &Settings) -> Self {
        let mode = settings.defaults.fastpath;
        let loaded = match mode {
            Mode::Off => Err("off (--fastpath off)".to_owned()),
            Mode::Auto | Mode::On => load(settings),
        };
        match &loaded {
            Ok(Loaded { tested, .. }) => {
                tracing::info!(?mode, "the fast path is ready; {}", tested.summary());
                for probe in tested.failed() {
                    tracing::info!("not as with plain TCP: {}: {}", probe.name, probe.detail);
                }
            }
            Err(why) => tracing::info!(why, "no fast path; every connection takes the relay"),
        }
        Self { mode, loaded }
    }

    /// The programs, for those who enrol sockets.
    pub(super) fn programs(&self) -> Option<Arc<Fastpath>> {
        self.loaded.as_ref().ok().map(|loaded| Arc::clone(&loaded.fastpath))
    }

    /// Whether `--fastpath auto` enrols on this kernel.
    pub(super) fn auto(&self) -> bool {
        self.loaded.as_ref().is_ok_and(|loaded| loaded.tested.auto.is_ok())
    }

    /// For `status`: what the programs count, and what relay threads did in `segments`.
    pub(super) fn view(&self, segments: &[Arc<Segment>]) -> FastpathView {
        let Loaded { fastpath, tested } = match &self.loaded {
            Ok(loaded) => loaded,
            Err(why) => {
                let summary = format!("every connection takes the relay: {why}");
                return FastpathView { mode: self.mode, summary, ..FastpathView::default() };
            }
        };
        let counters = fastpath.counters();
        let auto = self.auto();
        let who = if auto { "connections" } else { "connections of segments with --fastpath on" };
        let named = [
            ("order", Count::Order),
            ("full", Count::Full),
            ("memory", Count::Memory),
            ("gone", Count::Gone),
            ("no-slot", Count::NoSlot),
            ("no-room", Count::NoRoom),
            ("executable", Count::Executable),
            ("mptcp", Count::Mptcp),
            ("sockopt", Count::Sockopt),
            ("ring", Count::Ring),
            ("gathered", Count::Gathered),
        ];
        let fallbacks = named.iter().map(|(name, what)| ((*name).to_owned(), counters.of(*what)));
        let mut relayed = Bytes::default();
        let mut reasons = BTreeMap::new();
        for segment in segments {
            let SegmentView { bytes, direct, fallbacks, .. } = segment.view();
            relayed = relayed + bytes.without(direct);
            for (why, count) in fallbacks {
                *reasons.entry(why).or_default() += count;
            }
        }
        let spliced = ("spliced".to_owned(), counters.spliced);
        FastpathView {
            mode: self.mode,
            active: true,
            auto,
            summary: format!("{who} between two processes of this machine go from socket to socket; {}", tested.summary()),
            probes: tested.probes.iter().map(probe).collect(),
            pairs: PairsView { open: counters.open, max: counters.max, total: counters.total },
            enrolled: counters.of(Count::Clients) + counters.of(Count::Servers),
            direct: counters.direct,
            injected: counters.injected,
            relayed,
            reasons,
            fallbacks: fallbacks.chain([spliced]).filter(|(_, count)| *count > 0).collect(),
            off_for: fastpath.spared(),
        }
    }
}

fn probe(probe: &crate::fastpath::Probe) -> ProbeView {
    ProbeView { name: probe.name.to_owned(), passed: probe.passed, detail: probe.detail.clone() }
}

/// The rights that loading needs and that this process lacks, in words to go on with: the kernel says no more than that
/// something was not permitted, and sometimes, about a helper that it hides then, less.
fn missing() -> String {
    let Ok(CapabilitySets { effective, .. }) = capabilities(None) else { return String::new() };
    let needed = [
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::PERFMON, "CAP_PERFMON"),
        (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    ];
    let gone: Vec<&str> = needed.iter().filter(|(right, _)| !effective.contains(*right)).map(|(_, name)| *name).collect();
    if gone.is_empty() { String::new() } else { format!("; wormholed lacks {}", gone.join(", ")) }
}

/// The same of a kernel that refuses whatever the rights are; `lockdown` is what it says of itself.
fn locked(lockdown: &str) -> &'static str {
    if lockdown.contains("[confidentiality]") {
        "; this kernel is locked down for confidentiality (kernel_lockdown(7)) and lets no program read its memory"
    } else {
        ""
    }
}

fn load(settings: &Settings) -> Result<Loaded, String> {
    let tuning = Tuning {
        max_pairs: settings.fastpath_pairs,
        gather: settings.fastpath_gather,
        threads: settings.workers,
        ..Tuning::default()
    };
    let fastpath = Fastpath::load(&tuning).map_err(|error| {
        let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
        format!("{error}{}{}", missing(), locked(&lockdown))
    })?;
    // Before any executable is kept off: its client is this very process.
    let tested = self_test(&fastpath);
    for name in settings.fastpath_except.iter().map(String::as_str).chain([WORMHOLED]) {
        fastpath.spare(name);
    }
    Ok(Loaded { fastpath, tested })
}

#[cfg(test)]
mod tests {
    use super::locked;

    #[test]
    fn only_the_stricter_lockdown_is_a_reason() {
        assert!(locked("none integrity [confidentiality]\n").contains("confidentiality"));
        for other in ["[none] integrity confidentiality\n", "none [integrity] confidentiality\n", ""] {
            assert_eq!(locked(other), "");
        }
    }
}
