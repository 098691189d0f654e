//! Readers that use splice(2) where the kernel lets no program watch it: redirected bytes wait in front of them, and they
//! never see them.
//!
//! A reader that merely does not read looks the same from here, and must be left alone for as long as it likes. So whoever
//! stands still is a suspect and no more; it takes a proof (see [`proof`]) that it reads that very socket by splice(2).
//! What is not proven goes on waiting, and is looked at again, more and more rarely.

mod proof;
mod stall;
mod trace;

use super::{Fastpath, Pair, Role, Spliced};
use stall::Stall;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How often it looks.
const LOOK: Duration = Duration::from_secs(1);

/// An application's end of a connection: slot, generation, role.
type End = (u32, u32, usize);

/// What was seen of all readers.
#[derive(Debug)]
pub struct Watchdog {
    fastpath: Arc<Fastpath>,
    stalls: HashMap<End, Stall>,
}

impl Watchdog {
    /// Has looked at nothing yet.
    pub fn new(fastpath: Arc<Fastpath>) -> Self {
        Self { fastpath, stalls: HashMap::new() }
    }

    /// Waits until it is time to look, and looks: who uses splice(2), and whose connection is to be reset because of it
    /// although that was known before.
    pub async fn next(&mut self) -> Vec<Spliced> {
        tokio::time::sleep(LOOK).await;
        let fastpath = Arc::clone(&self.fastpath);
        let mut stalls = std::mem::take(&mut self.stalls);
        let looked = tokio::task::spawn_blocking(move || {
            let found = look(&fastpath, &mut stalls);
            (found, stalls)
        });
        // It fails only when the runtime ends.
        let (found, stalls) = looked.await.unwrap_or_default();
        self.stalls = stalls;
        found
    }
}

/// A connection that rests costs two loads from memory, one that moves a question to a program for each direction.
fn look(fastpath: &Fastpath, stalls: &mut HashMap<End, Stall>) -> Vec<Spliced> {
    let mut before = std::mem::take(stalls);
    let (mut found, mut suspects) = (Vec::new(), BTreeMap::new());
    // Where the kernel tells who uses splice(2), nobody need be suspected. That it lets us watch it is not enough.
    let blind = !fastpath.tells.load(Relaxed);
    for pair in fastpath.live() {
        for role in [Role::Client, Role::Server] {
            if pair.uses_splice(role) {
                // Something may have been on its way when it was noticed, or nobody carried the connection yet.
                if pair.is_lost(role) {
                    found.push(Spliced { pair: Some(Arc::clone(&pair)), role, exe: String::new() });
                }
            } else if blind {
                let end = (pair.slot(), pair.generation(), role.side());
                let mut stall = before.remove(&end).unwrap_or_default();
                if is_suspect(&pair, role, &mut stall) {
                    suspects.insert(u64::from(pair.inode(role)), (Arc::clone(&pair), role));
                }
                stalls.insert(end, stall);
            }
        }
    }
    // Nobody holds it any more, or not yet.
    suspects.remove(&0);
    if suspects.is_empty() {
        return found;
    }
    let sockets: BTreeSet<u64> = suspects.keys().copied().collect();
    for (socket, exe) in proof::search(&sockets) {
        // Asked once more: one that goes on by now is none of ours.
        if let Some((pair, role)) = suspects.remove(&socket).filter(|(pair, role)| pair.redirected(*role) > 0) {
            pair.set_spliced(role);
            found.push(fastpath.note(Spliced { pair: Some(pair), role, exe: exe.to_string() }));
        }
    }
    found
}

/// True when it is time to look for a proof.
fn is_suspect(pair: &Pair, role: Role, stall: &mut Stall) -> bool {
    let (direct, injected) = (pair.direct(), pair.injected());
    let sent = match role {
        Role::Client => direct.to_head + injected.to_head,
        _ => direct.to_tail + injected.to_tail,
    };
    stall.may_have(sent) && stall.note(sent, pair.redirected(role).into())
}
