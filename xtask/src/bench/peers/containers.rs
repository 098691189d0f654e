//! Ways into a container that exist without wormhole.

use super::{BRIDGE, DIRECT, Peer, Place, Running, Source, UNIX_PAIR};
use crate::bench::net::Endpoint;
use crate::bench::proc;
use crate::bench::site::Site;
use anyhow::{Result, bail};
use std::net::SocketAddr;

/// One of them.
pub struct Way {
    name: &'static str,
    about: &'static str,
    client: Client,
    path: Path,
}

/// Where the client is.
enum Client {
    /// In a container of its own.
    Container,
    /// In a container of its own that shares the server's network namespace.
    Beside,
    /// On the host.
    Host,
    /// A process of the host, in the network of the server's container.
    HostBeside,
}

enum Path {
    Loopback,
    Unix,
    Bridge,
    Published,
}

pub static BETWEEN_DIRECT: Way = Way {
    name: DIRECT,
    about: "no proxy, no network between: two containers that share a network namespace, TCP over its loopback",
    client: Client::Beside,
    path: Path::Loopback,
};
pub static BETWEEN_UNIX: Way = Way {
    name: UNIX_PAIR,
    about: "AF_UNIX stream in a directory that both containers mount",
    client: Client::Container,
    path: Path::Unix,
};
pub static BETWEEN_BRIDGE: Way = Way {
    name: BRIDGE,
    about: "the same two containers, over the docker bridge that both are on",
    client: Client::Container,
    path: Path::Bridge,
};
pub static INTO_DIRECT: Way = Way {
    name: DIRECT,
    about: "no proxy: a client of the host in the network of the server's container, TCP over its loopback",
    client: Client::HostBeside,
    path: Path::Loopback,
};
pub static INTO_UNIX: Way = Way {
    name: UNIX_PAIR,
    about: "AF_UNIX stream in a directory of the host that the container mounts",
    client: Client::Host,
    path: Path::Unix,
};
pub static INTO_BRIDGE: Way = Way {
    name: BRIDGE,
    about: "from the host to the container's address on the docker bridge",
    client: Client::Host,
    path: Path::Bridge,
};
pub static INTO_PUBLISHED: Way = Way {
    name: "published",
    about: "docker run --publish 127.0.0.1:PORT:TAIL: docker-proxy for clients on the host's loopback",
    client: Client::Host,
    path: Path::Published,
};

impl Peer for Way {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn source(&self) -> Source {
        Source::Own
    }

    fn start(&self, place: &Place<'_>) -> Result<Running> {
        let containers = place.containers()?;
        let client = match self.client {
            Client::Container => Site::Container(containers.client.clone()),
            Client::Beside => Site::Container(containers.beside.clone()),
            Client::Host => Site::Here,
            Client::HostBeside => Site::Net(containers.server.pid),
        };
        let mut others = Vec::new();
        let head = match self.path {
            Path::Loopback => Place::loopback(place.tail),
            Path::Unix => Endpoint::Unix(place.tail_unix.to_owned()),
            Path::Bridge => Endpoint::Tcp(SocketAddr::from((containers.address()?, place.tail))),
            Path::Published => {
                others = proc::named("docker-proxy", &containers.published.to_string());
                if others.is_empty() {
                    bail!("the engine runs no docker-proxy");
                }
                Place::loopback(containers.published)
            }
        };
        Ok(Running { others, ..place.to_container(head, client)? })
    }
}
