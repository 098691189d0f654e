//! No proxy: client and server talk to each other.

use super::{DIRECT, Peer, Place, Running, Source, UNIX_PAIR};
use crate::bench::net::Endpoint;
use anyhow::Result;

/// TCP over loopback.
pub struct Direct;

impl Peer for Direct {
    fn name(&self) -> &'static str {
        DIRECT
    }

    fn about(&self) -> &'static str {
        "no proxy, TCP over loopback"
    }

    fn source(&self) -> Source {
        Source::Own
    }

    fn start(&self, place: &Place<'_>) -> Result<Running> {
        Ok(place.on_host(Place::loopback(place.tail), Vec::new()))
    }
}

/// A unix stream.
pub struct UnixPair;

impl Peer for UnixPair {
    fn name(&self) -> &'static str {
        UNIX_PAIR
    }

    fn about(&self) -> &'static str {
        "no proxy, AF_UNIX stream"
    }

    fn source(&self) -> Source {
        Source::Own
    }

    fn start(&self, place: &Place<'_>) -> Result<Running> {
        Ok(place.on_host(Endpoint::Unix(place.tail_unix.to_owned()), Vec::new()))
    }
}
