//! wormhole itself: the real daemon, one segment made with the real command.

use super::{CHAIN, Peer, Place, RELAY, Running, Source, WORMHOLE};
use crate::bench::proc::Group;
use crate::bench::segment::Segment;
use crate::bench::site::Site;
use anyhow::{Context, Result, bail};
use std::os::unix::net::UnixStream;
use std::process::Command;

/// See [`Peer::about`].
pub struct Wormhole {
    name: &'static str,
    about: &'static str,
    /// What `--fastpath` is given.
    fastpath: &'static str,
    way: Way,
}

/// Between what.
enum Way {
    /// Client and server on the host.
    Host,
    /// The same through three segments.
    Chain,
    /// From one container to another one.
    Between,
    /// From the host into a container.
    Into,
}

/// Beside the other proxies, which all carry every byte themselves.
pub static RELAY_ALONE: Wormhole = Wormhole {
    name: WORMHOLE,
    about: "wormholed --fastpath off; wormhole create url 127.0.0.1:HEAD tail url 127.0.0.1:TAIL",
    fastpath: "off",
    way: Way::Host,
};
pub static HOST_FAST: Wormhole = Wormhole {
    name: WORMHOLE,
    about: "wormholed --fastpath on; wormhole create url 127.0.0.1:HEAD tail url 127.0.0.1:TAIL",
    fastpath: "on",
    way: Way::Host,
};
pub static HOST_RELAY: Wormhole =
    Wormhole { name: RELAY, about: "the same with --fastpath off", fastpath: "off", way: Way::Host };
pub static HOST_CHAIN: Wormhole = Wormhole {
    name: CHAIN,
    about: "wormholed --fastpath on; wormhole create url 127.0.0.1:HEAD chain url 127.0.0.2:SPARE chain url 127.0.0.3:SPARE tail \
            url 127.0.0.1:TAIL",
    fastpath: "on",
    way: Way::Chain,
};
pub static BETWEEN_FAST: Wormhole = Wormhole {
    name: WORMHOLE,
    about: "wormholed --fastpath on; wormhole create url :HEAD docker-ns CLIENT tail docker-ns SERVER url :TAIL",
    fastpath: "on",
    way: Way::Between,
};
pub static BETWEEN_RELAY: Wormhole =
    Wormhole { name: RELAY, about: "the same with --fastpath off", fastpath: "off", way: Way::Between };
pub static INTO_FAST: Wormhole = Wormhole {
    name: WORMHOLE,
    about: "wormholed --fastpath on; wormhole create url :HEAD tail docker-ns SERVER url :TAIL",
    fastpath: "on",
    way: Way::Into,
};
pub static INTO_RELAY: Wormhole =
    Wormhole { name: RELAY, about: "the same with --fastpath off", fastpath: "off", way: Way::Into };

impl Peer for Wormhole {
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
        let (mut group, host) = self.daemon(place)?;
        let words = self.words(place)?;
        let wormhole = place.bins.join("wormhole");
        let output =
            Command::new(&wormhole).args(["-H", &host, "create"]).args(&words).output().context("run wormhole create")?;
        if !output.status.success() {
            bail!("wormhole create: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let reply = String::from_utf8_lossy(&output.stdout);
        let id = reply.split_whitespace().next().context("wormhole create printed no id")?.to_owned();
        let running = match self.way {
            Way::Host | Way::Chain => place.on_host(place.head(), Vec::new()),
            Way::Between => place.to_container(place.head(), Site::Container(place.containers()?.client.clone()))?,
            Way::Into => place.to_container(place.head(), Site::Here)?,
        };
        place.wait("wormholed", &mut group, || running.client.is_listening(place.head))?;
        Ok(Running { groups: vec![group], segment: Some(Segment { wormhole, host, id }), ..running })
    }
}

impl Wormhole {
    /// Starts the daemon; it, and where it takes commands.
    fn daemon(&self, place: &Place<'_>) -> Result<(Group, String)> {
        let socket = place.dir.join("wormhole.sock");
        let host = format!("unix://{}", socket.display());
        let state = place.dir.join("state").display().to_string();
        let mut args = ["-H", &host, "--state-dir", &state, "--fastpath", self.fastpath].map(str::to_owned).to_vec();
        if let Some(containers) = place.containers {
            args.extend(["--docker".to_owned(), containers.server.docker.host().to_owned()]);
        }
        let mut group = Group::spawn("wormholed", &mut place.command("wormholed", &place.bins.join("wormholed"), args)?)?;
        // The file is there before anybody listens.
        place.wait("wormholed", &mut group, || UnixStream::connect(&socket).is_ok())?;
        Ok((group, host))
    }

    /// What `create` is told.
    fn words(&self, place: &Place<'_>) -> Result<Vec<String>> {
        let Place { head, spare, tail, .. } = *place;
        let line = match self.way {
            Way::Host => format!("url 127.0.0.1:{head} tail url 127.0.0.1:{tail}"),
            Way::Chain => {
                format!("url 127.0.0.1:{head} chain url 127.0.0.2:{spare} chain url 127.0.0.3:{spare} tail url 127.0.0.1:{tail}")
            }
            Way::Between => {
                let containers = place.containers()?;
                let (client, server) = (&containers.client.id, &containers.server.id);
                format!("url :{head} docker-ns {client} tail docker-ns {server} url :{tail}")
            }
            Way::Into => format!("url :{head} tail docker-ns {} url :{tail}", place.containers()?.server.id),
        };
        Ok(line.split(' ').map(str::to_owned).collect())
    }
}
