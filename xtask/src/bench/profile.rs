//! `--profile`: where wormhole's daemon spends its time during a measurement.

use super::columns::Measure;
use super::measure::{Bench, Variant};
use super::peers::{WORMHOLE, find};
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A recording that ends, and is summed up, when this is dropped.
pub struct Recording {
    child: Child,
    data: PathBuf,
}

/// Lines of the summary.
const TOP: usize = 20;

/// Starts `perf record` on the daemon, if that is wanted and possible. Each round overwrites the one before.
pub fn start(bench: &Bench, variant: &Variant, measure: Measure) -> Option<Recording> {
    let dir = bench.profiles.as_ref().filter(|_| variant.name == WORMHOLE)?;
    let pids: Vec<String> = variant.members().iter().map(u32::to_string).collect();
    let whom = if bench.profile_all { vec!["-a".to_owned()] } else { vec!["-p".to_owned(), pids.join(",")] };
    let data = dir.join(format!("perf-{}.data", file_name(measure)));
    let _ = std::fs::remove_file(&data);
    let mut command = Command::new(find("perf")?);
    command.args(["record", "-g", "-q", "-F", "999"]).args(whom).arg("-o").arg(&data);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    // perf writes the head of its file once its counters are open; the load must not be over by then.
    let end = Instant::now() + Duration::from_secs(5);
    while std::fs::metadata(&data).map_or(0, |file| file.len()) == 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(50));
    Some(Recording { child, data })
}

fn file_name(measure: Measure) -> String {
    format!("{measure:?}").to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "")
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Interrupted, perf writes its file; killed, it would not.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.child.wait();
        let mut report = Command::new("perf");
        report.args(["report", "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.3", "-i"]).arg(&self.data);
        if let Ok(output) = report.stdin(Stdio::null()).output() {
            // A profile is a by-product: that it could not be written must not spoil the measurement.
            let _ = std::fs::write(self.data.with_extension("txt"), top(&String::from_utf8_lossy(&output.stdout)));
        }
    }
}

/// The first lines of a report that are not comments.
fn top(report: &str) -> String {
    let lines = report.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines.take(TOP).map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_have_no_comments() {
        let report = format!("# Samples\n\n{}", "  1.00%  wormholed  [kernel]  x  \n".repeat(30));
        let top = top(&report);
        assert_eq!(top.lines().count(), TOP);
        assert!(top.starts_with("  1.00%  wormholed"));
        assert_eq!(file_name(Measure::Stream(4096)), "stream4096");
    }
}
