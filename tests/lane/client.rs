//! A blocking NBD client over the project's own pure client: one socket, requests pipelined.
#![allow(dead_code, reason = "each test program uses its part")]

use bytes::{Bytes, BytesMut};
use mpio::base::Payload;
use mpio::export::client::{Answer, Client, ClientConfig, ClientEvent, Exported, Op};
use mpio::wire::nbd::NbdError;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// One connection.
pub struct NbdClient {
    stream: UnixStream,
    client: Client,
    pub export: Exported,
    answers: HashMap<u64, Result<Answer, NbdError>>,
    next: u64,
}

impl NbdClient {
    /// Negotiates on a connected socket.
    pub fn open(stream: UnixStream, export: &str) -> NbdClient {
        stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a timeout");
        let mut client = Client::new(ClientConfig::new(export));
        let mut stream = stream;
        let export = loop {
            match client.poll_event() {
                Some(ClientEvent::Ready(export)) => break export,
                Some(other) => panic!("handshake ended with {other:?}"),
                None => pump(&mut stream, &mut client),
            }
        };
        NbdClient { stream, client, export, answers: HashMap::new(), next: 0 }
    }

    /// Sends a request without waiting for its answer.
    pub fn start(&mut self, op: Op) -> u64 {
        self.next += 1;
        self.client.submit(self.next, op);
        flush(&mut self.stream, &mut self.client);
        self.next
    }

    /// Waits for the answer.
    pub fn finish(&mut self, token: u64) -> Result<Answer, NbdError> {
        loop {
            while let Some(event) = self.client.poll_event() {
                match event {
                    ClientEvent::Done { token, result } => {
                        assert!(self.answers.insert(token, result).is_none(), "answered twice");
                    }
                    other => panic!("transmission ended with {other:?}"),
                }
            }
            if let Some(answer) = self.answers.remove(&token) {
                return answer;
            }
            pump(&mut self.stream, &mut self.client);
        }
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), NbdError> {
        let data = Payload::from(data.to_vec());
        let token = self.start(Op::Write { offset, data, fua: false });
        self.finish(token).map(drop)
    }

    pub fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, NbdError> {
        let token = self.start(Op::Read { offset, len });
        match self.finish(token)? {
            Answer::Data(data) => Ok(data.to_vec()),
            other => panic!("READ answered with {other:?}"),
        }
    }

    pub fn other(
        &mut self,
        command: mpio::wire::nbd::Command,
        flags: u16,
        offset: u64,
        len: u32,
    ) -> Result<Answer, NbdError> {
        let token = self.start(Op::Other { command, flags, offset, len });
        self.finish(token)
    }
}

fn flush(stream: &mut UnixStream, client: &mut Client) {
    let mut segments: Vec<Bytes> = Vec::new();
    while client.tx().take(64, &mut segments) > 0 {
        for segment in segments.drain(..) {
            stream.write_all(&segment).expect("the server reads");
        }
    }
}

fn pump(stream: &mut UnixStream, client: &mut Client) {
    flush(stream, client);
    let mut chunk = BytesMut::zeroed(256 * 1024);
    let n = stream.read(&mut chunk).expect("the server answers in time");
    assert!(n > 0, "the server closed the connection");
    chunk.truncate(n);
    client.handle_received(chunk.freeze());
}
