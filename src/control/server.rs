//! The admin server: one JSON object per line on a unix socket, for the daemon's own user and root.
//!
//! Deliberately not here: what the commands do. The server reads lines, checks who asks, and hands each
//! command to a [`Handler`]; a slow or silent client holds nothing but its own connection.

use super::runtime::{self, Listener, Stream};
use super::sockets::{self, ListenError, SocketFile};
use crate::api::{self, Answer, Command, Error, ErrorKind, Outcome, Request};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Admin connections at a time; more are closed on arrival.
const CONNECTIONS_MAX: usize = 32;
/// A connection that asks nothing for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Bytes per read.
const READ: usize = 4096;

/// Answers commands.
pub trait Handler: 'static {
    /// Carries out one command.
    fn handle(&self, command: Command) -> impl Future<Output = Outcome>;
}

/// A listening admin server.
pub struct Server {
    listener: std::os::unix::net::UnixListener,
    file: SocketFile,
}

impl Server {
    /// Listens on `path`, mode 0600.
    ///
    /// # Errors
    /// When another daemon answers there, or the socket cannot be made.
    pub fn bind(path: &Path) -> Result<Server, ListenError> {
        let (listener, file) = sockets::unix("control socket", path, 0o600)?;
        Ok(Server { listener, file })
    }

    /// Serves until dropped.
    ///
    /// # Errors
    /// When the socket cannot be registered.
    pub async fn serve<H: Handler>(self, handler: Rc<H>) -> io::Result<()> {
        let listener = Listener::new(self.listener)?;
        let _file = self.file;
        let open = Rc::new(Cell::new(0_usize));
        let mut failing = false;
        loop {
            match listener.accept().await {
                Ok((stream, _)) if open.get() >= CONNECTIONS_MAX => drop(stream),
                Ok((stream, uid)) => {
                    failing = false;
                    open.set(open.get() + 1);
                    let (handler, open) = (handler.clone(), open.clone());
                    runtime::spawn(async move {
                        connection(stream, uid, handler.as_ref()).await;
                        open.set(open.get() - 1);
                    });
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "control socket: cannot accept; trying again");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Whether a user may command this daemon.
fn allowed(uid: u32, own: u32) -> bool {
    uid == own || uid == 0
}

async fn connection<H: Handler>(mut stream: Stream, uid: u32, handler: &H) {
    let own = nix::unistd::geteuid().as_raw();
    if !allowed(uid, own) {
        tracing::warn!(uid, "control socket: refused a user");
        let error = Error::new(
            ErrorKind::Refused,
            "control socket",
            format!("user id {uid} may not command this daemon"),
        )
        .hint("the user that runs the daemon, or root");
        let _ = send(&mut stream, Outcome::Error(error)).await;
        return;
    }
    let mut lines = Lines { buffer: Vec::new(), scratch: Vec::with_capacity(READ) };
    loop {
        let line = match tokio::time::timeout(IDLE_MAX, lines.next(&mut stream)).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(TooLong)) => {
                let why = format!("a request is longer than {} bytes", api::REQUEST_LINE_MAX);
                let error = Error::new(ErrorKind::Invalid, "request", why);
                let _ = send(&mut stream, Outcome::Error(error)).await;
                return;
            }
        };
        let outcome = match parse(&line) {
            Ok(command) => handler.handle(command).await,
            Err(error) => Outcome::Error(error),
        };
        if send(&mut stream, outcome).await.is_err() {
            return;
        }
    }
}

fn parse(line: &[u8]) -> Result<Command, Error> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let invalid = |error: serde_json::Error| {
        Error::new(ErrorKind::Invalid, "request", format!("not a request: {error}"))
    };
    // The version goes first: a request of another version may have any other shape.
    let Version { version } = serde_json::from_slice(line).map_err(invalid)?;
    if version != api::VERSION {
        let why = format!("version {version} was asked for, this daemon speaks {}", api::VERSION);
        return Err(Error::new(ErrorKind::Version, "request", why)
            .hint("the mpio program of the daemon's version"));
    }
    serde_json::from_slice::<Request>(line).map(|request| request.command).map_err(invalid)
}

async fn send(stream: &mut Stream, outcome: Outcome) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Answer::new(outcome)).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(line).await
}

