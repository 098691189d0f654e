//! What the kernel holds, written down so that before and after can be compared: after a segment is deleted they must
//! be equal.

use crate::process::net_namespace;
use crate::run;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

/// A network namespace to look into.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ns {
    /// The one that this process is in.
    Own,
    /// That of a process.
    Pid(u32),
    /// A name under /run/netns.
    Named(String),
}

impl Ns {
    pub(crate) fn command(&self, program: &str) -> Command {
        match self {
            Self::Own => Command::new(program),
            Self::Pid(pid) => run::command("nsenter", ["-t", &pid.to_string(), "--net", "--", program]),
            Self::Named(name) => run::command("nsenter", [&format!("--net=/run/netns/{name}"), "--", program]),
        }
    }
}

/// Something that waits for connections or datagrams.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listener {
    /// A TCP socket in LISTEN, or a UDP socket without a peer.
    Inet {
        /// `tcp` or `udp`.
        proto: &'static str,
        /// Where it is bound.
        address: SocketAddr,
    },
    /// A unix socket in LISTEN: path, or `@name` for an abstract one.
    Unix(String),
}

impl Listener {
    /// True when it is `proto` (`tcp`, `udp`) on `port`, at any address.
    pub fn is(&self, proto: &str, port: u16) -> bool {
        matches!(self, Self::Inet { proto: p, address } if *p == proto && address.port() == port)
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet { proto, address } => write!(f, "{proto} {address}"),
            Self::Unix(path) => write!(f, "unix {path}"),
        }
    }
}

/// Everything in `ns` that listens.
///
/// # Errors
/// When the namespace is gone.
pub fn listeners(ns: &Ns) -> Result<BTreeSet<Listener>> {
    let mut found = BTreeSet::new();
    let files = ["tcp", "tcp6", "udp", "udp6", "unix"];
    let mut cat = ns.command("cat");
    // /proc/self/net is that of the process that reads it. A kernel without IPv6 has no tcp6.
    cat.args(files.map(|f| format!("/proc/self/net/{f}")));
    let done = run::output(&mut cat)?;
    let mut proto = "";
    let mut headers = 0;
    for line in done.stdout.lines() {
        // The headers tell the files apart: tcp says tr tm->when and no drops, udp has drops, unix begins with Num.
        if line.trim_start().starts_with("sl ") {
            proto = if line.contains("drops") { "udp" } else { "tcp" };
            headers += 1;
        } else if line.starts_with("Num ") {
            proto = "unix";
            headers += 1;
        } else if proto == "unix" {
            found.extend(unix_listener(line));
        } else {
            found.extend(inet_listener(proto, line));
        }
    }
    anyhow::ensure!(headers > 0, "cannot look into {ns:?}: {}", done.stderr.trim());
    Ok(found)
}

fn inet_listener(proto: &str, line: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    // 0A is LISTEN; 07 is what UDP shows without a peer.
    let (proto, wanted) = if proto == "tcp" { ("tcp", "0A") } else { ("udp", "07") };
    if *fields.get(3)? != wanted {
        return None;
    }
    Some(Listener::Inet { proto, address: address(fields.get(1)?)? })
}

/// How many TCP sockets there are in `ns`, whoever holds them, and also those that nobody holds any more and that are
/// still to be reset or to hear of the other side's end. What merely waits for its time to pass does not count.
///
/// # Errors
/// When the namespace is gone.
pub fn tcp_sockets(ns: &Ns) -> Result<u64> {
    let done = run::output(ns.command("cat").args(["/proc/self/net/sockstat", "/proc/self/net/sockstat6"]))?;
    let mut lines = 0;
    let in_use = done.stdout.lines().filter_map(|line| {
        let (proto, rest) = line.split_once(": inuse ")?;
        lines += u64::from(proto == "TCP");
        matches!(proto, "TCP" | "TCP6").then(|| rest.split(' ').next()?.parse::<u64>().ok()).flatten()
    });
    let sum = in_use.sum();
    anyhow::ensure!(lines > 0, "cannot look into {ns:?}: {}", done.stderr.trim());
    Ok(sum)
}

