//! Applications that used splice(2) on an enrolled socket, as the programs tell.

use super::{Fastpath, Pair, Role, exe_text};
use aya::maps::{MapData, RingBuf};
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, Weak};
use tokio::io::unix::AsyncFd;
use wormhole_common::SpliceEvent;

/// Somebody used splice(2).
#[derive(Debug)]
pub struct Spliced {
    /// The connection, if it is still there.
    pub pair: Option<Arc<Pair>>,
    /// Which of its two applications.
    pub role: Role,
    /// The executable's base name; empty when it is not known.
    pub exe: String,
}

/// The stream of [`Spliced`].
pub struct Splices {
    ring: AsyncFd<RingBuf<MapData>>,
    fastpath: Arc<Fastpath>,
}

impl Fastpath {
    /// Who uses splice(2) from now on. There is one such stream; later calls get none.
    ///
    /// # Errors
    /// Without a tokio runtime.
    pub fn splices(self: &Arc<Self>) -> io::Result<Option<Splices>> {
        let ring = self.programs.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(ring) = ring else { return Ok(None) };
        // SAFETY: the ring owns its descriptor and always names the same one.
        let ring = unsafe { AsyncFd::register(ring) }?;
        Ok(Some(Splices { ring, fastpath: Arc::clone(self) }))
    }
}

impl Fastpath {
    /// Takes what has happened before anybody follows the stream: the executables' names.
    pub(super) fn early_splices(&self) -> Vec<String> {
        let mut ring = self.programs.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names = Vec::new();
        while let Some(item) = ring.as_mut().and_then(RingBuf::next) {
            names.extend(parse(&item).map(|event| exe_text(&event.exe)));
        }
        names
    }
}

fn parse(item: &[u8]) -> Option<SpliceEvent> {
    // SAFETY: the program writes whole events; they are numbers and bytes.
    (item.len() >= size_of::<SpliceEvent>()).then(|| unsafe { item.as_ptr().cast::<SpliceEvent>().read_unaligned() })
}

impl Splices {
    /// The next one.
    ///
    /// # Errors
    /// The ring buffer cannot be waited for.
    pub async fn next(&mut self) -> io::Result<Spliced> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            if let Some(item) = ready.get_inner_mut().next() {
                let event = parse(&item);
                drop(item);
                if let Some(event) = event {
                    return Ok(self.fastpath.name(&event));
                }
            } else {
                ready.clear_ready();
            }
        }
    }
}

impl Fastpath {
    fn name(&self, event: &SpliceEvent) -> Spliced {
        let pair = self.pairs().get(&event.slot).and_then(Weak::upgrade);
        let pair = pair.filter(|pair| pair.generation() == event.generation);
        let role = if event.role == Role::Client as u32 { Role::Client } else { Role::Server };
        self.note(Spliced { pair, role, exe: exe_text(&event.exe) })
    }

    /// Counts it, once a connection.
    pub(super) fn note(&self, spliced: Spliced) -> Spliced {
        if spliced.pair.as_ref().is_none_or(|pair| pair.notice()) {
            self.totals.spliced.fetch_add(1, Relaxed);
        }
        spliced
    }
}
