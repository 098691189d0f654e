//! Socket options that no crate has.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// SO_RCVLOWAT: a blocking read waits for so many bytes.
pub const RCVLOWAT: (i32, i32) = (libc::SOL_SOCKET, libc::SO_RCVLOWAT);
/// SO_ZEROCOPY: the socket takes MSG_ZEROCOPY.
pub const ZEROCOPY: (i32, i32) = (libc::SOL_SOCKET, libc::SO_ZEROCOPY);
/// TCP_FASTOPEN_CONNECT: connect() waits for the first write, whose data goes with the SYN.
pub const FASTOPEN_CONNECT: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT);
/// TCP_DEFER_ACCEPT: a listener's connections are there only when something has come, or after so many seconds.
pub const DEFER_ACCEPT: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT);
/// TCP_ULP: the name of a protocol on top, such as `tls`.
pub const ULP: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_ULP);

/// Sets an option whose value is a number.
///
/// # Errors
/// The kernel's answer.
pub fn set_number(socket: impl AsFd, option: (i32, i32), value: i32) -> io::Result<()> {
    set(socket, option, &value.to_ne_bytes())
}

/// Sets an option whose value is these bytes.
///
/// # Errors
/// The kernel's answer.
pub fn set(socket: impl AsFd, (level, name): (i32, i32), value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while it is borrowed, and the kernel only reads `len` bytes from where `value` is.
    let answer = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// SO_MEMINFO: a socket's memory as the kernel counts it, by `SK_MEMINFO_`.
///
/// # Errors
/// The kernel's answer.
pub fn memory(socket: impl AsFd) -> io::Result<[u32; 9]> {
    let mut words = [0u32; 9];
    let mut len = libc::socklen_t::try_from(size_of_val(&words)).map_err(io::Error::other)?;
    let (fd, to) = (socket.as_fd().as_raw_fd(), words.as_mut_ptr().cast());
    // SAFETY: the descriptor is open while it is borrowed, and the kernel writes at most `len` bytes to where `words` is.
    let answer = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, to, &raw mut len) };
    if answer == 0 { Ok(words) } else { Err(io::Error::last_os_error()) }
}
