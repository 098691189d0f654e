//! The Debian packages that the harness needs.

use crate::run;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Package, and why it is needed.
pub const PACKAGES: &[(&str, &str)] = &[
    ("docker.io", "a Docker engine, run privately in a box"),
    ("iproute2", "ip: namespaces, links, addresses"),
    ("iptables", "the engine's default bridge"),
    ("util-linux", "unshare and nsenter: the box"),
    ("busybox-static", "a shell and small tools in every image"),
    ("redis-tools", "redis server and client for an image"),
    ("mariadb-server-core", "database server for an image"),
    ("mariadb-client-core", "database client for an image"),
    ("nginx", "web server for an image, and a peer of the benchmark"),
    ("dnsmasq-base", "DNS server for an image: UDP"),
    ("ldnsutils", "drill: a DNS client for the images"),
    ("curl", "HTTP client for an image"),
];

/// Those of [`PACKAGES`] that are not installed.
///
/// # Errors
/// When this is no Debian.
pub fn missing() -> Result<Vec<(&'static str, &'static str)>> {
    if run::find("dpkg-query").is_none() {
        bail!("there is no dpkg-query: the end-to-end tests take their servers from Debian or Ubuntu packages");
    }
    Ok(PACKAGES.iter().filter(|(name, _)| !installed(name)).copied().chain(docker_cli()).collect())
}

/// Installs packages without the services in them being started now.
///
/// # Errors
/// When not root, and when apt-get fails, with the end of what it said.
pub fn install(names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    if !crate::boxed::is_root() {
        bail!("installing needs root: sudo apt-get install --no-install-recommends {}", names.join(" "));
    }
    let _quiet = NoServices::new(Path::new("/usr/sbin/policy-rc.d"))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "--no-install-recommends"]).args(names).env("DEBIAN_FRONTEND", "noninteractive");
    if run::output(&mut install)?.status.success() {
        return Ok(());
    }
    // The usual reason is a list that is out of date or was never fetched.
    run::text(run::command("apt-get", ["update"]).env("DEBIAN_FRONTEND", "noninteractive"))?;
    run::text(&mut install).map(drop)
}

/// Versions of installed packages, one line each; part of the key of an image.
///
/// # Errors
/// When one is not installed, with the command that installs it.
pub fn versions(names: &[&str]) -> Result<String> {
    let gone: Vec<&str> = names.iter().filter(|n| !installed(n)).copied().collect();
    if !gone.is_empty() {
        bail!("not installed: apt-get install --no-install-recommends {}", gone.join(" "));
    }
    run::text(run::command("dpkg-query", ["-W", "-f", "${Package} ${Version} ${Architecture}\n"]).args(names))
}

fn installed(name: &str) -> bool {
    let query = run::output(&mut run::command("dpkg-query", ["-W", "-f", "${db:Status-Status}", name]));
    query.is_ok_and(|done| done.status.success() && done.stdout == "installed")
}

/// Up to Debian 12 the `docker` command is a part of docker.io, later it is a package of its own.
fn docker_cli() -> Option<(&'static str, &'static str)> {
    if run::find("docker").is_some() {
        return None;
    }
    let known = run::output(&mut run::command("apt-cache", ["show", "docker-cli"]));
    known.is_ok_and(|done| done.status.success()).then_some(("docker-cli", "the docker command"))
}

/// While it lives, package scripts do not start services: `invoke-rc.d` asks this script, and 101 means no. A script
/// that is there already belongs to the administrator and stays.
struct NoServices<'a>(Option<&'a Path>);

impl<'a> NoServices<'a> {
    fn new(path: &'a Path) -> Result<Self> {
        if path.exists() {
            return Ok(Self(None));
        }
        fs::write(path, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        Ok(Self(Some(path)))
    }
}

impl Drop for NoServices<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_kept_from_starting_only_while_packages_are_installed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy-rc.d");
        let quiet = NoServices::new(&path).unwrap();
        assert_eq!(run::output(&mut Command::new(&path)).unwrap().code(), 101);
        drop(quiet);
        assert!(!path.exists());
        fs::write(&path, "the administrator's").unwrap();
        drop(NoServices::new(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "the administrator's");
    }

    #[test]
    fn versions_name_what_is_not_installed() {
        if run::find("dpkg-query").is_none() {
            crate::skip!("no Debian");
        }
        let error = versions(&["dpkg", "no-such-package"]).unwrap_err().to_string();
        assert_eq!(error, "not installed: apt-get install --no-install-recommends no-such-package");
        assert!(versions(&["dpkg"]).unwrap().starts_with("dpkg "));
    }
}
