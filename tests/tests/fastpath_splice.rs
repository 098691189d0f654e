//! Applications that read their sockets by splice(2), which does not see redirected bytes: in `auto` those that are known
//! are relayed, the others are noticed, and a reader that merely does not read is left alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says by panicking that it failed

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use wormhole_tests::daemon::binary;
use wormhole_tests::images::Image;
use wormhole_tests::room::{Made, Room, SOON};
use wormhole_tests::traffic::{Again, End, connect, drain, echo, endless, listen};
use wormhole_tests::{fast, require, run, skip, wait, wait_until};

/// Where the program under test listens.
const PORT: u16 = 7001;
/// Where the server behind it listens.
const BEHIND: &str = "127.0.0.1:7002";
const PAYLOAD: usize = 5 << 20;
const SOCKET_PROXYD: [&str; 2] = ["/lib/systemd/systemd-socket-proxyd", "/usr/lib/systemd/systemd-socket-proxyd"];

/// A program that ends with this value.
struct Program(Child);

impl Program {
    fn start(mut command: Command) -> Self {
        let line = run::line(&command);
        Self(command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{line}: {e}")))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id().cast_signed()).unwrap(), signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A room whose daemon has a fast path, or why it has none.
fn room() -> Result<Room, String> {
    skip::in_box()?;
    let room = Room::alone();
    fast::available(&room)?;
    let summary = room.status()["fastpath"]["summary"].to_string();
    if summary.contains("auto: yes") { Ok(room) } else { Err(format!("auto does not use the fast path here: {summary}")) }
}

/// Starts `command`, which is to listen on [`PORT`].
fn serve(room: &Room, command: Command) -> Program {
    let program = Program::start(command);
    room.wait_port("tcp", PORT);
    program
}

/// A copy of `program` under another name, as it is run in the room.
fn renamed(room: &Room, program: &Path, name: &str) -> Command {
    let copy = room.daemon.dir().join(name);
    std::fs::copy(program, &copy).unwrap();
    room.netns.command(&copy.to_string_lossy())
}

fn splicer(room: &Room, name: &str, words: [&str; 2], addr: &str) -> Result<Command, String> {
    let program = binary("wormhole-splicer").map_err(|e| format!("{e:#}"))?;
    let mut command = renamed(room, &program, name);
    command.args(words).arg(addr);
    Ok(command)
}

fn create(room: &Room, options: &str) -> Made {
    room.create(&format!("{options} url :7000 tail url 127.0.0.1:{PORT}"))
}

/// Sends `len` bytes and reads them back, both at once. An error of either direction.
fn both_ways(stream: &TcpStream, len: usize) -> io::Result<()> {
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let (mut stream, mut at) = (stream, 0);
            while at < len {
                let now = (len - at).min(100_003);
                stream.write_all(endless(at, now))?;
                at += now;
            }
            Ok(())
        });
        let (mut reader, mut at, mut buffer) = (stream, 0, vec![0; 1 << 16]);
        let read = loop {
            if at == len {
                break Ok(());
            }
            match Again(&mut reader).read(&mut buffer) {
                Ok(0) => break Err(io::Error::new(ErrorKind::UnexpectedEof, format!("a clean end after {at} bytes"))),
                Ok(got) => {
                    assert!(at + got <= len && buffer[..got] == *endless(at, got), "wrong bytes between {at} and {}", at + got);
                    at += got;
                }
                Err(error) => break Err(error),
            }
        };
        let sent: io::Result<()> = sender.join().unwrap();
        // Whoever was told of the reset first has taken it away from the other one.
        match (sent, read) {
            (Ok(()), read) => read,
            (Err(sent), Ok(())) => Err(sent),
            (Err(sent), Err(read)) => Err(if is_reset(&sent) { sent } else { read }),
        }
    })
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn open(room: &Room, made: &Made) -> Value {
    room.wait_view(&made.id, "open", |view| view["open"][0].is_object())["open"][0].clone()
}

/// Carries the payload both ways over the relay, for a reason that names `exe`.
fn relayed(room: &Room, made: &Made, exe: &str) {
    let client = connect(&room.ns(), made.addr()).unwrap();
    both_ways(&client, PAYLOAD).unwrap();
    let open = open(room, made);
    assert_eq!(open["path"], "relay", "{open}");
    assert!(open["reason"].as_str().is_some_and(|why| why.contains(exe)), "{open}");
    drop(client);
    room.wait_idle(&made.id);
}

