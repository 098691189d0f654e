//! A shell of which one sees every line: what is shown is what is run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use wormhole_tests::run;

use super::look::Look;
use crate::workspace::program;

/// Lines that share variables, a PATH, and a folder that is gone with the box.
pub struct Session {
    /// How lines are shown.
    pub look: Look,
    /// The folder.
    pub folder: PathBuf,
    env: Vec<(String, OsString)>,
}

impl Session {
    /// A session in which the programs of `bin` are found first.
    pub fn new(look: Look, bin: &Path) -> Result<Self> {
        let mut path = vec![bin.to_owned()];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        // Where users who are not root do not look.
        path.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
        let path = std::env::join_paths(path).context("making a PATH")?;
        // The engine of the box is where everybody looks for one; settings and contexts of the user's lead elsewhere.
        let env = vec![("PATH".to_owned(), path), ("DOCKER_CONFIG".to_owned(), "/nonexistent".into())];
        // /run is the box's own, and a name that reads well stands in lines that are shown.
        let folder = PathBuf::from("/run/demo");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self { look, folder, env })
    }

    /// Sets a variable for the lines that follow.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.into()));
    }

    /// `program` with the variables of the session.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            // The user's own settings do not reach into the story.
            if text.starts_with("WORMHOLE_") || text.starts_with("DOCKER_") {
                command.env_remove(&name);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn shell(&self, line: &str) -> Command {
        let mut shell = self.command("/bin/sh");
        // In the order in which they were said, as on a terminal.
        shell.arg("-c").arg(format!("exec 2>&1\n{line}"));
        shell
    }

    /// Shows a line, runs it, shows its answer and gives it; an error when the line fails.
    pub fn run(&self, line: &str) -> Result<String> {
        self.look.typed(line);
        let done = run::output(&mut self.shell(line))?;
        self.look.answered(&done.stdout);
        if !done.status.success() {
            bail!("the line above ended with {}", done.status);
        }
        Ok(done.stdout)
    }

    /// As [`Session::run`], and the answer must contain `word`.
    pub fn expect(&self, line: &str, word: &str) -> Result<()> {
        let answer = self.run(line)?;
        if !answer.contains(word) {
            bail!("the answer above should contain {word}");
        }
        Ok(())
    }

    /// Shows and runs a line that has to fail; how it fails is a part of the story.
    pub fn fail(&self, line: &str) -> Result<()> {
        self.look.typed(line);
        let done = run::output(&mut self.shell(line))?;
        self.look.answered(&done.stdout);
        if done.status.success() {
            bail!("the line above should have failed");
        }
        Ok(())
    }

    /// Shows and runs `name=$(line)`.
    pub fn assign(&mut self, name: &str, line: &str) -> Result<String> {
        self.look.typed(&format!("{name}=$({line})"));
        let mut shell = self.command("/bin/sh");
        let value = run::text(shell.arg("-c").arg(line))?;
        self.set(name, &value);
        Ok(value)
    }

    /// A shell for the user, until it is left.
    pub fn hand_over(&self) -> Result<()> {
        self.look.heading("Your turn");
        self.look.say("A shell in the box, with everything above still running; `exit` removes it all.");
        // bash is at peace with a terminal that belongs to a process outside of the box; dash grumbles at the end.
        let (name, words): (_, &[&str]) =
            if program("bash").is_some() { ("bash", &["--norc", "-i"]) } else { ("/bin/sh", &["-i"]) };
        let mut shell = self.command(name);
        shell.args(words).env("PS1", "demo$ ").stdin(Stdio::inherit());
        // How its last command ended says nothing about the demo.
        shell.status().context("starting a shell").map(drop)
    }
}
