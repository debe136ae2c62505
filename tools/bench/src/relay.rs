//! A byte relay: takes a connection on a unix socket, makes one to another, and carries bytes both ways. It
//! understands nothing, so no proxy of a protocol can cost less.

use crate::process::{BenchError, io};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Bytes per receive: as many as the lane takes.
const BUFFER: usize = 256 * 1024;

/// One direction: what was received and not sent yet.
struct Pipe {
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl Pipe {
    fn new() -> Pipe {
        Pipe { buffer: vec![0; BUFFER], from: 0, to: 0 }
    }

    /// Moves what can be moved; false at the end of the stream.
    fn pump(&mut self, mut source: &UnixStream, mut sink: &UnixStream) -> std::io::Result<bool> {
        loop {
            while self.from < self.to {
                match sink.write(&self.buffer[self.from..self.to]) {
                    Ok(n) => self.from += n,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
            (self.from, self.to) = (0, 0);
            match source.read(&mut self.buffer) {
                Ok(0) => return Ok(false),
                Ok(n) => self.to = n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }

    fn waits_to_send(&self) -> bool {
        self.from < self.to
    }
}

/// Relays connections to `listen` to `connect`, one after the other, until killed.
///
/// # Errors
/// When a socket cannot be made.
pub fn run(listen: &Path, connect: &Path) -> Result<(), BenchError> {
    let listener = UnixListener::bind(listen).map_err(io(listen.display().to_string()))?;
    loop {
        let (left, _) = listener.accept().map_err(io("accept"))?;
        let right = UnixStream::connect(connect).map_err(io(connect.display().to_string()))?;
        // The end of one connection, however it comes, is not the end of the relay.
        let _ = carry(&left, &right);
    }
}

fn carry(left: &UnixStream, right: &UnixStream) -> std::io::Result<()> {
    left.set_nonblocking(true)?;
    right.set_nonblocking(true)?;
    let (mut up, mut down) = (Pipe::new(), Pipe::new());
    loop {
        let wanted = |sends: &Pipe, receives: &Pipe| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLOUT, sends.waits_to_send());
            flags.set(PollFlags::POLLIN, !receives.waits_to_send());
            flags
        };
        let mut polls = [
            PollFd::new(left.as_fd(), wanted(&down, &up)),
            PollFd::new(right.as_fd(), wanted(&up, &down)),
        ];
        poll(&mut polls, PollTimeout::NONE)?;
        if !up.pump(left, right)? || !down.pump(right, left)? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_unchanged_both_ways() {
        let (ours, left) = UnixStream::pair().unwrap();
        let (right, theirs) = UnixStream::pair().unwrap();
        let relay = std::thread::spawn(move || carry(&left, &right));
        let echo = std::thread::spawn(move || {
            let (mut theirs, mut buffer) = (theirs, vec![0; 1 << 20]);
            theirs.read_exact(&mut buffer).unwrap();
            buffer.reverse();
            theirs.write_all(&buffer).unwrap();
        });
        let sent: Vec<u8> = (0..1 << 20).map(|n: u32| ((n * 7) >> 3) as u8).collect();
        (&ours).write_all(&sent).unwrap();
        let mut back = vec![0; 1 << 20];
        (&ours).read_exact(&mut back).unwrap();
        back.reverse();
        assert!(back == sent);
        echo.join().unwrap();
        drop(ours);
        let _ = relay.join().unwrap();
    }
}
