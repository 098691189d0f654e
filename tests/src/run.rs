//! Running programs, with everything worth knowing in the error.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// What a program left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
}

impl Output {
    /// The exit code; -1 when a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// Standard output without the last line break.
    ///
    /// # Panics
    /// When the program failed, with everything that it said.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert!(self.status.success(), "{}\n-- stdout --\n{}-- stderr --\n{}", self.status, self.stdout, self.stderr);
        self.stdout.trim_end_matches('\n')
    }
}

/// Runs `command` to its end, without input, and collects its output.
///
/// # Errors
/// When it cannot be started. A program that fails is no error here.
pub fn output(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", line(command)))?;
    Ok(Output {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs `command` to its end and gives its standard output without the last line break.
///
/// # Errors
/// When it cannot be started, and when it fails, with what it said.
pub fn text(command: &mut Command) -> Result<String> {
    let done = output(command)?;
    if !done.status.success() {
        bail!("{} failed ({}): {}{}", line(command), done.status, done.stderr.trim(), done.stdout.trim());
    }
    Ok(done.stdout.trim_end_matches('\n').to_owned())
}

/// `program arg …` in one call.
pub fn command<I>(program: &str, args: I) -> Command
where
    I: IntoIterator,
    I::Item: AsRef<std::ffi::OsStr>,
{
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// The command as one would type it, shortened.
pub fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    let line = words.join(" ");
    match line.char_indices().nth(200) {
        Some((cut, _)) => format!("`{}…`", &line[..cut]),
        None => format!("`{line}`"),
    }
}

/// Where a program is, in PATH or where only root looks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|p| p.is_file())
}

/// The last `lines` lines of a log, for an error message.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_else(|e| format!("(no {}: {e})", log.display()));
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A name that no other test of this run uses: `prefix`, the process, a counter. At most 15 characters for a prefix of
/// up to 3, so that it can name a network interface.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
