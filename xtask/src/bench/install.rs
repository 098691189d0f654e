//! Getting the peers' programs: what is missing, why it is wanted, and only after asking.

use super::peers::{Peer, Source, find};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// Debian packages that the bench may install, and why.
pub const PACKAGES: &[(&str, &str)] = &[
    ("haproxy", "measured as a peer"),
    ("nginx-light", "measured as a peer, with its stream module"),
    ("libnginx-mod-stream", "nginx's TCP proxy"),
    ("socat", "measured as a peer"),
    ("systemd", "systemd-socket-proxyd, measured as a peer"),
];

/// What `--only apps` needs on top.
pub const APP_PACKAGES: &[(&str, &str)] = &[
    ("redis-server", "a real server behind each variant"),
    ("redis-tools", "redis-benchmark, its load"),
    ("mariadb-server-core", "a real database behind each variant"),
    ("mariadb-client-core", "needed to make the database"),
];

/// What containers need on top.
pub const CONTAINER_PACKAGES: &[(&str, &str)] = &[
    ("docker.io", "a Docker engine, run privately in a box"),
    ("iptables", "the engine's bridge"),
    ("busybox-static", "a shell in the image"),
];

/// Programs that tell that [`CONTAINER_PACKAGES`] are there, wherever they came from.
const CONTAINER_PROGRAMS: &[&str] = &["dockerd", "iptables", "busybox"];

/// Programs that tell that [`APP_PACKAGES`] are there.
const APP_PROGRAMS: &[&str] = &["redis-server", "redis-benchmark", "mariadbd", "mariadb-install-db"];

/// Gets what the peers (and the servers and containers, if wanted) need. What cannot be had is reported by the peer that misses it.
pub fn provide(peers: &[&dyn Peer], apps: bool, containers: bool, tools: &Path, yes: bool) {
    let mut packages: Vec<&str> = Vec::new();
    for peer in peers {
        if let Source::Apt(program, list) = peer.source() {
            let missing = find(program).is_none() || list.iter().any(|package| !part_is_there(package));
            packages.extend(list.iter().filter(|_| missing));
        }
    }
    if apps && APP_PROGRAMS.iter().any(|program| find(program).is_none()) {
        packages.extend(APP_PACKAGES.iter().map(|(package, _)| package));
    }
    if containers {
        let missing = CONTAINER_PACKAGES.iter().zip(CONTAINER_PROGRAMS).filter(|(_, program)| find(program).is_none());
        packages.extend(missing.map(|((package, _), _)| package));
    }
    if !packages.is_empty() {
        attempt("the missing packages", apt(&packages, yes));
    }
    for peer in peers {
        match peer.source() {
            Source::Unpacked(program, package) if find(program).is_none() && !tools.join(package).is_dir() => {
                attempt(program, unpack(package, tools));
            }
            Source::Crate(name, version, args) if !tools.join("bin").join(name).is_file() => {
                attempt(name, cargo_install(name, version, args, tools));
            }
            _ => {}
        }
    }
}

fn attempt(what: &str, result: Result<()>) {
    if let Err(error) = result {
        eprintln!("bench: cannot get {what}: {error:#}");
    }
}

/// A package without a program of its own is recognised by a file.
fn part_is_there(package: &str) -> bool {
    package != "libnginx-mod-stream" || Path::new("/usr/lib/nginx/modules/ngx_stream_module.so").is_file()
}

fn apt(packages: &[&str], yes: bool) -> Result<()> {
    eprintln!("bench: these Debian packages are missing:");
    for package in packages {
        let why = PACKAGES
            .iter()
            .chain(APP_PACKAGES)
            .chain(CONTAINER_PACKAGES)
            .find(|(name, _)| name == package)
            .map_or("", |(_, why)| why);
        eprintln!("  {package}: {why}");
    }
    crate::setup::may_install(packages, yes)?;
    crate::apt::install(packages)
}

/// Downloads a package and unpacks it without installing it.
fn unpack(package: &str, tools: &Path) -> Result<()> {
    let downloads = tools.join("downloads");
    std::fs::create_dir_all(&downloads).with_context(|| format!("create {}", downloads.display()))?;
    run(Command::new("apt-get").args(["download", package]).current_dir(&downloads))?;
    let prefix = format!("{package}_");
    let found = std::fs::read_dir(&downloads)?.filter_map(|entry| Some(entry.ok()?.path()));
    let deb = found.filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&prefix))).max();
    let deb = deb.with_context(|| format!("apt-get downloaded no {package}"))?;
    let partial = tools.join(format!("{package}.partial"));
    run(Command::new("dpkg").arg("-x").arg(deb).arg(&partial))?;
    std::fs::rename(&partial, tools.join(package)).context("put the unpacked package in place")
}

fn cargo_install(name: &str, version: &str, args: &[&str], tools: &Path) -> Result<()> {
    let failed = tools.join(format!("{name}-{version}.failed"));
    if let Ok(why) = std::fs::read_to_string(&failed) {
        bail!("its build failed before: {why} (remove {} to try again)", failed.display());
    }
    eprintln!("bench: building {name} {version} (once)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Not --locked: rathole 0.5.0 pins a `time` that current compilers refuse.
    command.args(["install", "--quiet", "--root"]).arg(tools).args(args).arg(format!("{name}@{version}"));
    // Its build must neither wait for this workspace's nor throw it away.
    command.env("CARGO_TARGET_DIR", tools.join(format!("{name}-build")));
    let result = run(&mut command);
    if let Err(error) = &result {
        std::fs::create_dir_all(tools)?;
        std::fs::write(&failed, format!("{error:#}"))?;
    }
    let _ = std::fs::remove_dir_all(tools.join(format!("{name}-build")));
    result
}

/// Runs a command to its end; why it failed is in the error.
fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {name}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{name} ended with {}: {}", output.status, reason(&text));
    }
    Ok(())
}

/// The first line that calls itself an error (cargo and apt follow it with advice), else the last one.
fn reason(stderr: &str) -> &str {
    let mut lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().find(|line| line.starts_with("error") || line.starts_with("E:"));
    error.or_else(|| lines.next_back()).unwrap_or("no reason given")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::peers::ALL;

    #[test]
    fn reasons() {
        assert_eq!(reason("Compiling\nerror[E1]: no\nwarning: x\n"), "error[E1]: no");
        assert_eq!(reason("a\nb\n\n"), "b");
        assert_eq!(reason(""), "no reason given");
    }

    #[test]
    fn every_package_has_a_reason() {
        for peer in ALL {
            if let Source::Apt(_, packages) = peer.source() {
                assert!(packages.iter().all(|package| PACKAGES.iter().any(|(name, why)| name == package && !why.is_empty())));
            }
        }
    }
}
