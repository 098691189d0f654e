//! The same case on three ways: direct TCP without a proxy, the relay, the fast path.

use crate::fast;
use crate::kernel::Ns;
use crate::netns::Netns;
use crate::room::{Made, Room, SOON};
use crate::traffic::{self, PATIENCE, Stream};
use crate::{skip, wait_until};
use serde_json::Value;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// How a client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// No proxy, in one namespace.
    Direct,
    /// Through `wormholed --fastpath off`.
    Relay,
    /// Through `wormholed --fastpath on`.
    Fast,
}

/// A listening server and what leads to it.
#[derive(Debug)]
pub struct Lane {
    /// Which of the three.
    pub way: Way,
    /// The server's socket.
    pub listener: TcpListener,
    /// Where clients connect to.
    pub addr: SocketAddr,
    /// The daemon, unless direct.
    pub room: Option<Room>,
    /// The segment, unless direct.
    pub made: Option<Made>,
    near: Option<Netns>,
    far: Netns,
    paired: AtomicBool,
}

/// One of the tests that [`three_ways!`] makes.
///
/// # Panics
/// When the case fails, and when a connection was on another path than it had to be.
#[track_caller]
pub fn run(way: Way, case: fn(&Lane)) {
    run_with(way, &[], case);
}

/// As [`run`], with further flags for the daemon.
///
/// # Panics
/// As [`run`].
#[track_caller]
pub fn run_with(way: Way, args: &[&str], case: fn(&Lane)) {
    if let Err(why) = skip::in_box() {
        crate::skip!("{why}");
    }
    match Lane::with(way, args) {
        Ok(lane) => {
            case(&lane);
            lane.finish();
        }
        Err(why) => skip::record(&why),
    }
}

/// Makes three tests of each function `fn case(lane: &Lane)`: `case::direct`, `case::relay`, `case::fast`. What runs them is
/// [`run`], or another function of its kind that is named first: `three_ways!(by crate::run: case)`.
#[macro_export]
macro_rules! three_ways {
    (by $run:path: $($case:ident),+ $(,)?) => {$(
        mod $case {
            use $crate::lane::Way;
            #[test]
            fn direct() {
                $run(Way::Direct, super::$case);
            }
            #[test]
            fn relay() {
                $run(Way::Relay, super::$case);
            }
            #[test]
            fn fast() {
                $run(Way::Fast, super::$case);
            }
        }
    )+};
    ($($case:ident),+ $(,)?) => {
        $crate::three_ways!(by $crate::lane::run: $($case),+);
    };
}

impl Lane {
    /// A server on 127.0.0.1 in a namespace of its own.
    ///
    /// # Errors
    /// Why the fast path cannot be tried here.
    ///
    /// # Panics
    /// When anything else goes wrong.
    #[track_caller]
    pub fn open(way: Way) -> Result<Self, String> {
        Self::between(way, "127.0.0.1", "127.0.0.1", "127.0.0.1")
    }

    /// `head` and `tail` are hosts as in an URL, `server` is where the server listens; direct, there is only that.
    ///
    /// # Errors
    /// As [`Lane::open`].
    ///
    /// # Panics
    /// As [`Lane::open`].
    #[track_caller]
    pub fn between(way: Way, head: &str, tail: &str, server: &str) -> Result<Self, String> {
        Self::start(way, [head, tail, server], &[], None)
    }

    /// As [`Lane::open`], with further flags for the daemon.
    ///
    /// # Errors
    /// As [`Lane::open`].
    ///
    /// # Panics
    /// As [`Lane::open`].
    #[track_caller]
    pub fn with(way: Way, args: &[&str]) -> Result<Self, String> {
        Self::start(way, ["127.0.0.1"; 3], args, None)
    }

