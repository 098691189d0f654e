//! Starting workers, and reading what they report.

use super::net;
use super::site::Site;
use super::worker::Report;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A client or server process. Dropping it ends it.
pub struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<std::io::Result<String>>,
}

impl Worker {
    /// Starts this program (`exe`) as a worker at `site`, on one cpu if one is given.
    pub fn start(site: &Site, exe: &Path, args: &[String], cpu: Option<usize>) -> Result<Self> {
        let mut command = site.command(exe);
        command.arg("bench-worker");
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        if let Some(name) = net::congestion() {
            command.args(["--congestion", name]);
        }
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        if args.first().is_some_and(|role| role == "integrity") && std::env::var_os("BENCH_VERBOSE").is_none() {
            // A line for each wrong connection; the column shows their number.
            command.stderr(Stdio::null());
        }
        let mut child = command.spawn().context("start a worker")?;
        let stdout = child.stdout.take().context("the worker has no standard output")?;
        let lines = reader(stdout)?;
        Ok(Self { stdin: child.stdin.take(), child, lines })
    }

    /// The next line of output.
    pub fn line(&self, patience: Duration) -> Result<String> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => line.context("read from a worker"),
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("no answer from the worker within {} s", patience.as_secs()),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the worker gave up (its reason is above)"),
        }
    }

    /// The next line of output, which is a report.
    pub fn report(&mut self, patience: Duration) -> Result<Report> {
        serde_json::from_str(&self.line(patience)?).context("read the worker's report")
    }

    /// Says that it has ended, and how.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context("ask for the state of a worker")? {
            Some(status) => bail!("it ended with {status}"),
            None => Ok(()),
        }
    }

    /// Ends standard input, which is the sign to finish, and takes the report that a server then gives.
    pub fn finish(mut self) -> Result<Report> {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.flush();
        }
        let last = self.line(Duration::from_secs(20));
        let status = self.child.wait().context("wait for a worker")?;
        if !status.success() {
            bail!("a worker ended with {status}");
        }
        // A client has reported before.
        last.map_or_else(|_| Ok(Report::new()), |line| serde_json::from_str(&line).context("read the server's report"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines on a thread, so that waiting for one can have a limit.
fn reader(stdout: ChildStdout) -> Result<mpsc::Receiver<std::io::Result<String>>> {
    let (sender, receiver) = mpsc::channel();
    let read = move || {
        for line in BufReader::new(stdout).lines() {
            let failed = line.is_err();
            if sender.send(line).is_err() || failed {
                break;
            }
        }
    };
    std::thread::Builder::new().spawn(read).context("start a reader thread")?;
    Ok(receiver)
}

/// A number that a worker must have reported.
pub fn get(report: &Report, name: &str) -> Result<f64> {
    report.get(name).copied().with_context(|| format!("the worker reported no {name}"))
}
