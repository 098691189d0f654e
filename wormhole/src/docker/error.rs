//! What can go wrong between us and the engine.

use crate::model::{Failure, FailureKind};
use bollard::errors::Error as ApiError;
use std::error::Error as StdError;
use std::io;
use std::time::Duration;

/// Why a question to the Docker engine has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DockerError {
    /// The address of the engine is neither `unix:///path` nor `tcp://host:port`.
    #[error("{host:?} is no address of a Docker engine: {reason}")]
    BadHost {
        /// What was given.
        host: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No container can be called this.
    #[error("{name:?} cannot be the name or the id of a container")]
    BadName {
        /// What was asked for.
        name: String,
    },
    /// The engine knows no such container.
    #[error("there is no container {name:?}")]
    NotFound {
        /// What was asked for.
        name: String,
        /// The running container whose name is most like it.
        nearest: Option<String>,
        /// How many containers run.
        running: usize,
    },
    /// The prefix fits several ids.
    #[error("container id {prefix:?} is ambiguous: {}", candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// Short id and name of each that fits.
        candidates: Vec<String>,
    },
    /// Nothing answers at the engine's address, or it hung up in the middle.
    #[error("{attempt}: the Docker engine at {host} cannot be reached: {reason}")]
    Unreachable {
        /// What was attempted.
        attempt: String,
        /// Where.
        host: String,
        /// What stood against it.
        reason: String,
        /// How to mend it.
        hint: String,
    },
    /// The engine took the request and did not answer in time.
    #[error("{attempt}: the Docker engine at {host} did not answer within {} s", after.as_secs_f32())]
    Timeout {
        /// What was attempted.
        attempt: String,
        /// Where.
        host: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The engine answered with an error.
    #[error("{attempt}: the Docker engine at {host} answered {status}: {message}")]
    Engine {
        /// What was attempted.
        attempt: String,
        /// Where.
        host: String,
        /// HTTP status.
        status: u16,
        /// The engine's words.
        message: String,
    },
    /// What answered does not speak the engine's language.
    #[error("{attempt}: what answers at {host} does not look like a Docker engine: {reason}")]
    Nonsense {
        /// What was attempted.
        attempt: String,
        /// Where.
        host: String,
        /// What was wrong with the answer.
        reason: String,
    },
}

impl DockerError {
    /// What the user can do about it, in one line.
    pub fn hint(&self) -> String {
        match self {
            Self::BadHost { .. } => "write unix:///var/run/docker.sock or tcp://HOST:PORT".to_owned(),
            Self::BadName { .. } => "names are letters, digits, `_`, `.` and `-`; `docker ps` lists the running ones".to_owned(),
            Self::NotFound { nearest: Some(nearest), .. } => format!("did you mean {nearest:?}? `docker ps` lists what runs"),
            Self::NotFound { running: 0, .. } => "no container is running; `docker ps -a` lists the stopped ones".to_owned(),
            Self::NotFound { .. } => "`docker ps` lists the running ones, `docker ps -a` all".to_owned(),
            Self::Ambiguous { .. } => "give more digits of the id, or the name".to_owned(),
            Self::Unreachable { hint, .. } => hint.clone(),
            Self::Timeout { .. } => "the engine hangs; `docker ps` should hang too, look into its log".to_owned(),
            Self::Engine { .. } => "the log of the engine says more (`journalctl -u docker`)".to_owned(),
            Self::Nonsense { .. } => "check that --docker names the socket of a Docker engine".to_owned(),
        }
    }
}

impl From<DockerError> for Failure {
    fn from(error: DockerError) -> Self {
        let kind = match error {
            DockerError::BadHost { .. } | DockerError::BadName { .. } | DockerError::Ambiguous { .. } => FailureKind::Invalid,
            DockerError::NotFound { .. } => FailureKind::NotFound,
            DockerError::Unreachable { .. }
            | DockerError::Timeout { .. }
            | DockerError::Engine { .. }
            | DockerError::Nonsense { .. } => FailureKind::Failed,
        };
        Self::new(kind, error.to_string()).hint(error.hint())
    }
}

/// Sorts the library's errors into the few cases that a user can act on.
pub(super) fn classify(attempt: &str, host: &str, error: ApiError) -> DockerError {
    let (attempt, host) = (attempt.to_owned(), host.to_owned());
    match error {
        ApiError::DockerResponseServerError { status_code, message } => {
            DockerError::Engine { attempt, host, status: status_code, message: one_line(&message) }
        }
        ApiError::RequestTimeoutError => DockerError::Timeout { attempt, host, after: super::DEADLINE },
        ApiError::JsonDataError { message, .. } => DockerError::Nonsense { attempt, host, reason: message },
        ApiError::JsonSerdeError { err } => DockerError::Nonsense { attempt, host, reason: err.to_string() },
        ApiError::HyperResponseError { err } if err.is_parse() => DockerError::Nonsense { attempt, host, reason: chain(&err) },
        other => {
            let kind = io_kind(&other);
            let reason = match kind {
                Some(io::ErrorKind::NotFound) => "there is no such socket".to_owned(),
                Some(io::ErrorKind::ConnectionRefused) => "nothing listens there".to_owned(),
                Some(io::ErrorKind::PermissionDenied) => "permission denied".to_owned(),
                _ => chain(&other),
            };
            let hint = match kind {
                Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                    "start Docker (`systemctl start docker`), or name another engine with `wormholed --docker unix:///path`"
                }
                Some(io::ErrorKind::PermissionDenied) => "run wormholed as root, or as a member of the group `docker`",
                _ => "`docker info` shows whether the engine works",
            };
            DockerError::Unreachable { attempt, host, reason, hint: hint.to_owned() }
        }
    }
}

/// The first I/O error in the chain of causes.
fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        // The library wraps transparently: its `source` skips the very error that is inside.
        if let Some(ApiError::IOError { err }) = error.downcast_ref::<ApiError>() {
            return Some(err.kind());
        }
        next = error.source();
    }
    None
}

/// An error and its causes in one line; the outermost alone is often only "client error".
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    one_line(&text)
}

/// At most 300 characters without line breaks: what answers may be any web server with any error page.
fn one_line(text: &str) -> String {
    let flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match flat.char_indices().nth(300) {
        Some((cut, _)) => format!("{}…", &flat[..cut]),
        None => flat,
    }
}
