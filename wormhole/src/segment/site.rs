//! From a place as the user named it to the namespace that it is at this moment.

use super::{SegmentError, Spot};
use crate::docker::Engine;
use crate::model::{End, Place, Proto};
use crate::netns::{NAMED, Namespace, NamespaceId, NetnsError, Root};
use rustix::io::Errno;
use std::net::SocketAddr;

/// A place as it is now.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its network namespace, held open.
    pub namespace: Namespace,
    /// The process whose namespace it is; none for the daemon's own and for named ones.
    pub pid: Option<u32>,
    /// The container, by its full id.
    pub container: Option<String>,
}

/// What is remembered of a [`Site`] to notice that it is gone. It holds nothing open.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The namespace it was.
    pub namespace: NamespaceId,
    /// The container, by its full id.
    pub container: Option<String>,
    pid: Option<u32>,
    name: Option<String>,
}

/// Finds a place.
///
/// # Errors
/// [`SegmentError`] with what is missing: no such container, not running, no such namespace, no such process.
pub async fn find(place: &Place, docker: &Engine) -> Result<Site, SegmentError> {
    match place {
        Place::Host => Ok(Site { namespace: Namespace::own()?, pid: None, container: None }),
        Place::Named { name } => Ok(Site { namespace: Namespace::named(name)?, pid: None, container: None }),
        Place::Pid { pid } => Ok(Site { namespace: Namespace::of_pid(*pid)?, pid: Some(*pid), container: None }),
        Place::Docker { name } => container(name, docker).await,
        Place::Run { .. } | Place::Parent => Err(SegmentError::NotInThisBuild { words: vec!["docker-run"] }),
    }
}

/// A process id is only a number: the engine is asked once more after the namespace was opened, and only when it still
/// names the same process the namespace is the container's.
async fn container(name: &str, docker: &Engine) -> Result<Site, SegmentError> {
    for _ in 0..3 {
        let before = docker.resolve(name).await?;
        let Some(pid) = before.pid else {
            return Err(SegmentError::NotRunning { container: before.name });
        };
        let namespace = Namespace::of_pid(pid);
        let after = docker.resolve(name).await?;
        if after.pid == Some(pid) && after.started_at == before.started_at {
            return match namespace {
                Ok(namespace) => Ok(Site { namespace, pid: Some(pid), container: Some(after.id) }),
                // It has just ended, and the engine does not know yet.
                Err(NetnsError::Open { source: Errno::NOENT, .. }) => Err(SegmentError::NotRunning { container: after.name }),
                Err(error) => Err(error.into()),
            };
        }
    }
    Err(SegmentError::Restless { container: name.to_owned() })
}

impl Site {
    /// The root that paths of unix sockets are seen from.
    ///
    /// # Errors
    /// The process is gone.
    pub fn root(&self) -> Result<Root, SegmentError> {
        Ok(match self.pid {
            Some(pid) => Root::of_pid(pid)?,
            None => Root::own()?,
        })
    }

    /// Where `end` with `port` is in this place.
    ///
    /// # Errors
    /// [`SegmentError::Resolve`].
    pub async fn spot(&self, end: &End, port: u16) -> Result<Spot, SegmentError> {
        if end.proto == Proto::Unix {
            return Ok(Spot::Path(self.pid, end.path.clone()));
        }
        let ip = super::head::address(&end.host).await?;
        Ok(Spot::Port(self.namespace.id(), end.proto, SocketAddr::new(ip, port)))
    }

    /// What to remember of it.
    pub fn trace(&self, place: &Place) -> Trace {
        let name = match place {
            Place::Named { name } => Some(name.clone()),
            _ => None,
        };
        Trace { namespace: self.namespace.id(), container: self.container.clone(), pid: self.pid, name }
    }
}

impl Trace {
    /// The process whose place it was.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// True while the place is still the namespace that it was. Asks only /proc and /run/netns.
    pub fn holds(&self) -> bool {
        match (self.pid, &self.name) {
            (Some(pid), _) => Namespace::of_pid(pid).is_ok_and(|now| now.id() == self.namespace),
            (None, Some(name)) => Namespace::named(name).is_ok_and(|now| now.id() == self.namespace),
            (None, None) => true,
        }
    }
}

/// What can be done about a named namespace that is not there.
pub fn named_hint() -> String {
    let found: Vec<String> = std::fs::read_dir(NAMED)
        .map(|dir| dir.flatten().filter_map(|e| e.file_name().into_string().ok()).take(8).collect())
        .unwrap_or_default();
    if found.is_empty() {
        format!("there is none under {NAMED}; `ip netns add NAME` makes one")
    } else {
        format!("under {NAMED} there are: {}", found.join(", "))
    }
}