    /// As [`Lane::open`], with clients in a namespace that is neither the server's nor the daemon's.
    ///
    /// # Errors
    /// As [`Lane::open`].
    ///
    /// # Panics
    /// As [`Lane::open`].
    #[track_caller]
    pub fn apart(way: Way) -> Result<Self, String> {
        Self::start(way, ["127.0.0.1"; 3], &[], Some(Netns::create("n").expect("a namespace")))
    }

    #[track_caller]
    fn start(way: Way, [head, tail, server]: [&str; 3], args: &[&str], near: Option<Netns>) -> Result<Self, String> {
        let far = Netns::create("f").expect("a namespace");
        let listener = traffic::listen(&far.ns(), &format!("{server}:700"));
        // accept() gives up after this time too.
        SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let paired = AtomicBool::new(false);
        if way == Way::Direct {
            let addr = format!("{tail}:700").parse().expect("an address");
            return Ok(Self { way, listener, addr, room: None, made: None, near, far, paired });
        }
        let room = Room::with(None, &[&["--fastpath", if way == Way::Fast { "on" } else { "off" }], args].concat());
        if way == Way::Fast {
            fast::available(&room)?;
        }
        let place = near.as_ref().map_or(String::new(), |near| format!("{}@", near.name));
        let made = room.create(&format!("url {place}{head}:701 tail url {}@{tail}:700", far.name));
        Ok(Self { way, listener, addr: made.addr(), room: Some(room), made: Some(made), near, far, paired })
    }

    /// The namespace that clients are in.
    pub fn near(&self) -> Ns {
        self.near.as_ref().map_or_else(|| self.room.as_ref().map_or_else(|| self.far.ns(), Room::ns), Netns::ns)
    }

    /// The namespace that the server is in.
    pub fn far(&self) -> &Netns {
        &self.far
    }

