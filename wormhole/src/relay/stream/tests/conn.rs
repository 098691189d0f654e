//! A connection's state machine by itself, in the moments that are too short to be met from outside.

use super::super::conn::{Conn, Side, Step};
use super::super::pump::Tools;
use super::*;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

/// A client, a server, and the connection between them that nobody drives.
fn between(connected: bool, buffer: usize) -> (TcpStream, Conn, TcpStream) {
    let (client, head) = pair(buffer);
    let (served, tail) = pair(buffer);
    let route = Route::new("test".to_owned(), RelayOptions::default());
    route.counters.open.fetch_add(1, Relaxed);
    let mut conn = Conn::new(route, head, Err(crate::fastpath::Why::Off), 1, false, Instant::now());
    conn.set_tail(tail.into(), connected, false);
    (client, conn, served)
}

/// A stream of somebody's, and the relay's end of it.
fn pair(buffer: usize) -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).set_recv_buffer_size(buffer).unwrap();
    let theirs = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    theirs.set_recv_buffer_size(buffer).unwrap();
    theirs.connect(&listener.local_addr().unwrap().into()).unwrap();
    let theirs = TcpStream::from(theirs);
    patient(&theirs);
    let ours = accept(&listener);
    SockRef::from(&ours).set_send_buffer_size(buffer).unwrap();
    ours.set_nonblocking(true).unwrap();
    prepare_tcp(ours.as_fd(), &RelayOptions::default()).unwrap();
    (theirs, ours.into())
}

const RESET: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::HUP).union(EventFlags::ERR);

#[test]
fn a_tail_that_answered_and_was_gone_before_it_was_looked_at() {
    let mut tools = Tools::new(4);
    for said in [b"too many connections".as_slice(), b""] {
        let (mut client, mut conn, mut served) = between(false, 100_000);
        served.write_all(said).unwrap();
        reset(served);
        let step = conn.event(Side::Tail, RESET, &mut tools);
        assert_eq!(step, Step::Reset(Side::Tail, Errno::CONNRESET));
        conn.close(&mut tools.pipes);
        expect(&mut client, said);
        expect_reset(&mut client);
    }
}

#[test]
fn what_came_before_an_error_that_a_write_came_across() {
    let mut tools = Tools::new(4);
    let (mut client, mut conn, mut served) = between(true, 100_000);
    client.write_all(b"one more question").unwrap();
    served.write_all(b"goodbye").unwrap();
    reset(served);
    // Epoll has told of the question and not yet of the answer.
    let step = conn.event(Side::Head, EventFlags::IN | EventFlags::OUT, &mut tools);
    assert_eq!(step, Step::Reset(Side::Tail, Errno::CONNRESET));
    conn.close(&mut tools.pipes);
    expect(&mut client, b"goodbye");
    expect_reset(&mut client);

    let (mut client, mut conn, mut served) = between(true, 100_000);
    assert_eq!(conn.advance(&mut tools), Step::Wait);
    served.write_all(b"one more answer").unwrap();
    client.write_all(b"goodbye").unwrap();
    reset(client);
    let step = conn.event(Side::Tail, EventFlags::IN | EventFlags::OUT, &mut tools);
    assert_eq!(step, Step::Reset(Side::Head, Errno::CONNRESET));
    conn.close(&mut tools.pipes);
    expect(&mut served, b"goodbye");
    expect_reset(&mut served);
}

#[test]
fn more_than_a_turn_before_a_reset() {
    const SENT: usize = 1_500_000;
    let mut tools = Tools::new(4);
    let (mut client, mut conn, mut served) = between(true, 8 << 20);
    if SockRef::from(&conn.head()).recv_buffer_size().unwrap() < 4 * SENT {
        eprintln!("not tested: net.core.rmem_max does not allow a receive buffer for more than a turn");
        return;
    }
    let sent = Random(3).bytes(SENT);
    client.write_all(&sent).unwrap();
    let head = conn.head().try_clone_to_owned().unwrap();
    until("all is there", || rustix::io::ioctl_fionread(&head).unwrap() == SENT as u64);
    drop(head);
    reset(client);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut got = Vec::new();
            let error = served.read_to_end(&mut got).expect_err("a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            got
        });
        let mut step = conn.event(Side::Head, RESET, &mut tools);
        assert_eq!(step, Step::Again);
        while step == Step::Again {
            step = conn.advance(&mut tools);
        }
        assert!(matches!(step, Step::Reset(Side::Head, _)), "{step:?}");
        assert_eq!(conn.route.counters.relayed().to_tail, SENT as u64);
        conn.close(&mut tools.pipes);
        assert!(sent.starts_with(&reader.join().unwrap()));
    });
}
