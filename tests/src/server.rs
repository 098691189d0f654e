//! Real servers in namespaces of their own, in front of each a segment whose head their clients use.

use crate::fast::{self, sum, wait_unused};
use crate::kernel;
use crate::netns::Netns;
use crate::room::{Made, Room};
use crate::run::{self, tail};
use crate::{boxed, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to listen, and to stop.
const READY: Duration = Duration::from_secs(30);

/// A room whose daemon uses the fast path, and a server behind a segment of it. Dropping stops the server.
#[derive(Debug)]
pub struct Case {
    /// The daemon; clients are in its namespace.
    pub room: Room,
    /// The segment; its head has the server's port.
    pub made: Made,
    /// For the server's files.
    pub dir: PathBuf,
    far: Netns,
    port: u16,
    server: Option<(Child, Signal)>,
}

impl Case {
    /// Without the server so far.
    ///
    /// # Errors
    /// Why this cannot be tried here: no fast path, or one of `programs` is not installed.
    ///
    /// # Panics
    /// When anything else goes wrong.
    pub fn new(port: u16, programs: &[&str]) -> Result<Self, String> {
        if let Some(gone) = programs.iter().find(|program| run::find(program).is_none()) {
            return Err(format!("{gone} is not installed (cargo xtask setup)"));
        }
        // As users have it: whoever listens is looked at, and none of these is spared.
        let room = Room::with(None, &["--fastpath", "auto"]);
        fast::available(&room)?;
        let (far, dir) = (Netns::create("f").expect("a namespace"), boxed::fresh_dir().expect("a directory"));
        let made = room.create(&format!("url :{port} tail url {}@:{port}", far.name));
        Ok(Self { room, made, dir, far, port, server: None })
    }

    /// A program as it is run where the server is.
    pub fn there(&self, program: &str) -> Command {
        self.far.command(program)
    }

    /// Starts the server, which `stop` will end in good order, and waits until it listens.
    ///
    /// # Panics
    /// When it does not, with what it said.
    #[track_caller]
    pub fn start(&mut self, mut server: Command, stop: Signal) {
        let log = self.dir.join("log");
        let out = File::create(&log).expect("a log");
        server.stdin(Stdio::null()).stdout(out.try_clone().expect("a log")).stderr(out);
        let child = server.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", run::line(&server)));
        let (child, _) = self.server.insert((child, stop));
        let up = wait::poll(&run::line(&server), READY, || match child.try_wait() {
            Ok(Some(status)) => Ok(Err(format!("it ended: {status}"))),
            _ => {
                let all = kernel::listeners(&self.far.ns()).map_err(|e| format!("{e:#}"))?;
                all.iter().any(|l| l.is("tcp", self.port)).then_some(Ok(())).ok_or_else(String::new)
            }
        });
        match up {
            Ok(Ok(())) => {}
            Ok(Err(why)) => panic!("{why}\n{}", tail(&log, 20)),
            Err(error) => panic!("{error:#}\n{}", tail(&log, 20)),
        }
    }

    /// Runs a client to its end.
    ///
    /// # Panics
    /// When it fails, with what it and the server said.
    #[track_caller]
    pub fn client(&self, program: &str, args: &[&str]) -> String {
        match run::text(self.room.netns.command(program).args(args)) {
            Ok(said) => said,
            Err(error) => panic!("{error:#}\nthe server:\n{}\n{}", tail(&self.dir.join("log"), 20), self.view()),
        }
    }

    /// The segment.
    ///
    /// # Panics
    /// When the daemon does not answer.
    #[track_caller]
    pub fn view(&self) -> Value {
        self.room.view(&self.made.id)
    }

    /// Stops the server. All connections went well and on the fast path, but for at most `gone` whose clients may have been
    /// gone before they could be accepted, and nothing of them is left.
    ///
    /// # Panics
    /// When that is not so.
    #[track_caller]
    pub fn finish(self, gone: u64) {
        let view = self.ended();
        let relayed = view["fallbacks"].as_object().cloned().unwrap_or_default();
        let known = relayed.iter().all(|(why, count)| why == "client-unseen" && count.as_u64().is_some_and(|n| n <= gone));
        assert!(known, "some of it was relayed: {view}");
        assert!(sum(&view, "direct") > 0, "{view}");
    }

    /// As above, but all were relayed, at least one way, and `why`.
    ///
    /// # Panics
    /// When that is not so.
    #[track_caller]
    pub fn finish_relayed(self, why: &str) {
        let view = self.ended();
        assert_eq!(view["fallbacks"], serde_json::json!({ why: view["connections"]["total"] }), "{view}");
    }

    #[track_caller]
    fn ended(mut self) -> Value {
        self.stop();
        let view = self.room.wait_idle(&self.made.id);
        let (bytes, direct) = (sum(&view, "bytes"), sum(&view, "direct"));
        println!(
            "{} connections, {} MB, {} % direct",
            view["connections"]["total"],
            bytes / 1_000_000,
            direct * 100 / bytes.max(1)
        );
        assert_eq!(view["connections"]["failed"], 0, "{view}");
        wait_unused(&self.room);
        view
    }

    fn stop(&mut self) {
        let Some((mut child, signal)) = self.server.take() else { return };
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a pid");
        let ended = kill_process(pid, signal).map_err(Into::into).and_then(|()| {
            wait::poll("the server to stop", READY, || match child.try_wait() {
                Ok(Some(_)) => Ok(()),
                _ => Err(String::new()),
            })
        });
        if let Err(error) = ended {
            let _ = child.kill();
            let _ = child.wait();
            assert!(std::thread::panicking(), "{error:#}");
        }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How long a load lasts: the number of seconds in LOAD, or ten.
pub fn load_seconds() -> u64 {
    crate::crowd::number("LOAD").unwrap_or(10)
}

/// Does `turn` again and again while a load lasts, at least once; gives how often.
pub fn again(mut turn: impl FnMut(u64)) -> u64 {
    let (began, lasts) = (Instant::now(), Duration::from_secs(load_seconds()));
    for number in 0.. {
        turn(number);
        if began.elapsed() >= lasts {
            return number + 1;
        }
    }
    unreachable!("numbers do not end")
}

/// SHA-256 of a file, in hexadecimal digits.
///
/// # Panics
/// When it cannot be read.
#[track_caller]
pub fn sha256(path: &Path) -> String {
    let said = run::text(run::command("sha256sum", ["-b"]).arg(path)).expect("sha256sum");
    said.split(' ').next().unwrap_or_default().to_owned()
}
