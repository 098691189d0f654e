//! One long step of work: a line that moves while it runs, its time when it is done, its last words when it failed.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, IsTerminal};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// How many lines of output are shown when a step fails.
const LAST_WORDS: usize = 30;

/// Runs `command` to its end behind a spinner that shows its latest line of output.
///
/// Where there is no terminal, one line at the start and one at the end: a log wants no spinner, but wants to say what
/// it is waiting for.
pub fn run(what: &str, command: &mut Command) -> Result<()> {
    let spinner = spinner(what);
    let started = Instant::now();
    let (output, writer) = std::io::pipe().context("making a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("copying a pipe")?).stderr(writer);
    let program = command.get_program().to_owned();
    let mut child = command.spawn().with_context(|| format!("{what}: starting {}", program.display()))?;
    // The command holds our copies of the pipe's writing end; while they live, reading never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut last = VecDeque::with_capacity(LAST_WORDS);
    for line in BufReader::new(output).split(b'\n') {
        let line = line.with_context(|| format!("{what}: reading what {} says", program.display()))?;
        let line = String::from_utf8_lossy(&line);
        // A progress bar of the child redraws its line with carriage returns: what counts is what stands there last.
        let line = line.trim_end().rsplit('\r').next().unwrap_or_default().to_owned();
        spinner.set_message(line.clone());
        if last.len() == LAST_WORDS {
            last.pop_front();
        }
        last.push_back(line);
    }
    let status = child.wait().with_context(|| format!("{what}: waiting for {}", program.display()))?;
    spinner.finish_and_clear();
    if !status.success() {
        let said = last.make_contiguous().join("\n  ");
        bail!("{what}: {} ended with {status}; it said\n  {said}", program.display());
    }
    eprintln!("{what}: done in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// A spinner on stderr, or a plain line where that is no terminal.
fn spinner(what: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        eprintln!("{what} …");
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_prefix(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