    /// Connects.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn client(&self) -> TcpStream {
        traffic::connect(&self.near(), self.addr).expect("connecting")
    }

    /// The server's end of the next connection.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().expect("the server got no connection");
        stream.patience(PATIENCE).expect("a timeout");
        stream
    }

    /// Both ends of a new connection, on the path that this lane is about.
    ///
    /// # Panics
    /// When it takes another path.
    #[track_caller]
    pub fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.client();
        let server = self.accept();
        self.settle(&client);
        (client, server)
    }

    /// Both ends of a new connection, with their queues in use: they are of the fast path in every respect.
    ///
    /// # Panics
    /// When it takes another path.
    #[track_caller]
    pub fn used(&self) -> (TcpStream, TcpStream) {
        let (client, server) = self.pair();
        for (mut from, mut to) in [(&client, &server), (&server, &client)] {
            from.write_all(b"word").expect("writing");
            to.read_exact(&mut [0; 4]).expect("reading");
        }
        (client, server)
    }

    /// Waits until this client's connection is on the path that this lane is about. From then on, and until a receiver
    /// falls behind, every byte of the fast path goes from socket to socket.
    ///
    /// # Panics
    /// When it takes another path.
    #[track_caller]
    pub fn settle(&self, client: &TcpStream) {
        let wanted = match self.way {
            Way::Direct => return,
            Way::Relay => "relay",
            Way::Fast => "fastpath",
        };
        let port = port_of(client);
        self.paired.store(true, Relaxed);
        let looked = crate::wait::poll(&format!("port {port} to be on the path {wanted:?}"), SOON, || {
            let open = &self.view()["open"];
            let path = self.entry(open, port).map(|entry| entry["path"].clone());
            if path.is_some_and(|path| path == wanted) { Ok(()) } else { Err(open.to_string()) }
        });
        looked.unwrap_or_else(|e| panic!("{e:#}; {}", self.status()));
    }

    fn entry<'a>(&self, open: &'a Value, port: u16) -> Option<&'a Value> {
        let ours = |entry: &&Value| entry["client"].as_str().is_some_and(|client| client.ends_with(&format!(":{port}")));
        open.as_array()?.iter().find(ours)
    }

    fn status(&self) -> Value {
        self.room.as_ref().map_or(Value::Null, |room| room.status()["fastpath"].clone())
    }

    /// What the daemon's self-test found out about this kernel; true on the other ways, where it does not matter.
    ///
    /// # Panics
    /// When it asks no question of that name.
    #[track_caller]
    pub fn passes(&self, probe: &str) -> bool {
        if self.way != Way::Fast {
            return true;
        }
        let found = fast::probe(self.room(), probe);
        found.unwrap_or_else(|| panic!("no probe {probe:?}: {}", self.status()))["passed"] == true
    }

    /// The daemon.
    ///
    /// # Panics
    /// On the direct way, and when it was taken away.
    #[track_caller]
    pub fn room(&self) -> &Room {
        self.room.as_ref().expect("a daemon")
    }

    /// The segment.
    ///
    /// # Panics
    /// On the direct way.
    #[track_caller]
    pub fn view(&self) -> Value {
        let (room, made) = (self.room.as_ref().expect("a daemon"), self.made.as_ref().expect("a segment"));
        room.view(&made.id)
    }

    /// Bytes that went from socket to socket so far; 0 on the other ways.
    ///
    /// # Panics
    /// When the daemon does not answer.
    #[track_caller]
    pub fn direct(&self) -> u64 {
        if self.way == Way::Fast { fast::sum(&self.view(), "direct") } else { 0 }
    }

    /// Sends a word each way over this connection, which nothing else goes over. On the fast path every byte has to go from
    /// socket to socket.
    ///
    /// # Panics
    /// When one takes the relay, and when the word is another one.
    #[track_caller]
    pub fn is_direct(&self, (client, server): &(TcpStream, TcpStream)) {
        let of = || self.entry(&self.view()["open"], port_of(client)).map_or(0, |entry| fast::sum(entry, "direct"));
        let before = if self.way == Way::Fast { of() } else { 0 };
        for (mut near, mut far) in [(client, server), (server, client)] {
            let mut word = [0; 4];
            near.write_all(b"word").and_then(|()| far.read_exact(&mut word)).expect("a word");
            assert_eq!(&word, b"word");
        }
        if self.way == Way::Fast {
            assert_eq!(of(), before + 8, "some of it took the relay: {}", self.view());
        }
    }

    /// On the fast path, waits until more than `before` bytes went from socket to socket, doing `step` in between.
    ///
    /// # Panics
    /// When that does not happen.
    #[track_caller]
    pub fn wait_direct(&self, before: u64, mut step: impl FnMut()) {
        if self.way != Way::Fast {
            return step();
        }
        wait_until("bytes to go from socket to socket again", SOON, || {
            step();
            (self.direct() > before).then_some(())
        });
    }

    /// Ends the lane: nothing is open any more, and the bytes took the path that they had to.
    ///
    /// # Panics
    /// When they did not.
    #[track_caller]
    pub fn finish(self) {
        let (Some(room), Some(made)) = (&self.room, &self.made) else { return };
        let view = room.wait_idle(&made.id);
        let (direct, all) = (fast::sum(&view, "direct"), fast::sum(&view, "bytes"));
        match self.way {
            Way::Fast => {
                assert!(direct > 0 || all == 0 || !self.paired.load(Relaxed), "no byte took the fast path: {view}");
                fast::wait_no_pair(room);
            }
            _ => assert_eq!(direct, 0, "{view}"),
        }
    }
}

fn port_of(client: &TcpStream) -> u16 {
    client.local_addr().expect("an address").port()
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let (true, Some(room), Some(made)) = (std::thread::panicking(), &self.room, &self.made) {
            let view = room.daemon.cli(&["-o", "json", "inspect", &made.id]);
            let status = room.daemon.cli(&["-o", "json", "status"]);
            eprintln!("-- the segment --\n{}-- the daemon --\n{}", view.stdout, status.stdout);
        }
    }
}