/// True when the kernel tells who uses splice(2).
fn tells(room: &Room) -> bool {
    let probes = room.status()["fastpath"]["probes"].clone();
    let splice = probes.as_array().and_then(|all| all.iter().find(|probe| probe["name"] == "splice").cloned());
    splice.is_some_and(|probe| probe["detail"].as_str().is_some_and(|detail| detail.contains("is noticed, its bytes")))
}

/// The first connection to an unknown splicer is rescued or reset; what one may know of it is told; the next one is relayed.
fn noticed(room: &Room, made: &Made, exe: &str) {
    let client = connect(&room.ns(), made.addr()).unwrap();
    let carried = both_ways(&client, PAYLOAD);
    drop(client);
    let view = room.wait_idle(&made.id);
    match &carried {
        Ok(()) => assert_eq!(view["connections"]["reset"], 0, "{view}"),
        Err(error) => {
            assert!(is_reset(error), "neither whole nor reset: {error}");
            assert!(view["connections"]["reset"].as_u64() >= Some(1), "{view}");
        }
    }
    println!("{exe}: {}", if carried.is_ok() { "rescued" } else { "reset" });
    assert_eq!(view["fallbacks"]["spliced"], 1, "{view}");
    let fast = &room.status()["fastpath"];
    assert_eq!(fast["fallbacks"]["spliced"], 1, "{fast}");
    assert!(fast["off_for"].as_array().unwrap().iter().any(|name| name == exe), "{fast}");
    let log = room.daemon.log();
    let told = log.lines().find(|line| line.contains("WARN") && line.contains(exe)).unwrap_or_else(|| panic!("{log}"));
    assert!(told.contains(&made.id) && told.contains("--fastpath-except"), "{told}");
    relayed(room, made, exe);
    fast::wait_no_pair(room);
}

// === those that are known ===

/// `systemd-socket-activate` gives the program its listening socket.
fn socket_proxyd(room: &Room, program: &str) -> Command {
    let mut command = room.netns.command("systemd-socket-activate");
    command.args(["-l", &format!("127.0.0.1:{PORT}"), program, BEHIND]);
    command
}

#[test]
fn systemd_socket_proxyd_is_relayed() {
    let room = match room() {
        Ok(room) => room,
        Err(why) => skip!("{why}"),
    };
    let Some(program) = SOCKET_PROXYD.into_iter().find(|path| Path::new(path).is_file()) else {
        skip!("no systemd-socket-proxyd (package systemd)");
    };
    echo(&room.ns(), BEHIND);
    let _proxy = serve(&room, socket_proxyd(&room, program));
    let made = create(&room, "");
    // Until somebody connects, who listens does it on somebody's behalf.
    relayed(&room, &made, "not known yet");
    wait_until("the proxy to be known", SOON, || {
        let client = connect(&room.ns(), made.addr()).unwrap();
        both_ways(&client, 1).unwrap();
        let open = open(&room, &made);
        assert_eq!(open["path"], "relay", "{open}");
        drop(client);
        room.wait_idle(&made.id);
        open["reason"].as_str().is_some_and(|why| why.contains("systemd-socket-proxyd")).then_some(())
    });
    relayed(&room, &made, "systemd-socket-proxyd");
    assert_eq!(fast::sum(&room.view(&made.id), "direct"), 0);
}

/// Writes a configuration in which everything that can be spliced is; `auto`: in which HAProxy decides.
fn haproxy(room: &Room, auto: bool) -> PathBuf {
    let options = if auto { "option splice-auto" } else { "option splice-request\n option splice-response" };
    let dir = room.daemon.dir();
    let text = format!(
        "global\n maxconn 50\n nbthread 1\n maxpipes 50\n tune.pipesize 262144\n stats socket {}\ndefaults\n mode tcp\n \
         timeout connect 5s\n timeout client 60s\n timeout server 60s\n {options}\nlisten l\n bind 127.0.0.1:{PORT}\n \
         server s {BEHIND}\n",
        dir.join("h").display()
    );
    let path = dir.join("haproxy.cfg");
    std::fs::write(&path, text).unwrap();
    path
}

/// How many pipes HAProxy has made, which it does only to splice.
fn pipes(room: &Room) -> u64 {
    let mut stats = UnixStream::connect(room.daemon.dir().join("h")).unwrap();
    stats.write_all(b"show info\n").unwrap();
    let mut info = String::new();
    stats.read_to_string(&mut info).unwrap();
    let of = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap();
    of("PipesUsed:") + of("PipesFree:")
}