/// How many packets for TCP sockets in `ns` the kernel has dropped because too much waited in front of a socket that somebody
/// was in a system call on.
///
/// # Errors
/// When the namespace is gone.
pub fn dropped_packets(ns: &Ns) -> Result<u64> {
    tcp_counter(ns, "TCPBacklogDrop")
}

/// How many acknowledgements for TCP sockets in `ns` have waited until the kernel's timer for them was over.
///
/// # Errors
/// When the namespace is gone.
pub fn delayed_acknowledgements(ns: &Ns) -> Result<u64> {
    tcp_counter(ns, "DelayedACKs")
}

fn tcp_counter(ns: &Ns, wanted: &str) -> Result<u64> {
    let done = run::output(ns.command("cat").arg("/proc/self/net/netstat"))?;
    let mut lines = done.stdout.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == wanted);
    Ok(found.with_context(|| format!("no {wanted}"))?.1.parse()?)
}

/// Kernel memory of the whole machine, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Objects that cannot be given back on demand: sockets, messages in queues, entries of maps.
    pub slab: u64,
    /// What TCP has charged to its sockets.
    pub tcp: u64,
}

impl Memory {
    /// As it is now.
    ///
    /// # Errors
    /// When /proc does not say.
    pub fn now() -> Result<Self> {
        // The number after the words `before` in the line that begins with `line`.
        let of = |path: &str, line: &str, before: &str| -> Result<u64> {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            let line = text.lines().find_map(|l| l.strip_prefix(line)).with_context(|| format!("{path} has no {line}"))?;
            let (_, rest) = line.split_once(before).with_context(|| format!("{path} has no {before}"))?;
            Ok(rest.split_whitespace().next().context("no number")?.parse()?)
        };
        let page = rustix::param::page_size() as u64;
        Ok(Self { slab: of("/proc/meminfo", "SUnreclaim:", "")? * 1024, tcp: of("/proc/net/sockstat", "TCP:", " mem ")? * page })
    }
}

/// `0100007F:1F90`: 32-bit words in the order of the machine, the port as one writes it.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Vec<[u8; 4]> = (0..host.len() / 8)
        .map(|i| host.get(i * 8..i * 8 + 8).and_then(|w| u32::from_str_radix(w, 16).ok()).map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    let ip = match words.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(*word)),
        [_, _, _, _] => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn unix_listener(line: &str) -> Option<Listener> {
    let mut fields = line.split_whitespace();
    // Num RefCount Protocol Flags Type St Inode Path; __SO_ACCEPTCON is set while listening.
    let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    let path = fields.nth(3).unwrap_or("(unnamed)");
    (flags & 0x1_0000 != 0).then(|| Listener::Unix(path.to_owned()))
}

/// Network namespaces that anything visible keeps alive (a process, a descriptor, a name), as `net:[inode]`, each with
/// who keeps it. A namespace that only a socket keeps alive does not show.
///
/// # Errors
/// When /proc cannot be read.
pub fn namespaces() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut note = |path: &Path, who: String| {
        if let Some(namespace) = net_namespace(path) {
            found.entry(namespace).or_default().insert(who);
        }
    };
    for entry in fs::read_dir("/proc").context("cannot read /proc")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        // A process that ends in between holds nothing.
        let who = fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned();
        note(&entry.path().join("ns/net"), who.clone());
        for fd in fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten() {
            note(&fd.path(), format!("{who} (descriptor)"));
        }
    }
    for name in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        note(&name.path(), format!("/run/netns/{}", name.file_name().to_string_lossy()));
    }
    Ok(found)
}

/// What the kernel holds, section by section. Equal before and after is the claim; [`KernelState::diff`] says what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelState(BTreeMap<String, BTreeSet<String>>);

