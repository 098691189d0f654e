//! Carries out one command line.

use super::args::{Args, Color, Command, Create, Output, protect};
use super::human::{clean, short_ids};
use super::plan::plan;
use super::render::{self, Look};
use super::{grammar, help};
use crate::api::{Client, ClientError};
use crate::model::{CreateRequest, FailureKind, PingRequest};
use clap::Parser;
use serde::Serialize;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};

/// Exit codes, as [`help::EXIT_CODES`] documents them.
mod code {
    pub(super) const FAILED: u8 = 1;
    pub(super) const USAGE: u8 = 2;
    pub(super) const UNREACHABLE: u8 = 3;
    pub(super) const NOT_FOUND: u8 = 4;
    pub(super) const REFUSED: u8 = 5;
}

/// Why a command was not carried out.
#[derive(Debug)]
struct Trouble {
    message: String,
    /// The words with a caret under the wrong one.
    diagram: Option<String>,
    hint: Option<String>,
    code: u8,
}

/// Carries out one command line, the program's name included, and returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match Args::try_parse_from(protect(args)) {
        Ok(args) => args,
        Err(error) => {
            // Nothing can be said where even the help cannot be printed.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(code::USAGE);
        }
    };
    let stderr_color = colored(args.global.color, std::io::stderr().is_terminal());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Trouble::new(code::FAILED, format!("start the runtime: {error}")), stderr_color),
    };
    let mut out = String::new();
    let result = runtime.block_on(carry_out(&args, &mut out));
    // What was done is printed also when something else failed.
    let printed = print(&out);
    match (result, printed) {
        (Err(trouble), _) | (Ok(()), Err(trouble)) => report(&trouble, stderr_color),
        (Ok(()), Ok(())) => 0,
    }
}

async fn carry_out(args: &Args, out: &mut String) -> Result<(), Trouble> {
    let output = args.global.output;
    let json = output == Output::Json;
    let stdout = std::io::stdout();
    let terminal = stdout.is_terminal();
    let width = terminal.then(|| rustix::termios::tcgetwinsize(&stdout).ok().map(|size| size.ws_col)).flatten();
    let look = Look {
        color: colored(args.global.color, terminal),
        wide: output == Output::Wide,
        width: width.filter(|width| *width > 0),
    };
    let client = || {
        // What is wrong before anything was sent is wrong with -H or -K.
        Client::new(&args.global.host, args.global.keyfile.as_deref())
            .map_err(|error| Trouble { code: code::USAGE, ..Trouble::from(error) })
    };
    match &args.command {
        Command::Create(create) => self::create(create, output, client, out).await?,
        Command::Delete { ids, all } => delete(&client()?, ids, *all, json, out).await?,
        Command::List => {
            let views = client()?.list().await?;
            *out = if json { to_json(&views)? } else { render::list(&views, look) };
        }
        Command::Inspect { id } => {
            let view = client()?.inspect(id).await?;
            *out = if json { to_json(&view)? } else { render::inspect(&view, look) };
        }
        Command::Status => {
            let view = client()?.status().await?;
            *out = if json { to_json(&view)? } else { render::status(&view, look) };
        }
        Command::Ping { peer } => {
            let client = client()?;
            let reply = match peer {
                Some(_) => client.ping(&PingRequest { host: peer.clone() }).await?,
                None => client.measure().await?,
            };
            *out = match reply.peer_ms {
                _ if json => to_json(&reply)?,
                Some(ms) => format!("{ms:.3}\n"),
                None => return Err(Trouble::new(code::FAILED, "ping: the daemon answered without a time")),
            };
        }
        Command::Keygen { file } => {
            crate::key::generate(file).map_err(|error| Trouble::new(code::FAILED, error.to_string()))?;
            *out = format!("{}\n", file.display());
        }
        Command::TunnelCreate { .. } | Command::TunnelDelete { .. } => {
            let hint = "this build makes segments on one machine; `wormhole ping HOST` reaches another daemon already";
            let message = "tunnels are not in this build";
            return Err(Trouble { hint: Some(hint.to_owned()), ..Trouble::new(code::REFUSED, message) });
        }
        Command::Help { topic } => {
            *out = help::topic(topic.as_deref()).map_err(|near| Trouble {
                hint: Some(
                    near.map_or("`wormhole help` lists the commands".to_owned(), |near| format!("did you mean \"{near}\"?")),
                ),
                ..Trouble::new(code::USAGE, format!("there is no help on `{}`", topic.as_deref().unwrap_or_default()))
            })?;
        }
    }
    Ok(())
}

