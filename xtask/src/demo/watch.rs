//! Waits for the box, also when it is interrupted.

use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// A signal from the terminal reaches everything in the box as well; after this its first process is killed, and with
/// it the rest.
const GRACE: Duration = Duration::from_millis(500);

/// Runs `command` to its end and says whether it was interrupted. SIGINT, SIGTERM and SIGHUP end the command and not
/// this process, which has yet to look after what is left.
pub fn wait(command: &mut Command) -> Result<(ExitStatus, bool)> {
    let interrupted = listen()?;
    // By this thread: the box ends with the thread that started it.
    let mut child = command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
    let mut since = None;
    loop {
        if let Some(status) = child.try_wait().context("waiting for the box")? {
            return Ok((status, interrupted.load(Ordering::Relaxed)));
        }
        if interrupted.load(Ordering::Relaxed) && since.get_or_insert_with(Instant::now).elapsed() > GRACE {
            // One that runs as root under sudo cannot be killed by us; it got the signal from the terminal.
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A flag that is set by the first signal.
fn listen() -> Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("setting up signals")?;
    let (mut interrupt, mut terminate, mut hang_up) = {
        let _inside = runtime.enter();
        let on = |kind| signal(kind).context("setting up signals");
        (on(SignalKind::interrupt())?, on(SignalKind::terminate())?, on(SignalKind::hangup())?)
    };
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
        });
        set.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).context("starting a thread for signals")?;
    Ok(flag)
}
