//! Debian packages: which are there, and installing the rest without starting a single service.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::mirror::Mirror;
use crate::step;
use crate::workspace::{self, program};

/// Runs as root. Its arguments: settings for apt and the suite that is preferred under them (both may be empty), then the
/// packages.
///
/// invoke-rc.d and deb-systemd-invoke ask /usr/sbin/policy-rc.d whether a freshly installed service may start and have no
/// other switch. A policy that says no already is left alone; another one is moved aside and comes back at the end,
/// however the end comes. Held locks are waited for: unattended-upgrades likes to run when a machine was just started.
/// Nothing of the user's is removed to make room; apt-get fails instead and names it. Where systemd runs, the new services
/// are disabled as well, or they would start with the next boot.
const SCRIPT: &str = r#"
set -eu
settings=$1
suite=$2
shift 2
policy=/usr/sbin/policy-rc.d
aside=$policy.before-wormhole
answer=0
if [ -x "$policy" ]; then "$policy" wormhole-probe start >/dev/null 2>&1 || answer=$?; fi
if [ "$answer" != 101 ]; then
    back() { rm -f "$policy"; if [ -e "$aside" ]; then mv "$aside" "$policy"; fi; }
    trap back EXIT
    trap 'exit 130' INT TERM HUP
    if [ -e "$policy" ] && [ ! -e "$aside" ]; then mv "$policy" "$aside"; fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l
tries=0
until apt-get -q update; do
    tries=$((tries + 1))
    if [ "$tries" -ge 5 ]; then exit 100; fi
    sleep 3
done
units() { ls /lib/systemd/system 2>/dev/null | grep '\.service$' | grep -v '@' || true; }
before=$(units)
apt-get -q -y -o DPkg::Lock::Timeout=300 ${settings:+-c "$settings" -t "$suite"} install --no-install-recommends --no-remove "$@"
if [ -d /run/systemd/system ]; then
    for unit in $(units); do
        case "
$before
" in
        *"
$unit
"*) ;;
        *) systemctl --quiet disable "$unit" || true ;;
        esac
    done
fi
"#;

/// Whether packages can be installed here at all.
pub fn available() -> bool {
    program("apt-get").is_some() && program("dpkg-query").is_some()
}

/// Whether this distribution has a package of that name.
pub fn known(package: &str) -> bool {
    let show = Command::new("apt-cache").args(["show", package]).output();
    show.is_ok_and(|output| output.status.success())
}

/// Those of `packages` that are installed.
pub fn installed(packages: &[&'static str]) -> Result<HashSet<&'static str>> {
    if packages.is_empty() || !available() {
        return Ok(HashSet::new());
    }
    // dpkg-query fails when it does not know one of the names, and still answers for the others.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(packages)
        .output()
        .context("asking dpkg-query which packages are installed")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let there: HashSet<&str> = text.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    Ok(packages.iter().copied().filter(|package| there.contains(package)).collect())
}

/// Installs `packages`, as root or through sudo.
///
/// Where a part of a package is here from the backports of this release, the rest of it can only come from there too: without
/// them, apt would have to remove what is here.
pub fn install(packages: &[&str]) -> Result<()> {
    let plain = install_from(packages, None);
    if plain.is_ok() || possible(packages, None) {
        return plain;
    }
    match Mirror::backports(&workspace::target()?.join("backports")) {
        Ok(Some(mirror)) if possible(packages, Some(&mirror)) => install_from(packages, Some(&mirror)),
        _ => plain,
    }
}

/// Whether apt sees a way.
fn possible(packages: &[&str], mirror: Option<&Mirror>) -> bool {
    let mut command = Command::new("apt-get");
    if let Some(mirror) = mirror {
        command.arg("-c").arg(mirror.conf()).args(["-t", mirror.suite()]);
    }
    command.args(["-s", "install", "--no-install-recommends", "--no-remove"]).args(packages);
    command.output().is_ok_and(|output| output.status.success())
}

fn install_from(packages: &[&str], mirror: Option<&Mirror>) -> Result<()> {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("sh")
    } else if let Some(sudo) = program("sudo") {
        // The password is asked for here: behind the spinner nobody would see the question.
        let interactive = std::io::stdin().is_terminal();
        let mut ask = Command::new(&sudo);
        let granted = ask.args(if interactive { &["-v"][..] } else { &["-n", "-v"] }).status().context("running sudo")?;
        if !granted.success() {
            bail!("sudo refused; as root, run: apt-get install --no-install-recommends {}", packages.join(" "));
        }
        let mut command = Command::new(sudo);
        command.args(["-n", "sh"]);
        command
    } else {
        bail!(
            "installing packages needs root and there is no sudo; as root, run: apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
    };
    command.args(["-c", SCRIPT, "sh"]);
    match mirror {
        Some(mirror) => command.arg(mirror.conf()).arg(mirror.suite()),
        None => command.args(["", ""]),
    };
    command.args(packages);
    step::run(&format!("installing {}", packages.join(", ")), &mut command)
}
