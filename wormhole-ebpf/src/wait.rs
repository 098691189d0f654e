//! Waiting in a program: it may not sleep, so it asks again and again, for some microseconds.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;

/// Looks at the clock in a round; they are the pause between two questions.
const PAUSE: u32 = 16;

/// Asks until the answer is yes, for `limit` nanoseconds and `ROUNDS` times at most: the verifier follows every round,
/// and gives up after 8192 branches.
#[inline(always)]
pub fn wait_until<const ROUNDS: u32>(limit: u64, mut done: impl FnMut() -> bool) -> bool {
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
