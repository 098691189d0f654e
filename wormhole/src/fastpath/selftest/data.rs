//! Probes: bytes on their way.

use super::options::{memory, ready};
use super::rig::{Joined, Rig, expect, while_blocked};
use super::{STEP, Seen};
use crate::fastpath::Role;
use crate::model::Bytes;
use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::pipe::{PipeFlags, SpliceFlags};
use std::io::{self, Read, Write};
use std::sync::atomic::Ordering::Relaxed;

pub fn direct(rig: &Rig<'_>) -> io::Result<Seen> {
    let Joined { mut client, mut server, link, near: _near, far: _far } = rig.join()?;
    client.write_all(b"ping")?;
    expect(&mut server, b"ping")?;
    server.write_all(b"reply")?;
    expect(&mut client, b"reply")?;
    let counted = link.pair().direct();
    let passed = counted == Bytes { to_tail: 4, to_head: 5 };
    let miscounted = format!("4 and 5 bytes were sent, {} and {} counted as direct", counted.to_tail, counted.to_head);
    Ok(Seen::choose(passed, "bytes go from socket to socket, in both directions", miscounted))
}

/// Before the server is there, before the relay has caught up, and after.
pub fn order(rig: &Rig<'_>) -> io::Result<Seen> {
    let mut begun = rig.begin()?;
    begun.client.write_all(b"one ")?;
    let mut joined = rig.complete(begun)?;
    joined.client.write_all(b"two ")?;
    expect(&mut joined.near, b"one two ")?;
    rig.inject(&joined, b"one two ")?;
    joined.client.write_all(b"three")?;
    expect(&mut joined.server, b"one two three")?;
    let passed = joined.link.pair().direct().to_tail == 5;
    let late = "early bytes came first, but the later ones were not counted as direct";
    Ok(Seen::choose(passed, "early bytes come first, injected; later ones go direct", late))
}

/// Flow control looks at this charge.
pub fn charged(rig: &Rig<'_>) -> io::Result<Seen> {
    const SENT: usize = 64 << 10;
    let Joined { mut client, mut server, link, near: _near, far: _far } = rig.join()?;
    let (before, waited) = (memory(server.as_fd())?, link.waiting(Role::Server));
    client.write_all(&vec![b'x'; SENT])?;
    let charge = memory(server.as_fd())?.saturating_sub(before);
    let felt = link.waiting(Role::Server).saturating_sub(waited);
    server.read_exact(&mut vec![0; SENT])?;
    let left = memory(server.as_fd())?;
    let seen =
        format!("{SENT} bytes redirected: {charge} charged to the receiver, {felt} seen by wormholed, {left} left once read");
    let passed = charge >= SENT as u64 && felt >= SENT as u64 && left < SENT as u64;
    Ok(Seen::choose(passed, format!("{seen}; flow control works"), format!("{seen}; nothing would stop a sender")))
}

pub fn fionread_redirected(rig: &Rig<'_>) -> io::Result<Seen> {
    let Joined { mut client, server, link: _link, near: _near, far: _far } = rig.join()?;
    client.write_all(&[b'x'; 100])?;
    let says = rustix::io::ioctl_fionread(&server)?;
    let wrong = format!("FIONREAD says {says} of 100 redirected bytes: those who ask it may wait for ever");
    Ok(Seen::choose(says == 100, "FIONREAD is right for redirected bytes", wrong))
}

/// What comes by TCP to an enrolled socket, as it does when the relay does not inject.
pub fn fionread_normal(rig: &Rig<'_>) -> io::Result<Seen> {
    let Joined { mut far, server, link: _link, client: _client, near: _near } = rig.join()?;
    far.write_all(&[b'x'; 100])?;
    if !ready(server.as_fd(), STEP)? {
        return Err(Errno::TIMEDOUT.into());
    }
    let says = rustix::io::ioctl_fionread(&server)?;
    rig.fastpath.counts_tcp.store(says == 100, Relaxed);
    let wrong = format!(
        "FIONREAD says {says} of 100 bytes that came by TCP to an enrolled socket: wormholed injects whatever it can, and a server \
         for which it cannot (TCP_DEFER_ACCEPT) is relayed"
    );
    Ok(Seen::choose(says == 100, "FIONREAD is right for bytes that came by TCP", wrong))
}

