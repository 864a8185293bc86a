//! Lines over the pipes of a worker, with a limit to the wait.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Both pipes, and what has been read ahead.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) input: ChildStdin,
    pub(super) output: ChildStdout,
    pub(super) read: Vec<u8>,
}

impl Lines {
    pub(super) fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.input.write_all(&line)
    }

    /// The next line. `TimedOut` if none comes for so long, `UnexpectedEof` if none will.
    pub(super) fn receive<T: DeserializeOwned>(&mut self, patience: Duration) -> io::Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(end) = self.read.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(Into::into);
            }
            self.wait(deadline)?;
            let mut buffer = [0; 16 << 10];
            match self.output.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.read.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn wait(&self, deadline: Instant) -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut fds = [PollFd::from_borrowed_fd(self.output.as_fd(), PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
