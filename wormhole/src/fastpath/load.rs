//! Loading and attaching. Everything is attached by a link, or to a map of ours, so that nothing outlives the process.

use super::btf::{Btf, BtfError};
use super::doors::Doors;
use super::late::Late;
use super::mapped::Mapped;
use super::slots::Slots;
use super::sys::{Plain, Question, Table};
use super::{EmbeddedError, Fastpath, Totals, inspect_embedded};
use aya::maps::{Map, MapData, RingBuf, SockHash};
use aya::programs::{CgroupAttachMode, CgroupSock, CgroupSockopt, FEntry, RawTracePoint, SkMsg, SockOps};
use aya::{Btf as AyaBtf, Ebpf, EbpfLoader, VerifierLogLevel};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use wormhole_common::{DOORS, MAX_SLOTS, NO_FIELD, SOCKET_SK};

/// Why there is no fast path.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Built without the object.
    #[error(transparent)]
    NoObject(#[from] EmbeddedError),
    /// The kernel does not say where its fields are.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The kernel refused the maps.
    #[error("the kernel does not take the eBPF object: {}", chain(.0))]
    Object(#[from] aya::EbpfError),
    /// The kernel refused a program.
    #[error("program {name}: {}", chain(.source))]
    Program {
        /// Its name.
        name: &'static str,
        /// What the kernel or the loader said.
        source: aya::programs::ProgramError,
    },
    /// The object is not what this build expects.
    #[error("the eBPF object has no {0}: build it again with `cargo xtask build-ebpf`")]
    Lacks(&'static str),
    /// A map could not be used.
    #[error("map {name}: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not known how many values a counter has.
    #[error("cannot tell how many cpus there may be: {path}: {source}")]
    Cpus {
        /// Where the kernel says so.
        path: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// There is nothing to attach to.
    #[error("no cgroup v2 is mounted (looked for {MOUNTS}); mount one: mount -t cgroup2 none /sys/fs/cgroup")]
    NoCgroup,
    /// The mount could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Cgroup {
        /// The mount.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Where the cgroup v2 hierarchy usually is; /proc/self/mounts has the last word.
const MOUNTS: &str = "/sys/fs/cgroup and /sys/fs/cgroup/unified";

/// An error with its causes; the kernel's own word is the innermost.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    // What was attempted stands at the beginning, and the verifier's reason at the end of its log.
    let length = text.chars().count();
    if length <= 600 {
        return text;
    }
    text.chars().take(200).chain(" … ".chars()).chain(text.chars().skip(length - 400)).collect()
}

/// What can be set.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Connections at once.
    pub max_pairs: u32,
    /// Bytes in front of a reader at which a sender's messages go by TCP.
    pub limit: u64,
    /// Small messages a second from which on they are gathered; 0: never.
    pub gather: u32,
    /// Relay threads.
    pub threads: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { max_pairs: 65_536, limit: 4 << 20, gather: 100_000, threads: 1 }
    }
}

/// What keeps the programs attached.
pub(super) struct Programs {
    /// Programs and links; detached when dropped.
    _ebpf: Ebpf,
    /// Taken by whoever follows it.
    pub(super) events: Mutex<Option<RingBuf<MapData>>>,
    /// Why the kernel's functions cannot be watched.
    pub(super) blind: Option<String>,
}

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Programs").field("blind", &self.blind).finish_non_exhaustive()
    }
}

