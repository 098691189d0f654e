//! What one sees: headings, remarks, lines of a shell, a spinner for what takes long.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Whether there is a terminal to paint on.
#[derive(Clone, Copy)]
pub struct Look {
    color: bool,
}

impl Look {
    /// Colours only on a terminal, and not where NO_COLOR asks for none.
    pub fn of_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { color: std::io::stdout().is_terminal() && !unwanted }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A part of the story begins.
    pub fn heading(self, text: &str) {
        println!("\n{}", self.paint("1", &format!("== {text}")));
    }

    /// What happens, and why.
    pub fn say(self, text: &str) {
        println!("{text}");
    }

    /// A line as it is typed.
    pub fn typed(self, line: &str) {
        println!("{} {}", self.paint("32", "$"), self.paint("1;36", line));
    }

    /// What a program answered.
    pub fn answered(self, text: &str) {
        for line in text.trim_end_matches('\n').lines() {
            println!("{line}");
        }
    }

    /// Runs `work` behind a spinner; afterwards one line with the time that it took.
    pub fn busy<T>(self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let spinner = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            spinner.set_style(style);
        }
        spinner.set_message(what.to_owned());
        spinner.enable_steady_tick(Duration::from_millis(100));
        let began = Instant::now();
        let done = work();
        spinner.finish_and_clear();
        let value = done?;
        println!("{}", self.paint("2", &format!("{what}: {:.1} s", began.elapsed().as_secs_f64())));
        Ok(value)
    }
}
