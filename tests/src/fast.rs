//! Whether the fast path is there on this machine, and what it holds in the kernel.

use crate::room::{Room, SOON};
use crate::{boxed, wait_until};
use aya::maps::{HashMap, Map, MapData, MapError, MapInfo, Queue, SockHash};
use aya::programs::{ProgramType, loaded_programs};
use aya::sys::is_program_supported;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd};

/// What the daemon's self-test says about one question; none when it did not ask it.
#[track_caller]
pub fn probe(room: &Room, name: &str) -> Option<Value> {
    let probes = room.status()["fastpath"]["probes"].clone();
    probes.as_array()?.iter().find(|probe| probe["name"] == name).cloned()
}

/// Why the fast path of this daemon is off although it was asked for: only what the machine or the build cannot do.
///
/// # Errors
/// The reason, for `skipped: why`.
///
/// # Panics
/// When it is off although the machine can do all that it needs.
#[track_caller]
pub fn available(room: &Room) -> Result<(), String> {
    let status = room.status();
    if status["fastpath"]["active"] == true {
        return Ok(());
    }
    match excuse(&status) {
        Some(why) => Err(why),
        None => panic!("this machine has what the fast path needs, and it is off: {}", status["fastpath"]),
    }
}

/// What is missing, found without asking the daemon.
fn excuse(status: &Value) -> Option<String> {
    if status["build"]["ebpf"].is_null() {
        return Some("no eBPF object is built in (cargo xtask build-ebpf)".to_owned());
    }
    if !boxed::is_root() {
        return Some("needs root".to_owned());
    }
    for kind in [ProgramType::SkMsg, ProgramType::SockOps] {
        match is_program_supported(kind) {
            Ok(true) => {}
            Ok(false) => return Some(format!("this kernel has no {kind:?} programs")),
            Err(why) => return Some(format!("this machine loads no {kind:?} program: {why}")),
        }
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2")) {
        return Some("no cgroup2 is mounted".to_owned());
    }
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    lockdown.contains("[confidentiality]").then(|| "the kernel is locked down".to_owned())
}

/// Both directions of a counter such as `bytes`, `direct`, `injected` together.
pub fn sum(view: &Value, counter: &str) -> u64 {
    ["to_tail", "to_head"].iter().map(|way| view[counter][way].as_u64().unwrap_or(0)).sum()
}

/// Waits until no pair is open in the whole daemon.
///
/// # Panics
/// When one stays.
#[track_caller]
pub fn wait_no_pair(room: &Room) {
    wait_until("no pair to be open", SOON, || (room.status()["fastpath"]["pairs"]["open"] == 0).then_some(()));
}

/// What a daemon holds of the kernel's maps and programs, by their numbers, which are never used twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    maps: BTreeSet<u32>,
    programs: BTreeSet<u32>,
}

