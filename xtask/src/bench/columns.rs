//! The columns: what is measured, in which unit, and which way is better.

use anyhow::{Result, bail};

/// One measurement; it fills one or more columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Round trips of one byte, everything on one cpu.
    RttOneCpu,
    /// Round trips of one byte, server and client on different cpus, the proxy where the scheduler puts it.
    RttTwoCpus,
    /// A stream written in blocks of so many bytes.
    Stream(u32),
    /// The same to a server that spoke first, server and client on different cpus.
    Sized(u32),
    /// The same, everything on one cpu.
    SizedOneCpu(u32),
    /// 64 KiB writes that begin directly after connect().
    Early,
    /// Connections per second from so many clients.
    Connects(u32),
    /// The answer after a half-close.
    HalfClose,
    /// Resets.
    Reset,
    /// Randomised connections.
    Integrity,
    /// Memory of so many idle connections.
    Idle(u32),
    /// Sequential connections that fail.
    Sequential,
    /// What a sender gets rid of in front of a reader that does not read.
    Stall,
    /// redis-benchmark with so many clients.
    Redis(u32),
    /// Point selects.
    Selects,
}

impl Measure {
    /// Measured in every round; the others say something that one run decides.
    pub fn repeats(self) -> bool {
        use Measure::*;
        matches!(self, RttOneCpu | RttTwoCpus | Stream(_) | Sized(_) | SizedOneCpu(_) | Early | Connects(_) | Redis(_) | Selects)
    }
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Show {
    /// With so many decimals.
    Number(usize),
    /// All of the tries (1.0), none (0.0), or some.
    Words(&'static str, &'static str, &'static str),
}

/// One column of peers.md; a row of the table, where the variants stand side by side.
#[derive(Debug)]
pub struct Column {
    /// Name on the command line and in the files.
    pub id: &'static str,
    /// Also a name on the command line.
    pub group: &'static str,
    /// Title in the table.
    pub title: &'static str,
    /// Unit of the value.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// How it is written.
    pub show: Show,
    /// What fills it.
    pub measure: Measure,
}

/// Only measured when asked for.
pub const APPS: &str = "apps";

macro_rules! columns {
    ($($id:literal $group:literal $title:literal $unit:literal $better:ident $show:expr, $measure:expr;)*) => {
        &[$(Column { id: $id, group: $group, title: $title, unit: $unit, better: Better::$better, show: $show, measure: $measure }),*]
    };
}

use Measure::{
    Connects, Early, HalfClose, Idle, Integrity, Redis, Reset, RttOneCpu, RttTwoCpus, Selects, Sequential, Sized, SizedOneCpu,
    Stall, Stream,
};
use Show::{Number, Words};

/// The columns of `--suite relay`.
#[rustfmt::skip]
pub static RELAY: &[Column] = columns! {
    "rtt1"       "rtt"     "round trip p50, one cpu"          "µs"      Lower  Number(1), RttOneCpu;
    "rtt1_p99"   "rtt"     "round trip p99, one cpu"          "µs"      Lower  Number(1), RttOneCpu;
    "rtt1_p999"  "rtt"     "round trip p99.9, one cpu"        "µs"      Lower  Number(1), RttOneCpu;
    "rtt2"       "rtt"     "round trip p50, two cpus"         "µs"      Lower  Number(1), RttTwoCpus;
    "rtt2_p99"   "rtt"     "round trip p99, two cpus"         "µs"      Lower  Number(1), RttTwoCpus;
    "rtt2_p999"  "rtt"     "round trip p99.9, two cpus"       "µs"      Lower  Number(1), RttTwoCpus;
    "stream64k"  "stream"  "stream, 64 KiB writes"            "GB/s"    Higher Number(2), Stream(65_536);
    "cpu64k"     "stream"  "CPU, 64 KiB writes"               "s/GB"    Lower  Number(2), Stream(65_536);
    "stream4k"   "stream"  "stream, 4 KiB writes"             "GB/s"    Higher Number(2), Stream(4096);
    "cpu4k"      "stream"  "CPU, 4 KiB writes"                "s/GB"    Lower  Number(2), Stream(4096);
    "conn1"      "conn"    "connections, 1 client"            "1/s"     Higher Number(0), Connects(1);
    "conn16"     "conn"    "connections, 16 clients"          "1/s"     Higher Number(0), Connects(16);
    "halfclose"  "ends"    "answer after half-close"          ""        Higher Words("arrives", "LOST", "some"), HalfClose;
    "reset"      "ends"    "server's reset reaches client"    ""        Higher Words("reset", "EOF", "some"), Reset;
    "reset_up"   "ends"    "client's reset reaches server"    ""        Higher Words("reset", "EOF", "some"), Reset;
    "integrity"  "ends"    "randomised connections, wrong"    "%"       Lower  Number(0), Integrity;
    "rss1k"      "memory"  "proxy, per idle conn. at 1,000"   "B"       Lower  Number(0), Idle(1000);
    "kmem1k"     "memory"  "kernel, per idle conn. at 1,000"  "B"       Lower  Number(0), Idle(1000);
    "rss10k"     "memory"  "proxy, per idle conn. at 10,000"  "B"       Lower  Number(0), Idle(10_000);
    "kmem10k"    "memory"  "kernel, per idle conn. at 10,000" "B"       Lower  Number(0), Idle(10_000);
    "sequential" "ends"    "30,000 connections, failed"       ""        Lower  Number(0), Sequential;
    "stalled"    "memory"  "pushed into a stopped reader"     "MiB"     Lower  Number(1), Stall;
    "redis_get1" "apps"    "redis GET, 1 client"              "1/s"     Higher Number(0), Redis(1);
    "redis_set1" "apps"    "redis SET, 1 client"              "1/s"     Higher Number(0), Redis(1);
    "redis_get50" "apps"   "redis GET, 50 clients"            "1/s"     Higher Number(0), Redis(50);
    "redis_set50" "apps"   "redis SET, 50 clients"            "1/s"     Higher Number(0), Redis(50);
    "mariadb"    "apps"    "MariaDB point selects"            "1/s"     Higher Number(0), Selects;
};

/// The columns of `--suite fastpath`.
#[rustfmt::skip]
pub static FASTPATH: &[Column] = columns! {
    "rtt1"         "rtt"     "round trip p50, one cpu"          "µs"      Lower  Number(1), RttOneCpu;
    "rtt1_p99"     "rtt"     "round trip p99, one cpu"          "µs"      Lower  Number(1), RttOneCpu;
    "rtt2"         "rtt"     "round trip p50, two cpus"         "µs"      Lower  Number(1), RttTwoCpus;
    "rtt2_p99"     "rtt"     "round trip p99, two cpus"         "µs"      Lower  Number(1), RttTwoCpus;
    "size64"       "sizes"   "stream, 64 B writes"              "GB/s"    Higher Number(3), Sized(64);
    "size256"      "sizes"   "stream, 256 B writes"             "GB/s"    Higher Number(3), Sized(256);
    "size1k"       "sizes"   "stream, 1 KiB writes"             "GB/s"    Higher Number(2), Sized(1 << 10);
    "size4k"       "sizes"   "stream, 4 KiB writes"             "GB/s"    Higher Number(2), Sized(4 << 10);
    "size16k"      "sizes"   "stream, 16 KiB writes"            "GB/s"    Higher Number(2), Sized(16 << 10);
    "size64k"      "sizes"   "stream, 64 KiB writes"            "GB/s"    Higher Number(2), Sized(64 << 10);
    "size256k"     "sizes"   "stream, 256 KiB writes"           "GB/s"    Higher Number(2), Sized(256 << 10);
    "size1m"       "sizes"   "stream, 1 MiB writes"             "GB/s"    Higher Number(2), Sized(1 << 20);
    "size64k_cpu"  "sizes"   "CPU, 64 KiB writes"               "s/GB"    Lower  Number(2), Sized(64 << 10);
    "one64"        "onecpu"  "stream, 64 B, one cpu"            "GB/s"    Higher Number(3), SizedOneCpu(64);
    "one256"       "onecpu"  "stream, 256 B, one cpu"           "GB/s"    Higher Number(3), SizedOneCpu(256);
    "one1k"        "onecpu"  "stream, 1 KiB, one cpu"           "GB/s"    Higher Number(2), SizedOneCpu(1 << 10);
    "one4k"        "onecpu"  "stream, 4 KiB, one cpu"           "GB/s"    Higher Number(2), SizedOneCpu(4 << 10);
    "one16k"       "onecpu"  "stream, 16 KiB, one cpu"          "GB/s"    Higher Number(2), SizedOneCpu(16 << 10);
    "one64k"       "onecpu"  "stream, 64 KiB, one cpu"          "GB/s"    Higher Number(2), SizedOneCpu(64 << 10);
    "one64k_cpu"   "onecpu"  "CPU, 64 KiB writes, one cpu"      "s/GB"    Lower  Number(2), SizedOneCpu(64 << 10);
    "one256k"      "onecpu"  "stream, 256 KiB, one cpu"         "GB/s"    Higher Number(2), SizedOneCpu(256 << 10);
    "one1m"        "onecpu"  "stream, 1 MiB, one cpu"           "GB/s"    Higher Number(2), SizedOneCpu(1 << 20);
    "share64"      "shares"  "socket to socket, 64 B writes"    "%"       Higher Number(0), Sized(64);
    "share4k"      "shares"  "socket to socket, 4 KiB writes"   "%"       Higher Number(0), Sized(4 << 10);
    "share64k"     "shares"  "socket to socket, 64 KiB writes"  "%"       Higher Number(0), Sized(64 << 10);
    "early64k"     "early"   "upload directly after connect"    "GB/s"    Higher Number(2), Early;
    "early_direct" "early"   "of it socket to socket"           "%"       Higher Number(0), Early;
    "conn1"        "conn"    "connections, 1 client"            "1/s"     Higher Number(0), Connects(1);
    "conn16"       "conn"    "connections, 16 clients"          "1/s"     Higher Number(0), Connects(16);
    "redis_get1"   "apps"    "redis GET, 1 client"              "1/s"     Higher Number(0), Redis(1);
    "redis_set1"   "apps"    "redis SET, 1 client"              "1/s"     Higher Number(0), Redis(1);
    "redis_get50"  "apps"    "redis GET, 50 clients"            "1/s"     Higher Number(0), Redis(50);
    "redis_set50"  "apps"    "redis SET, 50 clients"            "1/s"     Higher Number(0), Redis(50);
    "mariadb"      "apps"    "MariaDB point selects"            "1/s"     Higher Number(0), Selects;
};

/// Columns that a stream fills.
#[derive(Debug, Clone, Copy)]
pub struct StreamColumns {
    /// Bytes of a write.
    pub size: u32,
    pub speed: &'static str,
    pub cpu: Option<&'static str>,
    /// Of the bytes that went socket to socket.
    pub share: Option<&'static str>,
}

#[rustfmt::skip]
static SIZES: &[StreamColumns] = &[
    StreamColumns { size: 64, speed: "size64", cpu: None, share: Some("share64") },
    StreamColumns { size: 256, speed: "size256", cpu: None, share: None },
    StreamColumns { size: 1 << 10, speed: "size1k", cpu: None, share: None },
    StreamColumns { size: 4 << 10, speed: "size4k", cpu: None, share: Some("share4k") },
    StreamColumns { size: 16 << 10, speed: "size16k", cpu: None, share: None },
    StreamColumns { size: 64 << 10, speed: "size64k", cpu: Some("size64k_cpu"), share: Some("share64k") },
    StreamColumns { size: 256 << 10, speed: "size256k", cpu: None, share: None },
    StreamColumns { size: 1 << 20, speed: "size1m", cpu: None, share: None },
];

#[rustfmt::skip]
static ONE_CPU: &[StreamColumns] = &[
    StreamColumns { size: 64, speed: "one64", cpu: None, share: None },
    StreamColumns { size: 256, speed: "one256", cpu: None, share: None },
    StreamColumns { size: 1 << 10, speed: "one1k", cpu: None, share: None },
    StreamColumns { size: 4 << 10, speed: "one4k", cpu: None, share: None },
    StreamColumns { size: 16 << 10, speed: "one16k", cpu: None, share: None },
    StreamColumns { size: 64 << 10, speed: "one64k", cpu: Some("one64k_cpu"), share: None },
    StreamColumns { size: 256 << 10, speed: "one256k", cpu: None, share: None },
    StreamColumns { size: 1 << 20, speed: "one1m", cpu: None, share: None },
];

/// What [`Measure::Early`] fills.
pub const EARLY: StreamColumns = StreamColumns { size: 64 << 10, speed: "early64k", cpu: None, share: Some("early_direct") };

/// What [`Measure::Sized`] fills.
pub fn sized(size: u32) -> Option<StreamColumns> {
    SIZES.iter().copied().find(|columns| columns.size == size)
}

/// What [`Measure::SizedOneCpu`] fills.
pub fn sized_one_cpu(size: u32) -> Option<StreamColumns> {
    ONE_CPU.iter().copied().find(|columns| columns.size == size)
}

/// The column of the speed at each size, in bytes: on two cpus, or on one.
pub fn speeds(one_cpu: bool) -> impl Iterator<Item = (u32, &'static str)> {
    let columns = if one_cpu { ONE_CPU } else { SIZES };
    columns.iter().map(|columns| (columns.size, columns.speed))
}

/// The columns that `only` names, by id or group; when it names none, those that are in no group of `left_out`.
pub fn select(all: &'static [Column], only: &[String], left_out: &[&str]) -> Result<Vec<&'static Column>> {
    if let Some(unknown) = only.iter().find(|word| !all.iter().any(|c| c.id == **word || c.group == **word)) {
        let mut words: Vec<&str> = all.iter().flat_map(|c| [c.group, c.id]).collect();
        words.sort_unstable();
        words.dedup();
        bail!("--only {unknown}: no such column; there are {}", words.join(", "));
    }
    let wanted =
        |c: &&Column| if only.is_empty() { !left_out.contains(&c.group) } else { only.iter().any(|w| c.id == w || c.group == w) };
    Ok(all.iter().filter(wanted).collect())
}

/// The measurements that fill `columns`, each once.
pub fn measures(columns: &[&Column]) -> Vec<Measure> {
    columns.iter().fold(Vec::new(), |mut list, column| {
        if !list.contains(&column.measure) {
            list.push(column.measure);
        }
        list
    })
}

impl Column {
    /// The value as the table shows it, without its unit.
    pub fn text(&self, value: f64) -> String {
        match self.show {
            Number(decimals) => format!("{value:.decimals$}"),
            Words(all, _, _) if value >= 1.0 => all.into(),
            Words(_, none, _) if value <= 0.0 => none.into(),
            Words(_, _, some) => format!("{some} ({:.0} %)", value * 100.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn selection() -> Result<()> {
        assert!(select(RELAY, &[], &[APPS])?.iter().all(|c| c.group != APPS));
        assert_eq!(select(RELAY, &["rtt1".into(), "conn".into()], &[APPS])?.len(), 3);
        assert_eq!(measures(&select(RELAY, &["rtt".into()], &[APPS])?), [RttOneCpu, RttTwoCpus]);
        let error = select(RELAY, &["rrt".into()], &[APPS]).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains("rrt") && error.contains("rtt1_p999"));
        Ok(())
    }

    #[test]
    fn every_size_has_its_columns() -> Result<()> {
        for column in FASTPATH.iter().filter(|c| ["sizes", "onecpu", "shares"].contains(&c.group)) {
            let of = match column.measure {
                Sized(size) => sized(size),
                SizedOneCpu(size) => sized_one_cpu(size),
                _ => bail!("{} is no size", column.id),
            };
            let of = of.context("a size without columns")?;
            assert!(column.id == of.speed || [of.cpu, of.share].contains(&Some(column.id)));
        }
        assert!([false, true].into_iter().flat_map(speeds).all(|(_, id)| FASTPATH.iter().any(|c| c.id == id)));
        assert!(speeds(true).map(|(size, _)| size).eq(speeds(false).map(|(size, _)| size)));
        Ok(())
    }

    #[test]
    fn values_as_text() -> Result<()> {
        let column = |id: &str| select(RELAY, &[id.into()], &[]).map(|list| list[0]);
        assert_eq!(column("rtt1")?.text(12.34), "12.3");
        assert_eq!(column("halfclose")?.text(0.0), "LOST");
        assert_eq!(column("reset")?.text(0.5), "some (50 %)");
        Ok(())
    }
}
