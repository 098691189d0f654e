//! What is wrong with a line whose words are all right: segments that meet themselves or each other.

use super::error::WordError;
use super::grammar::Draft;
use crate::model::{End, Host, Place, Proto, Url, Via};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A segment of the line, as the checks see it.
struct Segment<'a> {
    draft: &'a Draft,
    head: &'a End,
    /// With the port that 0 stands for, as far as it is known.
    tail: End,
    /// Counts the machines from the root's: ends on different ones never meet.
    machine: usize,
    /// Its head is the hop from another machine and no socket.
    hop: bool,
    /// Its tail is the hop to another machine.
    leaves: bool,
    /// Where a word for its tail would stand.
    last: usize,
}

pub(super) fn check(words: &[String], drafts: &[Draft], ends: &[(End, End)]) -> Result<(), WordError> {
    let mut machine = 0;
    let mut segments: Vec<Segment<'_>> = Vec::with_capacity(drafts.len());
    for (index, (draft, (head, tail))) in drafts.iter().zip(ends).enumerate() {
        let next = drafts.get(index + 1);
        let hop = draft.via.as_ref().is_some_and(Via::is_remote);
        machine += usize::from(hop);
        let mut tail = tail.clone();
        if tail.proto != Proto::Unix && tail.port == 0 {
            tail.port = head.port;
        }
        let leaves = next.and_then(|next| next.via.as_ref()).is_some_and(Via::is_remote);
        let last = draft.tail.by.or(draft.tail_at).unwrap_or_else(|| next.map_or(words.len(), |next| next.start));
        segments.push(Segment { draft, head, tail, machine, hop, leaves, last });
    }
    for segment in &segments {
        protocols(words, segment)?;
        ports(words, segment)?;
    }
    for (parent, child) in drafts.iter().zip(drafts.iter().skip(1)) {
        if child.via == Some(Via::Chain) && parent.tail.runs() && child.head.has_place() {
            let index = child.head.by.unwrap_or(child.start);
            return Err(WordError::at(words, index, "`chain` makes this the parent's tail, which already runs a container")
                .hint("leave one of the two namespaces out, or use `child`"));
        }
    }
    loops(words, &segments)?;
    heads(words, &segments)
}

fn protocols(words: &[String], segment: &Segment<'_>) -> Result<(), WordError> {
    let (head, tail) = (segment.head.proto, segment.tail.proto);
    if (head == Proto::Udp) != (tail == Proto::Udp) {
        let message = format!("a {head} head cannot lead to a {tail} tail: datagrams are no stream");
        return Err(WordError::at(words, segment.last, message));
    }
    Ok(())
}

fn ports(words: &[String], segment: &Segment<'_>) -> Result<(), WordError> {
    let Segment { head, tail, .. } = segment;
    if segment.draft.via == Some(Via::Chain) && head.proto != Proto::Unix && head.port == 0 {
        let index = segment.draft.head.by.unwrap_or(segment.draft.start);
        return Err(WordError::at(words, index, "a chained head needs a port: the tail before it has to know where to connect")
            .hint("add `url :PORT`"));
    }
    // A free port of the head is known when the segment is made; there is none if the head is no TCP or UDP socket.
    let unknown = head.proto == Proto::Unix || segment.hop;
    if tail.proto != Proto::Unix && tail.port == 0 && unknown && !segment.leaves {
        return Err(WordError::at(words, segment.last, "the tail needs a port: the head has none that it could take over")
            .hint("add `url :PORT` to the tail"));
    }
    Ok(())
}

/// Refuses a segment that would connect to itself, at once or around a circle of segments of the same line.
fn loops(words: &[String], segments: &[Segment<'_>]) -> Result<(), WordError> {
    for first in segments {
        let mut at = first;
        for _ in segments {
            let Some(next) = leads_to(at, segments) else { break };
            if std::ptr::eq(next, first) {
                return Err(circle(words, first, at));
            }
            at = next;
        }
    }
    Ok(())
}

/// The segment that connections of `from` arrive at.
fn leads_to<'a, 'b>(from: &'a Segment<'b>, segments: &'a [Segment<'b>]) -> Option<&'a Segment<'b>> {
    let reached = |to: &&Segment<'_>| !from.leaves && !to.hop && from.machine == to.machine && reaches(&from.tail, to.head);
    // Itself first: a circle through others is only of interest where there is none of one segment.
    if reached(&from) { Some(from) } else { segments.iter().find(reached) }
}

fn circle(words: &[String], first: &Segment<'_>, last: &Segment<'_>) -> WordError {
    let own = std::ptr::eq(first, last);
    let head = Url::from(first.head);
    let message = if own {
        format!("the segment would connect to itself at {head}")
    } else {
        format!("the segments would connect in a circle: this tail leads back to {head}")
    };
    let hint = if last.draft.tail_at.is_none() {
        "say where it leads to: `tail docker-ns NAME` or `tail url HOST:PORT`"
    } else {
        "give the tail another namespace, host or port"
    };
    WordError::at(words, last.last, message).hint(hint)
}

/// Refuses two segments that would listen on the same address.
fn heads(words: &[String], segments: &[Segment<'_>]) -> Result<(), WordError> {
    for (index, segment) in segments.iter().enumerate() {
        let same = |other: &&Segment<'_>| {
            !segment.hop
                && !other.hop
                && segment.machine == other.machine
                && same_place(&segment.head.place, &other.head.place)
                && match segment.head.proto {
                    Proto::Unix => other.head.proto == Proto::Unix && segment.head.path == other.head.path,
                    proto => {
                        let (a, b) = (segment.head, other.head);
                        proto == b.proto && a.port != 0 && a.port == b.port && a.host == b.host
                    }
                }
        };
        if segments.iter().take(index).any(|other| same(&other)) {
            let at = segment.draft.head.by.unwrap_or(segment.draft.start);
            let message = format!("another segment of this line already listens on {}", Url::from(segment.head));
            return Err(WordError::at(words, at, message).hint("give one of the two heads another port"));
        }
    }
    Ok(())
}

/// True when a connection to `tail` surely arrives at `head`. Names are not resolved; only `localhost` is known.
fn reaches(tail: &End, head: &End) -> bool {
    if tail.proto != head.proto || !same_place(&tail.place, &head.place) {
        return false;
    }
    if tail.proto == Proto::Unix {
        return tail.path == head.path;
    }
    let addresses = |host: &Host| match host {
        Host::Ip(ip) => vec![*ip],
        Host::Name(name) if name.eq_ignore_ascii_case("localhost") => {
            vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
        }
        Host::Name(_) => Vec::new(),
    };
    let meets = |tail: IpAddr, head: IpAddr| {
        // Connecting to the unspecified address is connecting to loopback.
        let tail = match tail {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip.to_canonical(),
        };
        let head = head.to_canonical();
        let everywhere = head.is_unspecified() && (head.is_ipv6() || tail.is_ipv4());
        tail == head || (everywhere && tail.is_loopback())
    };
    let host = tail.host == head.host
        || addresses(&tail.host).iter().any(|tail| addresses(&head.host).iter().any(|head| meets(*tail, *head)));
    host && tail.port == head.port
}

/// True when both are surely the same namespace.
fn same_place(a: &Place, b: &Place) -> bool {
    // Each `docker-run` is a container of its own, and each parent another one.
    a == b && !matches!(a, Place::Run { .. } | Place::Parent)
}
