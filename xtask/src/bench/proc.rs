//! Processes: pinning, CPU time, memory, and a group of them that ends with its owner.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process_group, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Clock ticks per second of `/proc/PID/stat`.
fn ticks() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// CPU time of this process, all threads, user and kernel.
pub fn own_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Binds this process, and what it starts, to one cpu.
pub fn pin_self(cpu: usize) -> Result<()> {
    sched_setaffinity(None, &single(cpu)).with_context(|| format!("pin to cpu {cpu}"))
}

fn single(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

/// The cpus that this process may use.
pub fn cpus() -> Vec<usize> {
    sched_getaffinity(None).map_or_else(|_| vec![0], |set| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Raises the limit of open files to the hard limit and returns it.
pub fn raise_fd_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Not raised: the columns with many connections will say how many fitted.
    let _ = setrlimit(Resource::Nofile, limit);
    limit.maximum.unwrap_or(1 << 20)
}

/// A program with everything that it forks, in a process group of its own. Dropping it ends all of them.
pub struct Group {
    child: Child,
    name: String,
}

/// Memory of a group in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Resident pages, shared ones counted in each process.
    pub rss: u64,
    /// Resident pages, shared ones divided by the number of sharers.
    pub pss: u64,
}

impl Group {
    /// Starts `command` without input, as the leader of a new process group.
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", command.get_program().to_string_lossy()))?;
        Ok(Self { child, name: name.to_owned() })
    }

    /// Says that the leader has ended, and how.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait().context("ask for the state of a child")? {
            Some(status) => bail!("{} ended with {status}", self.name),
            None => Ok(()),
        }
    }

    /// All processes of the group.
    pub fn members(&self) -> Vec<u32> {
        let leader = self.child.id();
        let Ok(entries) = fs::read_dir("/proc") else { return vec![leader] };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.group == leader))
            .collect()
    }

    /// Resident memory of the group.
    pub fn memory(&self) -> Memory {
        self.members().into_iter().fold(Memory::default(), |sum, pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            Memory { rss: sum.rss + kib(&text, "Rss:"), pss: sum.pss + kib(&text, "Pss:") }
        })
    }

    /// Ends the group: politely, and after two seconds not.
    pub fn stop(&mut self) {
        let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        let end = Instant::now() + Duration::from_secs(2);
        let _ = kill_process_group(group, Signal::TERM);
        while !matches!(self.child.try_wait(), Ok(Some(_))) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        // Whoever is left of the group, too; gone already is the usual answer.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop();
    }
}

/// CPU time of processes, and of those of their children that they waited for.
pub fn cpu_seconds(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|pid| Stat::of(*pid)).map(|stat| stat.ticks as f64).sum::<f64>() / ticks()
}

/// Binds every thread of some processes to `cpus`; threads and processes that they start inherit it.
pub fn pin(pids: &[u32], cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    for pid in pids {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()) {
            match sched_setaffinity(Pid::from_raw(task), &set) {
                // It has ended meanwhile.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(e) => return Err(e).with_context(|| format!("pin thread {task}")),
            }
        }
    }
    Ok(())
}

/// Processes whose command line begins with this program (by its file's name) and holds `word`.
pub fn named(program: &str, word: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split('\0');
        words.next().is_some_and(|first| first.rsplit('/').next() == Some(program)) && words.any(|other| other == word)
    })
    .collect()
}

/// Reads `NAME   123 kB` from a text of /proc, in bytes.
pub fn kib(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    value.unwrap_or(0) * 1024
}

/// Memory that the kernel holds for sockets and tasks, in bytes, for the whole machine.
pub fn kernel_memory() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let own: u64 = ["Slab:", "KernelStack:", "PageTables:"].iter().map(|name| kib(&meminfo, name)).sum();
    own + socket_pages(&sockstat) * rustix::param::page_size() as u64
}

/// Pages of TCP buffers from `/proc/net/sockstat`.
fn socket_pages(sockstat: &str) -> u64 {
    let tcp = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let mut words = tcp.split_ascii_whitespace().skip_while(|word| *word != "mem").skip(1);
    words.next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// What the bench wants from `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    group: u32,
    /// User and kernel time, own and of waited-for children.
    ticks: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name of the program may hold spaces and parentheses: fields are counted after the last `)`.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self { group: number(2)? as u32, ticks: number(11)? + number(12)? + number(13)? + number(14)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_an_ugly_name() {
        let text = "42 (a) b (c)) S 1 40 40 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 5 6 7";
        assert_eq!(Stat::parse(text), Some(Stat { group: 40, ticks: 127 }));
        assert_eq!(Stat::parse("42 (x"), None);
    }

    #[test]
    fn proc_texts() {
        assert_eq!(kib("Rss:                 940 kB\nPss:   12 kB\n", "Pss:"), 12 * 1024);
        assert_eq!(kib("", "Pss:"), 0);
        assert_eq!(socket_pages("sockets: used 14\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 108\nUDP: inuse 0 mem 7\n"), 108);
    }

    #[test]
    fn a_group_ends_with_its_owner() -> Result<()> {
        let mut group = Group::spawn("sleeper", Command::new("sh").args(["-c", "sleep 60 & sleep 60"]))?;
        let end = Instant::now() + Duration::from_secs(5);
        while group.members().len() < 2 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        group.check_alive()?;
        let members = group.members();
        assert!(members.len() >= 2);
        drop(group);
        std::thread::sleep(Duration::from_millis(100));
        assert!(
            members.iter().all(|pid| Stat::of(*pid).is_none()
                || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z")))
        );
        Ok(())
    }
}
