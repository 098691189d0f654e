//! A room of its own for one test: a network namespace with a `wormholed` inside, so that tests that run side by side
//! may use the same ports and each can compare what the kernel holds before and after.

use crate::daemon::{Daemon, Setup};
use crate::docker::Docker;
use crate::kernel::{self, KernelState, Ns};
use crate::netns::Netns;
use crate::run::Output;
use crate::wait_until;
use anyhow::{Result, anyhow};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a segment may take to come back, and connections to end.
pub const SOON: Duration = Duration::from_secs(15);

/// A namespace with a daemon.
#[derive(Debug)]
pub struct Room {
    /// The daemon, whose own namespace is the one below.
    pub daemon: Daemon,
    /// What the daemon takes for the host.
    pub netns: Netns,
}

/// What `create` printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The segment's id.
    pub id: String,
    /// The head's URL.
    pub url: String,
}

impl Made {
    /// The head's address.
    ///
    /// # Panics
    /// For a unix head.
    #[track_caller]
    pub fn addr(&self) -> SocketAddr {
        let (_, rest) = self.url.split_once("://").expect("an URL");
        // A namespace stands before the address.
        let addr = rest.rsplit_once('@').map_or(rest, |(_, addr)| addr);
        addr.parse().unwrap_or_else(|e| panic!("{} has no address: {e}", self.url))
    }

    /// The head's port.
    ///
    /// # Panics
    /// For a unix head.
    #[track_caller]
    pub fn port(&self) -> u16 {
        self.addr().port()
    }
}

impl Room {
    /// A daemon without an engine.
    ///
    /// # Panics
    /// Outside a box, and when the daemon does not start.
    #[track_caller]
    pub fn alone() -> Self {
        Self::with(None, &[])
    }

    /// A daemon with this engine.
    ///
    /// # Panics
    /// As [`Room::alone`].
    #[track_caller]
    pub fn docker(docker: &Docker) -> Self {
        Self::with(Some(docker), &[])
    }

    /// With further flags.
    ///
    /// # Panics
    /// As [`Room::alone`].
    #[track_caller]
    pub fn with(docker: Option<&Docker>, args: &[&str]) -> Self {
        Self::started(docker, |setup| setup.args(args))
    }

    /// With anything else that a [`Setup`] can be given.
    ///
    /// # Panics
    /// As [`Room::alone`].
    #[track_caller]
    pub fn started(docker: Option<&Docker>, more: impl FnOnce(Setup) -> Setup) -> Self {
        let netns = Netns::create("r").expect("a namespace");
        let setup = Setup::new().expect("wormholed");
        let daemon = Self::setup(setup, docker, &netns, more).start().expect("wormholed starts");
        Self { daemon, netns }
    }

    /// Ends this daemon by `end`, which gives its directory, and starts another one on what it left.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    #[must_use]
    pub fn again(self, docker: Option<&Docker>, end: impl FnOnce(Daemon) -> std::path::PathBuf) -> Self {
        self.again_with(docker, &[], end)
    }

    /// As [`Room::again`], with further flags.
    ///
    /// # Panics
    /// As [`Room::again`].
    #[track_caller]
    #[must_use]
    pub fn again_with(self, docker: Option<&Docker>, args: &[&str], end: impl FnOnce(Daemon) -> std::path::PathBuf) -> Self {
        let Self { daemon, netns } = self;
        let setup = Setup::below(end(daemon)).expect("wormholed");
        let daemon = Self::setup(setup, docker, &netns, |setup| setup.args(args)).start().expect("wormholed starts again");
        Self { daemon, netns }
    }

    fn setup(setup: Setup, docker: Option<&Docker>, netns: &Netns, more: impl FnOnce(Setup) -> Setup) -> Setup {
        let docker = docker.map_or("unix:///nonexistent/docker.sock", Docker::host).to_owned();
        more(setup.docker(&docker)).netns(netns)
    }

    /// `wormhole -H HOST ARGS` from inside the room, for a daemon that listens on TCP there.
    ///
    /// # Panics
    /// When the binary is not there.
    #[track_caller]
    pub fn cli_at(&self, host: &str, args: &[&str]) -> Output {
        let wormhole = crate::daemon::binary("wormhole").expect("the wormhole binary");
        let mut command = self.netns.command(&wormhole.to_string_lossy());
        crate::run::output(command.args(["-H", host]).args(args)).expect("wormhole starts")
    }

    /// For [`crate::kernel`] and [`crate::traffic`].
    pub fn ns(&self) -> Ns {
        self.netns.ns()
    }

    /// `wormhole create WORDS`; a blank parts two words.
    ///
    /// # Panics
    /// When it is refused, with what it said and the daemon's log.
    #[track_caller]
    pub fn create(&self, words: &str) -> Made {
        let said = self.daemon.ok(&line("create", words));
        let (id, url) = said.split_once(' ').unwrap_or_else(|| panic!("create printed {said:?} and not `ID URL`"));
        Made { id: id.to_owned(), url: url.to_owned() }
    }

    /// `wormhole create WORDS` that has to fail with this exit code and say all of `fragments`.
    ///
    /// # Panics
    /// When it succeeds, or fails otherwise.
    #[track_caller]
    pub fn refused(&self, words: &str, code: i32, fragments: &[&str]) -> Output {
        let done = self.daemon.cli(&line("create", words));
        assert_eq!(done.code(), code, "create {words}: {}{}", done.stdout, done.stderr);
        assert_eq!(done.stdout, "", "create {words} failed and printed a result");
        for fragment in fragments {
            assert!(done.stderr.contains(fragment), "create {words}: {fragment:?} is missing in\n{}", done.stderr);
        }
        done
    }