#[test]
fn haproxy_is_relayed() {
    let room = match room() {
        Ok(room) => room,
        Err(why) => skip!("{why}"),
    };
    let Some(program) = run::find("haproxy") else { skip!("no haproxy (package haproxy)") };
    echo(&room.ns(), BEHIND);
    let mut command = room.netns.command(&program.to_string_lossy());
    command.arg("-db").arg("-f").arg(haproxy(&room, true));
    let _proxy = serve(&room, command);
    let made = create(&room, "");
    relayed(&room, &made, "haproxy");
    assert_eq!(fast::sum(&room.view(&made.id), "direct"), 0);
    wait_until("HAProxy to splice", SOON, || {
        relayed(&room, &made, "haproxy");
        (pipes(&room) > 0).then_some(())
    });
}

#[test]
fn docker_proxy_is_relayed() {
    let docker = require!(Docker);
    let room = match room() {
        Ok(room) => room,
        Err(why) => skip!("{why}"),
    };
    // The engine's own namespace, where it publishes; both ends are in there.
    let host = format!("pid:{}", std::process::id());
    let published = docker.container(Image::Redis, &["--network", "bridge", "-p", "127.0.0.1:7001:6380"]);
    let container = match published {
        Ok(container) => container,
        Err(error) => skip!("no published port: {error:#}"),
    };
    echo(&container.ns().unwrap(), "0.0.0.0:6380");
    let made = room.create(&format!("url {host}@:7000 tail url {host}@:{PORT}"));
    let own = wormhole_tests::kernel::Ns::Own;
    let carry = |exe: &str| {
        let client = connect(&own, made.addr()).unwrap();
        both_ways(&client, PAYLOAD).unwrap();
        let open = open(&room, &made);
        assert_eq!(open["path"], "relay", "{open}");
        assert!(open["reason"].as_str().is_some_and(|why| why.contains(exe)), "{open}");
        drop(client);
        room.wait_idle(&made.id);
    };
    carry("docker-proxy");

    // As a client: it connects to the container's address, from another namespace, and is not seen there.
    let behind = echo(&room.ns(), BEHIND);
    let inner = docker.container(Image::Redis, &["--network", "bridge", "-p", "127.0.0.1:7003:6381"]).unwrap();
    let pid = inner.pid().unwrap();
    let into = room.create(&format!("url pid:{pid}@0.0.0.0:6381 tail url {behind}"));
    let client = connect(&own, SocketAddr::from(([127, 0, 0, 1], 7003))).unwrap();
    both_ways(&client, PAYLOAD).unwrap();
    let open = open(&room, &into);
    assert_eq!(open["path"], "relay", "{open}");
}

// === those that are not ===

#[test]
fn a_server_that_waits_in_splice_is_noticed() {
    unknown_server("waiting");
}

#[test]
fn a_server_that_polls_and_splices_is_noticed() {
    unknown_server("polling");
}

#[test]
fn a_server_that_asks_for_edges_and_splices_is_noticed() {
    unknown_server("edges");
}

fn unknown_server(way: &str) {
    let room = match room() {
        Ok(room) => room,
        Err(why) => skip!("{why}"),
    };
    if way == "edges" && !tells(&room) {
        skip!("where no program may watch the kernel's functions, it looks like one that does not read");
    }
    let exe = format!("unknown-{way}");
    let command = match splicer(&room, &exe, ["serve", way], &format!("127.0.0.1:{PORT}")) {
        Ok(command) => command,
        Err(why) => skip!("{why}"),
    };
    let _server = serve(&room, command);
    noticed(&room, &create(&room, ""), &exe);
}

#[test]
fn an_unknown_client_is_noticed() {
    let room = match room() {
        Ok(room) => room,
        Err(why) => skip!("{why}"),
    };
    let listener = listen(&room.ns(), &format!("127.0.0.1:{PORT}"));
    let made = create(&room, "");
    // What a client prints of a greeting; nothing when its connection was reset.
    let greet = |listener: &TcpListener| {
        let mut command = splicer(&room, "unknown-client", ["connect", "waiting"], &made.addr().to_string())?;
        let client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(|e| e.to_string())?;
        let (mut server, _) = listener.accept().unwrap();
        // It is there and waits.
        open(&room, &made);
        server.write_all(b"hello").unwrap();
        wait_until("the greeting to be read, or a reset", SOON, || {
            let read = room.view(&made.id)["open"][0].is_null() || tells(&room) || is_spared(&room, "unknown-client");
            read.then_some(())
        });
        server.shutdown(std::net::Shutdown::Write).ok();
        let end = drain(&mut server).1;
        let done = client.wait_with_output().unwrap();
        Ok::<_, String>((String::from_utf8(done.stdout).unwrap(), end))
    };
    match greet(&listener) {
        Ok((said, end)) => {
            println!("{said:?}, {end:?}");
            assert!(said == "hello" && end == End::Eof || said.is_empty() && end == End::Reset, "{said:?}, {end:?}");
        }
        Err(why) => skip!("{why}"),
    }
    room.wait_idle(&made.id);
    wait_until("it to be kept off", SOON, || is_spared(&room, "unknown-client").then_some(()));
    assert_eq!(greet(&listener).unwrap(), ("hello".to_owned(), End::Eof));
    let view = room.wait_idle(&made.id);
    assert_eq!((&view["fallbacks"]["spliced"], &view["fallbacks"]["client-spared"]), (&1.into(), &1.into()), "{view}");
}

