//! rathole: a tunnel, so a client and a server process and no connection of its own per stream at set-up.

use super::{Peer, Place, Running, Source};
use crate::bench::{proc::Group, site::Site};
use anyhow::{Result, bail};

/// See [`Peer::about`].
pub struct Rathole;

impl Peer for Rathole {
    fn name(&self) -> &'static str {
        "rathole"
    }

    fn about(&self) -> &'static str {
        "rathole 0.5.0, server and client on this machine, plain TCP transport"
    }

    fn source(&self) -> Source {
        Source::Crate("rathole", "0.5.0", &["--no-default-features", "--features", "server,client"])
    }

    fn start(&self, place: &Place<'_>) -> Result<Running> {
        let program = place.tools.join("bin/rathole");
        if !program.is_file() {
            bail!("rathole is not built");
        }
        let server = place.write("server.toml", &server(place.spare, place.head))?;
        let client = place.write("client.toml", &client(place.spare, place.tail))?;
        let spawn = |name: &str, args: [&std::ffi::OsStr; 2]| Group::spawn(name, &mut place.command(name, &program, args)?);
        let mut server = spawn("rathole-server", ["--server".as_ref(), server.as_os_str()])?;
        place.wait("rathole-server", &mut server, || Site::Here.is_listening(place.spare))?;
        let mut client = spawn("rathole-client", ["--client".as_ref(), client.as_os_str()])?;
        // The head is listened on once the client has registered.
        place.wait("rathole-client", &mut client, || Site::Here.is_listening(place.head))?;
        Ok(place.on_host(place.head(), vec![server, client]))
    }
}

fn server(control: u16, head: u16) -> String {
    format!(
        "[server]\nbind_addr = \"127.0.0.1:{control}\"\ndefault_token = \"bench\"\n\
         [server.services.bench]\nbind_addr = \"127.0.0.1:{head}\"\nnodelay = true\n"
    )
}

fn client(control: u16, tail: u16) -> String {
    format!(
        "[client]\nremote_addr = \"127.0.0.1:{control}\"\ndefault_token = \"bench\"\n\
         [client.services.bench]\nlocal_addr = \"127.0.0.1:{tail}\"\nnodelay = true\n"
    )
}
