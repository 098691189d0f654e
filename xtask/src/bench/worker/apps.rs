//! A point-select loop that speaks just enough of the MariaDB protocol, so that no client library is in the measurement.

use super::{Report, report};
use crate::bench::net::Endpoint;
use anyhow::{Context, Result, bail};
use socket2::Socket;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// CLIENT_LONG_PASSWORD | CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION | CLIENT_PLUGIN_AUTH.
const CAPABILITIES: u32 = 1 | 0x200 | 0x8000 | 0x8_0000;
const COM_QUERY: u8 = 3;
/// Rows in the table that [`selects`] makes.
const ROWS: u64 = 1000;

/// Connects as root without a password, makes a small table and reads one row by its key, again and again.
pub fn selects(to: &Endpoint, seconds: f64) -> Result<Report> {
    let mut socket = to.connect()?;
    login(&mut socket).context("log in")?;
    query(&mut socket, "create database if not exists bench")?;
    query(&mut socket, "create or replace table bench.t (id int primary key, v varchar(100)) engine=memory")?;
    let rows: Vec<String> = (0..ROWS).map(|id| format!("({id}, repeat('x', 100))")).collect();
    query(&mut socket, &format!("insert into bench.t values {}", rows.join(",")))?;
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(seconds);
    let mut count = 0_u64;
    while Instant::now() < end {
        let id = count.wrapping_mul(7919) % ROWS;
        let rows = query(&mut socket, &format!("select v from bench.t where id={id}"))?;
        if rows != 1 {
            bail!("the select of id {id} gave {rows} rows");
        }
        count += 1;
    }
    Ok(report([("per_s", count as f64 / start.elapsed().as_secs_f64())]))
}

fn read_packet(socket: &mut Socket) -> Result<(u8, Vec<u8>)> {
    let mut header = [0; 4];
    socket.read_exact(&mut header)?;
    let [a, b, c, number] = header;
    let mut body = vec![0; u32::from_le_bytes([a, b, c, 0]) as usize];
    socket.read_exact(&mut body)?;
    if body.first() == Some(&0xff) {
        bail!("the server says: {}", String::from_utf8_lossy(body.get(3..).unwrap_or_default()));
    }
    Ok((number, body))
}

fn write_packet(socket: &mut Socket, number: u8, body: &[u8]) -> Result<()> {
    let [a, b, c, _] = (body.len() as u32).to_le_bytes();
    let mut packet = vec![a, b, c, number];
    packet.extend_from_slice(body);
    Ok(socket.write_all(&packet)?)
}

fn login(socket: &mut Socket) -> Result<()> {
    read_packet(socket)?;
    let mut body = CAPABILITIES.to_le_bytes().to_vec();
    body.extend_from_slice(&(1_u32 << 24).to_le_bytes());
    // Character set utf8, 23 reserved bytes, user, an empty password, the plugin's name.
    body.push(33);
    body.extend_from_slice(&[0; 23]);
    body.extend_from_slice(b"root\0\0mysql_native_password\0");
    write_packet(socket, 1, &body)?;
    loop {
        let (number, body) = read_packet(socket)?;
        match body.first() {
            Some(0) => return Ok(()),
            // Another plugin is asked for: still no password.
            Some(0xfe) => write_packet(socket, number + 1, &[])?,
            other => bail!("unexpected packet {other:?} while logging in"),
        }
    }
}

/// Sends one query and reads its whole answer; how many rows it had.
fn query(socket: &mut Socket, text: &str) -> Result<u64> {
    let mut body = vec![COM_QUERY];
    body.extend_from_slice(text.as_bytes());
    write_packet(socket, 0, &body)?;
    let (_, first) = read_packet(socket)?;
    if first.first() == Some(&0) {
        return Ok(0);
    }
    let mut packets = [0_u64; 2];
    for section in &mut packets {
        loop {
            let (_, body) = read_packet(socket)?;
            if is_end(&body) {
                break;
            }
            *section += 1;
        }
    }
    let [_columns, rows] = packets;
    Ok(rows)
}

/// An EOF packet ends the columns and the rows.
fn is_end(body: &[u8]) -> bool {
    body.first() == Some(&0xfe) && body.len() < 9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_as_written() -> Result<()> {
        let (mut a, mut b) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        write_packet(&mut a, 3, b"hello")?;
        assert_eq!(read_packet(&mut b)?, (3, b"hello".to_vec()));
        write_packet(&mut a, 0, b"\xff\x01\x02#no")?;
        assert!(read_packet(&mut b).is_err());
        assert!(is_end(&[0xfe, 0, 0, 2, 0]) && !is_end(&[1]));
        Ok(())
    }
}
