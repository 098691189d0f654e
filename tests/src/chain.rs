//! Segments that lead into each other.

use crate::kernel::Ns;
use crate::netns::Netns;
use crate::room::{Made, Room};
use crate::traffic::listen;
use serde_json::Value;
use std::net::TcpListener;

/// A chain of `len` segments, each in a namespace of its own.
#[derive(Debug)]
pub struct Chain {
    /// Its first segment; clients are where the daemon is.
    pub made: Made,
    /// How many segments.
    pub len: usize,
    /// Where its heads are but the first one's, and its server.
    places: Vec<Netns>,
}

impl Chain {
    /// Makes one, and its server's listener.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn new(room: &Room, len: usize) -> (Self, TcpListener) {
        let places: Vec<Netns> = (0..len).map(|_| Netns::create("c").expect("a namespace")).collect();
        let (last, between) = places.split_last().expect("a segment at least");
        let listener = listen(&last.ns(), "127.0.0.1:700");
        let between: String = between.iter().map(|place| format!(" chain url {}@:701", place.name)).collect();
        let made = room.create(&format!("url :0{between} tail url {}@:700", last.name));
        (Self { made, len, places }, listener)
    }

    /// Where it leads through, and to.
    pub fn places(&self) -> impl Iterator<Item = Ns> {
        self.places.iter().map(Netns::ns)
    }

    /// Its segments as `list` shows them when none has an open connection, first one first.
    ///
    /// # Panics
    /// When it has another number of them.
    #[track_caller]
    pub fn segments(&self, room: &Room) -> Vec<Value> {
        let all = room.list();
        let mut found = vec![room.wait_idle(&self.made.id)];
        while let Some(next) = all.iter().find(|s| s["parent"] == found[found.len() - 1]["id"]) {
            found.push(room.wait_idle(next["id"].as_str().expect("an id")));
        }
        assert_eq!(found.len(), self.len, "{all:?}");
        found
    }
}
