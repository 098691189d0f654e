//! The Docker engine: which process is a container, and when does that change.
//!
//! | file | subject |
//! | --- | --- |
//! | `transport` | one connection per request, so that the engine may come and go |
//! | `watch` | container events, with a re-read after every reconnection |
//! | `error` | what can go wrong, and how to mend it |
//!
//! The engine is never a condition for the daemon to run: [`Engine::new`] touches nothing, and each call says by itself
//! that the engine does not answer.

mod error;
mod transport;
mod watch;

#[cfg(test)]
mod tests;

pub use error::DockerError;
pub use watch::{ContainerEvent, WatchGuard};

use bollard::Docker;
use bollard::errors::Error as ApiError;
use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use transport::Address;

/// No question to the engine takes longer than this.
const DEADLINE: Duration = Duration::from_secs(10);

type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T, DockerError>> + Send + 'a>>;

/// A Docker engine at an address. Cheap to clone; holds no connection.
#[derive(Clone, Debug)]
pub struct Engine {
    host: String,
    address: Address,
    deadline: Duration,
}

/// A container as the engine describes it at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Full id, 64 hexadecimal digits. Survives restarts and renames.
    pub id: String,
    /// Name without the leading slash.
    pub name: String,
    /// Its first process in the engine's pid namespace; none when it is not running or between two runs. The network
    /// namespace is `/proc/PID/ns/net`. Changes with every start.
    pub pid: Option<u32>,
    /// True also while it is paused, and while it is about to be restarted (then without a pid).
    pub running: bool,
    /// When it was started last (RFC 3339 as the engine writes it), for telling two runs with the same pid apart.
    pub started_at: String,
    /// `bridge`, `none`, `host`, `container:ID` or the name of a network. With `container:ID` the namespace belongs to
    /// the other container and lives and dies with that one.
    pub network_mode: String,
}

impl Engine {
    /// The engine at `host`: `unix:///path` or `tcp://host:port`. Connects to nothing.
    ///
    /// # Errors
    /// [`DockerError::BadHost`] when `host` is neither.
    pub fn new(host: &str) -> Result<Self, DockerError> {
        Ok(Self { host: host.to_owned(), address: Address::parse(host)?, deadline: DEADLINE })
    }

    /// Where the engine is expected.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The container that `name` means: full id, then name, then unambiguous prefix of an id.
    ///
    /// # Errors
    /// [`DockerError::NotFound`], [`DockerError::Ambiguous`], [`DockerError::BadName`] for what no container can be
    /// called, and what [`Engine::version`] gives. Within 10 s.
    pub async fn resolve(&self, name: &str) -> Result<Container, DockerError> {
        // The name becomes a part of the path of the request, and the client library does not quote it.
        let name = name.strip_prefix('/').unwrap_or(name);
        if !crate::model::is_container(name) {
            return Err(DockerError::BadName { name: name.to_owned() });
        }
        let attempt = format!("looking up container {name:?}");
        self.bounded(
            &attempt,
            Box::pin(async {
                let docker = self.client(&attempt, None)?;
                match docker.inspect_container(name, None::<InspectContainerOptions>).await {
                    Ok(answer) => container(answer)
                        .ok_or_else(|| self.nonsense(&attempt, "the description of the container has no id".to_owned())),
                    // 404 is "no such container". For a prefix of several ids the status depends on the engine: 20.10 says 500.
                    Err(ApiError::DockerResponseServerError { status_code, message })
                        if matches!(status_code, 400 | 404) || message.contains("Multiple IDs found") =>
                    {
                        Err(self.why_not_found(&docker, name, &attempt).await)
                    }
                    Err(error) => Err(self.failed(&attempt, error)),
                }
            }),
        )
        .await
    }

