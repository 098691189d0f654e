//! Taking one measurement of one variant.

use super::columns::{self, Measure, StreamColumns};
use super::launch::{Worker, get};
use super::peers::{Peer, Running};
use super::proc::{self, Group};
use super::segment::Segment;
use super::worker::Report;
use super::{apps, profile};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::time::Duration;

/// How long and how often: one set for a real run, one for a smoke test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    pub rounds: usize,
    pub rtt_seconds: f64,
    pub stream_seconds: f64,
    pub connect_seconds: f64,
    pub early_seconds: f64,
    pub app_seconds: f64,
    /// Of one redis-benchmark with one client; five times as many with fifty.
    pub requests: u32,
    pub integrity: u64,
    /// Too long for a smoke test, and meaningless when shortened.
    pub long_ones: bool,
}

impl Effort {
    /// A run whose figures may be quoted.
    pub const FULL: Self = Self {
        rounds: 5,
        rtt_seconds: 1.0,
        stream_seconds: 1.2,
        connect_seconds: 1.0,
        early_seconds: 2.0,
        app_seconds: 2.0,
        requests: 20_000,
        integrity: 60,
        long_ones: true,
    };
    /// The same with many more variants and places: shorter, so that the run ends within a quarter of an hour.
    pub const FASTPATH: Self = Self {
        rtt_seconds: 0.5,
        stream_seconds: 0.5,
        connect_seconds: 0.5,
        early_seconds: 1.5,
        app_seconds: 0.7,
        requests: 8000,
        ..Self::FULL
    };
    /// A run that shows that everything works, in less than a minute.
    pub const QUICK: Self = Self {
        rounds: 1,
        rtt_seconds: 0.2,
        stream_seconds: 0.25,
        connect_seconds: 0.25,
        early_seconds: 0.5,
        app_seconds: 0.5,
        requests: 2000,
        integrity: 20,
        long_ones: false,
    };

    /// Says whether a measurement is made at this effort.
    pub fn includes(&self, measure: Measure) -> bool {
        self.long_ones || !matches!(measure, Measure::Sequential | Measure::Idle(10_000))
    }
}

/// Whoever comes after thousands of short connections to the same server searches long for a port: their TIME_WAIT is in the way
/// for a second (`tcp_tw_reuse` of tcp(7) by default, on loopback). Without a pause the variant after the fastest one looks slow.
const PORTS_BACK: Duration = Duration::from_millis(1100);

/// Connections that fit into the limit of open files with two in the proxy for each.
pub fn idle_fits(wanted: u32, fd_limit: u64) -> u32 {
    wanted.min((fd_limit.saturating_sub(200) / 2) as u32)
}

/// A variant that runs.
pub struct Variant {
    pub peer: &'static dyn Peer,
    pub ports: [u16; 2],
    pub name: &'static str,
    pub forks: bool,
    pub running: Running,
}

impl Variant {
    /// Says that one of its processes has ended, and how.
    pub fn check_alive(&mut self) -> Result<()> {
        self.running.groups.iter_mut().try_for_each(Group::check_alive)
    }

    fn pin(&self, cpus: &[usize]) -> Result<()> {
        proc::pin(&self.members(), cpus).with_context(|| format!("pin {}", self.name))
    }

    fn cpu_seconds(&self) -> f64 {
        proc::cpu_seconds(&self.members())
    }

    /// The process ids of everything in between.
    pub fn members(&self) -> Vec<u32> {
        let own = self.running.groups.iter().flat_map(Group::members);
        own.chain(self.running.others.iter().copied()).collect()
    }

    fn memory(&self) -> u64 {
        let each = self.running.groups.iter().map(Group::memory);
        each.map(|memory| if self.forks { memory.pss } else { memory.rss }).sum()
    }
}

/// What all measurements share.
pub struct Bench {
    pub exe: PathBuf,
    /// The server's port.
    pub tail: u16,
    pub cpus: Vec<usize>,
    pub effort: Effort,
    pub fd_limit: u64,
    pub seed: u64,
    pub dir: PathBuf,
    /// Where to leave profiles, if wanted.
    pub profiles: Option<PathBuf>,
    /// Real servers run on the first cpu, their clients on the second; else where the scheduler likes.
    pub pin_apps: bool,
    /// Profiles are those of the whole machine: on a fast path the daemon has nothing to show.
    pub profile_all: bool,
}