struct Offsets(Vec<(&'static str, u32)>);

impl Offsets {
    fn of_kernel() -> Result<Self, BtfError> {
        let btf = Btf::of_kernel()?;
        Ok(Self(vec![
            ("OFF_RMEM", btf.offset("sock", &["sk_backlog", "rmem_alloc"])?),
            ("OFF_RCVBUF", btf.offset("sock", &["sk_rcvbuf"])?),
            ("OFF_SNDBUF", btf.offset("sock", &["sk_sndbuf"])?),
            ("OFF_SHUTDOWN", btf.offset("sock", &["sk_shutdown"])?),
            ("OFF_USER_DATA", btf.offset("sock", &["sk_user_data"])?),
            ("OFF_STATE", btf.offset("sk_psock", &["state"])?),
            ("OFF_QUEUE", btf.offset("sk_psock", &["ingress_msg"])?),
            ("OFF_REFS", btf.offset("sock", &["__sk_common", "skc_refcnt"])?),
            ("OFF_OWNED", btf.offset("sock", &["sk_lock", "owned"])?),
            ("OFF_TIMER_1", timer(&btf, &[("inet_connection_sock", "icsk_retransmit_timer"), ("sock", "tcp_retransmit_timer")])),
            ("OFF_TIMER_2", timer(&btf, &[("inet_connection_sock", "icsk_delack_timer")])),
            ("OFF_TIMER_3", timer(&btf, &[("sock", "sk_timer"), ("inet_connection_sock", "icsk_keepalive_timer")])),
            ("OFF_HRTIMER_1", hrtimer(&btf, "pacing_timer")),
            ("OFF_HRTIMER_2", hrtimer(&btf, "compressed_ack_timer")),
            ("OFF_SLEEPERS", btf.offset("sock", &["sk_write_pending"])?),
            ("OFF_SOCKET", btf.offset("sock", &["sk_socket"])?),
            ("OFF_SOCKET_FLAGS", btf.offset("socket", &["flags"])?),
            ("OFF_INODE", btf.offset("socket_alloc", &["vfs_inode", "i_ino"])?),
            ("OFF_WRITE_SEQ", btf.offset("tcp_sock", &["write_seq"])?),
            ("BIT_USERLOCKS", btf.bit("sock", &["sk_userlocks"])?),
            ("OFF_PROTO", btf.offset("sock", &["__sk_common", "skc_prot"])?),
            ("OFF_ALLOCATED", btf.offset("proto", &["memory_allocated"])?),
            ("OFF_PRESSURE", btf.offset("proto", &["memory_pressure"])?),
            ("OFF_SOCKETS", btf.offset("proto", &["sockets_allocated"])?),
            ("OFF_COUNT", btf.offset("percpu_counter", &["count"])?),
            ("OFF_WMEM", btf.offset("sock", &["sk_wmem_queued"])?),
            ("OFF_LIMITS", btf.offset("proto", &["sysctl_mem"])?),
            ("PAGE_BITS", rustix::param::page_size().ilog2()),
            ("OFF_SIGNAL", btf.offset("task_struct", &["signal"])?),
            ("OFF_THREADS", btf.offset("signal_struct", &["nr_threads"])?),
            // Without io_uring there is no such field.
            ("OFF_RING", btf.offset("task_struct", &["io_uring"]).unwrap_or(NO_FIELD)),
            ("OFF_FLAGS", btf.offset("task_struct", &["flags"])?),
            ("OFF_MM", btf.offset("task_struct", &["mm"])?),
            ("OFF_EXE_FILE", btf.offset("mm_struct", &["exe_file"])?),
            ("OFF_DENTRY", btf.offset("file", &["f_path", "dentry"])?),
            ("OFF_NAME", btf.offset("dentry", &["d_name", "name"])?),
        ]))
    }
}

/// A socket's timer by any of its names. One that is not known counts as never pending: a socket that it is set for seems
/// to be in somebody's hands, and stays where it is.
fn timer(btf: &Btf, names: &[(&str, &str)]) -> u32 {
    names.iter().find_map(|(of, name)| btf.offset(of, &[name, "entry", "pprev"]).ok()).unwrap_or(NO_FIELD)
}

/// Likewise one of high resolution, with its first bit set while it is pending.
fn hrtimer(btf: &Btf, name: &str) -> u32 {
    let field = |field| btf.offset("tcp_sock", &[name, field]).ok();
    field("state").or_else(|| field("is_queued")).unwrap_or(NO_FIELD)
}

impl Fastpath {
    /// Loads the embedded object and attaches its programs to the root of the cgroup v2 hierarchy.
    ///
    /// # Errors
    /// [`LoadError`]; nothing stays behind then.
    pub fn load(tuning: &Tuning) -> Result<Arc<Self>, LoadError> {
        let object = inspect_embedded()?;
        let offsets = Offsets::of_kernel()?;
        let max = tuning.max_pairs.clamp(1, MAX_SLOTS / 4);
        let mut loader = EbpfLoader::new();
        // Written only when a program is refused.
        loader.verifier_log_level(VerifierLogLevel::DEBUG);
        for (name, offset) in &offsets.0 {
            loader.override_global(name, offset, true);
        }
        let gather = 1_000_000_000_u64.checked_div(tuning.gather.into()).unwrap_or_default();
        loader
            .override_global("LIMIT", &tuning.limit, true)
            .override_global("GATHER", &gather, true)
            .map_max_entries("WH_SLOTS", max)
            .map_max_entries("WH_FREE", max)
            .map_max_entries("WH_TUPLES", max.saturating_mul(2))
            .map_max_entries("WH_SOCKS", max.saturating_mul(2));
        let mut ebpf = loader.load(object.bytes)?;
        let blind = attach(&mut ebpf)?;
        // SAFETY: the types are those that the object's maps are declared with.
        let fastpath = unsafe {
            Self {
                sockets: table(&mut ebpf, "WH_SOCKS")?,
                members: table(&mut ebpf, "WH_MEMBER")?,
                doors: {
                    let cells = Mapped::new(fd_of(&mut ebpf, "WH_DOORS")?, DOORS);
                    let cells = cells.map_err(|source| LoadError::Map { name: "WH_DOORS", source })?;
                    Doors::new(cells, table(&mut ebpf, "WH_DOOR_SOCKS")?)
                },
                thread: question(&mut ebpf, "wh_thread")?,
                tuples: table(&mut ebpf, "WH_TUPLES")?,
                ports: table(&mut ebpf, "WH_PORTS")?,
                heads: table(&mut ebpf, "WH_HEADS")?,
                exes: table(&mut ebpf, "WH_EXES")?,
                counts: table(&mut ebpf, "WH_COUNTS")?,
                free: table(&mut ebpf, "WH_FREE")?,
                slots: {
                    let fd = fd_of(&mut ebpf, "WH_SLOTS")?;
                    Slots::map(fd, max).map_err(|source| LoadError::Map { name: "WH_SLOTS", source })?
                },
                max_pairs: max,
                limit: tuning.limit,
                backlog: question(&mut ebpf, "wh_backlog")?,
                quiet: question(&mut ebpf, "wh_quiet")?,
                reader: question(&mut ebpf, "wh_reader")?,
                cpus: aya::util::nr_cpus().map_err(|(path, source)| LoadError::Cpus { path, source })?,
                pairs: Mutex::default(),
                heads_of: Mutex::new(HashMap::new()),
                totals: Totals::default(),
                tried: OnceLock::new(),
                tells: AtomicBool::new(false),
                counts_tcp: AtomicBool::new(false),
                late: Late::default(),
                programs: Programs { events: Mutex::new(events(&mut ebpf)?), blind, _ebpf: ebpf },
            }
        };
        for slot in 0..max {
            fastpath.free.push(slot).map_err(|source| LoadError::Map { name: "WH_FREE", source })?;
        }
        // And one for the self-test.
        let doors = u32::try_from(tuning.threads).unwrap_or(DOORS).saturating_add(1).min(DOORS);
        fastpath.make_doors(doors).map_err(|source| LoadError::Map { name: "WH_DOOR_SOCKS", source })?;
        Ok(Arc::new(fastpath))
    }
}

/// Says why the kernel's own functions are not watched, if so; that alone is no reason to do without.
fn attach(ebpf: &mut Ebpf) -> Result<Option<String>, LoadError> {
    let cgroup = cgroup()?;
    let failed = |name| move |source| LoadError::Program { name, source };
    let blind = watch_kernel(ebpf).err().map(|error| error.to_string());

    watch_sockets::<u64>(ebpf, "wh_msg", "WH_SOCKS")?;
    watch_sockets::<u32>(ebpf, "wh_inject", "WH_DOOR_SOCKS")?;

    let name = "wh_setsockopt";
    let program: &mut CgroupSockopt = program(ebpf, name)?;
    program.load().map_err(failed(name))?;
    program.attach(&cgroup, CgroupAttachMode::Single).map_err(failed(name))?;

    let name = "wh_release";
    let program: &mut CgroupSock = self::program(ebpf, name)?;
    program.load().map_err(failed(name))?;
    program.attach(&cgroup, CgroupAttachMode::Single).map_err(failed(name))?;

    // Last: from now on sockets are enrolled.
    let name = "wh_sockops";
    let program: &mut SockOps = self::program(ebpf, name)?;
    program.load().map_err(failed(name))?;
    program.attach(&cgroup, CgroupAttachMode::Single).map_err(failed(name))?;
    Ok(blind)
}

/// Attaches a program that sees what the sockets of a map send.
fn watch_sockets<K: aya::Pod>(ebpf: &mut Ebpf, name: &'static str, of: &'static str) -> Result<(), LoadError> {
    let failed = |source| LoadError::Program { name, source };
    let map = ebpf.map(of).ok_or(LoadError::Lacks(of))?;
    let map = SockHash::<_, K>::try_from(map).map_err(|_| LoadError::Lacks(of))?;
    let map = map.fd().try_clone().map_err(|source| LoadError::Map { name: of, source })?;
    let program: &mut SkMsg = program(ebpf, name)?;
    program.load().map_err(failed)?;
    program.attach(&map).map(drop).map_err(failed)
}

/// Loaded and never attached: it is run when somebody wants to know.
fn question(ebpf: &mut Ebpf, name: &'static str) -> Result<Question, LoadError> {
    let failed = |source| LoadError::Program { name, source };
    let program: &mut RawTracePoint = program(ebpf, name)?;
    program.load().map_err(failed)?;
    let fd = program.fd().map_err(failed)?.as_fd().try_clone_to_owned();
    Ok(Question::new(fd.map_err(|source| LoadError::Map { name, source })?))
}

/// Watches a function of the kernel's own, that which splice(2) reads through.
fn watch_kernel(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let failed = |name| move |source| LoadError::Program { name, source };
    let name = "wh_splice";
    let btf = AyaBtf::from_sys_fs().map_err(|error| failed(name)(error.into()))?;
    // Written into the program.
    if Btf::of_kernel()?.offset("socket", &["sk"])? != SOCKET_SK {
        return Err(BtfError::Missing(format!("socket.sk at {SOCKET_SK}")).into());
    }
    let program: &mut FEntry = program(ebpf, name)?;
    program.load("tcp_splice_read", &btf).and_then(|()| program.attach()).map_err(failed(name)).map(drop)
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let program = ebpf.program_mut(name).ok_or(LoadError::Lacks(name))?;
    program.try_into().map_err(|_| LoadError::Lacks(name))
}

fn fd_of(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, LoadError> {
    let (Map::SockHash(data)
    | Map::HashMap(data)
    | Map::Array(data)
    | Map::PerCpuArray(data)
    | Map::Queue(data)
    | Map::SkStorage(data)) = ebpf.map(name).ok_or(LoadError::Lacks(name))?
    else {
        return Err(LoadError::Lacks(name));
    };
    data.fd().as_fd().try_clone_to_owned().map_err(|source| LoadError::Map { name, source })
}

/// # Safety
/// The map's keys and values are of these types.
unsafe fn table<K: Plain, V: Plain>(ebpf: &mut Ebpf, name: &'static str) -> Result<Table<K, V>, LoadError> {
    // SAFETY: the caller says so.
    Ok(unsafe { Table::new(fd_of(ebpf, name)?) })
}

fn events(ebpf: &mut Ebpf) -> Result<Option<RingBuf<MapData>>, LoadError> {
    let map = ebpf.take_map("WH_EVENTS").ok_or(LoadError::Lacks("WH_EVENTS"))?;
    RingBuf::try_from(map).map(Some).map_err(|_| LoadError::Lacks("WH_EVENTS"))
}

/// The root of the cgroup v2 hierarchy, on which programs see the sockets of all containers.
fn cgroup() -> Result<File, LoadError> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let path = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, path, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| Path::new(path).to_owned())
    });
    let path = path.ok_or(LoadError::NoCgroup)?;
    File::open(&path).map_err(|source| LoadError::Cgroup { path, source })
}