    /// Version of the engine, like `20.10.24`. Also the way to ask whether it is there.
    ///
    /// # Errors
    /// [`DockerError::Unreachable`] when nothing answers, [`DockerError::Timeout`] after 10 s, [`DockerError::Engine`]
    /// when it answers with an error, [`DockerError::Nonsense`] when what answers is no Docker engine.
    pub async fn version(&self) -> Result<String, DockerError> {
        let attempt = "asking for the version";
        self.bounded(
            attempt,
            Box::pin(async {
                let answer = self.client(attempt, None)?.version().await.map_err(|e| self.failed(attempt, e))?;
                answer.version.ok_or_else(|| self.nonsense(attempt, "the answer has no version".to_owned()))
            }),
        )
        .await
    }

    /// A client for one request. `connected` is told when the head of the answer has arrived.
    fn client(&self, attempt: &str, connected: Option<transport::Connected>) -> Result<Docker, DockerError> {
        let transport = transport::Transport::new(self.address.clone(), connected);
        // The deadline is kept by `bounded`, over the body of the answer too; the one of the library is a spare.
        let seconds = self.deadline.as_secs().saturating_add(1);
        Docker::connect_with_custom_transport(
            move |request| transport.clone().send(request),
            Some("http://docker"),
            seconds,
            bollard::API_DEFAULT_VERSION,
        )
        .map_err(|e| self.failed(attempt, e))
    }

    /// Boxed: the futures of the library are large, and callers keep ours inside theirs.
    async fn bounded<T>(&self, attempt: &str, work: Work<'_, T>) -> Result<T, DockerError> {
        match tokio::time::timeout(self.deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(DockerError::Timeout { attempt: attempt.to_owned(), host: self.host.clone(), after: self.deadline }),
        }
    }

    /// Tells an ambiguous prefix from a missing container and finds what the user may have meant.
    async fn why_not_found(&self, docker: &Docker, name: &str, attempt: &str) -> DockerError {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let all = match docker.list_containers(Some(options)).await {
            Ok(all) => all,
            Err(error) => return self.failed(attempt, error),
        };
        let mut candidates: Vec<String> =
            all.iter().filter(|c| c.id.as_deref().is_some_and(|id| id.starts_with(name))).map(described).collect();
        if candidates.len() > 1 {
            candidates.sort();
            return DockerError::Ambiguous { prefix: name.to_owned(), candidates };
        }
        let running: Vec<String> = all.iter().filter(|c| is_running(c)).filter_map(first_name).collect();
        let nearest = running
            .iter()
            .map(|candidate| (strsim::jaro_winkler(candidate, name), candidate))
            .filter(|(likeness, _)| *likeness > 0.75)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, candidate)| candidate.clone());
        DockerError::NotFound { name: name.to_owned(), nearest, running: running.len() }
    }

    fn failed(&self, attempt: &str, error: ApiError) -> DockerError {
        error::classify(attempt, &self.host, error)
    }

    fn nonsense(&self, attempt: &str, reason: String) -> DockerError {
        DockerError::Nonsense { attempt: attempt.to_owned(), host: self.host.clone(), reason }
    }
}

fn container(answer: ContainerInspectResponse) -> Option<Container> {
    let id = answer.id.filter(|id| !id.is_empty())?;
    let state = answer.state.unwrap_or_default();
    Some(Container {
        id,
        name: answer.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0),
        running: state.running.unwrap_or(false),
        started_at: state.started_at.unwrap_or_default(),
        network_mode: answer.host_config.and_then(|c| c.network_mode).unwrap_or_default(),
    })
}

fn first_name(summary: &ContainerSummary) -> Option<String> {
    // A link gives a container further names of the form /other/alias.
    let own = summary.names.iter().flatten().map(|n| n.trim_start_matches('/')).find(|n| !n.contains('/'))?;
    Some(own.to_owned())
}

fn described(summary: &ContainerSummary) -> String {
    let id: String = summary.id.iter().flat_map(|id| id.chars()).take(12).collect();
    match first_name(summary) {
        Some(name) => format!("{id} ({name})"),
        None => id,
    }
}

fn is_running(summary: &ContainerSummary) -> bool {
    summary.state.as_ref().is_some_and(|state| state.to_string() == "running")
}
