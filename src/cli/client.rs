//! Talks to a daemon over its control socket: one line there, one line back.

use super::Failure;
use crate::api::{self, Answer, Command, ErrorKind, Outcome, Request};
use crate::control::config::secret::plain;
use crate::control::dirs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A daemon that says nothing for this long is stuck.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// How often somebody who waits is asked whether to go on.
const LOOK: Duration = Duration::from_millis(100);

/// How long an answer is waited for.
pub struct Wait<'a> {
    /// At most.
    pub limit: Duration,
    /// As long as this says so; asked ten times a second.
    pub go_on: &'a dyn Fn() -> bool,
}

/// Asks the daemon at `control`, or at the first default socket that somebody listens on.
///
/// # Errors
/// Exit code 3 when no daemon answers, 2 when it does not know the device or path, 1 when it refuses.
pub fn ask(control: Option<&Path>, command: Command) -> Result<Outcome, Failure> {
    ask_while(control, command, &Wait { limit: TIMEOUT, go_on: &|| true })
}

/// The same with a limit of the caller's.
///
/// # Errors
/// Those of [`ask`].
pub fn ask_while(
    control: Option<&Path>,
    command: Command,
    wait: &Wait<'_>,
) -> Result<Outcome, Failure> {
    let (stream, path) = connect(control)?;
    let began = Instant::now();
    let broken = |error: io::Error| {
        let why = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("no answer within {:.0} s", began.elapsed().as_secs_f64())
            }
            _ => plain(&error),
        };
        let hint = "again, or the daemon's log";
        Failure::unreachable(format!("daemon at {}: {why}; try: {hint}", path.display()))
    };
    let line = exchange(stream, &Request::new(command), wait).map_err(broken)?;
    let answer: Answer = serde_json::from_str(&line).map_err(|error| {
        Failure::unreachable(format!(
            "daemon at {}: its answer is not understood ({error}); try: the mpio program of its version",
            path.display()
        ))
    })?;
    match answer.result {
        Outcome::Error(error) => Err(match error.kind {
            ErrorKind::Invalid | ErrorKind::NotFound => Failure::wrong(error),
            ErrorKind::Refused | ErrorKind::Version | ErrorKind::Failed => Failure::failed(error),
        }),
        outcome => Ok(outcome),
    }
}

/// An answer of another kind than was asked for.
#[must_use]
pub fn unexpected() -> Failure {
    Failure::failed(
        "daemon: it answered something else than was asked; try: the mpio program of its version",
    )
}

fn exchange(mut stream: UnixStream, request: &Request, wait: &Wait<'_>) -> io::Result<String> {
    stream.set_read_timeout(Some(LOOK.min(wait.limit)))?;
    stream.set_write_timeout(Some(wait.limit))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    // A daemon that refuses the user says so and closes without reading: its answer counts, not our write.
    let written = stream.write_all(&line);
    let mut answer = Vec::new();
    let mut reader = BufReader::new(stream.take(api::LINE_MAX as u64));
    let until = Instant::now() + wait.limit;
    let read = loop {
        match reader.read_until(b'\n', &mut answer) {
            // What has come so far is kept.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
                    && Instant::now() < until
                    && (wait.go_on)() => {}
            read => break read,
        }
    };
    match answer.is_empty() {
        false => {
            read?;
            String::from_utf8(answer).map_err(|_| io::ErrorKind::InvalidData.into())
        }
        true => {
            written?;
            read?;
            Err(io::Error::other("it closed the connection without an answer"))
        }
    }
}

fn connect(control: Option<&Path>) -> Result<(UnixStream, PathBuf), Failure> {
    let paths = control.map_or_else(dirs::control_sockets, |path| vec![path.to_owned()]);
    let mut why = Vec::new();
    for path in paths {
        match UnixStream::connect(&path) {
            Ok(stream) => return Ok((stream, path)),
            Err(error) => why.push(format!("{}: {}", path.display(), cause(&error))),
        }
    }
    let hint = "start it with `mpio serve --config FILE`, or name its socket with --control";
    Err(Failure::unreachable(format!("no daemon: {}; try: {hint}", why.join(", "))))
}

fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        io::ErrorKind::PermissionDenied => "it belongs to another user".to_owned(),
        _ => plain(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn with_answer(name: &str, answer: &'static str) -> Result<Outcome, Failure> {
        let path = std::env::temp_dir().join(format!("mpio-client-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            (&stream).write_all(answer.as_bytes()).unwrap();
            line
        });
        let result = ask(Some(&path), Command::Status { device: None });
        assert_eq!(
            daemon.join().unwrap(),
            "{\"version\":1,\"command\":\"status\",\"device\":null}\n"
        );
        std::fs::remove_file(path).unwrap();
        result
    }

    #[test]
    fn answers_become_exit_codes() {
        assert_eq!(with_answer("done", "{\"version\":1,\"done\":{}}\n"), Ok(Outcome::Done {}));
        let gone = with_answer("gone", "").unwrap_err();
        assert_eq!(gone.code, 3);
        let code = |name, answer| with_answer(name, answer).unwrap_err().code;
        assert_eq!(code("garbage", "hello\n"), 3);
        assert_eq!(
            code(
                "invalid",
                "{\"version\":1,\"error\":{\"kind\":\"not-found\",\"what\":\"a\",\"why\":\"b\"}}\n"
            ),
            2
        );
        let refused = "{\"version\":1,\"error\":{\"kind\":\"refused\",\"what\":\"path a:ha1\",\"why\":\"it is the last usable one\",\"try\":\"--force\"}}\n";
        let failure = with_answer("refused", refused).unwrap_err();
        assert_eq!(failure, Failure::failed("path a:ha1: it is the last usable one; try: --force"));
    }

    #[test]
    fn no_daemon() {
        let failure =
            ask(Some(Path::new("/nonexistent/s")), Command::Status { device: None }).unwrap_err();
        assert_eq!(
            failure,
            Failure::unreachable(
                "no daemon: /nonexistent/s: there is no such socket; try: start it with `mpio serve --config FILE`, or name its socket with --control"
            )
        );
    }
}
