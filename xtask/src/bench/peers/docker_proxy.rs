//! docker-proxy: what a published port of a container goes through.

use super::{Peer, Place, Running, Source, find};
use anyhow::{Context, Result};
use std::path::Path;

/// See [`Peer::about`].
pub struct DockerProxy;

impl Peer for DockerProxy {
    fn name(&self) -> &'static str {
        "docker-proxy"
    }

    fn about(&self) -> &'static str {
        "docker-proxy of docker.io, as the engine starts it"
    }

    fn source(&self) -> Source {
        // The engine itself is not needed, and installing it would leave a service behind.
        Source::Unpacked("docker-proxy", "docker.io")
    }

    fn start(&self, place: &Place<'_>) -> Result<Running> {
        let unpacked = place.tools.join("docker.io/usr/sbin/docker-proxy");
        let program = find("docker-proxy").or_else(|| unpacked.is_file().then_some(unpacked));
        let program = program.context("docker-proxy is neither installed nor unpacked")?;
        // It reports on descriptor 3, and ends when that is missing.
        let script = "exec \"$0\" \"$@\" 3>&1";
        let (head, tail) = (place.head.to_string(), place.tail.to_string());
        let args = ["-c", script, &program.display().to_string(), "-proto", "tcp", "-host-ip", "127.0.0.1", "-host-port", &head];
        let more = ["-container-ip", "127.0.0.1", "-container-port", &tail];
        place.run(self.name(), Path::new("/bin/sh"), args.into_iter().chain(more))
    }
}