struct TooLong;

/// Lines of a stream, bounded in length.
struct Lines {
    buffer: Vec<u8>,
    scratch: Vec<u8>,
}

impl Lines {
    /// The next line without its newline; `None` at the end, also when the stream breaks.
    async fn next(&mut self, stream: &mut Stream) -> Result<Option<Vec<u8>>, TooLong> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(Some(line));
            }
            if self.buffer.len() > api::REQUEST_LINE_MAX {
                return Err(TooLong);
            }
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.reserve(READ);
            match stream.read(scratch).await {
                Ok(bytes) if !bytes.is_empty() => {
                    self.buffer.extend_from_slice(&bytes);
                    self.scratch = bytes;
                }
                _ => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;

    struct Echo;

    impl Handler for Echo {
        async fn handle(&self, command: Command) -> Outcome {
            match command {
                Command::Status { device: Some(device) } => Outcome::Error(Error::new(
                    ErrorKind::NotFound,
                    format!("device {device}"),
                    "there is none",
                )),
                _ => Outcome::Done {},
            }
        }
    }

    /// Serves on a socket while `client` runs on another thread.
    fn with_server(name: &str, plain: bool, client: impl FnOnce(PathBuf) + Send + 'static) {
        let dir = std::env::temp_dir().join(format!("mpio-server-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("control.sock");
        let server = Server::bind(&path).unwrap();
        let (done, finished) = tokio::sync::oneshot::channel::<()>();
        let there = path.clone();
        let client = std::thread::spawn(move || {
            client(there);
            drop(done);
        });
        let future = async {
            tokio::select! {
                served = server.serve(Rc::new(Echo)) => served.unwrap(),
                _ = finished => {}
            }
        };
        if plain { runtime::run_plain(future) } else { runtime::run(future) }.unwrap();
        client.join().unwrap();
        assert!(!path.exists(), "the socket is removed at the end");
        std::fs::remove_dir_all(dir).unwrap();
    }

    fn ask(path: &Path, bytes: &[u8], answers: usize) -> Vec<String> {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(bytes).unwrap();
        BufReader::new(stream).lines().take(answers).map(Result::unwrap).collect()
    }

    fn conversation(path: PathBuf) {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let status = br#"{"version":1,"command":"status","device":null}"#;
        let two = [status, &b"\n"[..], br#"{"version":1,"command":"status","device":"x"}"#, b"\n"]
            .concat();
        assert_eq!(
            ask(&path, &two, 2),
            [
                r#"{"version":1,"done":{}}"#,
                r#"{"version":1,"error":{"kind":"not-found","what":"device x","why":"there is none"}}"#
            ]
        );
        let other = ask(&path, b"{\"version\":2,\"command\":\"fly\"}\n", 1);
        assert!(other[0].contains("version 2 was asked for, this daemon speaks 1"), "{other:?}");
        let noise = ask(&path, b"hello\n", 1);
        assert!(noise[0].contains("not a request"), "{noise:?}");
        let long = ask(&path, &vec![b'x'; api::REQUEST_LINE_MAX + 2 * READ], 1);
        assert!(long[0].contains("longer than"), "{long:?}");
    }

    #[test]
    fn lines_answers_and_errors() {
        with_server("ring", false, conversation);
        with_server("plain", true, conversation);
    }

    #[test]
    fn connections_are_bounded_and_do_not_stop_others() {
        with_server("many", false, |path| {
            let silent: Vec<_> = (0..200).filter_map(|_| UnixStream::connect(&path).ok()).collect();
            drop(silent);
            let line = b"{\"version\":1,\"command\":\"status\",\"device\":null}\n";
            let answer = (0..50).find_map(|_| {
                let lines = std::panic::catch_unwind(|| ask(&path, line, 1)).ok()?;
                std::thread::sleep(Duration::from_millis(10));
                lines.first().cloned()
            });
            assert_eq!(answer.unwrap(), r#"{"version":1,"done":{}}"#);
        });
    }

    #[test]
    fn same_user_or_root() {
        assert!(
            allowed(1000, 1000) && allowed(0, 1000) && !allowed(1001, 1000) && !allowed(1000, 0)
        );
    }
}
