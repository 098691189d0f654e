//! The story with containers: a database, and an application that has no network.

use std::time::Duration;

use anyhow::{Context, Result};
use wormhole_tests::engine::Engine;
use wormhole_tests::images::{self, Image};
use wormhole_tests::{run, wait};

use super::daemon::Daemon;
use super::rtt::{self, Speaks, Way};
use super::session::Session;

/// The question that is asked all the time, and a word of its answer.
const QUERY: &str = "mariadb -h 127.0.0.1 -e 'SELECT word FROM wormhole.greeting'";
const ANSWER: &str = "hello";

/// Tells it.
pub fn tell(session: &mut Session, keep: bool) -> Result<()> {
    let look = session.look;
    look.heading("Two containers");
    let engine = look
        .busy("a Docker engine of our own, in a box", Engine::start)
        .context("no Docker engine can run here; `cargo xtask demo --no-docker` needs none")?;
    // Where docker and wormholed look when they are told nothing.
    let socket = engine.host().trim_start_matches("unix://").to_owned();
    std::os::unix::fs::symlink(&socket, "/run/docker.sock").context("linking /run/docker.sock")?;
    for (image, what) in [(Image::Mysql, "a MariaDB server"), (Image::Client, "a few clients")] {
        look.busy(&format!("image {} from installed packages: {what}", image.tag()), || images::ensure(&engine.docker(), image))?;
    }
    look.say("The database listens on its own 127.0.0.1 only; neither container has a network.");
    let mysql = session.assign("mysql", "docker run -d --network none wormhole/mysql")?;
    let app = session.assign("app", "docker run -d --network none wormhole/client")?;
    look.busy("the database starts", || ready(session, &mysql))?;
    look.say("So the application reaches nothing:");
    session.fail(&format!("docker exec $app {QUERY}"))?;

    look.heading("1. A port of this host leads into a container");
    let daemon = Daemon::start(session)?;
    session.run("wormhole create url :3306 tail docker-ns $mysql")?;
    look.say("127.0.0.1:3306 of the host is the database now:");
    session.expect(QUERY, ANSWER)?;

    look.heading("2. A port inside one container leads into another one");
    session.run("wormhole create url :3306 docker-ns $app tail docker-ns $mysql")?;
    look.say("The application finds the database on its own localhost, still without a network:");
    session.expect(&format!("docker exec $app {QUERY}"), ANSWER)?;

    look.heading("The database is restarted");
    session.run("docker restart -t 5 $mysql >/dev/null")?;
    look.busy("the database starts", || ready(session, &mysql))?;
    look.busy("wormhole follows", || follows(session))?;
    look.say("It has a new namespace, and wormhole followed by itself:");
    session.expect(&format!("docker exec $app {QUERY}"), ANSWER)?;
    session.run("wormhole list")?;

    look.heading("What it costs");
    let (direct, through) = (pid(session, &mysql)?, pid(session, &app)?);
    let ways = [
        Way::new("directly, inside the database's container", format!("/proc/{direct}/ns/net")),
        Way::new("through wormhole, from the application's container", format!("/proc/{through}/ns/net")),
    ];
    let table = look.busy("`SELECT 1`, again and again", || rtt::compare(&ways, Speaks::Mysql, 3306))?;
    look.answered(&table);

    if keep {
        session.hand_over()?;
    }
    look.heading("And everything is undone");
    session.run("wormhole delete --all")?;
    look.busy("the box is emptied", || {
        daemon.stop()?;
        run::text(session.command("docker").args(["rm", "-f", "-v", &mysql, &app]))?;
        engine.stop()
    })
}

/// Waits until the database takes questions in its own container.
fn ready(session: &Session, id: &str) -> Result<()> {
    until_answered(session, &["exec", id, "mariadb", "-h", "127.0.0.1", "-e", "SELECT 1"], "the database to start")
}

/// Waits until the way of the application leads to the new namespace.
fn follows(session: &Session) -> Result<()> {
    let wormhole = || run::text(session.command("/bin/sh").args(["-c", &format!("docker exec $app {QUERY}")]));
    wait::poll("wormhole to follow the restarted container", Duration::from_secs(15), || {
        wormhole().map(drop).map_err(|error| format!("{error:#}"))
    })
}

fn until_answered(session: &Session, words: &[&str], what: &str) -> Result<()> {
    wait::poll(what, Duration::from_secs(60), || {
        run::text(session.command("docker").args(words)).map(drop).map_err(|error| format!("{error:#}"))
    })
}

fn pid(session: &Session, id: &str) -> Result<u32> {
    let text = run::text(session.command("docker").args(["inspect", "--format", "{{.State.Pid}}", id]))?;
    text.parse().with_context(|| format!("docker inspect says `{text}` instead of a pid"))
}
