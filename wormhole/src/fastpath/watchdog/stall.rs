//! When a reader stands still.

/// Looks without a byte taken after which a proof is looked for, the first time.
const FIRST: u32 = 2;
/// And at least so often again.
const RARELY: u32 = 64;

/// What was seen of a reader at the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    /// Bytes that were put into its queue so far.
    sent: u64,
    /// Those of them that it had not taken.
    waiting: u64,
    /// Looks in a row at which bytes waited and none had been taken.
    looks: u32,
}

impl Stall {
    /// False when nothing can wait: nothing did, and nothing has come since.
    pub fn may_have(&self, sent: u64) -> bool {
        self.waiting > 0 || sent != self.sent
    }

    /// Takes what is seen now. True when it is time to look for a proof: after two looks without a byte taken, and again
    /// each time when it has lasted twice as long.
    pub fn note(&mut self, sent: u64, waiting: u64) -> bool {
        // What the kernel charges may be more than the bytes; it is the change that counts.
        let took = sent.saturating_sub(waiting) > self.sent.saturating_sub(self.waiting);
        let stands = waiting > 0 && self.waiting > 0 && !took;
        let looks = if stands { self.looks.saturating_add(1) } else { 0 };
        *self = Self { sent, waiting, looks };
        looks >= FIRST && (looks.is_power_of_two() || looks.is_multiple_of(RARELY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The looks, counted from 1, at which a proof is looked for.
    fn times(looks: impl IntoIterator<Item = (u64, u64)>) -> Vec<usize> {
        let mut stall = Stall::default();
        (1..).zip(looks).filter(|(_, (sent, waiting))| stall.note(*sent, *waiting)).map(|(at, _)| at).collect()
    }

    #[test]
    fn one_who_stands_still_is_looked_at_more_and_more_rarely() {
        assert_eq!(times([(100, 100); 300]), [3, 5, 9, 17, 33, 65, 129, 193, 257]);
    }

    #[test]
    fn one_who_is_sent_more_and_takes_nothing_stands_still() {
        assert_eq!(times((1..6).map(|n| (n * 10, n * 10))), [3, 5]);
    }

    #[test]
    fn one_who_takes_a_byte_does_not() {
        assert_eq!(times((0..100).map(|n| (1000 + n, 900 - n))), [0; 0]);
        assert_eq!(times((0..100).map(|n| (1000, 900 - n))), [0; 0]);
        assert_eq!(times((0..100).map(|n| (2000 + 20 * n, 1000 + 19 * n))), [0; 0]);
        // Everything is taken and more comes, over and over.
        assert_eq!(times((0..100).map(|n| (100 * n, if n % 2 == 0 { 100 } else { 0 }))), [0; 0]);
    }

    #[test]
    fn one_who_goes_on_and_stops_again_gets_the_whole_time() {
        let stopped = [(100, 100), (100, 100), (100, 50), (100, 50), (100, 50)];
        assert_eq!(times(stopped), [5]);
    }

    #[test]
    fn nobody_is_asked_about_a_connection_that_rests() {
        let mut stall = Stall::default();
        assert!(!stall.may_have(0));
        assert!(stall.may_have(10));
        stall.note(10, 0);
        assert!(!stall.may_have(10));
        assert!(stall.may_have(11));
        stall.note(11, 1);
        assert!(stall.may_have(11));
    }
}
