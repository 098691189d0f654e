//! Cgroups are the one thing that containers leave behind when a box is gone: no namespace owns their directories.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "wormhole-box-";

/// A name for the cgroup of the next box: `wormhole-box-PID-N`.
pub(super) fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes the cgroups of boxes whose maker is gone or is this process. One that still holds a process (another box of
/// ours that runs) cannot be removed, and stays. Says whether all of them are gone.
pub fn sweep() -> bool {
    let mut gone = true;
    let root = Path::new("/sys/fs/cgroup");
    // Version 2 has one tree; version 1 has one for every controller.
    let controllers = fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path());
    for tree in controllers.filter(|p| p.is_dir()).chain([root.to_owned()]) {
        for entry in fs::read_dir(&tree).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            let Some(maker) = maker else { continue };
            if maker == std::process::id() || !Path::new(&format!("/proc/{maker}")).exists() {
                remove(&entry.path());
                gone &= !entry.path().exists();
            }
        }
    }
    gone
}

/// Children first. Only directories can and must be removed.
fn remove(dir: &Path) {
    for child in fs::read_dir(dir).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&child.path());
        }
    }
    let _ = fs::remove_dir(dir);
}
