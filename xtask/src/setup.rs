//! `cargo xtask setup`: compares what is needed with what this machine has, and closes the difference.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result, bail};
use comfy_table::Table;
use comfy_table::presets::NOTHING;

use crate::apt;
use crate::needs::{self, FROM_ANYWHERE, From, Group, Need};
use crate::toolchain::{self, BOTH_WAYS, DEBIAN_PACKAGES, Rustc, Toolchain};
use crate::workspace::program;

/// The words after `setup`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Install system packages without asking; CI=true means the same
    #[arg(long, short)]
    yes: bool,
    /// Only what this needs (repeatable); everything when not given
    #[arg(long, value_name = "WHAT")]
    only: Vec<Group>,
}

/// What became of one need.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// It is there; where, if that is known.
    There(String),
    Missing,
}

/// Installs what is missing and shows a table of everything.
pub fn run(arguments: &Arguments) -> Result<()> {
    let groups = if arguments.only.is_empty() {
        &[Group::Build, Group::E2e, Group::Bench, Group::Demo, Group::Deny]
    } else {
        &arguments.only[..]
    };
    let needs = needs::of(groups);
    let before = look(&needs)?;
    close(&needs, &before, arguments.yes)?;
    let after = if before.contains(&State::Missing) { look(&needs)? } else { before.clone() };
    println!("{}", summary(&needs, &before, &after));
    require(&needs, &after)
}

/// Installs what `groups` need and is missing, without a table when nothing is.
pub fn ensure(groups: &[Group], yes: bool) -> Result<()> {
    let needs = needs::of(groups);
    let before = look(&needs)?;
    if !before.contains(&State::Missing) {
        return Ok(());
    }
    close(&needs, &before, yes)?;
    let after = look(&needs)?;
    println!("{}", summary(&needs, &before, &after));
    require(&needs, &after)
}

/// What this machine has, in the order of `needs`.
fn look(needs: &[Need]) -> Result<Vec<State>> {
    let packages: Vec<_> = needs
        .iter()
        .filter_map(|need| if let From::Package { package, .. } = need.from { Some(package) } else { None })
        .collect();
    let installed = apt::installed(&packages)?;
    let wants_ebpf = needs.iter().any(|need| matches!(need.from, From::EbpfRustc | From::BpfLinker));
    let complete = if wants_ebpf { Toolchain::find()? } else { None };
    needs
        .iter()
        .map(|need| {
            let found = match need.from {
                From::Package { package, .. } if installed.contains(package) => Some("installed".to_owned()),
                From::Package { package, program: name } => name
                    .filter(|_| !apt::available() || FROM_ANYWHERE.contains(&package))
                    .and_then(program)
                    .map(|path| path.display().to_string()),
                From::EbpfRustc => match &complete {
                    Some(toolchain) => Some(toolchain.rustc.path.display().to_string()),
                    None => Rustc::debian().map(|rustc| rustc.path.display().to_string()),
                },
                From::BpfLinker => complete.as_ref().map(|toolchain| toolchain.linker.display().to_string()),
                From::CargoDeny => toolchain::deny()?.map(|path| path.display().to_string()),
            };
            Ok(found.map_or(State::Missing, State::There))
        })
        .collect()
}

/// Installs what is missing.
fn close(needs: &[Need], states: &[State], yes: bool) -> Result<()> {
    let missing: Vec<_> = needs.iter().zip(states).filter(|(_, state)| **state == State::Missing).map(|(need, _)| need).collect();
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|need| match &need.from {
            From::Package { package, .. } => vec![*package],
            From::EbpfRustc => DEBIAN_PACKAGES.to_vec(),
            From::BpfLinker | From::CargoDeny => Vec::new(),
        })
        .collect();
    if !packages.is_empty() {
        eprintln!("Missing on this machine:\n{}", explain(&missing));
        if !apt::available() {
            bail!("this machine has no apt-get: install the above by its own means, then run this again");
        }
        may_install(&packages, yes)?;
        apt::install(&packages)?;
    }
    // These go into the target folder and change nothing outside of it: nobody needs to be asked.
    for need in missing {
        match need.from {
            From::BpfLinker => toolchain::install_linker()?,
            From::CargoDeny => toolchain::install_deny()?,
            From::Package { .. } | From::EbpfRustc => {}
        }
    }
    Ok(())
}

/// The missing things with their reasons, and the names under which other distributions know them.
fn explain(missing: &[&Need]) -> String {
    let mut lines = Vec::new();
    for need in missing {
        let name = match need.from {
            From::Package { package, program: Some(program) } if package != program => {
                format!("{program} (in Debian's {package})")
            }
            From::EbpfRustc => format!("{} (in Debian's {})", need.what, DEBIAN_PACKAGES.join(" and ")),
            _ => need.what.to_owned(),
        };
        lines.push(format!("  {name}: {}", need.why));
    }
    if missing.iter().any(|need| matches!(need.from, From::EbpfRustc)) && !apt::available() {
        lines.push(BOTH_WAYS.to_owned());
    }
    lines.join("\n")
}

/// System packages are installed by consent only.
pub fn may_install(packages: &[&str], yes: bool) -> Result<()> {
    if yes || std::env::var("CI").is_ok_and(|ci| ci == "true") {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        bail!("nobody is here to be asked whether these may be installed: run `cargo xtask setup --yes`");
    }
    eprint!("Install {} with apt-get? No service will be started. [y/N] ", packages.join(" "));
    std::io::stderr().flush().context("writing the question")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("reading the answer")?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("not installed, as you wished"),
    }
}

/// A table of everything that was looked at.
fn summary(needs: &[Need], before: &[State], after: &[State]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["what", "why", "state"]);
    for ((need, before), after) in needs.iter().zip(before).zip(after) {
        let state = match (before, after) {
            (State::Missing, State::There(place)) => format!("just installed: {place}"),
            (_, State::There(place)) => place.clone(),
            (_, State::Missing) => "MISSING".to_owned(),
        };
        table.add_row([need.what, need.why, &state]);
    }
    table
}

fn require(needs: &[Need], states: &[State]) -> Result<()> {
    let missing: Vec<_> =
        needs.iter().zip(states).filter(|(_, state)| **state == State::Missing).map(|(need, _)| need.what).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("still missing after installing: {}", missing.join(", "))
}