impl KernelState {
    /// Listeners, links, addresses, routes, IPsec policies and SAs of the given namespaces (the label tells them apart in
    /// a diff). Tests run side by side: give namespaces that only this test uses, and not [`Ns::Own`].
    ///
    /// # Errors
    /// When a namespace is gone.
    pub fn of(places: &[(&str, Ns)]) -> Result<Self> {
        let mut sections = BTreeMap::new();
        for (label, ns) in places {
            let listening = listeners(ns)?.iter().map(ToString::to_string).collect();
            sections.insert(format!("{label}: listeners"), listening);
            for (what, args) in [
                ("links", &["-o", "link", "show"][..]),
                ("addresses", &["-o", "addr", "show"]),
                ("routes", &["-4", "route", "show", "table", "all"]),
                ("IPv6 routes", &["-6", "route", "show", "table", "all"]),
                ("IPsec policies", &["-o", "xfrm", "policy"]),
                ("IPsec SAs", &["-o", "xfrm", "state"]),
            ] {
                // A kernel without IPsec refuses the last two, the same way before and after.
                let text = run::output(ns.command("ip").args(args))?.stdout;
                sections.insert(format!("{label}: {what}"), text.lines().map(steady).collect());
            }
        }
        Ok(Self(sections))
    }

    /// And what process `pid` holds: descriptors by kind, namespaces held and entered.
    ///
    /// # Errors
    /// When it is gone.
    pub fn with_process(mut self, label: &str, pid: u32) -> Result<Self> {
        let holds = crate::process::Holds::of(pid)?;
        let fds = holds.fds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        self.0.insert(format!("{label}: descriptors"), fds);
        self.0.insert(format!("{label}: namespaces held"), holds.namespaces);
        self.0.insert(format!("{label}: namespaces entered"), holds.entered);
        Ok(self)
    }

    /// And all network namespaces there are. Only for a test that nothing runs beside.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn with_namespaces(mut self) -> Result<Self> {
        self.0.insert("network namespaces".to_owned(), namespaces()?.into_keys().collect());
        Ok(self)
    }

    /// What differs, one line each: `- ` was there before, `+ ` is new. Empty when equal.
    pub fn diff(&self, after: &Self) -> String {
        let mut text = String::new();
        let none = BTreeSet::new();
        let sections: BTreeSet<&String> = self.0.keys().chain(after.0.keys()).collect();
        for section in sections {
            let (old, new) = (self.0.get(section).unwrap_or(&none), after.0.get(section).unwrap_or(&none));
            for gone in old.difference(new) {
                let _ = writeln!(text, "- {section}: {gone}");
            }
            for come in new.difference(old) {
                let _ = writeln!(text, "+ {section}: {come}");
            }
        }
        text
    }

    /// Waits until `look` gives this state again: a process that was just killed leaves its sockets a moment later.
    ///
    /// # Panics
    /// After 10 s, with the difference.
    #[track_caller]
    pub fn wait_equal(&self, mut look: impl FnMut() -> Result<Self>) {
        let again = crate::wait::poll("the kernel to look as before", std::time::Duration::from_secs(10), || {
            let diff = self.diff(&look().map_err(|e| format!("{e:#}"))?);
            if diff.is_empty() { Ok(()) } else { Err(format!("\n{diff}")) }
        });
        if let Err(error) = again {
            panic!("{error:#}");
        }
    }
}

/// Leaves out what changes by itself: counters of time.
fn steady(line: &str) -> String {
    let mut words = Vec::new();
    let mut all = line.split_whitespace();
    while let Some(word) = all.next() {
        if matches!(word, "valid_lft" | "preferred_lft" | "expires" | "age" | "used" | "curlft:" | "lastused") {
            all.next();
        } else {
            words.push(word);
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_net_is_read() {
        assert_eq!(address("0100007F:1F90"), Some("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(address("00000000000000000000000001000000:0050"), Some("[::1]:80".parse().unwrap()));
        assert_eq!(address("0100007F"), None);
        let line = "ffff: 00000002 00000000 00010000 0001 01 29384 @abstract";
        assert_eq!(unix_listener(line), Some(Listener::Unix("@abstract".into())));
        assert_eq!(unix_listener("ffff: 00000003 00000000 00000000 0001 03 29385 /connected"), None);
    }

    #[test]
    fn a_listener_of_our_own_shows() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let all = listeners(&Ns::Own).unwrap();
        assert!(all.iter().any(|l| l.is("tcp", port)), "{all:?}");
        drop(socket);
        assert!(!listeners(&Ns::Own).unwrap().iter().any(|l| l.is("tcp", port)));
    }

    #[test]
    fn time_is_no_difference() {
        assert_eq!(steady("2: x inet 10.0.0.1/24 valid_lft 86sec preferred_lft 9sec"), "2: x inet 10.0.0.1/24");
    }
}
