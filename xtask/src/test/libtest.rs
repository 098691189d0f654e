//! Running one suite, and reading its counts off what libtest prints.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::suites::Suite;

/// How many tests ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// What became of a suite.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub suite: String,
    pub counts: Counts,
    pub seconds: f64,
    /// What the counts do not say: that it crashed, was killed, or did not run and why.
    pub remark: Option<String>,
}

/// What is the same for all suites of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// A part of the names of the tests to run.
    pub filter: Option<String>,
    /// How many tests run at the same time; libtest decides when not given.
    pub test_threads: Option<u32>,
    /// How long a suite may take.
    pub limit: Duration,
    /// A test that cannot run here returns, which libtest counts as passed, and appends a line to this file.
    pub skips: PathBuf,
    /// More environment.
    pub env: Vec<(OsString, OsString)>,
}

impl Run {
    /// Runs a suite to its end. Whatever goes wrong with it is a failed test and no reason to leave out the other suites.
    pub fn suite(&self, suite: &Suite) -> Outcome {
        println!("\n=== {}", suite.name);
        let started = Instant::now();
        let skipped_before = self.skip_lines();
        let (mut counts, remark) = match self.execute(suite) {
            Ok((counts, ending)) => judge(counts, &ending, self.limit),
            Err(error) => (Counts { failed: 1, ..Counts::default() }, Some(format!("{error:#}"))),
        };
        let skipped = (self.skip_lines() - skipped_before).min(counts.passed);
        counts.passed -= skipped;
        counts.skipped += skipped;
        Outcome { suite: suite.name.clone(), counts, seconds: started.elapsed().as_secs_f64(), remark }
    }

    /// A suite that cannot run here: all its tests are skipped, and said to be.
    pub fn not_run(&self, suite: &Suite, reason: &str) -> Outcome {
        let mut command = suite.command();
        command.args(&self.filter).args(["--list", "--format", "terse"]);
        let listed = command.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let tests = listed.unwrap_or_default().lines().filter(|line| line.ends_with(": test")).count();
        let counts = Counts { skipped: tests as u64, ..Counts::default() };
        Outcome { suite: suite.name.clone(), counts, seconds: 0.0, remark: Some(format!("not run: {reason}")) }
    }

    fn skip_lines(&self) -> u64 {
        let text = std::fs::read_to_string(&self.skips).unwrap_or_default();
        text.lines().filter(|line| !line.trim().is_empty()).count() as u64
    }

    fn execute(&self, suite: &Suite) -> Result<(Option<Counts>, Ending)> {
        let mut command = suite.command();
        command.args(&self.filter);
        if let Some(threads) = self.test_threads {
            command.arg(format!("--test-threads={threads}"));
        }
        if rustix::process::geteuid().is_root() {
            // What plain `cargo test` leaves out is what needs root.
            command.arg("--include-ignored");
        }
        command.envs(self.env.iter().cloned()).env("WORMHOLE_SKIPS", &self.skips);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", suite.program.display()))?;
        let output = child.stdout.take().context("the suite has no stdout")?;
        let (sender, results) = mpsc::channel();
        std::thread::spawn(move || pass_on(output, &sender));
        let ending = wait(&mut child, self.limit)?;
        // Not joined: a daemon that a killed test left behind may hold the pipe open for ever. What is on the way
        // arrives at once; the channel closes when the last writer does.
        let mut counts = None;
        while let Ok(more) = results.recv_timeout(Duration::from_secs(1)) {
            *counts.get_or_insert(Counts::default()) += more;
        }
        Ok((counts, ending))
    }
}

/// How the program of a suite ended.
enum Ending {
    Exited(ExitStatus),
    Killed,
}

/// Waits for the program, and kills it, by its id alone, when the time is over.
fn wait(child: &mut Child, limit: Duration) -> Result<Ending> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("waiting for the suite")? {
            return Ok(Ending::Exited(status));
        }
        if Instant::now() >= deadline {
            child.kill().context("killing the suite")?;
            child.wait().context("waiting for the killed suite")?;
            return Ok(Ending::Killed);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Passes the output on as it comes and sends the counts that stand in it.
fn pass_on(output: ChildStdout, results: &mpsc::Sender<Counts>) {
    let mut announced = None;
    for line in BufReader::new(output).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line);
        // `print!` and not the stream behind it: in a test of this very function libtest keeps it back.
        println!("{line}");
        announced = running_line(&line).or(announced);
        let Some(counts) = result_line(&line) else { continue };
        // What a test prints may look like a result; the result of a suite is about as many tests as it announced.
        if announced.take_if(|tests| *tests == counts.passed + counts.failed + counts.skipped).is_some()
            && results.send(counts).is_err()
        {
            return;
        }
    }
}