/// A stream from a client to a server.
struct Flow {
    size: u32,
    seconds: f64,
    /// The server has spoken before the client begins: whatever a proxy sets up has been set up.
    greeted: bool,
    place: Place,
}

/// Where server and client run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where the scheduler likes.
    Anywhere,
    /// The server on the first cpu, the client on the second.
    Apart,
    /// Both on the first cpu, and the proxy too.
    Together,
}

/// Values by the id of their column.
pub type Values = Vec<(&'static str, f64)>;

impl Bench {
    /// Measures.
    pub fn take(&self, variant: &Variant, measure: Measure) -> Result<Values> {
        let effort = &self.effort;
        Ok(match measure {
            Measure::RttOneCpu => {
                let cpu = self.cpu(0);
                variant.pin(&[cpu])?;
                let report = self.rtt(variant, cpu, cpu);
                variant.pin(&self.cpus)?;
                let report = report?;
                vec![("rtt1", get(&report, "p50")?), ("rtt1_p99", get(&report, "p99")?), ("rtt1_p999", get(&report, "p999")?)]
            }
            Measure::RttTwoCpus => {
                if self.cpus.len() < 2 {
                    bail!("this machine has one cpu");
                }
                let report = self.rtt(variant, self.cpu(0), self.cpu(1))?;
                vec![("rtt2", get(&report, "p50")?), ("rtt2_p99", get(&report, "p99")?), ("rtt2_p999", get(&report, "p999")?)]
            }
            Measure::Stream(size) => {
                let flow = Flow { size, seconds: effort.stream_seconds, greeted: false, place: Place::Anywhere };
                let (speed, cpu) = self.stream(variant, measure, &flow)?;
                if size == 4096 { vec![("stream4k", speed), ("cpu4k", cpu)] } else { vec![("stream64k", speed), ("cpu64k", cpu)] }
            }
            Measure::Sized(size) => {
                let columns = columns::sized(size).context("no columns for this size")?;
                let flow = Flow { size, seconds: effort.stream_seconds, greeted: true, place: Place::Apart };
                self.shared_stream(variant, measure, &flow, columns)?
            }
            Measure::SizedOneCpu(size) => {
                let columns = columns::sized_one_cpu(size).context("no columns for this size")?;
                let flow = Flow { size, seconds: effort.stream_seconds, greeted: true, place: Place::Together };
                variant.pin(&[self.cpu(0)])?;
                let values = self.shared_stream(variant, measure, &flow, columns);
                variant.pin(&self.cpus)?;
                values?
            }
            // An upload that begins directly after connect(), before anything in between can be ready.
            Measure::Early => {
                let columns = columns::EARLY;
                let flow = Flow { size: columns.size, seconds: effort.early_seconds, greeted: false, place: Place::Apart };
                self.shared_stream(variant, measure, &flow, columns)?
            }
            Measure::Connects(clients) => {
                std::thread::sleep(PORTS_BACK);
                let server = self.server(variant, "echo", None)?;
                let _profile = profile::start(self, variant, measure);
                let count = u64::MAX / 2;
                let report = self.connects(variant, effort.connect_seconds, count, clients)?;
                server.finish()?;
                if get(&report, "failed")? > 0.0 {
                    bail!(
                        "{} of {} connections failed",
                        get(&report, "failed")?,
                        get(&report, "good")? + get(&report, "failed")?
                    );
                }
                vec![(if clients == 1 { "conn1" } else { "conn16" }, get(&report, "per_s")?)]
            }
            Measure::HalfClose => {
                let server = self.server(variant, "after-eof", None)?;
                let report = self.client(variant, &to(variant, "half-close", &["--times", "5"]), None, 60.0)?;
                server.finish()?;
                vec![("halfclose", get(&report, "arrived")? / get(&report, "of")?)]
            }
            Measure::Reset => {
                let server = self.server(variant, "reset", None)?;
                let report = self.client(variant, &to(variant, "reset", &["--times", "5"]), None, 60.0)?;
                let seen = server.finish()?;
                let of = get(&report, "of")?;
                vec![("reset", get(&report, "arrived")? / of), ("reset_up", get(&seen, "resets")? / of)]
            }
            Measure::Integrity => {
                let server = self.server(variant, "integrity", None)?;
                let (count, seed) = (effort.integrity.to_string(), self.seed.to_string());
                let args = to(variant, "integrity", &["--connections", &count, "--seed", &seed]);
                let report = self.client(variant, &args, None, 180.0)?;
                server.finish()?;
                vec![("integrity", 100.0 * get(&report, "wrong")? / get(&report, "of")?)]
            }
            Measure::Idle(count) => self.idle(variant, count)?,
            Measure::Sequential => {
                let server = self.server(variant, "echo", None)?;
                let report = self.connects(variant, 120.0, 30_000, 1)?;
                server.finish()?;
                let done = get(&report, "good")? + get(&report, "failed")?;
                if done < 30_000.0 {
                    bail!("only {done} connections in 120 s");
                }
                vec![("sequential", get(&report, "failed")?)]
            }
            Measure::Stall => {
                let server = self.server(variant, "stall", None)?;
                let report = self.client(variant, &to(variant, "stall", &["--limit", "67108864"]), None, 30.0)?;
                server.finish()?;
                vec![("stalled", get(&report, "pushed")? / f64::from(1 << 20))]
            }
            Measure::Redis(clients) => apps::redis(self, variant, clients)?,
            Measure::Selects => apps::selects(self, variant)?,
        })
    }

    fn cpu(&self, index: usize) -> usize {
        self.cpus.get(index).copied().unwrap_or(0)
    }

    fn rtt(&self, variant: &Variant, server_cpu: usize, client_cpu: usize) -> Result<Report> {
        let server = self.server(variant, "echo", Some(server_cpu))?;
        let measure = if server_cpu == client_cpu { Measure::RttOneCpu } else { Measure::RttTwoCpus };
        let _profile = profile::start(self, variant, measure);
        let seconds = self.effort.rtt_seconds;
        let args = to(variant, "rtt", &["--seconds", &seconds.to_string(), "--count", "50000"]);
        let report = self.client(variant, &args, Some(client_cpu), seconds)?;
        server.finish()?;
        Ok(report)
    }

    /// GB/s as the server counts them, and CPU-seconds per GB of all processes together: client, server and what is in
    /// between. What the kernel does for a packet on loopback it does in the time of whoever sent it, so that is in there.
    fn stream(&self, variant: &Variant, measure: Measure, flow: &Flow) -> Result<(f64, f64)> {
        let (server_cpu, client_cpu) = match flow.place {
            Place::Anywhere => (None, None),
            Place::Apart => self.apart(),
            Place::Together => (Some(self.cpu(0)), Some(self.cpu(0))),
        };
        let server = self.server(variant, if flow.greeted { "greeting-sink" } else { "sink" }, server_cpu)?;
        let _profile = profile::start(self, variant, measure);
        let before = variant.cpu_seconds();
        let (seconds, size) = (flow.seconds.to_string(), flow.size.to_string());
        let mut args = to(variant, "stream", &["--seconds", &seconds, "--size", &size]);
        args.extend(flow.greeted.then(|| "--greeted".to_owned()));
        let client = self.client(variant, &args, client_cpu, flow.seconds)?;
        let server = server.finish()?;
        let (sent, arrived) = (get(&client, "bytes")?, get(&server, "bytes")?);
        if sent != arrived {
            bail!("{sent} bytes were sent, {arrived} arrived");
        }
        let cpu = get(&client, "cpu_s")? + get(&server, "cpu_s")? + variant.cpu_seconds() - before;
        let gigabytes = arrived / 1e9;
        Ok((gigabytes / get(&server, "seconds")?, cpu / gigabytes))
    }

    /// A stream, and how much of it went past the daemon.
    fn shared_stream(&self, variant: &Variant, measure: Measure, flow: &Flow, columns: StreamColumns) -> Result<Values> {
        let segment = variant.running.segment.as_ref();
        let before = segment.map(Segment::settled).transpose()?;
        let (speed, cpu) = self.stream(variant, measure, flow)?;
        let mut values = vec![(columns.speed, speed)];
        values.extend(columns.cpu.map(|id| (id, cpu)));
        if let (Some(segment), Some(before), Some(id)) = (segment, before, columns.share) {
            values.push((id, 100.0 * segment.settled()?.direct_share_since(&before)));
        }
        Ok(values)
    }

    fn connects(&self, variant: &Variant, seconds: f64, count: u64, clients: u32) -> Result<Report> {
        let (s, n, c) = (seconds.to_string(), count.to_string(), clients.to_string());
        self.client(variant, &to(variant, "connects", &["--seconds", &s, "--count", &n, "--clients", &c]), None, seconds)
    }

    /// Bytes per idle connection: in the proxy, and in the kernel (both connections' sockets together).
    fn idle(&self, variant: &Variant, wanted: u32) -> Result<Values> {
        if variant.forks && wanted > 1000 {
            bail!("a process per connection: {wanted} are not tried");
        }
        let count = idle_fits(wanted, self.fd_limit);
        let server = self.server(variant, "idle", None)?;
        // What a program sets up with its first connection is no cost of the thousandth.
        self.client(variant, &to(variant, "idle", &["--connections", "1"]), None, 10.0)?;
        let (memory, kernel) = (variant.memory(), proc::kernel_memory());
        let args = to(variant, "idle", &["--connections", &count.to_string()]);
        let mut client = Worker::start(&variant.running.client, &self.exe, &args, None)?;
        let open = get(&client.report(Duration::from_secs(60))?, "open")?;
        let (memory_after, kernel_after) = (variant.memory(), proc::kernel_memory());
        client.finish()?;
        server.finish()?;
        if open < f64::from(count) {
            bail!("only {open} of {count} connections opened");
        }
        let per = |after: u64, before: u64| (after as f64 - before as f64) / f64::from(count);
        let (own, kernel) = (per(memory_after, memory), per(kernel_after, kernel));
        let (own_id, kernel_id) = if wanted == 1000 { ("rss1k", "kmem1k") } else { ("rss10k", "kmem10k") };
        // Without a proxy there is nothing to hold the first of the two. The second is the whole machine's: when others gave
        // more back meanwhile than the connections took, there is no figure rather than a flattering one.
        let own = (!variant.running.groups.is_empty()).then_some((own_id, own.max(0.0)));
        let kernel = (kernel > 0.0).then_some((kernel_id, kernel));
        Ok(own.into_iter().chain(kernel).collect())
    }

    /// Starts the server and waits until it listens.
    fn server(&self, variant: &Variant, mode: &str, cpu: Option<usize>) -> Result<Worker> {
        let mut args = ["serve", "--mode", mode].map(str::to_owned).to_vec();
        for endpoint in &variant.running.listen {
            args.extend(["--listen".to_owned(), endpoint.to_string()]);
        }
        let worker = Worker::start(&variant.running.server, &self.exe, &args, cpu)?;
        let line = worker.line(Duration::from_secs(10)).with_context(|| format!("the {mode} server does not start"))?;
        if line.trim() != "ready" {
            bail!("the {mode} server says {line:?}");
        }
        Ok(worker)
    }

    /// Runs a client to its end; `seconds` is how long it means to take.
    pub fn client(&self, variant: &Variant, args: &[String], cpu: Option<usize>, seconds: f64) -> Result<Report> {
        let mut worker = Worker::start(&variant.running.client, &self.exe, args, cpu)?;
        let report = worker.report(super::worker::deadline(seconds))?;
        worker.finish()?;
        Ok(report)
    }

    /// The cpus of server and client when they are to be apart, if there are two.
    pub fn apart(&self) -> (Option<usize>, Option<usize>) {
        let apart = self.cpus.len() > 1;
        (apart.then(|| self.cpu(0)), apart.then(|| self.cpu(1)))
    }
}

/// The arguments of a client of `variant`.
pub fn to(variant: &Variant, role: &str, more: &[&str]) -> Vec<String> {
    let head = variant.running.head.to_string();
    [role, "--to", &head].into_iter().chain(more.iter().copied()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_fit_the_limit() {
        assert_eq!(idle_fits(10_000, 20_000), 9_900);
        assert_eq!(idle_fits(10_000, 1 << 20), 10_000);
        assert_eq!(idle_fits(1000, 100), 0);
    }

    #[test]
    fn quick_leaves_the_long_ones_out() {
        assert!(!Effort::QUICK.includes(Measure::Sequential));
        assert!(Effort::QUICK.includes(Measure::Idle(1000)));
        assert!(Effort::FULL.includes(Measure::Sequential));
    }
}
