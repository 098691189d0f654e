//! The self-test: what this kernel does with sockets on the fast path, found out by trying and not by its version.
//!
//! A client, a server and the two sockets of wormholed's between them are made in a namespace of their own, with the real
//! programs and maps and without the relay. Every probe is a question to which plain TCP would answer yes, or to which
//! the fast path needs a yes.

mod data;
mod ends;
mod options;
mod rig;
mod verdict;

pub use verdict::{Probe, SelfTest};

use super::{Fastpath, Pair};
use rig::Rig;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one step may take. On a kernel that does what it should none takes a millisecond.
const STEP: Duration = Duration::from_secs(1);

/// After this no further probe is begun.
const PATIENCE: Duration = Duration::from_secs(4);

/// What a probe saw.
struct Seen {
    passed: bool,
    detail: String,
}

/// A question.
struct Question {
    name: &'static str,
    /// `auto` needs a yes.
    essential: bool,
    ask: fn(&Rig<'_>) -> io::Result<Seen>,
}

const fn needed(name: &'static str, ask: fn(&Rig<'_>) -> io::Result<Seen>) -> Question {
    Question { name, essential: true, ask }
}

const fn asked(name: &'static str, ask: fn(&Rig<'_>) -> io::Result<Seen>) -> Question {
    Question { name, essential: false, ask }
}

/// The first one is what all others build on.
const QUESTIONS: &[Question] = &[
    needed("direct", data::direct),
    needed("order", data::order),
    needed("charged", data::charged),
    needed(verdict::FIONREAD, data::fionread_redirected),
    asked("fionread-normal", data::fionread_normal),
    needed("eof", ends::eof),
    needed("peer-gone", ends::peer_gone),
    asked("unread", ends::unread),
    needed("ulp", options::ulp),
    asked("zerocopy", options::zerocopy),
    asked("splice", data::splice),
    needed("recv-after-shutdown", ends::recv_after_shutdown),
    asked("recv-shutdown", ends::recv_shutdown),
    asked("waitall", data::waitall),
    asked("rcvlowat", options::rcvlowat),
    asked("oob", data::oob),
];

/// Asks everything. It takes less than a second, and about [`PATIENCE`] on a kernel that does not answer. What it did is
/// not in [`Fastpath::counters`] afterwards.
pub fn run(fastpath: &Arc<Fastpath>) -> SelfTest {
    let asked = crate::netns::scratch(|| {
        let rig = Rig::new(fastpath).map_err(|error| format!("the self-test could not begin: {error}"))?;
        Ok(ask_all(&rig))
    });
    let verdict = match asked {
        Ok(Ok(probes)) => SelfTest::of(probes),
        Ok(Err(why)) => SelfTest::untried(why),
        Err(error) => SelfTest::untried(error.to_string()),
    };
    for name in verdict.spared {
        fastpath.spare(name);
    }
    // Nobody else has one yet.
    let left: Vec<Arc<Pair>> = fastpath.live();
    if !left.is_empty() {
        tracing::warn!(count = left.len(), "the self-test has left connections behind");
    }
    // The first self-test is the one that is meant; there is no other.
    let _ = fastpath.tried.set(fastpath.all_counters());
    verdict
}

fn ask_all(rig: &Rig<'_>) -> Vec<Probe> {
    let began = Instant::now();
    let mut broken = false;
    let ask = |question: &Question| {
        let Question { name, essential, ask } = *question;
        let seen = if broken {
            Err("not tried: nothing goes from socket to socket".to_owned())
        } else if began.elapsed() > PATIENCE {
            Err(format!("not tried: those before it took more than {} s", PATIENCE.as_secs()))
        } else {
            ask(rig).map_err(|error| told(&error))
        };
        let Seen { passed, detail } = seen.unwrap_or_else(|detail| Seen { passed: false, detail });
        broken |= !passed && name == "direct";
        Probe { name, passed, essential, detail }
    };
    QUESTIONS.iter().map(ask).collect()
}

fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("no answer within {} s", STEP.as_secs()),
        _ => format!("the try failed: {error}"),
    }
}

impl Seen {
    /// What it means when it is so, or is not.
    fn choose(passed: bool, yes: impl Into<String>, no: impl Into<String>) -> Self {
        Self { passed, detail: if passed { yes.into() } else { no.into() } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_the_first_is_what_all_need() {
        let mut names: Vec<&str> = QUESTIONS.iter().map(|question| question.name).collect();
        assert_eq!(names.first(), Some(&"direct"));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!((names.len(), count), (16, 16));
        assert!(QUESTIONS.iter().any(|question| question.name == verdict::FIONREAD));
    }
}
