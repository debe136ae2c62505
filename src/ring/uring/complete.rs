//! From what the kernel reports to what the lane is told, and the two ways in which a socket ends.
//!
//! Completions are first copied out of the shared queue and handled then, so that handling can queue
//! submissions of its own: the rest of a partial send, a cancellation, the waker's next read.

use std::io;
use std::os::fd::AsRawFd;

use bytes::{Bytes, BytesMut};
use io_uring::{cqueue, opcode, types};
use socket2::SockRef;

use super::op::{self, Op};
use super::{Completion, SockId, Uring};
use crate::ring::send::SendArea;
use crate::ring::socket;
use crate::ring::table::{Phase, Sock};

impl Uring {
    /// Handles every completion that there is; what the lane is told goes to `ready`.
    pub(super) fn reap(&mut self) {
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion().map(|c| (c.user_data(), c.result(), c.flags())));
        self.stats.completed += reaped.len() as u64;
        for (user_data, result, flags) in reaped.drain(..) {
            assert!(!cqueue::more(flags), "only one completion per operation was asked for");
            self.complete(user_data, result, flags);
        }
        self.reaped = reaped;
    }

    fn complete(&mut self, user_data: u64, result: i32, flags: u32) {
        // A partial send stays the same operation, so it is looked at before it is taken out.
        if let Op::Send { sock, .. } = *self.ops.get_mut(user_data) {
            self.send_went(user_data, sock, result);
            return;
        }
        match self.ops.remove(user_data) {
            Op::Connect { sock, address: _ } => self.connect_done(sock, result),
            Op::Recv { sock, buffer, asked } => {
                self.recv_done(sock, buffer, asked, result, flags);
            }
            Op::Send { .. } => unreachable!("sends are handled above"),
            Op::Cancel { sock } => {
                self.landed(sock);
                self.proceed(sock);
            }
            Op::Wake { mut counter } => {
                if self.closing {
                    return;
                }
                self.waker.clear();
                self.ready.push(Completion::Woken);
                let target = counter.as_mut_ptr();
                self.wake_read = self.ops.insert(Op::Wake { counter });
                self.push_waker(target);
            }
            Op::Alarm { limit } => {
                self.alarms.retain(|set| *set != user_data);
                self.limits.push(limit);
            }
            Op::ConnectTimeout { limit: _ } | Op::CancelWake => {}
        }
    }

    /// One operation less in flight on the socket, which exists because operations keep it.
    fn landed(&mut self, sock: SockId) -> &mut Sock {
        let entry = self.sockets.get_mut(sock).expect("operations keep their socket");
        assert!(entry.in_flight > 0, "{sock:?} had no operation in flight");
        entry.in_flight -= 1;
        entry
    }

    fn connect_done(&mut self, sock: SockId, result: i32) {
        let entry = self.landed(sock);
        if entry.phase != Phase::Connecting {
            self.proceed(sock);
            return;
        }
        let local = match result {
            0 => SockRef::from(&entry.fd).local_addr().and_then(|local| {
                local.as_socket().ok_or_else(|| io::Error::other("the local address is none"))
            }),
            // Nobody else cancels a socket that connects: the time limit did.
            r if r == -libc::ECANCELED => Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)),
            r => Err(io::Error::from_raw_os_error(-r)),
        };
        match local {
            Ok(local) => {
                entry.phase = Phase::Open;
                self.ready.push(Completion::Connected { sock, local });
            }
            Err(error) => {
                entry.phase = Phase::Aborting;
                self.ready.push(Completion::ConnectFailed { sock, error });
                self.proceed(sock);
            }
        }
    }

    fn recv_done(
        &mut self,
        sock: SockId,
        mut buffer: BytesMut,
        asked: usize,
        result: i32,
        flags: u32,
    ) {
        let entry = self.landed(sock);
        assert!(entry.receiving, "{sock:?} was not receiving");
        entry.receiving = false;
        let open = entry.phase == Phase::Open;
        let completion = match usize::try_from(result) {
            Ok(0) => Completion::Eof { sock },
            Ok(len) => {
                assert!(len <= asked, "the kernel wrote {len} bytes into room for {asked}");
                entry.drained = len < asked && !cqueue::sock_nonempty(flags);
                // SAFETY: the kernel has written `len` bytes from the start of the spare room, which
                // held `asked`, and the buffer was empty before.
                unsafe { buffer.set_len(len) };
                Completion::Received { sock, chunk: buffer.split_to(len).freeze() }
            }
            Err(_) => Completion::RecvFailed { sock, error: io::Error::from_raw_os_error(-result) },
        };
        entry.buffer = Some(buffer);
        if open {
            self.ready.push(completion);
        } else {
            // The piece goes before the socket, so that the buffer is free when the pool gets it.
            drop(completion);
            self.proceed(sock);
        }
    }

    fn send_went(&mut self, user_data: u64, sock: SockId, result: i32) {
        let Op::Send { area, .. } = self.ops.get_mut(user_data) else {
            unreachable!("the caller has looked")
        };
        let entry = self.sockets.get_mut(sock).expect("operations keep their socket");
        assert!(entry.sending, "{sock:?} was not sending");
        let outcome = match usize::try_from(result) {
            Ok(0) => Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(bytes) => Ok(area.advance(bytes)),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        if matches!(outcome, Ok(false)) && entry.phase != Phase::Aborting {
            let request = op::rest(area, entry.fd.as_raw_fd());
            self.stats.partial_sends += 1;
            self.push(&[request.user_data(user_data)]);
            return;
        }
        let Op::Send { area, .. } = self.ops.remove(user_data) else {
            unreachable!("the caller has looked")
        };
        let entry = self.landed(sock);
        entry.sending = false;
        let open = entry.phase == Phase::Open;
        let (bytes, segments) = self.keep(area);
        if open {
            self.ready.push(match outcome {
                Ok(_) => Completion::Sent { sock, segments, bytes },
                Err(error) => Completion::SendFailed { sock, error, bytes },
            });
        } else {
            self.proceed(sock);
        }
    }

    /// Empties an area and keeps it for the next send.
    pub(super) fn keep(&mut self, mut area: Box<SendArea>) -> (usize, Vec<Bytes>) {
        let bytes = area.sent();
        let segments = area.unload();
        self.areas.push(area);
        (bytes, segments)
    }

    /// Takes a socket that is to end one step further: cancels what is in flight, once, and when nothing
    /// is, ends it. A graceful close lets its send finish first.
    pub(super) fn proceed(&mut self, sock: SockId) {
        let entry = self.sockets.get_mut(sock).expect("only a live socket proceeds");
        let graceful = match entry.phase {
            Phase::Closing => true,
            Phase::Aborting => false,
            Phase::Connecting | Phase::Open => unreachable!("{sock:?} is not to end"),
        };
        if graceful && entry.sending {
            return;
        }
        if entry.in_flight == 0 {
            let Sock { fd, kind, buffer, .. } = self.sockets.remove(sock);
            if let Some(buffer) = buffer {
                self.pool.put(buffer);
            }
            if graceful {
                socket::finish(&fd, kind);
            }
            drop(fd);
            self.ready.push(Completion::Closed { sock });
            return;
        }
        if !entry.cancelled {
            entry.cancelled = true;
            entry.in_flight += 1;
            let everything = types::CancelBuilder::fd(types::Fd(entry.fd.as_raw_fd())).all();
            let user_data = self.ops.insert(Op::Cancel { sock });
            self.push(&[opcode::AsyncCancel2::new(everything).build().user_data(user_data)]);
        }
    }
}
