//! A blocking NBD client on a real socket: the driver of `export::client`, for the demo's load and the benchmark.
//!
//! Requests are pipelined: whatever was submitted is sent before the next event is waited for.

use crate::control::config::Export;
use crate::export::client::{Answer, Client, ClientConfig, ClientError, ClientEvent, Exported, Op};
use crate::limits::{RECV_BUFFER, SEND_SEGMENTS_MAX};
use crate::wire::nbd::{Command, NbdError};
use bytes::{Bytes, BytesMut};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Why a connection cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NbdClientError {
    /// The socket failed.
    #[error("{export}: {error}")]
    Io {
        /// Where.
        export: String,
        /// What the system says.
        error: io::Error,
    },
    /// The protocol failed.
    #[error("{export}: {error}")]
    Protocol {
        /// Where.
        export: String,
        /// What the client says.
        error: ClientError,
    },
    /// Nothing came in time.
    #[error("{export}: no answer within {seconds} s")]
    Silent {
        /// Where.
        export: String,
        /// How long it was waited for.
        seconds: u64,
    },
}

enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// One connection.
pub struct Connection {
    export: String,
    socket: Socket,
    client: Client,
    receive: BytesMut,
    segments: Vec<Bytes>,
    patience: Duration,
    unanswered: usize,
    /// The export as the server described it.
    pub exported: Exported,
}

impl Connection {
    /// Connects to the export `name` and waits until it can be used, at most `patience`; that is also how
    /// long any later answer is waited for.
    ///
    /// # Errors
    /// [`NbdClientError`].
    pub fn open(
        export: &Export,
        name: &str,
        patience: Duration,
    ) -> Result<Connection, NbdClientError> {
        let shown = export.to_string();
        let io = |error| NbdClientError::Io { export: shown.clone(), error };
        let socket = match export {
            Export::Unix(path) => Socket::Unix(UnixStream::connect(path).map_err(io)?),
            Export::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, patience).map_err(io)?;
                stream.set_nodelay(true).map_err(io)?;
                Socket::Tcp(stream)
            }
        };
        let client = Client::new(ClientConfig {
            structured: false,
            block_status: false,
            ..ClientConfig::new(name)
        });
        let exported =
            Exported { size: 0, flags: 0, sizes: None, structured: false, context: None };
        let mut connection = Connection {
            export: shown,
            socket,
            client,
            receive: BytesMut::new(),
            segments: Vec::new(),
            patience,
            unanswered: 0,
            exported,
        };
        match connection.event()? {
            ClientEvent::Ready(exported) => connection.exported = exported,
            _ => {
                return Err(
                    connection.protocol(ClientError::Unexpected("answer before the handshake"))
                );
            }
        }
        Ok(connection)
    }

    /// The socket, for a driver of its own: negotiated, nothing in flight, simple replies only.
    ///
    /// # Panics
    /// When a request is in flight or something came that nobody asked for.
    #[must_use]
    pub fn into_socket(mut self) -> socket2::Socket {
        let quiet = self.in_flight() == 0 && self.client.tx().is_empty();
        assert!(quiet && self.client.poll_event().is_none(), "the connection is in use");
        match self.socket {
            Socket::Unix(stream) => stream.into(),
            Socket::Tcp(stream) => stream.into(),
        }
    }

    /// Requests whose answer was not taken yet: in flight, or waiting for [`Connection::answer`].
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.unanswered
    }

    /// Queues a request under `token`.
    pub fn submit(&mut self, token: u64, op: Op) {
        self.unanswered += 1;
        self.client.submit(token, op);
    }

    /// Sends what is queued and waits for the next answer.
    ///
    /// # Errors
    /// When the connection ends, or nothing comes in time.
    pub fn answer(&mut self) -> Result<(u64, Result<Answer, NbdError>), NbdClientError> {
        match self.event()? {
            ClientEvent::Done { token, result } => {
                assert!(self.unanswered > 0, "an answer to {token} without a request");
                self.unanswered -= 1;
                Ok((token, result))
            }
            _ => Err(self.protocol(ClientError::Unexpected("handshake"))),
        }
    }

    /// Asks for everything written to be on stable storage, and waits.
    ///
    /// # Errors
    /// When the connection ends; `Ok(Err)` is the server's error.
    pub fn flush(&mut self) -> Result<Result<(), NbdError>, NbdClientError> {
        assert!(
            self.in_flight() == 0,
            "flush and wait is for connections without requests in flight"
        );
        self.submit(0, Op::Other { command: Command::FLUSH, flags: 0, offset: 0, len: 0 });
        let (_, result) = self.answer()?;
        Ok(result.map(|_| ()))
    }

    /// Says good-bye.
    pub fn close(mut self) {
        self.client.disconnect();
        let _ = self.send();
    }

    fn protocol(&self, error: ClientError) -> NbdClientError {
        NbdClientError::Protocol { export: self.export.clone(), error }
    }

    fn event(&mut self) -> Result<ClientEvent, NbdClientError> {
        let until = Instant::now() + self.patience;
        loop {
            match self.client.poll_event() {
                Some(ClientEvent::Closed(error)) => return Err(self.protocol(error)),
                Some(event) => return Ok(event),
                None => {}
            }
            let turn = self.send().and_then(|()| self.receive(until));
            turn.map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => NbdClientError::Silent {
                    export: self.export.clone(),
                    seconds: self.patience.as_secs(),
                },
                _ => NbdClientError::Io { export: self.export.clone(), error },
            })?;
        }
    }

    /// Payloads leave as they are; what stands between them is one segment already.
    fn send(&mut self) -> io::Result<()> {
        while self.client.tx().take(SEND_SEGMENTS_MAX, &mut self.segments) > 0 {
            for segment in self.segments.drain(..) {
                match &mut self.socket {
                    Socket::Unix(stream) => stream.write_all(&segment)?,
                    Socket::Tcp(stream) => stream.write_all(&segment)?,
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.receive.resize(RECV_BUFFER, 0);
        let got = match &mut self.socket {
            Socket::Unix(stream) => {
                stream.set_read_timeout(Some(left))?;
                stream.read(&mut self.receive)?
            }
            Socket::Tcp(stream) => {
                stream.set_read_timeout(Some(left))?;
                stream.read(&mut self.receive)?
            }
        };
        if got == 0 {
            self.client.handle_eof();
            return Ok(());
        }
        let chunk = self.receive.split_to(got).freeze();
        self.client.handle_received(chunk);
        Ok(())
    }
}
