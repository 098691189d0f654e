//! Types that the eBPF programs and userspace both see: `#[repr(C)]`, `no_std`, no logic beyond key building.
#![no_std]

/// The ELF section of the eBPF object that holds the version it was built from, as text without a terminator.
pub const VERSION_SECTION: &str = "wormhole.version";

/// Which side of a TCP connection a socket is; the index into the `ESTABLISHED` map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Side {
    /// It called `connect`.
    Active = 0,
    /// It came out of `accept`.
    Passive = 1,
}

impl Side {
    /// How many sides there are: the size of the map, in entries.
    pub const COUNT: u32 = 2;

    /// The entry of the map that belongs to this side.
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }
}
