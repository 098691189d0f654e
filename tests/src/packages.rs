//! The Debian packages that the harness needs; `cargo xtask setup` installs them.

use crate::run;
use anyhow::{Result, bail};

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
    ("sysbench", "load on the database server"),
    ("postgresql", "another database server, with a load of its own"),
    ("socat", "a server under several names"),
    ("systemd", "systemd-socket-proxyd, a server that splices"),
    ("haproxy", "another one"),
];

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

#[cfg(test)]
mod tests {
    use super::*;

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
