//! Pipes for `splice(2)`: what streams in is handed on without being copied through userspace (Linux 2.6.17; the pages
//! go into the next socket uncopied since 6.5). A pipe is borrowed while a stream is busy and comes back empty.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// The most that a pipe is given at once, and so the most that it holds.
pub const PIPE_MAX: usize = 256 * 1024;
/// Empty pipes that a thread keeps for the next stream.
const SPARE: usize = 8;

/// A pipe and what it holds.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

/// A thread's pipes.
#[derive(Debug)]
pub struct Pipes {
    spare: Vec<Pipe>,
    /// So many more may be made.
    left: usize,
}

impl Pipes {
    /// At most `limit` pipes at once, each of two descriptors.
    pub fn new(limit: usize) -> Self {
        Self { spare: Vec::new(), left: limit }
    }

    /// An empty pipe; none when all are in use or no descriptor is to be had. Then bytes are copied.
    pub fn borrow(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.spare.pop() {
            return Some(pipe);
        }
        if self.left == 0 {
            return None;
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // Smaller than asked for (fs.pipe-user-pages-soft) is slower, not wrong.
        let _ = fcntl_setpipe_size(&write, PIPE_MAX);
        self.left -= 1;
        Some(Pipe { read, write, held: 0 })
    }

    /// Takes a pipe back. One that still holds something, of a connection that failed, is closed with it.
    pub fn give_back(&mut self, pipe: Pipe) {
        if pipe.held == 0 && self.spare.len() < SPARE {
            self.spare.push(pipe);
        } else {
            self.left += 1;
        }
    }
}

impl Pipe {
    /// True when everything that came in has gone out.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes what `src` has, into the empty pipe. 0: EOF.
    ///
    /// # Errors
    /// The kernel's answer, EAGAIN when there is nothing.
    pub fn fill(&mut self, src: BorrowedFd<'_>) -> Result<usize, Errno> {
        let got = splice(src, None, self.write.as_fd(), None, PIPE_MAX, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?;
        self.held += got;
        Ok(got)
    }

    /// Gives what the pipe holds to `dst`, as much as it takes at once.
    ///
    /// # Errors
    /// The kernel's answer, EAGAIN when `dst` is full. SIGPIPE must be ignored, as it is in every Rust program.
    pub fn drain(&mut self, dst: BorrowedFd<'_>) -> Result<usize, Errno> {
        let put = splice(self.read.as_fd(), None, dst, None, self.held, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?;
        self.held -= put.min(self.held);
        Ok(put)
    }
}
