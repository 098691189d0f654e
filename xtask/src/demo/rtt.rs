//! The small table at the end: the same question, asked directly and through wormhole.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use wormhole_tests::run;

/// Rounds that alternate between the ways, so that whatever else this machine does meets both.
const ROUNDS: usize = 5;

/// Longer than any server takes that is alive.
const PATIENCE: Duration = Duration::from_secs(10);

/// One end of a comparison.
pub struct Way {
    name: &'static str,
    /// A file that stands for a network namespace.
    netns: String,
}

/// What the server understands.
#[derive(Clone, Copy, ValueEnum)]
pub enum Speaks {
    /// `SELECT 1`
    Mysql,
    /// `PING`
    Redis,
}

/// Asks 127.0.0.1 in the namespace that this process is in; prints nanoseconds, one line per answer.
#[derive(clap::Args)]
pub struct Ping {
    #[arg(long)]
    speaks: Speaks,
    #[arg(long)]
    port: u16,
    #[arg(long, default_value_t = 1000)]
    count: usize,
}

/// Asks in the namespaces of `ways`, and puts the times side by side.
pub fn compare(ways: &[Way], speaks: Speaks, port: u16) -> Result<String> {
    let mut times: Vec<Vec<u64>> = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (way, times) in ways.iter().zip(&mut times) {
            times.extend(way.ask(speaks, port)?);
        }
    }
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["µs from the question to the answer", "half of them in", "99 of 100 in"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (way, times) in ways.iter().zip(&mut times) {
        times.sort_unstable();
        let micros = |percent| format!("{:.0}", percentile(times, percent) as f64 / 1000.0);
        table.add_row([way.name.to_owned(), micros(50), micros(99)]);
    }
    let lines = table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned());
    Ok(lines.chain(["A glance; `cargo xtask bench` measures.".to_owned()]).collect::<Vec<_>>().join("\n"))
}

/// `times` is sorted.
fn percentile(times: &[u64], percent: usize) -> u64 {
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

impl Way {
    /// From inside the namespace behind this file.
    pub fn new(name: &'static str, netns: String) -> Self {
        Self { name, netns }
    }

    fn ask(&self, speaks: Speaks, port: u16) -> Result<Vec<u64>> {
        let me = std::env::current_exe().context("finding the path of xtask itself")?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns)).arg("--").arg(me).args(["demo-stage", "ping", "--speaks"]);
        command.arg(speaks.to_possible_value().context("no name")?.get_name()).args(["--port", &port.to_string()]);
        let text = run::text(&mut command)?;
        text.lines().map(|line| line.parse().with_context(|| format!("`{line}` is no time"))).collect()
    }
}

/// The hidden part that runs in each namespace.
pub fn ask(ping: &Ping) -> Result<()> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ping.port)).context("connecting")?;
    stream.set_nodelay(true).context("setting TCP_NODELAY")?;
    stream.set_read_timeout(Some(PATIENCE)).context("setting a timeout")?;
    let mut talk: Box<dyn Talk> = match ping.speaks {
        Speaks::Mysql => Box::new(Mysql::log_in(stream)?),
        Speaks::Redis => Box::new(Redis(stream)),
    };
    for _ in 0..ping.count / 10 {
        talk.exchange()?;
    }
    let mut out = String::new();
    for _ in 0..ping.count {
        let began = Instant::now();
        talk.exchange()?;
        out.push_str(&format!("{}\n", began.elapsed().as_nanos()));
    }
    std::io::stdout().write_all(out.as_bytes()).context("writing the times")
}

/// One question and its whole answer.
trait Talk {
    fn exchange(&mut self) -> Result<()>;
}

struct Redis(TcpStream);

impl Talk for Redis {
    fn exchange(&mut self) -> Result<()> {
        self.0.write_all(b"*1\r\n$4\r\nPING\r\n").context("asking")?;
        let mut answer = [0; 7];
        self.0.read_exact(&mut answer).context("reading the answer")?;
        if &answer != b"+PONG\r\n" {
            bail!("the server answered {}", answer.escape_ascii());
        }
        Ok(())
    }
}

/// As much of MySQL's protocol as `SELECT 1` needs: packets of a length (3 bytes), a number (1 byte) and a body.
struct Mysql {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Mysql {
    /// As root, who has no password.
    fn log_in(stream: TcpStream) -> Result<Self> {
        let mut mysql = Self { stream, unread: Vec::new() };
        mysql.packet().context("the server's greeting")?;
        // Protocol 4.1, transactions, secure connection, a plugin by name; largest packet; utf8mb4; 23 zeroes; a name
        // that ends with a zero; a password of no bytes; the plugin.
        let mut body = Vec::from(0x0008_a200_u32.to_le_bytes());
        body.extend(0x0100_0000_u32.to_le_bytes());
        body.push(45);
        body.extend([0; 23]);
        body.extend(b"root\0\0mysql_native_password\0");
        mysql.send(1, &body)?;
        let answer = mysql.packet().context("the answer to our name")?;
        if answer.first() != Some(&0) {
            bail!("the server does not let root in: {}", answer.escape_ascii());
        }
        Ok(mysql)
    }

    fn send(&mut self, number: u8, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len()).context("too long a packet")?.to_le_bytes();
        let mut packet = vec![length[0], length[1], length[2], number];
        packet.extend(body);
        self.stream.write_all(&packet).context("sending to the server")
    }

    /// The body of the next packet.
    fn packet(&mut self) -> Result<Vec<u8>> {
        loop {
            if let &[a, b, c, _number, ref rest @ ..] = self.unread.as_slice() {
                let length = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
                if let Some(body) = rest.get(..length) {
                    let body = body.to_vec();
                    self.unread.drain(..4 + length);
                    return Ok(body);
                }
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).context("reading from the server")?;
            if count == 0 {
                bail!("the server closed the connection");
            }
            self.unread.extend(buffer.iter().take(count));
        }
    }
}

impl Talk for Mysql {
    /// The number of columns, their descriptions, an end, the rows, an end.
    fn exchange(&mut self) -> Result<()> {
        self.send(0, b"\x03SELECT 1")?;
        let mut ends = 0;
        while ends < 2 {
            let packet = self.packet()?;
            match packet.first() {
                Some(0xff) => bail!("the server answered {}", packet.escape_ascii()),
                Some(0xfe) if packet.len() < 9 => ends += 1,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let times: Vec<u64> = (0..100).collect();
        assert_eq!((percentile(&times, 50), percentile(&times, 99), percentile(&[], 50)), (50, 99, 0));
    }

    #[test]
    fn packets_arrive_in_pieces() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut mysql = Mysql { stream, unread: Vec::new() };
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"\x03\0\0\0abc\x01\0").unwrap();
        assert_eq!(mysql.packet().unwrap(), b"abc");
        server.write_all(b"\0\x01d").unwrap();
        assert_eq!(mysql.packet().unwrap(), b"d");
        drop(server);
        assert!(mysql.packet().is_err());
    }
}
