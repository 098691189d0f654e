//! Waiting for conditions, never for time.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How many times slower than usual this machine may be: a guest whose processor is emulated is.
pub const PATIENCE_ENV: &str = "WORMHOLE_PATIENCE";

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(5);

/// `usual`, as many times as [`PATIENCE_ENV`] says. What waits in here does that by itself.
pub fn patient(usual: Duration) -> Duration {
    let times = std::env::var(PATIENCE_ENV).ok().and_then(|times| times.parse().ok());
    usual * times.unwrap_or(1)
}

/// True where the processor is emulated: tasks sleep and wake there as they never do otherwise.
pub fn is_emulated() -> bool {
    patient(PAUSE) > PAUSE
}

/// Looks until `condition` gives a value.
///
/// # Panics
/// After `timeout`, saying `what` did not happen; also when `condition` itself panics.
#[track_caller]
pub fn wait_until<T>(what: &str, timeout: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    match poll(what, timeout, || condition().ok_or_else(String::new)) {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// Looks until `condition` succeeds; `timeout` is stretched on a slow machine. What it said last is part of the error.
///
/// # Errors
/// After `timeout`, saying that `what` did not happen and what stood against it.
pub fn poll<T>(what: &str, timeout: Duration, mut condition: impl FnMut() -> Result<T, String>) -> Result<T> {
    let (began, timeout) = (Instant::now(), patient(timeout));
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(reason) if began.elapsed() >= timeout => {
                let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                bail!("waited {:.1} s in vain for {what}{reason}", began.elapsed().as_secs_f64());
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}