async fn create(
    create: &Create,
    output: Output,
    client: impl FnOnce() -> Result<Client, Trouble>,
    out: &mut String,
) -> Result<(), Trouble> {
    let mut spec = grammar::parse(&create.words).map_err(|error| Trouble {
        diagram: Some(error.diagram("wormhole create", &create.words)),
        hint: error.advice(),
        ..Trouble::new(code::USAGE, error.message)
    })?;
    grammar::set_options(&mut spec, &create.options());
    if create.dry_run {
        *out = if output == Output::Json { to_json(&spec)? } else { plan(&spec) };
        return Ok(());
    }
    let reply = client()?.create(&CreateRequest { spec }).await?;
    *out = match output {
        Output::Json => to_json(&reply)?,
        Output::Wide => reply.segments.iter().map(|segment| format!("{} {}\n", segment.id, segment.head)).collect(),
        Output::Table => reply.segments.iter().take(1).map(|s| format!("{} {}\n", s.id, short_ids(&s.head))).collect(),
    };
    Ok(())
}

/// Deletes what can be deleted, and then says what could not.
async fn delete(client: &Client, ids: &[String], all: bool, json: bool, out: &mut String) -> Result<(), Trouble> {
    let mut gone = Vec::new();
    let mut troubles: Vec<Trouble> = Vec::new();
    if all {
        gone = client.delete_all().await?;
    }
    for id in ids {
        match client.delete(id).await {
            Ok(ids) => gone.extend(ids),
            Err(error) => {
                let trouble = Trouble::from(error);
                let unreachable = trouble.code == code::UNREACHABLE;
                // `delete a b` where b hung on a: it is gone, which was the wish.
                if !(trouble.code == code::NOT_FOUND && gone.contains(id)) {
                    troubles.push(trouble);
                }
                if unreachable {
                    break;
                }
            }
        }
    }
    *out = if json { to_json(&gone)? } else { gone.iter().map(|id| format!("{id}\n")).collect() };
    let mut troubles = troubles.into_iter();
    let Some(mut first) = troubles.next() else { return Ok(()) };
    for trouble in troubles {
        first.message.push_str("\nerror: ");
        first.message.push_str(&trouble.message);
    }
    Err(first)
}

fn to_json(value: &impl Serialize) -> Result<String, Trouble> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Trouble::new(code::FAILED, format!("write JSON: {error}")))?;
    Ok(text + "\n")
}

fn print(text: &str) -> Result<(), Trouble> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // `wormhole list | head -1`: the reader has what it wanted.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Trouble::new(code::FAILED, format!("write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

fn report(trouble: &Trouble, color: bool) -> u8 {
    // Nothing is left to say it on if stderr is gone.
    let _ = std::io::stderr().write_all(trouble.render(color).as_bytes());
    trouble.code
}

fn colored(when: Color, terminal: bool) -> bool {
    match when {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
            terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
        }
    }
}

// === impl Trouble ===

impl Trouble {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { message: message.into(), diagram: None, hint: None, code }
    }

    fn render(&self, color: bool) -> String {
        let (red, cyan, off) = if color { ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m") } else { ("", "", "") };
        // What the user typed, or the daemon said, is shown in here: it must not move the cursor.
        let message = self.message.lines().map(clean).collect::<Vec<_>>().join("\n");
        let mut text = format!("{red}error:{off} {message}\n");
        for line in self.diagram.iter().flat_map(|diagram| diagram.lines()) {
            text.push_str(&format!("  {}\n", clean(line)));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("{cyan}hint:{off} {}\n", clean(hint)));
        }
        text
    }
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        let code = match (error.failure().map(|failure| failure.kind), &error) {
            (Some(FailureKind::Invalid), _) => code::USAGE,
            (Some(FailureKind::NotFound), _) => code::NOT_FOUND,
            (Some(FailureKind::Refused | FailureKind::NotInThisBuild), _) => code::REFUSED,
            (None, ClientError::Unreachable { .. }) => code::UNREACHABLE,
            _ => code::FAILED,
        };
        Self { hint: error.hint().map(str::to_owned), ..Self::new(code, error.to_string()) }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
