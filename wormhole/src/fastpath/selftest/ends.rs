//! Probes: connections end.

use super::rig::{Joined, Rig, expect, until, while_blocked};
use super::{STEP, Seen};
use crate::fastpath::Role;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::SockRef;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

pub fn eof(rig: &Rig<'_>) -> io::Result<Seen> {
    let Joined { mut client, mut near, far, mut server, link: _link } = rig.join()?;
    client.write_all(b"last words")?;
    client.shutdown(Shutdown::Write)?;
    let direct = near.read(&mut [0])? == 0;
    // As the relay does once it has seen the end.
    far.shutdown(Shutdown::Write)?;
    expect(&mut server, b"last words")?;
    let ended = server.read(&mut [0])? == 0;
    Ok(Seen::choose(direct && ended, "the end comes after the bytes", "the end did not come, or not after the bytes"))
}

/// The server closes; the client sends, first while the relay does not know, then after it has passed that on.
pub fn peer_gone(rig: &Rig<'_>) -> io::Result<Seen> {
    let Joined { mut client, mut near, far: _far, server, link: _link } = rig.join()?;
    drop(server);
    if let Err(error) = client.write_all(b"anybody?") {
        let detail = format!("a send to a server that has closed fails with {error}, before TCP could know");
        return Ok(Seen { passed: false, detail });
    }
    expect(&mut near, b"anybody?")?;
    SockRef::from(&near).set_linger(Some(Duration::ZERO))?;
    drop(near);
    let error = client.write_all(b"anybody?").err();
    let as_tcp = error.as_ref().is_some_and(|e| matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset));
    let said = error.map_or("success".to_owned(), |error| error.to_string());
    let yes = format!("a send after the server has closed goes by TCP and then fails as it should: {said}");
    Ok(Seen::choose(as_tcp, yes, format!("a send after the connection was reset ends with {said}")))
}

pub fn unread(rig: &Rig<'_>) -> io::Result<Seen> {
    let Joined { mut client, near: _near, far: _far, server, link } = rig.join()?;
    client.write_all(b"never read")?;
    let early = link.left_unread(Role::Server);
    drop(server);
    let noticed = !early && until(|| link.left_unread(Role::Server));
    let yes = "a close with redirected bytes unread is noticed, and becomes a reset";
    Ok(Seen::choose(noticed, yes, "a close with redirected bytes unread is not noticed: the sender sees a clean end"))
}

/// Long enough for a wake-up that comes with the acknowledgement of a FIN, be it a delayed one.
const WAKE_UP: Duration = Duration::from_millis(60);

/// A program with a thread for each direction.
pub fn recv_shutdown(rig: &Rig<'_>) -> io::Result<Seen> {
    let Joined { client, mut near, far: _far, server: _server, link: _link } = rig.join()?;
    let survives = while_blocked(
        || rustix::net::recv(&client, &mut [0u8; 8][..], RecvFlags::empty()).map(|(_, count)| count),
        |blocked| {
            if let Some(early) = blocked.early {
                return Err(io::Error::other(format!("recv(2) did not wait: {early:?}")));
            }
            client.shutdown(Shutdown::Write)?;
            match blocked.later.recv_timeout(WAKE_UP) {
                Ok(Err(Errno::AGAIN)) => return Ok(false),
                Ok(other) => return Err(io::Error::other(format!("recv(2) ended with {other:?}"))),
                Err(_) => {}
            }
            // As the relay would: the socket leaves the map, for nothing had come when it was shut.
            near.write_all(b"answer")?;
            Ok(blocked.later.recv_timeout(STEP).map_err(|_| Errno::TIMEDOUT)? == Ok(6))
        },
    )?;
    let yes = "a recv(2) goes on when another thread calls shutdown(2)";
    let no = "a blocking recv(2) ends with EAGAIN when another thread calls shutdown(2): programs with a blocking thread for \
              each direction need --fastpath off";
    Ok(Seen::choose(survives, yes, no))
}

/// A program that ends its direction and waits for the answer, after redirected bytes have come. While the socket is in the
/// map that wait may end with EAGAIN, depending on when the FIN is acknowledged; so it has to leave.
pub fn recv_after_shutdown(rig: &Rig<'_>) -> io::Result<Seen> {
    let Joined { mut client, mut near, mut far, mut server, link } = rig.join()?;
    server.write_all(b"hello")?;
    expect(&mut client, b"hello")?;
    client.shutdown(Shutdown::Write)?;
    let direct = link.pair().direct();
    server.write_all(b"answer")?;
    let left = link.pair().direct() == direct;
    if left {
        // By TCP, and on as the relay would.
        expect(&mut far, b"answer")?;
        near.write_all(b"answer")?;
    }
    expect(&mut client, b"answer")?;
    let why = rig.fastpath.blind().map(|why| format!(" ({why})")).unwrap_or_default();
    let no = format!(
        "a socket to which redirected bytes came cannot leave the fast path at shutdown(2){why}: a blocking recv(2) that waits \
         for the answer then may end with EAGAIN"
    );
    Ok(Seen::choose(left, "a recv(2) after shutdown(2) waits for the answer: the socket has left the fast path", no))
}
