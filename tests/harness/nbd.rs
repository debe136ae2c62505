//! NBD by hand: every field is what the test says, right or wrong. For well-behaved clients there are better
//! ones; this one exists to misbehave.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Start of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// NBD_OPT_LIST.
pub const OPT_LIST: u32 = 3;
/// NBD_OPT_GO.
pub const OPT_GO: u32 = 7;
/// NBD_REP_ACK.
pub const REP_ACK: u32 = 1;
/// NBD_CMD_READ.
pub const READ: u16 = 0;
/// NBD_CMD_WRITE.
pub const WRITE: u16 = 1;

/// A connection.
pub struct Raw {
    /// The socket.
    pub stream: UnixStream,
}

impl Raw {
    /// Connects and does nothing else.
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn connect(path: &Path) -> io::Result<Raw> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        Ok(Raw { stream })
    }

    /// Reads the greeting and answers it: fixed newstyle, no zeroes.
    ///
    /// # Errors
    /// When the server closes instead.
    pub fn greet(&mut self) -> io::Result<()> {
        let mut greeting = [0; 18];
        self.stream.read_exact(&mut greeting)?;
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        self.stream.write_all(&3_u32.to_be_bytes())
    }

    /// Sends an option.
    ///
    /// # Errors
    /// When the server has closed.
    pub fn send_option(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.stream.write_all(&bytes)
    }

    /// One reply to an option: its type and data.
    ///
    /// # Errors
    /// When the server closes instead.
    pub fn option_reply(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut head = [0; 20];
        self.stream.read_exact(&mut head)?;
        let field = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let mut data = vec![0; field(16) as usize];
        self.stream.read_exact(&mut data)?;
        Ok((field(12), data))
    }

    /// NBD_OPT_GO without information requests: the type and data of the last reply, `REP_ACK` when it went well.
    ///
    /// # Errors
    /// When the server closes instead.
    pub fn go(&mut self, name: &str) -> io::Result<(u32, Vec<u8>)> {
        self.send_go(name)?;
        self.go_reply()
    }

    /// The first half of [`go`](Raw::go).
    ///
    /// # Errors
    /// When the server has closed.
    pub fn send_go(&mut self, name: &str) -> io::Result<()> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend(name.as_bytes());
        data.extend([0, 0]);
        self.send_option(OPT_GO, &data)
    }

    /// The second half of [`go`](Raw::go).
    ///
    /// # Errors
    /// When the server closes instead.
    pub fn go_reply(&mut self) -> io::Result<(u32, Vec<u8>)> {
        loop {
            let (kind, data) = self.option_reply()?;
            // NBD_REP_INFO comes before the verdict.
            if kind != 3 {
                return Ok((kind, data));
            }
        }
    }

    /// In transmission on the export `name`.
    #[track_caller]
    pub fn open(path: &Path, name: &str) -> Raw {
        let mut raw = Raw::connect(path).unwrap();
        raw.greet().unwrap();
        let (kind, data) = raw.go(name).unwrap();
        assert_eq!(kind, REP_ACK, "GO: {}", String::from_utf8_lossy(&data));
        raw
    }

    /// Bytes of a request's header.
    pub fn request(command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend(0_u16.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes
    }

    /// A simple reply: its error and cookie.
    ///
    /// # Errors
    /// When the server closes instead.
    pub fn reply(&mut self) -> io::Result<(u32, u64)> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        assert_eq!(head[..4], 0x6744_6698_u32.to_be_bytes(), "the magic of a simple reply");
        let error = u32::from_be_bytes(head[4..8].try_into().unwrap());
        Ok((error, u64::from_be_bytes(head[8..].try_into().unwrap())))
    }

    /// Reads until the server closes; fails when it has not within the read timeout.
    ///
    /// # Errors
    /// The timeout.
    pub fn until_closed(&mut self) -> io::Result<()> {
        let mut rest = [0; 4096];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
    }
}