fn is_spared(room: &Room, exe: &str) -> bool {
    room.status()["fastpath"]["off_for"].as_array().is_some_and(|all| all.iter().any(|name| name == exe))
}

#[test]
fn socket_proxyd_under_another_name_is_noticed() {
    let room = match room() {
        Ok(room) => room,
        Err(why) => skip!("{why}"),
    };
    let Some(program) = SOCKET_PROXYD.into_iter().find(|path| Path::new(path).is_file()) else {
        skip!("no systemd-socket-proxyd (package systemd)");
    };
    let copy = room.daemon.dir().join("unknown-proxyd");
    std::fs::copy(program, &copy).unwrap();
    echo(&room.ns(), BEHIND);
    let _proxy = serve(&room, socket_proxyd(&room, &copy.to_string_lossy()));
    // Now, so that its executable is known when the segment is made.
    both_ways(&connect(&room.ns(), SocketAddr::from(([127, 0, 0, 1], PORT))).unwrap(), 10).unwrap();
    noticed(&room, &create(&room, ""), "unknown-proxyd");
}

#[test]
fn haproxy_under_another_name_is_noticed() {
    let room = match room() {
        Ok(room) => room,
        Err(why) => skip!("{why}"),
    };
    let Some(program) = run::find("haproxy") else { skip!("no haproxy (package haproxy)") };
    echo(&room.ns(), BEHIND);
    let mut command = renamed(&room, &program, "unknown-haproxy");
    command.arg("-db").arg("-f").arg(haproxy(&room, false));
    let _proxy = serve(&room, command);
    noticed(&room, &create(&room, ""), "unknown-haproxy");
    assert!(pipes(&room) > 0, "HAProxy has not spliced");
}

/// `on` is the user's word: every connection is enrolled, and none hangs.
#[test]
fn on_resets_rather_than_hangs() {
    let room = match room() {
        Ok(room) => room,
        Err(why) => skip!("{why}"),
    };
    let command = match splicer(&room, "unknown-on", ["serve", "waiting"], &format!("127.0.0.1:{PORT}")) {
        Ok(command) => command,
        Err(why) => skip!("{why}"),
    };
    let _server = serve(&room, command);
    let made = create(&room, "--fastpath on");
    for round in 1..3 {
        let client = connect(&room.ns(), made.addr()).unwrap();
        if let Err(error) = both_ways(&client, PAYLOAD) {
            assert!(is_reset(&error), "round {round}: {error}");
        }
        drop(client);
        let view = room.wait_idle(&made.id);
        assert_eq!(view["fallbacks"]["spliced"], round, "{view}");
    }
}

#[test]
fn a_chain_to_an_unknown_server_is_reset_as_a_whole() {
    let room = match room() {
        Ok(room) => room,
        Err(why) => skip!("{why}"),
    };
    let command = match splicer(&room, "unknown-last", ["serve", "waiting"], &format!("127.0.0.1:{PORT}")) {
        Ok(command) => command,
        Err(why) => skip!("{why}"),
    };
    let _server = serve(&room, command);
    let last = create(&room, "");
    let first = room.create(&format!("url :7005 tail url 127.0.0.1:{}", last.port()));
    let client = connect(&room.ns(), first.addr()).unwrap();
    if let Err(error) = both_ways(&client, PAYLOAD) {
        assert!(is_reset(&error), "{error}");
    }
    drop(client);
    room.wait_idle(&first.id);
    room.wait_idle(&last.id);
    relayed(&room, &last, "unknown-last");
    both_ways(&connect(&room.ns(), first.addr()).unwrap(), PAYLOAD).unwrap();
}

// === those that merely do not read ===

