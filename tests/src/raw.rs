//! System calls on sockets, and socket options, that no crate has.

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

/// TCP_INQ: recvmsg(2) tells how much is left.
pub const INQ: (i32, i32) = (libc::IPPROTO_TCP, 36);
/// SO_TIMESTAMP: and when it came.
pub const TIMESTAMP: (i32, i32) = (libc::SOL_SOCKET, libc::SO_TIMESTAMP);
/// SO_PEEK_OFF: a peek goes on where the last one ended.
pub const PEEK_OFF: (i32, i32) = (libc::SOL_SOCKET, libc::SO_PEEK_OFF);
/// TCP_CORK: what is less than a packet waits for more.
pub const CORK: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_CORK);

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

/// recv(2) with MSG_TRUNC and no buffer: takes up to `len` bytes out of the stream, unseen.
///
/// # Errors
/// The kernel's answer.
pub fn throw_away(socket: impl AsFd, len: usize) -> io::Result<usize> {
    // SAFETY: the kernel is told that no memory is there, and refuses to write to it.
    let taken = unsafe { libc::recv(socket.as_fd().as_raw_fd(), std::ptr::null_mut(), len, libc::MSG_TRUNC) };
    usize::try_from(taken).map_err(|_| io::Error::last_os_error())
}

/// recvmsg(2): how many bytes came, and how many bytes of control messages with them.
///
/// # Errors
/// The kernel's answer.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, usize)> {
    let (mut control, mut part) = ([0u64; 32], libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() });
    // SAFETY: zeros are a message header without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
    // SAFETY: the header's pointers are to memory that lives on, of the sizes that it says.
    let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) };
    Ok((usize::try_from(got).map_err(|_| io::Error::last_os_error())?, message.msg_controllen))
}

/// `tcpi_bytes_received` of TCP_INFO.
///
/// # Errors
/// The kernel's answer.
pub fn bytes_received(socket: impl AsFd) -> io::Result<u64> {
    /// Its place in `struct tcp_info` (linux/tcp.h), in words of 8 bytes.
    const PLACE: usize = 16;
    let mut words = [0u64; 32];
    let mut len = libc::socklen_t::try_from(size_of_val(&words)).map_err(io::Error::other)?;
    let (fd, to) = (socket.as_fd().as_raw_fd(), words.as_mut_ptr().cast());
    // SAFETY: as in `memory`.
    let answer = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut len) };
    if answer == 0 { Ok(words[PLACE]) } else { Err(io::Error::last_os_error()) }
}

/// Has a signal of this process do nothing, in a handler after which system calls go on (SA_RESTART).
///
/// # Errors
/// The kernel's answer.
pub fn ignore_by_handler(signal: i32) -> io::Result<()> {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: zeros are an action without flags and mask; the handler does nothing.
    let answer = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The calling thread, for [`signal`].
pub fn this_thread() -> rustix::thread::Pid {
    rustix::thread::gettid()
}

/// Sends a signal to a thread of this process.
///
/// # Errors
/// The kernel's answer.
pub fn signal(thread: rustix::thread::Pid, signal: i32) -> io::Result<()> {
    let (process, thread) = (rustix::process::getpid().as_raw_nonzero().get(), thread.as_raw_nonzero().get());
    // SAFETY: three numbers.
    let answer = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
