//! What can go wrong with a segment.

use crate::docker::DockerError;
use crate::model::{Failure, FailureKind};
use crate::netns::NetnsError;
use rustix::io::Errno;

/// Why a segment could not be made, or why it waits.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The container exists and is stopped.
    #[error("container {container} is not running")]
    NotRunning {
        /// Its name.
        container: String,
    },
    /// The container was restarted each time it was looked at.
    #[error("container {container} keeps restarting")]
    Restless {
        /// As the user called it.
        container: String,
    },
    /// The engine's answer.
    #[error(transparent)]
    Docker(#[from] DockerError),
    /// A namespace or a path in a container.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The head's socket could not be bound.
    #[error("cannot listen on {url}: {}", bind_reason(*source))]
    Bind {
        /// The head.
        url: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// The head's path is taken by something that is no abandoned socket.
    #[error("cannot listen on {url}: {why}")]
    PathTaken {
        /// The head.
        url: String,
        /// By what.
        why: &'static str,
    },
    /// A host name that leads nowhere.
    #[error("cannot resolve host {host}: {why}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's answer.
        why: String,
    },
    /// Another segment has this head.
    #[error("{url} is already the head of segment {id}")]
    HeadTaken {
        /// The head.
        url: String,
        /// The other segment.
        id: String,
    },
    /// The segment would connect to itself, perhaps through others.
    #[error("{url} would connect to itself{}", through.as_ref().map(|t| format!(" through {t}")).unwrap_or_default())]
    Loop {
        /// The head.
        url: String,
        /// The segments between, if any.
        through: Option<String>,
    },
    /// Words of the language that are understood and not carried out yet.
    #[error("{} not in this build", named(words))]
    NotInThisBuild {
        /// The words, in the order in which they were met.
        words: Vec<&'static str>,
    },
}

impl From<SegmentError> for Failure {
    fn from(error: SegmentError) -> Self {
        use FailureKind as K;
        use SegmentError as E;
        let message = error.to_string();
        match error {
            E::Docker(error) => error.into(),
            E::NotRunning { container } => Failure::new(K::Refused, message).hint(format!("start it: docker start {container}")),
            E::Restless { container } => {
                Failure::new(K::Failed, message).hint(format!("see why: docker logs --tail 20 {container}"))
            }
            E::Netns(NetnsError::Open { source: Errno::NOENT, ref path, .. }) => {
                let hint = if path.starts_with("/proc") {
                    "is the process id right, and is it one of this machine?".to_owned()
                } else {
                    super::site::named_hint()
                };
                Failure::new(K::NotFound, message).hint(hint)
            }
            E::Netns(NetnsError::NotNsfs { .. }) => Failure::new(K::NotFound, message).hint(super::site::named_hint()),
            E::Netns(NetnsError::Path { .. }) => {
                Failure::new(K::Failed, message).hint("the directory must exist inside that place")
            }
            E::Netns(_) => Failure::new(K::Failed, message).hint("run wormholed as root"),
            E::Bind { source: Errno::ADDRINUSE, .. } => {
                Failure::new(K::Refused, message).hint("see what has it: `ss -tulpn` in that namespace; or choose another port")
            }
            E::Bind { source: Errno::ADDRNOTAVAIL, .. } => Failure::new(K::Refused, message)
                .hint("see which addresses it has: `ip addr` in that namespace (a container may be without IPv6)"),
            E::Bind { source: Errno::ACCESS, .. } => Failure::new(K::Failed, message).hint("run wormholed as root"),
            E::Bind { .. } => Failure::new(K::Failed, message),
            E::PathTaken { .. } => Failure::new(K::Refused, message).hint("choose another path, or remove what is there"),
            E::Resolve { .. } => Failure::new(K::NotFound, message).hint("names are resolved where wormholed runs"),
            E::HeadTaken { id, .. } => {
                Failure::new(K::Refused, message).hint(format!("choose another port, or remove that one: wormhole delete {id}"))
            }
            E::Loop { .. } => Failure::new(K::Refused, message).hint("choose another port or namespace for one of the ends"),
            E::NotInThisBuild { .. } => Failure::new(K::NotInThisBuild, message)
                .hint("`create --dry-run` shows the plan; this build carries out url, id, docker-ns, tail, child and chain"),
        }
    }
}

fn named(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [one] => format!("{one} is"),
        [all @ .., last] => format!("{} and {last} are", all.join(", ")),
        [] => "this is".to_owned(),
    }
}

fn bind_reason(source: Errno) -> String {
    match source {
        Errno::ADDRINUSE => "something else listens there already".to_owned(),
        Errno::ADDRNOTAVAIL => "that namespace has no such address".to_owned(),
        Errno::ACCESS => "no right to (ports below 1024 need CAP_NET_BIND_SERVICE)".to_owned(),
        other => other.to_string(),
    }
}
