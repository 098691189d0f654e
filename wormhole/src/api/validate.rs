//! What a [`Spec`] must satisfy beyond its JSON types, whoever made it: the CLI's parser or somebody with `curl`.
//!
//! Only what can be said without looking at the machine; whether a container or a namespace is there, and whether a
//! head is taken already, the daemon finds out.

use super::addr::MAX_SOCKET_PATH;
use crate::model::{
    End, Failure, FailureKind, Host, Link, Options, Place, Proto, Spec, Via, is_container, is_host_name, is_segment_id,
};
use std::collections::HashSet;
use std::net::IpAddr;

/// So many segments may hang on one another. The JSON parser stops at 128 nested objects, two for each segment; this
/// stays below it, so that a deep request gets this answer and not a parser's.
pub const MAX_DEPTH: usize = 60;

/// Longest duration of an option: a year, in milliseconds.
const YEAR_MS: u64 = 366 * 24 * 3600 * 1000;
/// Longest time that somebody may be kept waiting: a day, in milliseconds.
const DAY_MS: u64 = 24 * 3600 * 1000;

/// Checks a whole request.
///
/// # Errors
/// A [`Failure`] of kind `Invalid`, or `Refused` for a segment that would connect to itself. Its message starts with
/// the path of the wrong part, e.g. `spec.link.spec.tail.path`.
pub fn validate(spec: &Spec) -> Result<(), Failure> {
    let mut ids = HashSet::new();
    let mut next = Some((spec, None::<&Via>));
    let mut at = "spec".to_owned();
    let mut depth = 0;
    // A loop and not a recursion: the depth is the caller's.
    while let Some((spec, via)) = next {
        depth += 1;
        if depth > MAX_DEPTH {
            return invalid(
                "spec",
                format!("more than {MAX_DEPTH} segments hang on one another"),
                "split it into several creates",
            );
        }
        segment(&at, spec, via)?;
        if let Some(id) = &spec.id
            && !ids.insert(id.as_str())
        {
            return invalid(&format!("{at}.id"), format!("`{id}` is used twice"), "give every segment an id of its own");
        }
        next = spec.link.as_deref().map(|link| (&link.spec, Some(&link.via)));
        at.push_str(".link.spec");
    }
    Ok(())
}

/// Checks the syntax of a segment's id: 1 to 63 of `[A-Za-z0-9._-]`, starting with a letter or a digit.
///
/// # Errors
/// A [`Failure`] of kind `Invalid`.
pub fn validate_id(id: &str) -> Result<(), Failure> {
    if is_segment_id(id) {
        return Ok(());
    }
    let shown: String = id.chars().take(80).collect();
    invalid(
        "id",
        format!("`{}` is not an id", shown.escape_debug()),
        "1 to 63 letters, digits, `.`, `_`, `-`, starting with a letter or a digit",
    )
}

fn segment(at: &str, spec: &Spec, via: Option<&Via>) -> Result<(), Failure> {
    if let Some(id) = &spec.id {
        validate_id(id).map_err(|f| Failure { message: format!("{at}.{}", f.message), ..f })?;
    }
    end(&format!("{at}.head"), &spec.head)?;
    end(&format!("{at}.tail"), &spec.tail)?;
    if spec.head.place == Place::Parent && via.is_none() {
        return invalid(
            &format!("{at}.head.place"),
            "the first segment has no parent".to_owned(),
            "`parent` is for a segment that hangs on another",
        );
    }
    if spec.tail.place == Place::Parent {
        return invalid(
            &format!("{at}.tail.place"),
            "`parent` is a place for heads only".to_owned(),
            "name the tail's own place",
        );
    }
    if (spec.head.proto == Proto::Udp) != (spec.tail.proto == Proto::Udp) {
        return invalid(
            &format!("{at}.tail.proto"),
            format!("a {} head cannot lead to a {} tail", name(spec.head.proto), name(spec.tail.proto)),
            "udp goes to udp; tcp and unix go to tcp or unix",
        );
    }
    if let Some(link) = spec.link.as_deref() {
        peer(&format!("{at}.link.via"), link)?;
    }
    options(&format!("{at}.options"), &spec.options)?;
    // A head behind `remote` or a tunnel is a hop and no socket.
    let hop = via.is_some_and(Via::is_remote);
    if !hop && !leaves_machine(spec) && connects_to_itself(&spec.head, &spec.tail) {
        return Err(Failure::new(FailureKind::Refused, format!("{at}: the segment would connect to itself"))
            .hint("give the tail another port, host or namespace than the head"));
    }
    Ok(())
}

fn end(at: &str, end: &End) -> Result<(), Failure> {
    match end.proto {
        Proto::Unix => path(&format!("{at}.path"), &end.path)?,
        Proto::Tcp | Proto::Udp if !end.path.is_empty() => {
            return invalid(
                &format!("{at}.path"),
                format!("a {} end has no path", name(end.proto)),
                "leave the path out, or set proto to `unix`",
            );
        }
        Proto::Tcp | Proto::Udp => {}
    }
    if let Host::Name(host) = &end.host {
        host_name(&format!("{at}.host"), host)?;
    }
    place(&format!("{at}.place"), &end.place)
}