    /// `wormhole delete ID`.
    ///
    /// # Panics
    /// When it is refused.
    #[track_caller]
    pub fn delete(&self, id: &str) -> String {
        self.daemon.ok(&["delete", id])
    }

    /// All segments, as `list -o json` gives them.
    ///
    /// # Panics
    /// When that is no JSON.
    #[track_caller]
    pub fn list(&self) -> Vec<Value> {
        serde_json::from_str(&self.daemon.ok(&["-o", "json", "list"])).expect("list gives JSON")
    }

    /// One segment, as `inspect -o json` gives it.
    ///
    /// # Panics
    /// When there is none, or it is no JSON.
    #[track_caller]
    pub fn view(&self, id: &str) -> Value {
        serde_json::from_str(&self.daemon.ok(&["-o", "json", "inspect", id])).expect("inspect gives JSON")
    }

    /// `status -o json`.
    ///
    /// # Panics
    /// When it is no JSON.
    #[track_caller]
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.daemon.ok(&["-o", "json", "status"])).expect("status gives JSON")
    }

    /// Waits until the segment is listening.
    ///
    /// # Panics
    /// After [`SOON`], with what it is instead.
    #[track_caller]
    pub fn wait_listening(&self, id: &str) -> Value {
        self.wait_view(id, "listening", |view| view["state"] == "listening")
    }

    /// Waits until the segment waits, and gives the reason.
    ///
    /// # Panics
    /// After [`SOON`], with what it is instead.
    #[track_caller]
    pub fn wait_waiting(&self, id: &str) -> String {
        let view = self.wait_view(id, "waiting", |view| view["state"] == "waiting");
        view["reason"].as_str().expect("who waits says why").to_owned()
    }

    /// Waits until the segment looks `good`.
    ///
    /// # Panics
    /// After [`SOON`], with how it looks.
    #[track_caller]
    pub fn wait_view(&self, id: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        let found = crate::wait::poll(&format!("{id} to be {what}"), SOON, || {
            let view = self.view(id);
            if good(&view) { Ok(view) } else { Err(view.to_string()) }
        });
        found.unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// Waits until no connection of the segment is open.
    ///
    /// # Panics
    /// After [`SOON`].
    #[track_caller]
    pub fn wait_idle(&self, id: &str) -> Value {
        self.wait_view(id, "idle", |view| view["connections"]["open"] == 0)
    }

    /// Waits until something listens in the room.
    ///
    /// # Panics
    /// After [`SOON`].
    #[track_caller]
    pub fn wait_port(&self, proto: &str, port: u16) {
        wait_until(&format!("{proto} port {port}"), SOON, || self.has_port(proto, port).then_some(()));
    }

    /// True when something listens in the room.
    ///
    /// # Panics
    /// When the namespace cannot be looked into.
    #[track_caller]
    pub fn has_port(&self, proto: &str, port: u16) -> bool {
        kernel::listeners(&self.ns()).expect("the room's listeners").iter().any(|l| l.is(proto, port))
    }

    /// What the kernel holds in the room and in `others`, and what the daemon holds.
    ///
    /// # Errors
    /// When one of them is gone.
    pub fn state(&self, others: &[(&str, Ns)]) -> Result<KernelState> {
        let mut places = vec![("room", self.ns())];
        places.extend(others.iter().map(|(label, ns)| (*label, ns.clone())));
        let state = KernelState::of(&places)?.with_process("wormholed", self.daemon.pid())?;
        // A request of a moment ago may still be open.
        if self.daemon.holds().entered.len() == 1 { Ok(state) } else { Err(anyhow!("a thread is elsewhere")) }
    }

    /// Waits until the daemon has heard from the engine.
    ///
    /// # Panics
    /// After [`SOON`].
    #[track_caller]
    pub fn wait_docker(&self) {
        wait_until("the engine in `status`", SOON, || self.status()["docker"]["version"].is_string().then_some(()));
    }

    /// As [`Room::settled`], once the connection that was last used to ask the engine is closed for want of use; with
    /// what listens in `others`.
    ///
    /// # Panics
    /// When it stays open.
    #[track_caller]
    pub fn idle_docker(&self, others: &[(&str, Ns)]) -> KernelState {
        let mut last = self.settled(others);
        let mut since = std::time::Instant::now();
        wait_until("the engine's connections to settle", Duration::from_secs(30), || {
            let now = self.state(others).ok()?;
            if now != last {
                (last, since) = (now, std::time::Instant::now());
            }
            (since.elapsed() > Duration::from_secs(1)).then_some(())
        });
        last
    }

    /// The state to compare with: taken after one request, which opens what a daemon opens once in its life.
    ///
    /// # Panics
    /// When it cannot be taken.
    #[track_caller]
    pub fn settled(&self, others: &[(&str, Ns)]) -> KernelState {
        self.daemon.ok(&["status"]);
        let mut last = self.state(others).expect("state");
        wait_until("the state to settle", SOON, || {
            let now = self.state(others).ok()?;
            let same = now == last;
            last = now;
            same.then_some(())
        });
        last
    }
}

/// The words of a line after its command.
fn line<'a>(command: &'a str, words: &'a str) -> Vec<&'a str> {
    std::iter::once(command).chain(words.split_whitespace()).collect()
}
