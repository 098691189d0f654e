//! Which sockets listen at an address, from the kernel's tables of a namespace.

use crate::netns::Namespace;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The tables; "thread-self" because a thread may be in another namespace than its process.
const TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];

/// `TCP_LISTEN` as the tables show it.
const LISTEN: u8 = 0x0a;

/// One line of a table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    local: SocketAddr,
    state: u8,
    inode: u64,
}

/// The inodes of the sockets in `namespace` that would take a connection to one of `addrs`. Where several could (one on
/// any address, one on this one, several by SO_REUSEPORT), all of them.
///
/// # Errors
/// The namespace cannot be entered, or has no tables.
pub fn listening(namespace: &Namespace, addrs: &[SocketAddr]) -> io::Result<BTreeSet<u64>> {
    // A table is the one of the namespace that it was opened in.
    let tables = namespace.enter(|| TABLES.map(File::open)).map_err(io::Error::other)?;
    let mut found = BTreeSet::new();
    for table in tables {
        match table {
            Ok(table) => find(BufReader::new(table), addrs, &mut found)?,
            // Without IPv6 there is one table.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Reads one table. The kernel shows what listens first, and the rest, which may be long, is not read.
fn find(table: impl BufRead, addrs: &[SocketAddr], found: &mut BTreeSet<u64>) -> io::Result<()> {
    for line in table.lines().skip(1) {
        let Some(row) = row(&line?) else { continue };
        if row.state != LISTEN {
            break;
        }
        if addrs.iter().any(|addr| takes(row.local, *addr)) {
            found.insert(row.inode);
        }
    }
    Ok(())
}

/// True when a listener at `own` takes what goes to `addr`. That one on any IPv6 address may be for IPv6 only is not in
/// the table.
fn takes(own: SocketAddr, addr: SocketAddr) -> bool {
    let (ip, to) = (own.ip().to_canonical(), addr.ip().to_canonical());
    let any = ip.is_unspecified() && (ip.is_ipv6() || to.is_ipv4());
    own.port() == addr.port() && (ip == to || any || to.is_unspecified())
}

fn row(line: &str) -> Option<Row> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let local = address(words.next()?)?;
    let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
    // Queues, timer, retransmissions, user, timeout.
    let inode = words.nth(5)?.parse().ok()?;
    Some(Row { local, state, inode })
}

/// `0100007F:1F90`: the address as words of the machine's byte order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let mut octets = Vec::with_capacity(16);
    for word in ip.as_bytes().chunks(8) {
        let word = std::str::from_utf8(word).ok().filter(|word| word.len() == 8)?;
        octets.extend(u32::from_str_radix(word, 16).ok()?.to_ne_bytes());
    }
    let ip = match *octets.as_slice() {
        [a, b, c, d] => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        ref all => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(all).ok()?)),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// True when none of `addrs` belongs to the namespace: whoever answers there is elsewhere.
pub fn elsewhere(namespace: &Namespace, addrs: &[SocketAddr]) -> bool {
    addrs.iter().all(|addr| {
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let Ok(probe) = namespace.socket(family, SocketType::STREAM, None) else { return false };
        let own = SocketAddr::new(addr.ip(), 0);
        rustix::net::bind(&probe, &own) == Err(Errno::ADDRNOTAVAIL)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;

    // As a little-endian machine shows them.
    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 000000000edb76a2 100 0 0 10 0
   1: 00000000:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000  1000        0 12 1 0000000000000000 100 0 0 10 0
   2: 0200000A:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1 0000000000000000 100 0 0 10 0
   3: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 14 1 0000000000000000 100 0 0 10 0
   4: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 15 1 0000000000000000 100 0 0 10 0
   5: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 02:000003E8 00000000     0        0 16 2 0000000000000000 20 4 30 10 -1
   6: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 17 1 0000000000000000 100 0 0 10 0
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 21 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22 1 0000000000000000 100 0 0 10 0
   2: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 23 1 0000000000000000 100 0 0 10 0
";

    fn inodes(table: &str, addr: &str) -> Vec<u64> {
        let mut found = BTreeSet::new();
        find(table.as_bytes(), &[addr.parse().unwrap()], &mut found).unwrap();
        found.into_iter().collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn listeners_are_found_by_what_they_take() {
        // Itself, the one on any address, and the second one of SO_REUSEPORT; nothing behind the first that is open.
        assert_eq!(inodes(TCP, "127.0.0.1:8080"), [11, 12, 14]);
        assert_eq!(inodes(TCP, "10.0.0.2:8080"), [12, 13]);
        assert_eq!(inodes(TCP, "127.0.0.1:8081"), [15]);
        assert_eq!(inodes(TCP, "127.0.0.1:8082"), [0; 0]);
        assert_eq!(inodes(TCP, "[::1]:8080"), [0; 0]);
        assert_eq!(inodes(TCP, "[::ffff:127.0.0.1]:8081"), [15]);
        assert_eq!(inodes(TCP6, "[::1]:8080"), [21, 22]);
        assert_eq!(inodes(TCP6, "127.0.0.1:8080"), [21, 23]);
        assert_eq!(inodes(TCP6, "[fd00::1]:8080"), [21]);
    }

    #[test]
    fn a_line_that_is_none_is_passed_over() {
        let torn = TCP.replace("0100007F:1F90 00000000:0000 0A", "0100007F:1F90 0000");
        assert_eq!(inodes(&torn, "127.0.0.1:8081"), inodes(TCP, "127.0.0.1:8081"));
        assert_eq!(inodes("", "127.0.0.1:8080"), [0; 0]);
    }

    #[test]
    fn the_kernels_own_tables() {
        let (v4, v6) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::]:0").ok());
        let own = Namespace::own().unwrap();
        for listener in [Some(v4), v6].into_iter().flatten() {
            let addr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.local_addr().unwrap().port());
            assert_eq!(listening(&own, &[addr]).unwrap().len(), 1, "{addr}");
            assert!(!elsewhere(&own, &[addr]));
            drop(listener);
            assert!(listening(&own, &[addr]).unwrap().is_empty(), "{addr}");
        }
        // An address that documents use belongs to nobody.
        assert!(elsewhere(&own, &["192.0.2.1:80".parse().unwrap()]));
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in "\\PC*", words in proptest::collection::vec("[0-9A-F:]{0,40}", 0..14)) {
            let _ = (row(&text), row(&words.join(" ")), address(&text));
        }

        #[test]
        fn every_address_is_read_back(v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), port in any::<u16>()) {
            let words = |octets: &[u8]| -> String {
                octets.as_chunks::<4>().0.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect()
            };
            prop_assert_eq!(address(&format!("{}:{port:04X}", words(&v4))), Some(SocketAddr::new(v4.into(), port)));
            prop_assert_eq!(address(&format!("{}:{port:04X}", words(&v6))), Some(SocketAddr::new(v6.into(), port)));
        }
    }
}