impl Held {
    /// Of process `pid`.
    ///
    /// # Panics
    /// When it is gone.
    #[track_caller]
    pub fn by(pid: u32) -> Self {
        let mut held = Self::default();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("the daemon is gone").flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
                let ids = match key {
                    "map_id" => &mut held.maps,
                    // A link has one too.
                    "prog_id" => &mut held.programs,
                    _ => continue,
                };
                ids.extend(value.trim().parse::<u32>());
            }
        }
        held
    }

    /// True when there is anything.
    pub fn is_something(&self) -> bool {
        !self.maps.is_empty() && !self.programs.is_empty()
    }

    /// The names of all maps and programs of which the kernel still has something.
    fn left(&self) -> Vec<String> {
        let maps = self.maps.iter().filter_map(|id| Some(format!("map {}", MapInfo::from_id(*id).ok()?.name_as_str()?)));
        let programs = loaded_programs().flatten().filter(|program| self.programs.contains(&program.id()));
        maps.chain(programs.map(|p| format!("program {}", p.name_as_str().unwrap_or("?")))).collect()
    }

    /// Waits until nothing of it is attached any more, after the daemon's end. Enrolled sockets, though reset, keep the
    /// program that saw their messages, and with it the maps that it uses, until their owners close them.
    ///
    /// # Panics
    /// When something stays.
    #[track_caller]
    pub fn wait_detached(&self) {
        let gone = crate::wait::poll("all programs but one to go", SOON, || {
            let mut left = self.left();
            left.retain(|name| name.starts_with("program ") && name != "program wh_msg");
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?} is left")) }
        });
        gone.unwrap_or_else(|e| panic!("{e:#}"));
    }

    /// Waits until nothing of it is left, after the end of the daemon and of all sockets that were enrolled.
    ///
    /// # Panics
    /// When something stays.
    #[track_caller]
    pub fn wait_gone(&self) {
        let gone = crate::wait::poll("all maps and programs to go", SOON, || match self.left() {
            left if left.is_empty() => Ok(()),
            left => Err(format!("{left:?} is left")),
        });
        gone.unwrap_or_else(|e| panic!("{e:#}"));
    }

    fn map(&self, name: &str) -> MapData {
        let named = |id: &&u32| MapInfo::from_id(**id).is_ok_and(|info| info.name_as_str() == Some(name));
        let id = self.maps.iter().find(named).unwrap_or_else(|| panic!("the daemon holds no map {name}"));
        MapData::from_id(*id).expect("a map of the daemon's")
    }

    /// True while the kernel has all of it.
    pub fn is_whole(&self) -> bool {
        self.is_something() && self.left().len() == self.maps.len() + self.programs.len()
    }

    /// Bytes of kernel memory that the maps take, with what is in them as far as the kernel counts that (Linux 6.4).
    ///
    /// # Panics
    /// When a map is gone.
    #[track_caller]
    pub fn memory(&self) -> u64 {
        let of = |id: &u32| {
            let data = MapData::from_id(*id).expect("a map of the daemon's");
            let path = format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd());
            let text = std::fs::read_to_string(&path).expect("a descriptor's info");
            let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse::<u64>().ok());
            bytes.unwrap_or_else(|| panic!("no size in {text}"))
        };
        self.maps.iter().map(of).sum()
    }

    /// The free slots. They are taken and given back, so nobody may connect meanwhile.
    fn free_slots(&self) -> Vec<u32> {
        let mut queue: Queue<_, u32> = Map::Queue(self.map("WH_FREE")).try_into().expect("a queue");
        let mut slots = Vec::new();
        loop {
            match queue.pop(0) {
                Ok(slot) => slots.push(slot),
                Err(MapError::ElementNotFound) => break,
                Err(error) => panic!("the free slots: {error}"),
            }
        }
        for slot in &slots {
            queue.push(slot, 0).expect("room for what was there before");
        }
        slots
    }

    /// How many keys the map with this name has.
    ///
    /// # Panics
    /// When it is none of the three that are asked for.
    pub fn keys(&self, name: &str) -> usize {
        let data = self.map(name);
        match name {
            "WH_DOOR_SOCKS" => {
                let map: SockHash<_, u32> = Map::SockHash(data).try_into().expect("a map of sockets");
                map.keys().count()
            }
            "WH_SOCKS" => {
                let map: SockHash<_, u64> = Map::SockHash(data).try_into().expect("a map of sockets");
                map.keys().count()
            }
            _ => {
                let map: HashMap<_, [u8; 48], [u8; 16]> = Map::HashMap(data).try_into().expect("a map of tuples");
                map.keys().count()
            }
        }
    }
}

/// Waits until no socket and no tuple is left in the maps of this daemon.
///
/// # Panics
/// When one stays.
#[track_caller]
pub fn wait_empty(room: &Room) {
    let held = Held::by(room.daemon.pid());
    let empty = crate::wait::poll("the maps to be empty", SOON, || match (held.keys("WH_SOCKS"), held.keys("WH_TUPLES")) {
        (0, 0) => Ok(()),
        (sockets, tuples) => Err(format!("{sockets} sockets, {tuples} tuples")),
    });
    empty.unwrap_or_else(|e| panic!("{e:#}"));
}

/// Waits until nothing of what the daemon has for connections is in use: no pair is open, no socket and no tuple is in a
/// map, and every slot is free, once. Nobody may connect meanwhile.
///
/// # Panics
/// When something stays.
#[track_caller]
pub fn wait_unused(room: &Room) {
    wait_no_pair(room);
    wait_empty(room);
    let (held, all) = (Held::by(room.daemon.pid()), room.status()["fastpath"]["pairs"]["max"].as_u64().expect("a number"));
    let free = crate::wait::poll("all slots to be free", SOON, || {
        let slots = held.free_slots();
        let different: BTreeSet<u32> = slots.iter().copied().collect();
        assert_eq!(different.len(), slots.len(), "a slot was given back twice");
        if slots.len() as u64 == all { Ok(()) } else { Err(format!("{} of {all}", slots.len())) }
    });
    free.unwrap_or_else(|e| panic!("{e:#}"));
}
