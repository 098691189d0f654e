//! What a machine must have, for what, and why.

use clap::ValueEnum;

use crate::{apt, bench, vm, workspace};

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Build the binaries with the eBPF object in them
    Build,
    /// Run the end-to-end tests
    E2e,
    /// Run the benchmark
    Bench,
    /// Run the demo
    Demo,
    /// Run the demo with --no-docker
    DemoNoDocker,
    /// Start other kernels in virtual machines
    Vm,
    /// Check licences and sources of the dependencies
    Deny,
}

/// One thing that a machine must have.
#[derive(Clone, Debug)]
pub struct Need {
    /// Its name, for people.
    pub what: &'static str,
    /// What it is for.
    pub why: &'static str,
    /// How one tells that it is there, and where it comes from.
    pub from: From,
    /// Who needs it.
    pub groups: Vec<Group>,
}

/// How one tells that a thing is there, and where it comes from.
#[derive(Clone, Copy, Debug)]
pub enum From {
    /// A Debian package, and the program that stands for it where there is no dpkg to ask.
    Package { package: &'static str, program: Option<&'static str> },
    /// A rustc that can compile for the kernel.
    EbpfRustc,
    /// The linker for it.
    BpfLinker,
    /// A crate with a program.
    CargoDeny,
}

/// What only the end-to-end tests want of the packages that the demo shares with them.
const NOT_SHOWN: &[&str] = &["nginx", "dnsmasq-base", "socat", "systemd", "haproxy", "sysbench", "postgresql"];

/// Everything that is needed by at least one of `groups`, each once.
pub fn of(groups: &[Group]) -> Vec<Need> {
    all().into_iter().filter(|need| need.groups.iter().any(|group| groups.contains(group))).collect()
}

fn all() -> Vec<Need> {
    use Group::{Bench, Build, Demo, DemoNoDocker, Deny, E2e, Vm};
    // Whoever runs the binaries builds them first.
    let runs = [Build, E2e, Bench, Demo];
    let mut needs = vec![
        Need {
            what: "rustc for eBPF",
            why: "compiles the programs that run in the kernel",
            from: From::EbpfRustc,
            groups: runs.to_vec(),
        },
        Need { what: "bpf-linker", why: "links them into one object", from: From::BpfLinker, groups: runs.to_vec() },
        Need {
            what: "cargo-deny",
            why: "checks licences and sources of the dependencies",
            from: From::CargoDeny,
            groups: vec![Deny],
        },
    ];
    let boxed = [E2e, Demo, DemoNoDocker, Bench, Vm];
    add(&mut needs, "util-linux", "unshare, which makes the box that tests run in", &boxed);
    add(&mut needs, "iproute2", "makes network namespaces and the links between them", &boxed);
    for (package, why) in wormhole_tests::packages::PACKAGES {
        let shown = !NOT_SHOWN.contains(package);
        add(&mut needs, package, why, if shown { &[E2e, Demo] } else { &[E2e] });
    }
    // Up to Debian 12 the command is a part of docker.io; where it is missing, it is a package of its own.
    if workspace::program("docker").is_none() && apt::known("docker-cli") {
        add(&mut needs, "docker-cli", "the docker command", &[E2e, Demo, Bench]);
    }
    add(&mut needs, "qemu-system-x86", "starts other kernels in virtual machines", &[Vm]);
    add(&mut needs, "busybox-static", "the userland of those machines", &[Vm]);
    add(&mut needs, "dash", "their shell", &[Vm]);
    add(&mut needs, "redis-tools", "redis server and client", &[DemoNoDocker]);
    for (package, why) in bench::PACKAGES.iter().chain(bench::APP_PACKAGES) {
        add(&mut needs, package, why, &[Bench]);
    }
    for (package, why) in bench::CONTAINER_PACKAGES {
        add(&mut needs, package, why, &[Bench]);
    }
    needs
}

/// Adds a package, or the groups to one that is there already: several owners may ask for the same.
fn add(needs: &mut Vec<Need>, package: &'static str, why: &'static str, groups: &[Group]) {
    let same = |need: &&mut Need| matches!(need.from, From::Package { package: known, .. } if known == package);
    if let Some(known) = needs.iter_mut().find(same) {
        known.groups.extend(groups);
        return;
    }
    let from = From::Package { package, program: program_of(package) };
    needs.push(Need { what: package, why, from, groups: groups.to_vec() });
}

/// Packages that others publish too, under names of their own: having the program is enough, whoever it came from.
/// Asking apt-get for docker.io beside docker-ce would have it remove the user's engine.
pub const FROM_ANYWHERE: &[&str] = &["docker.io"];

/// The program that stands for a package: how one tells on a machine without dpkg that the thing is there, and the name
/// that people look for in their own distribution.
fn program_of(package: &str) -> Option<&'static str> {
    Some(match package {
        "busybox-static" => "busybox",
        "curl" => "curl",
        "dash" => "dash",
        "dnsmasq-base" => "dnsmasq",
        "docker-cli" => "docker",
        "docker.io" => "dockerd",
        "haproxy" => "haproxy",
        "iproute2" => "ip",
        "iptables" => "iptables",
        "ldnsutils" => "drill",
        "mariadb-client-core" => "mariadb",
        "mariadb-server-core" => "mariadbd",
        "nginx" | "nginx-light" => "nginx",
        "postgresql" => "pgbench",
        "qemu-system-x86" => vm::EMULATOR,
        "redis-server" => "redis-server",
        "redis-tools" => "redis-cli",
        "socat" => "socat",
        "sysbench" => "sysbench",
        "util-linux" => "unshare",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_asked_for_twice_is_needed_once_by_both() {
        let mut needs = Vec::new();
        add(&mut needs, "docker.io", "first", &[Group::E2e]);
        add(&mut needs, "docker.io", "second", &[Group::Demo]);
        assert_eq!(needs.len(), 1);
        assert_eq!(needs[0].groups, [Group::E2e, Group::Demo]);
    }

    #[test]
    fn whoever_runs_the_binaries_needs_what_builds_them() {
        for group in [Group::Build, Group::E2e, Group::Bench, Group::Demo] {
            assert!(of(&[group]).iter().any(|need| need.what == "bpf-linker"), "{group:?}");
        }
        // Two namespaces are shown on every machine, also where no object can be built.
        assert!(of(&[Group::DemoNoDocker]).iter().all(|need| need.what != "bpf-linker" && need.what != "docker.io"));
        assert!(of(&[Group::Deny]).iter().all(|need| need.what == "cargo-deny"));
    }
}
