//! Applications that used splice(2) on an enrolled socket, as the programs tell.

use super::{Fastpath, Pair, exe_text};
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
    /// The executable's base name.
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

impl Splices {
    /// The next one.
    ///
    /// # Errors
    /// The ring buffer cannot be waited for.
    pub async fn next(&mut self) -> io::Result<Spliced> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            if let Some(item) = ready.get_inner_mut().next() {
                // SAFETY: the program writes whole events; they are numbers and bytes.
                let event = (item.len() >= size_of::<SpliceEvent>())
                    .then(|| unsafe { item.as_ptr().cast::<SpliceEvent>().read_unaligned() });
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
        self.totals.spliced.fetch_add(1, Relaxed);
        let pair = self.pairs().get(&event.slot).and_then(Weak::upgrade);
        Spliced { pair: pair.filter(|pair| pair.generation() == event.generation), exe: exe_text(&event.exe) }
    }
}
