//! The story without Docker: two named network namespaces and a redis server.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use wormhole_tests::{run, wait};

use super::daemon::Daemon;
use super::rtt::{self, Speaks, Way};
use super::session::Session;
use crate::workspace::program;

/// Tells it.
pub fn tell(session: &mut Session, keep: bool) -> Result<()> {
    let look = session.look;
    look.heading("Two network namespaces");
    look.say("`app` and `db` have a loopback each and no way to one another. In `db` there is a redis server.");
    for name in ["app", "db"] {
        session.run(&format!("ip netns add {name}; ip -n {name} link set lo up"))?;
    }
    let mut server = start_server(session)?;
    session.run("ip netns exec db redis-cli -h 127.0.0.1 SET greeting hello")?;
    look.say("So the application reaches nothing:");
    session.fail("ip netns exec app redis-cli -h 127.0.0.1 GET greeting")?;

    look.heading("1. A port of this host leads into a namespace");
    let daemon = Daemon::start(session)?;
    session.run("wormhole create url :6379 tail url db@")?;
    look.say("127.0.0.1:6379 of the host is the server now:");
    session.expect("redis-cli -h 127.0.0.1 GET greeting", "hello")?;

    look.heading("2. A port inside one namespace leads into another one");
    session.run("wormhole create url app@:6379 tail url db@")?;
    look.say("The application finds the server on its own localhost, still without a network:");
    session.expect("ip netns exec app redis-cli -h 127.0.0.1 GET greeting", "hello")?;
    session.run("wormhole list")?;

    look.heading("What it costs");
    let ways = [
        Way::new("directly, inside the server's namespace", "/run/netns/db".to_owned()),
        Way::new("through wormhole, from the application's namespace", "/run/netns/app".to_owned()),
    ];
    let table = look.busy("`PING`, again and again", || rtt::compare(&ways, Speaks::Redis, 6379))?;
    look.answered(&table);

    if keep {
        session.hand_over()?;
    }
    look.heading("And everything is undone");
    session.run("wormhole delete --all")?;
    daemon.stop()?;
    server.kill().context("stopping redis-server")?;
    server.wait().context("waiting for redis-server")?;
    session.run("ip netns del app; ip netns del db")?;
    Ok(())
}

/// Starts redis in `db` and waits until it answers.
fn start_server(session: &Session) -> Result<Child> {
    let (server, folder) = (redis_server(session)?, &session.folder);
    let words = ["--bind", "127.0.0.1", "--port", "6379", "--save", "", "--appendonly", "no"];
    session.look.typed("ip netns exec db redis-server --bind 127.0.0.1 --port 6379 --save '' --appendonly no &");
    let mut command = session.command("ip");
    command.args(["netns", "exec", "db"]).arg(server).args(words).current_dir(folder);
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("starting redis-server")?;
    wait::poll("redis-server to answer", Duration::from_secs(15), || {
        let ping = ["netns", "exec", "db", "redis-cli", "-h", "127.0.0.1", "PING"];
        run::text(session.command("ip").args(ping)).map(drop).map_err(|error| format!("{error:#}"))
    })?;
    Ok(child)
}

/// The server. In Debian it is the same program as redis-check-rdb and looks at the name that it is called by; the
/// package with that other name would not start a service.
fn redis_server(session: &Session) -> Result<PathBuf> {
    if let Some(server) = program("redis-server") {
        return Ok(server);
    }
    let same = program("redis-check-rdb").context("there is neither redis-server nor redis-check-rdb")?;
    let link = session.folder.join("redis-server");
    std::os::unix::fs::symlink(&same, &link).with_context(|| format!("linking {}", link.display()))?;
    Ok(link)
}