fn path(at: &str, path: &str) -> Result<(), Failure> {
    let hint = "an absolute path, e.g. `/run/app.sock`";
    if path.is_empty() {
        return invalid(at, "a unix end needs a path".to_owned(), hint);
    }
    if !path.starts_with('/') {
        return invalid(at, format!("`{}` is not absolute", path.escape_debug()), hint);
    }
    if path.contains('\0') {
        return invalid(at, "holds a NUL".to_owned(), hint);
    }
    if path.ends_with('/') {
        return invalid(at, format!("`{}` is a directory", path.escape_debug()), hint);
    }
    if path.len() > MAX_SOCKET_PATH {
        return invalid(
            at,
            format!("has {} bytes, the kernel takes {MAX_SOCKET_PATH}", path.len()),
            "use a shorter path, e.g. under /run",
        );
    }
    Ok(())
}

fn place(at: &str, place: &Place) -> Result<(), Failure> {
    match place {
        Place::Host | Place::Parent => Ok(()),
        Place::Named { name } => {
            let file = !name.is_empty() && name.len() <= 255 && name != "." && name != ".." && !name.contains(['/', '\0']);
            if file {
                return Ok(());
            }
            invalid(
                &format!("{at}.name"),
                format!("`{}` is not the name of a namespace", name.escape_debug()),
                "the name of a file under /run/netns, without `/`; see `ip netns list`",
            )
        }
        Place::Pid { pid } => {
            if (1..=i32::MAX.unsigned_abs()).contains(pid) {
                return Ok(());
            }
            invalid(&format!("{at}.pid"), format!("{pid} is not a process id"), "a positive number as `ps` shows it")
        }
        Place::Docker { name } => {
            if is_container(name) {
                return Ok(());
            }
            invalid(
                &format!("{at}.name"),
                format!("`{}` is not the id or name of a container", name.escape_debug()),
                "see `docker ps`",
            )
        }
        Place::Run { args } => {
            if !args.trim().is_empty() && !args.contains('\0') {
                return Ok(());
            }
            invalid(
                &format!("{at}.args"),
                "`docker-run` needs at least an image".to_owned(),
                "what follows `docker run`, as one string, e.g. `\"-e A=b image\"`",
            )
        }
    }
}

fn peer(at: &str, link: &Link) -> Result<(), Failure> {
    match &link.via {
        Via::Child | Via::Chain => Ok(()),
        Via::Remote { host } | Via::Tunnel { host } | Via::Udptunnel { host } => {
            let wrong = |e: super::addr::AddrError| {
                Failure::new(FailureKind::Invalid, format!("{at}.host: {e}"))
                    .hint("a name or an address, with `:port` if it is not 9999")
            };
            super::addr::ListenAddr::parse_peer(host).map(|_| ()).map_err(wrong)
        }
    }
}

fn host_name(at: &str, host: &str) -> Result<(), Failure> {
    if is_host_name(host) {
        return Ok(());
    }
    invalid(
        at,
        format!("`{}` is neither an address nor a host name", host.escape_debug()),
        "e.g. `127.0.0.1`, `::1`, `localhost`",
    )
}

fn options(at: &str, options: &Options) -> Result<(), Failure> {
    // (name, value, least, most); an idle timeout of 0 switches it off.
    let rows = [
        ("idle_timeout_ms", options.idle_timeout_ms, 0, YEAR_MS),
        ("udp_timeout_ms", options.udp_timeout_ms, 1, YEAR_MS),
        ("connect_timeout_ms", options.connect_timeout_ms, 1, DAY_MS),
        ("start_timeout_ms", options.start_timeout_ms, 1, DAY_MS),
        ("idle_stop_ms", options.idle_stop_ms, 1, YEAR_MS),
    ];
    for (name, value, least, most) in rows {
        if let Some(value) = value
            && !(least..=most).contains(&value)
        {
            return invalid(
                &format!("{at}.{name}"),
                format!("{value} is out of range"),
                &format!("{least} to {most} milliseconds"),
            );
        }
    }
    Ok(())
}

/// True when the tail leads to another machine, where the same address is another place.
fn leaves_machine(spec: &Spec) -> bool {
    spec.link.as_deref().is_some_and(|link| link.via.is_remote())
}

fn connects_to_itself(head: &End, tail: &End) -> bool {
    // Two containers are run for two `docker-run`, however alike.
    if head.proto != tail.proto || head.place != tail.place || matches!(head.place, Place::Run { .. }) {
        return false;
    }
    if head.proto == Proto::Unix {
        return head.path == tail.path;
    }
    // Tail port 0 is the port that the head gets.
    let port = tail.port == 0 || tail.port == head.port;
    port && same_host(&head.host, &tail.host)
}

fn same_host(head: &Host, tail: &Host) -> bool {
    let address = |host: &Host| match host {
        Host::Ip(ip) => Some(ip.to_canonical()),
        Host::Name(name) if name.eq_ignore_ascii_case("localhost") => Some(IpAddr::from([127, 0, 0, 1])),
        Host::Name(_) => None,
    };
    match (address(head), address(tail)) {
        (Some(head), Some(tail)) => {
            // To connect to 0.0.0.0 or :: is to connect to the loopback address. A head on one of them listens on the
            // loopback address too, :: on that of both families.
            let tail = match tail {
                IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
                IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
                ip => ip,
            };
            let everywhere = head.is_unspecified() && (head.is_ipv6() || tail.is_ipv4());
            head == tail || (everywhere && tail.is_loopback())
        }
        _ => head == tail,
    }
}

fn name(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
        Proto::Unix => "unix",
    }
}

fn invalid<T>(at: &str, what: impl std::fmt::Display, hint: &str) -> Result<T, Failure> {
    Err(Failure::new(FailureKind::Invalid, format!("{at}: {what}")).hint(hint))
}

#[cfg(test)]
mod tests;