/// Waits for as long as it takes to find two splicers one after the other, which is longer than the watchdog's patience.
fn longer_than_its_patience(room: &Room) -> Result<(), String> {
    for (round, way) in ["waiting", "polling"].into_iter().enumerate() {
        let (port, exe) = (7010 + round, format!("patience-{way}"));
        let addr = format!("127.0.0.1:{port}");
        let _server = Program::start(splicer(room, &exe, ["serve", way], &addr)?);
        room.wait_port("tcp", u16::try_from(port).unwrap());
        let made = room.create(&format!("--fastpath on url :0 tail url {addr}"));
        for _ in 0..2 {
            let client = connect(&room.ns(), made.addr()).unwrap();
            let _ = both_ways(&client, 1000);
            drop(client);
            room.wait_idle(&made.id);
        }
        assert!(is_spared(room, &exe), "{exe} was not found: {}", room.status());
    }
    Ok(())
}

/// Sends until the kernel stops it; gives how many bytes it took.
fn fill(mut stream: &TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let mut taken = 0;
    wait::poll("the sender to be stopped", SOON, || {
        let before = taken;
        while let Ok(len) = stream.write(endless(taken, 1 << 16)) {
            taken += len;
        }
        if taken == before && taken > 0 { Ok(()) } else { Err(format!("{taken} bytes")) }
    })
    .unwrap();
    stream.set_nonblocking(false).unwrap();
    taken
}

fn read(mut stream: &TcpStream, len: usize) {
    let mut all = vec![0; len];
    Again(&mut stream).read_exact(&mut all).unwrap();
    assert!(all.chunks(1 << 16).zip((0..).step_by(1 << 16)).all(|(chunk, at)| chunk == endless(at, chunk.len())));
}

#[test]
fn a_reader_that_does_not_read_is_left_alone() {
    let room = match room() {
        Ok(room) => room,
        Err(why) => skip!("{why}"),
    };
    let listener = listen(&room.ns(), &format!("127.0.0.1:{PORT}"));
    let made = create(&room, "");
    let talk = || {
        let client = connect(&room.ns(), made.addr()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (client, server)
    };
    // One is full, one has a few bytes before it, and one is asked for something now and then.
    let (full, few, more) = (talk(), talk(), talk());
    wait_until("the fast path", SOON, || {
        let view = room.view(&made.id);
        view["open"].as_array()?.iter().all(|open| open["path"] == "fastpath").then_some(())
    });
    let taken = fill(&full.0);
    (&few.0).write_all(endless(0, 10)).unwrap();
    // All the while this process has threads that compute, that call the kernel, and that splice elsewhere.
    let stop = AtomicBool::new(false);
    let mut asked = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                std::hint::spin_loop();
            }
        });
        scope.spawn(|| {
            let (_out, into) = rustix::pipe::pipe().unwrap();
            while !stop.load(Relaxed) {
                let zero = std::fs::File::open("/dev/null").unwrap();
                let _ = rustix::pipe::splice(&zero, None, &into, None, 1, rustix::pipe::SpliceFlags::NONBLOCK);
            }
        });
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !stop.load(Relaxed) {
                (&more.0).write_all(endless(asked, 10)).unwrap();
                asked += 10;
                thread::sleep(std::time::Duration::from_millis(300));
            }
            asked
        });
        let waited = longer_than_its_patience(&room);
        stop.store(true, Relaxed);
        asked = asking.join().unwrap();
        if let Err(why) = waited {
            skip::record(&why);
        }
    });
    read(&full.1, taken);
    read(&few.1, 10);
    read(&more.1, asked);
    let view = room.view(&made.id);
    assert_eq!((&view["connections"]["reset"], &view["fallbacks"]["spliced"]), (&0.into(), &Value::Null), "{view}");
}

#[test]
fn a_process_that_is_stopped_is_left_alone() {
    let room = match room() {
        Ok(room) => room,
        Err(why) => skip!("{why}"),
    };
    let Some(socat) = run::find("socat") else { skip!("no socat (package socat)") };
    let mut command = renamed(&room, &socat, "stopped");
    command.args(["-t0", &format!("TCP4-LISTEN:{PORT},bind=127.0.0.1,reuseaddr"), "PIPE"]);
    let server = serve(&room, command);
    let made = create(&room, "");
    let client = connect(&room.ns(), made.addr()).unwrap();
    both_ways(&client, 1000).unwrap();
    server.signal(Signal::STOP);
    let mut writer = &client;
    writer.write_all(endless(0, 100_000)).unwrap();
    let waited = longer_than_its_patience(&room);
    server.signal(Signal::CONT);
    read(&client, 100_000);
    if let Err(why) = waited {
        skip!("{why}");
    }
}
