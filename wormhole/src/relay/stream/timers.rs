//! Deadlines of connections. A deadline is looked at when it comes and never taken back: the connection says then
//! whether it still stands, which spares all bookkeeping while bytes move.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Deadlines, the nearest first.
#[derive(Debug, Default)]
pub struct Timers(BinaryHeap<Reverse<(Instant, u32, u32)>>);

impl Timers {
    /// Asks to be reminded of a connection.
    pub fn push(&mut self, at: Instant, slot: u32, generation: u32) {
        self.0.push(Reverse((at, slot, generation)));
    }

    /// The nearest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, ..))| *at)
    }

    /// A connection whose deadline has come.
    pub fn pop(&mut self, now: Instant) -> Option<(u32, u32)> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse((_, slot, generation))| (slot, generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn deadlines_come_in_order_and_not_before_their_time() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.push(start + Duration::from_secs(2), 2, 0);
        timers.push(start + Duration::from_secs(1), 1, 0);
        assert_eq!(timers.next(), Some(start + Duration::from_secs(1)));
        assert_eq!(timers.pop(start), None);
        let late = start + Duration::from_secs(3);
        assert_eq!(timers.pop(late), Some((1, 0)));
        assert_eq!(timers.pop(late), Some((2, 0)));
        assert_eq!(timers.pop(late), None);
    }
}
