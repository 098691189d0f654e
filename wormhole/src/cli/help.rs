//! The texts of `wormhole help`.

use super::args::Args;
use super::lex::nearest;
use clap::CommandFactory;

/// Shown at the end of `--help` and by `help exit-codes`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it was tried and failed
  2  usage: a wrong option, a wrong word, an invalid request
  3  the daemon cannot be reached
  4  what was named does not exist
  5  refused: it stands against something that exists, no right to it, or not in this build

`wormhole help create` shows the language of `create` with examples.";

/// Shown by `create --help`, `help create` and `help language`.
pub const LANGUAGE: &str = "\
The language: words are read left to right and change a current segment, which leads from its
head (where it listens) to its tail (where it connects to).

  url {proto://}{ns@}{host}{:port}
                   sets the parts that are given. proto is tcp, udp or unix (unix:///path); ns is
                   a name under /run/netns, pid:N or docker:NAME; IPv6 is written in brackets
  id ID            the segment's id; a short random one if there is none
  docker-ns [ID]   the namespace of a running container (id, prefix or name); alone: the host's own
  docker-run ARGS  run a container and use its namespace; ARGS is one quoted word in the syntax of
                   `docker run`
  tail             the words that follow set the tail
  trigger          as tail, and the words that follow run when something first connects
  child            a further segment, whose head starts from this segment's tail
  chain            as child, and this segment's tail becomes the child's head
  remote HOST      the further segment lives on HOST's daemon, and this segment's tail leads to it
  tunnel HOST      as remote, over an IPsec tunnel
  udptunnel HOST   as tunnel, with ESP in UDP

Defaults: proto tcp; host 127.0.0.1; a free port for the head; the tail's proto and port are those
of the head.

Examples:
  # a port of this host leads into a container
  wormhole create url :3306 tail docker-ns mysql
  # a port inside one container leads into another one
  wormhole create url :3306 docker-ns app tail docker-ns mysql
  # both containers start on first use; the database is on localhost inside the first one
  wormhole create url :80 trigger docker-run wormhole/wordpress \\
      child url :3306 trigger docker-run wormhole/mysql
  # the container is on another machine
  wormhole create url :3306 remote myserver tail docker-ns mysql
  # the same over IPsec; tunnel and container on first use
  wormhole create url :3306 trigger tunnel myserver trigger docker-run wormhole/mysql
  # a unix socket leads to a TCP port, with options of docker run
  wormhole create url unix:///run/db.sock \\
      trigger docker-run \"-e MYSQL_ROOT_PASSWORD=x -v data:/var/lib/mysql mysql\" url :3306
  # only show what would be done
  wormhole create --dry-run url udp://:53 tail url blue@10.0.0.1";

/// The text on a topic.
///
/// # Errors
/// The nearest topic, if any, when there is no such one.
pub fn topic(topic: Option<&str>) -> Result<String, Option<String>> {
    let mut command = Args::command();
    command.build();
    let Some(topic) = topic else { return Ok(command.render_long_help().to_string()) };
    match topic {
        "language" | "words" => return Ok(format!("{LANGUAGE}\n")),
        "exit-codes" | "exit" => return Ok(format!("{EXIT_CODES}\n")),
        _ => {}
    }
    if let Some(found) = command.find_subcommand_mut(topic) {
        return Ok(found.render_long_help().to_string());
    }
    let mut topics: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    topics.extend(["language", "exit-codes"]);
    Err(nearest(topic, &topics).map(str::to_owned))
}