/// Reads `running 12 tests`.
fn running_line(line: &str) -> Option<u64> {
    let (number, word) = line.strip_prefix("running ")?.split_once(' ')?;
    matches!(word, "test" | "tests").then(|| number.parse().ok())?
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
fn result_line(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, numbers) = rest.split_once(". ")?;
    let number =
        |word: &str| numbers.split("; ").find_map(|part| part.strip_suffix(word)?.strip_suffix(' ')?.parse::<u64>().ok());
    Some(Counts { passed: number("passed")?, failed: number("failed")?, skipped: number("ignored")? })
}

/// Makes sure that nothing that went wrong counts as nothing.
fn judge(counts: Option<Counts>, ending: &Ending, limit: Duration) -> (Counts, Option<String>) {
    let reported = counts.is_some();
    let mut counts = counts.unwrap_or_default();
    let remark = match ending {
        Ending::Killed => Some(format!("killed after {} s", limit.as_secs())),
        Ending::Exited(status) => match (status.signal(), status.success()) {
            (Some(signal), _) => Some(format!("crashed: signal {signal}")),
            (None, false) if counts.failed == 0 => Some(format!("ended with {status}")),
            (None, true) if !reported => Some("ended without a result".to_owned()),
            _ => None,
        },
    };
    if remark.is_some() {
        counts.failed += 1;
    }
    (counts, remark)
}

#[cfg(test)]
mod tests {
    use super::super::suites::Kind;
    use super::*;

    fn shell(script: &str) -> Suite {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        Suite { name: "shell".into(), kind: Kind::Unit, program: "/bin/sh".into(), arguments, folder: "/".into() }
    }

    fn outcome(script: &str) -> Outcome {
        let folder = tempfile::tempdir().unwrap();
        let skips = folder.path().join("skips");
        let limit = Duration::from_millis(500);
        Run { filter: None, test_threads: None, limit, skips, env: Vec::new() }.suite(&shell(script))
    }

    const OK: &str = "echo running 4 tests; echo 'test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s'";

    #[test]
    fn the_line_of_libtest_is_read() {
        let line = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.10s";
        assert_eq!(result_line(line), Some(Counts { passed: 12, failed: 2, skipped: 1 }));
        for other in ["", "test result: ", "test result: ok. many passed; 0 failed; 0 ignored", "running 3 tests"] {
            assert_eq!(result_line(other), None, "{other:?}");
        }
    }

    #[test]
    fn several_results_are_summed() {
        assert_eq!(outcome(&format!("{OK}; {OK}")).counts, Counts { passed: 6, failed: 0, skipped: 2 });
    }

    #[test]
    fn what_a_test_prints_is_not_taken_for_the_result() {
        let fake = OK.replace("running 4 tests", "something");
        assert_eq!(outcome(&format!("{fake}; {OK}; {fake}")).counts, Counts { passed: 3, failed: 0, skipped: 1 });
        assert_eq!(running_line("running 1 test"), Some(1));
        assert_eq!(running_line("running late again"), None);
    }

    #[test]
    fn a_line_in_the_skip_file_moves_a_test_from_passed_to_skipped() {
        let found = outcome(&format!("echo 'relay: no IPv6 here' >>$WORMHOLE_SKIPS; {OK}"));
        assert_eq!(found.counts, Counts { passed: 2, failed: 0, skipped: 2 });
    }

    #[test]
    fn nothing_that_goes_wrong_counts_as_nothing() {
        for (script, counts, remark) in [
            ("kill -SEGV $$".to_owned(), Counts { failed: 1, ..Counts::default() }, "signal 11"),
            (format!("{OK}; kill -ABRT $$"), Counts { passed: 3, failed: 1, skipped: 1 }, "signal 6"),
            ("exit 3".to_owned(), Counts { failed: 1, ..Counts::default() }, "exit status: 3"),
            ("true".to_owned(), Counts { failed: 1, ..Counts::default() }, "without a result"),
            ("exec sleep 60".to_owned(), Counts { failed: 1, ..Counts::default() }, "killed after"),
        ] {
            let found = outcome(&script);
            assert_eq!(found.counts, counts, "{script}");
            assert!(found.remark.unwrap().contains(remark), "{script}");
        }
    }

    #[test]
    fn what_a_killed_suite_leaves_behind_does_not_hold_the_run_up() {
        let started = Instant::now();
        let found = outcome(&format!("sleep 5 & {OK}; wait"));
        assert_eq!(found.counts, Counts { passed: 3, failed: 1, skipped: 1 });
        assert!(started.elapsed() < Duration::from_secs(4));
    }
}
