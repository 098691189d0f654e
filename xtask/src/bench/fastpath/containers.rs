//! The containers that the bench measures between.

use crate::bench::net;
use crate::bench::run::Ground;
use crate::bench::site;
use anyhow::{Context, Result};
use std::net::Ipv4Addr;
use wormhole_tests::docker::{Container, Docker};
use wormhole_tests::engine::Engine;
use wormhole_tests::images::Image;

/// A client's and a server's container, both on the engine's default bridge, and one beside the server. This program and
/// the bench's directory are mounted where they are outside.
pub struct Containers {
    /// Where clients run.
    pub client: site::Container,
    /// Where servers run.
    pub server: site::Container,
    /// Where clients run that need no way: a container of its own in the server's network namespace.
    pub beside: site::Container,
    /// A port of the host's loopback that the engine publishes as the server's.
    pub published: u16,
    /// The server's address on the bridge; why there is none.
    address: Result<Ipv4Addr, String>,
    /// They end with this.
    _owned: [Container; 3],
}

impl Containers {
    /// Starts both.
    pub fn start(engine: &Engine, ground: &Ground) -> Result<Self> {
        let docker = engine.docker();
        let exe = std::env::current_exe().context("find this program")?;
        let dir = ground.dir.path();
        let published = net::free_ports(2)?.into_iter().find(|port| *port != ground.tail).context("no port to publish")?;
        let mounts = [format!("{0}:{0}:ro", exe.display()), format!("{0}:{0}", dir.display())];
        let publish = format!("127.0.0.1:{published}:{}", ground.tail);
        let shared = ["-v", &mounts[0], "-v", &mounts[1]];
        let mut options = shared.to_vec();
        options.extend(["--network", if engine.bridge { "bridge" } else { "none" }]);
        let client = docker.container(Image::Bench, &options)?;
        if engine.bridge {
            options.extend(["-p", &publish]);
        }
        let server = docker.container(Image::Bench, &options)?;
        let network = format!("container:{}", server.id);
        let beside = docker.container(Image::Bench, &[&shared[..], &["--network", &network]].concat())?;
        Ok(Self {
            client: site(&docker, &client)?,
            server: site(&docker, &server)?,
            beside: site(&docker, &beside)?,
            published,
            address: address(&docker, engine, &server),
            _owned: [client, beside, server],
        })
    }

    /// The server's address on the bridge.
    pub fn address(&self) -> Result<Ipv4Addr> {
        self.address.clone().map_err(anyhow::Error::msg)
    }
}

fn site(docker: &Docker, container: &Container) -> Result<site::Container> {
    Ok(site::Container { docker: docker.clone(), id: container.id.clone(), pid: container.pid()? })
}

fn address(docker: &Docker, engine: &Engine, container: &Container) -> Result<Ipv4Addr, String> {
    if !engine.bridge {
        return Err("the engine has no bridge here".into());
    }
    let format = "{{.NetworkSettings.Networks.bridge.IPAddress}}";
    let text = docker.run(&["inspect", "--format", format, &container.id]).map_err(|error| format!("{error:#}"))?;
    text.parse().map_err(|_| format!("the engine gave the server the address {text:?}"))
}
