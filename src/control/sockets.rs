//! Listening sockets of the daemon: mode before listen, stale ones removed, living ones respected, and
//! removed again at the end, but only if they are still ours.

use super::config::Export;
use super::config::secret::plain;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net as std_unix;
use std::path::{Path, PathBuf};

const BACKLOG: i32 = 128;

/// Why a socket cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}; try: {hint}")]
pub struct ListenError {
    what: String,
    why: String,
    hint: String,
}

impl ListenError {
    fn new(what: &str, why: impl Into<String>, hint: impl Into<String>) -> ListenError {
        ListenError { what: what.to_owned(), why: why.into(), hint: hint.into() }
    }
}

/// The file of a unix socket; removed when dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    node: Node,
}

impl SocketFile {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have put another socket there meanwhile.
        if node(&self.path).ok() == Some(self.node) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Device, inode, and the time it was made: inodes are used again at once, and a change of owner or mode
/// does not touch the time.
type Node = (u64, u64, i64, i64);

fn node(path: &Path) -> io::Result<Node> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

/// Listens on a unix socket with this mode. `what` names it in messages.
///
/// # Errors
/// When somebody answers there already, when something that is no socket is there, when it cannot be made.
pub fn unix(
    what: &str,
    path: &Path,
    mode: u32,
) -> Result<(std_unix::UnixListener, SocketFile), ListenError> {
    let io = |error: io::Error| {
        ListenError::new(
            what,
            format!("{}: {}", path.display(), plain(&error)),
            "a path in a directory that this user can write to",
        )
    };
    // The directory of a bare file name is the empty path, and there.
    let missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    if let Some(dir) = path.parent().filter(missing) {
        std::fs::DirBuilder::new().mode(0o755).create(dir).map_err(io)?;
    }
    remove_stale(what, path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(io)?;
    socket.bind(&SockAddr::unix(path).map_err(io)?).map_err(io)?;
    let file = SocketFile { path: path.to_owned(), node: node(path).map_err(io)? };
    // Before listen nobody can connect, so that there is no moment with another mode.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(io)?;
    socket.listen(BACKLOG).map_err(io)?;
    Ok((socket.into(), file))
}

/// Removes a socket that nobody listens on.
fn remove_stale(what: &str, path: &Path) -> Result<(), ListenError> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    let shown = path.display();
    if !meta.file_type().is_socket() {
        return Err(ListenError::new(
            what,
            format!("{shown} is there and is not a socket"),
            "another path",
        ));
    }
    match std_unix::UnixStream::connect(path) {
        Ok(_) => Err(ListenError::new(
            what,
            format!("another process listens on {shown}"),
            "stop that process, or another path",
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %shown, "removed a stale socket");
            std::fs::remove_file(path).map_err(|error| {
                ListenError::new(
                    what,
                    format!("{shown} is stale and cannot be removed: {}", plain(&error)),
                    format!("rm {shown}"),
                )
            })
        }
        Err(error) => {
            Err(ListenError::new(what, format!("{shown}: {}", plain(&error)), "another path"))
        }
    }
}

/// Listens on a TCP port.
///
/// # Errors
/// When the address is in use or is not one of this host.
pub fn tcp(what: &str, address: SocketAddr) -> Result<std::net::TcpListener, ListenError> {
    let listen = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // A daemon that starts again must not wait for the old connections to be forgotten.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    listen().map(Into::into).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::new(
            what,
            format!("tcp:{address} is in use"),
            "another port, or stop the process that `ss -ltnp` shows",
        ),
        io::ErrorKind::AddrNotAvailable => ListenError::new(
            what,
            format!("{} is not an address of this host", address.ip()),
            "an address from `ip addr`",
        ),
        io::ErrorKind::PermissionDenied => ListenError::new(
            what,
            format!("tcp:{address} is not allowed to this user"),
            "a port above 1023",
        ),
        _ => ListenError::new(what, format!("tcp:{address}: {}", plain(&error)), "another address"),
    })
}

/// A listening export.
#[derive(Debug)]
pub enum Listening {
    /// On a unix socket.
    Unix(std_unix::UnixListener, SocketFile),
    /// On a TCP port.
    Tcp(std::net::TcpListener),
}

/// Listens where `export` says.
///
/// # Errors
/// Those of [`unix`] and [`tcp`].
pub fn export(device: &str, export: &Export, mode: u32) -> Result<Listening, ListenError> {
    let what = format!("export of device {device}");
    match export {
        Export::Unix(path) => {
            unix(&what, path, mode).map(|(listener, file)| Listening::Unix(listener, file))
        }
        Export::Tcp(address) => tcp(&what, *address).map(Listening::Tcp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("mpio-sockets-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn mode_stale_and_living_sockets() {
        let dir = dir("unix");
        let path = dir.join("x.sock");
        let (listener, file) = unix("socket", &path, 0o600).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = unix("control socket", &path, 0o600).unwrap_err().to_string();
        assert_eq!(
            second,
            format!(
                "control socket: another process listens on {}; try: stop that process, or another path",
                path.display()
            )
        );
        drop(listener);
        std::thread::sleep(std::time::Duration::from_millis(30));
        // Nobody listens any more, as after a kill -9: the file is taken over, and stays when the first one goes.
        let (_listener, again) = unix("socket", &path, 0o660).unwrap();
        drop(file);
        assert!(path.exists());
        drop(again);
        assert!(!path.exists());
        std::fs::write(&path, "x").unwrap();
        let file = unix("socket", &path, 0o600).unwrap_err().to_string();
        assert!(file.contains("is there and is not a socket"), "{file}");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn tcp_errors_name_the_address() {
        let listener = tcp("export of device vm0", "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(
            tcp("export of device vm0", address).unwrap_err().to_string(),
            format!(
                "export of device vm0: tcp:{address} is in use; try: another port, or stop the process that `ss -ltnp` shows"
            )
        );
        let foreign = tcp("export of device vm0", "203.0.113.7:1".parse().unwrap()).unwrap_err();
        assert!(foreign.to_string().contains("203.0.113.7 is not an address of this host"));
    }
}
