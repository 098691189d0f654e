//! Waiting in a program: it may not sleep, so it asks again and again, for some microseconds.

use crate::kernel::is_left_alone;
use crate::maps::is_settled;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use wormhole_common::{Member, Patience, SlotSide};

/// Asks until the answer is yes, for `limit` nanoseconds and `ROUNDS` times at most: the verifier follows every round,
/// and gives up after 8192 branches. Between two questions it looks at the clock `PAUSE` times.
#[inline(always)]
pub fn wait_until<const ROUNDS: u32, const PAUSE: u32>(limit: u64, mut done: impl FnMut() -> bool) -> bool {
    // SAFETY: no arguments.
    let now = || unsafe { bpf_ktime_get_ns() };
    let end = now() + limit;
    for _ in 0..ROUNDS {
        if done() {
            return true;
        }
        let mut at = 0;
        for _ in 0..PAUSE {
            at = now();
        }
        if at > end {
            return false;
        }
    }
    false
}

/// As [`wait_until`], but not at all now and then, if it was in vain the last time.
#[inline(always)]
pub fn wait_patiently<const ROUNDS: u32, const PAUSE: u32>(
    patience: &mut Patience,
    limit: u64,
    done: impl FnMut() -> bool,
) -> bool {
    if patience.spare > 0 {
        patience.spare -= 1;
        return false;
    }
    let made = wait_until::<ROUNDS, PAUSE>(limit, done);
    patience.vain = if made { 0 } else { (2 * patience.vain + 1) & 63 };
    patience.spare = patience.vain;
    made
}

/// Waits until nothing is on its way into the queue of `mine`, whose socket is `me`: no message of `peer`, and no packet,
/// which refers to the socket, too, while it is being received.
#[inline(always)]
pub fn settles(me: &Member, mine: &mut SlotSide, peer: &SlotSide) -> bool {
    /// As long as a system call on another socket may take, in nanoseconds.
    const LIMIT: u64 = 100_000;
    wait_until::<64, 64>(LIMIT, || is_settled(mine, peer) && is_left_alone(me.sock))
}