/// The one who uses splice(2) is this process: what is noted about it is taken back.
pub fn splice(rig: &Rig<'_>) -> io::Result<Seen> {
    let Joined { mut client, server, link, near: _near, far: _far } = rig.join()?;
    let me = std::env::current_exe().ok();
    let me = me.as_deref().and_then(std::path::Path::file_name).unwrap_or_default().to_string_lossy();
    client.write_all(b"spliced")?;
    server.set_nonblocking(true)?;
    let (from_pipe, to_pipe) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let moved = rustix::pipe::splice(&server, None, &to_pipe, None, 100, SpliceFlags::NONBLOCK);
    drop(from_pipe);
    let noticed = link.pair().spliced() == Some(Role::Server);
    let told = rig.fastpath.early_splices().iter().any(|exe| me.starts_with(exe.as_str()));
    // Nothing was kept off before the self-test.
    rig.fastpath.unspare(&me);
    rig.fastpath.tells.store(noticed && told, Relaxed);
    let detail = match (moved, noticed && told, rig.fastpath.blind()) {
        (Ok(7), ..) => return Ok(Seen { passed: true, detail: "splice(2) sees redirected bytes".to_owned() }),
        (_, true, _) => "splice(2) does not see redirected bytes; who uses it is noticed, its bytes go by TCP, and auto spares \
                         the executable from then on"
            .to_owned(),
        (_, false, Some(why)) => {
            format!(
                "splice(2) does not see redirected bytes, and the kernel does not tell who uses it ({why}): the watchdog finds who \
                 waits in it or polls; keep Go programs that use it in --fastpath-except"
            )
        }
        (_, false, None) => {
            "splice(2) does not see redirected bytes, and the kernel did not tell who used it: the watchdog finds who waits in \
             it or polls; keep Go programs that use it in --fastpath-except"
                .to_owned()
        }
    };
    Ok(Seen { passed: false, detail })
}

pub fn waitall(rig: &Rig<'_>) -> io::Result<Seen> {
    let Joined { mut client, server, link: _link, near: _near, far: _far } = rig.join()?;
    client.write_all(&[b'x'; 500])?;
    let got = while_blocked(
        || rustix::net::recv(&server, &mut [0u8; 1000][..], RecvFlags::WAITALL).map(|(_, count)| count),
        |blocked| match blocked.early {
            Some(got) => Ok(got?),
            None => {
                client.write_all(&[b'x'; 500])?;
                Ok(blocked.later.recv_timeout(STEP).map_err(|_| Errno::TIMEDOUT)??)
            }
        },
    )?;
    let short = format!("MSG_WAITALL returns {got} of 1000 bytes: who relies on it needs --fastpath off");
    Ok(Seen::choose(got == 1000, "MSG_WAITALL waits for all", short))
}

pub fn oob(rig: &Rig<'_>) -> io::Result<Seen> {
    let Joined { client, mut server, link: _link, near: _near, far: _far } = rig.join()?;
    rustix::net::send(&client, b"a", SendFlags::NOSIGNAL)?;
    rustix::net::send(&client, b"!", SendFlags::OOB | SendFlags::NOSIGNAL)?;
    rustix::net::send(&client, b"b", SendFlags::NOSIGNAL)?;
    let mut got = [0; 8];
    server.set_nonblocking(true)?;
    let count = server.read(&mut got)?;
    let in_band = got.get(..count).is_some_and(|got| got.contains(&b'!'));
    let means = "an urgent byte (MSG_OOB) arrives in band, among the others: who relies on it needs --fastpath off";
    Ok(Seen::choose(!in_band, "an urgent byte (MSG_OOB) is kept apart", means))
}
