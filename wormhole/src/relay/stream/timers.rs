//! Deadlines of connections, at most one each. It is moved only when it comes: the connection says then whether it
//! still stands, which spares all bookkeeping while bytes move. It is taken back when the connection ends, so that
//! there are never more deadlines than connections, however short those live and however long a deadline is.

use std::collections::BTreeSet;
use std::time::Instant;

/// Deadlines, the nearest first.
#[derive(Debug, Default)]
pub struct Timers(BTreeSet<(Instant, u32, u32)>);

impl Timers {
    /// Sets a connection's only deadline to `at`; `kept` is where the connection remembers it.
    pub fn set(&mut self, kept: &mut Option<Instant>, at: Option<Instant>, slot: u32, generation: u32) {
        if let Some(old) = std::mem::replace(kept, at) {
            self.0.remove(&(old, slot, generation));
        }
        if let Some(at) = at {
            self.0.insert((at, slot, generation));
        }
    }

    /// The nearest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, ..)| *at)
    }

    /// A connection whose deadline has come. It has none any more.
    pub fn pop(&mut self, now: Instant) -> Option<(u32, u32)> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, slot, generation)| (slot, generation))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn deadlines_come_in_order_and_not_before_their_time() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.set(&mut None, Some(start + Duration::from_secs(2)), 2, 0);
        timers.set(&mut None, Some(start + Duration::from_secs(1)), 1, 0);
        assert_eq!(timers.next(), Some(start + Duration::from_secs(1)));
        assert_eq!(timers.pop(start), None);
        let late = start + Duration::from_secs(3);
        assert_eq!(timers.pop(late), Some((1, 0)));
        assert_eq!(timers.pop(late), Some((2, 0)));
        assert_eq!(timers.pop(late), None);
    }

    #[test]
    fn a_connection_has_one_deadline_and_takes_it_along() {
        let start = Instant::now();
        let mut timers = Timers::default();
        let mut kept = None;
        timers.set(&mut kept, Some(start + Duration::from_secs(9)), 1, 5);
        timers.set(&mut kept, Some(start + Duration::from_secs(3)), 1, 5);
        assert_eq!(kept.unwrap(), timers.next().unwrap());
        assert_eq!(timers.0.len(), 1);
        timers.set(&mut kept, None, 1, 5);
        assert_eq!((kept, timers.next()), (None, None));
    }
}
