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

/// Long enough for a wake-up that comes with the acknowledgement of a FIN.
const WAKE_UP: Duration = Duration::from_millis(50);

/// A program with a thread for each direction, after redirected bytes have come in; and before, where the socket can still
/// leave the map.
pub fn recv_shutdown(rig: &Rig<'_>) -> io::Result<Seen> {
    let (used, fresh) = (survives(rig, true)?, survives(rig, false)?);
    let seen = match (used, fresh) {
        (true, true) => "a recv(2) goes on when another thread calls shutdown(2)",
        (false, true) => {
            "a blocking recv(2) ends with EAGAIN when another thread calls shutdown(2) after redirected bytes have come; \
             where none have come yet it goes on"
        }
        (_, false) => "a blocking recv(2) ends with EAGAIN when another thread calls shutdown(2)",
    };
    Ok(Seen::choose(used && fresh, seen, format!("{seen}: programs with a thread for each direction need --fastpath off")))
}

fn survives(rig: &Rig<'_>, used: bool) -> io::Result<bool> {
    let Joined { mut client, mut near, far: _far, mut server, link: _link } = rig.join()?;
    if used {
        server.write_all(b"hello")?;
        expect(&mut client, b"hello")?;
    }
    while_blocked(
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
            // From socket to socket, or as the relay would.
            let answer = if used { &mut server } else { &mut near };
            answer.write_all(b"answer")?;
            Ok(blocked.later.recv_timeout(STEP).map_err(|_| Errno::TIMEDOUT)? == Ok(6))
        },
    )
}
