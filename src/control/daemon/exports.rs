//! Accepts NBD connections and hands them to the lanes of the device, in turn.

use super::shared::Shared;
use crate::control::config::secret::plain;
use crate::control::sockets::{Listening, SocketFile};
use crate::lane::Command;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

/// A listening export in the runtime; the file of its socket is removed with it.
pub enum Accepting {
    /// On a unix socket.
    Unix {
        /// The socket.
        listener: tokio::net::UnixListener,
        /// Its file, which goes when this goes.
        _file: SocketFile,
    },
    /// On a TCP port.
    Tcp(tokio::net::TcpListener),
}

impl Accepting {
    /// Registers a listening socket.
    ///
    /// # Errors
    /// When the runtime refuses it.
    pub fn new(listening: Listening) -> io::Result<Accepting> {
        match listening {
            Listening::Unix(listener, file) => {
                listener.set_nonblocking(true)?;
                let listener = tokio::net::UnixListener::from_std(listener)?;
                Ok(Accepting::Unix { listener, _file: file })
            }
            Listening::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Accepting::Tcp(tokio::net::TcpListener::from_std(listener)?))
            }
        }
    }

    /// Accepts until dropped.
    pub async fn run(self, shared: Rc<Shared>, device: usize) {
        let name = shared.config.devices[device].name.clone();
        let mut next = 0;
        let mut failed = 0_u64;
        loop {
            match self.accept().await {
                Ok((fd, peer)) => {
                    if failed > 0 {
                        tracing::info!(device = %name, after = failed, "accepts clients again");
                        failed = 0;
                    }
                    let lanes = shared.lanes_of(device);
                    let Some(lane) = lanes.get(next % lanes.len().max(1)) else { continue };
                    next = next.wrapping_add(1);
                    tracing::debug!(device = %name, %peer, "client connected");
                    lane.send(Command::Client { device: name.clone(), fd, peer });
                }
                Err(error) => {
                    // Out of descriptors, most likely: accepting again at once would only spin.
                    if failed == 0 {
                        let error = plain(&error);
                        tracing::warn!(device = %name, %error, "cannot accept clients; trying again");
                    }
                    failed += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// The next connection, blocking as the lane's ring wants it, and who it is.
    async fn accept(&self) -> io::Result<(OwnedFd, String)> {
        match self {
            Accepting::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let cred = stream.peer_cred()?;
                let peer = match cred.pid() {
                    Some(pid) => format!("uid {} pid {pid}", cred.uid()),
                    None => format!("uid {}", cred.uid()),
                };
                let stream = stream.into_std()?;
                stream.set_nonblocking(false)?;
                Ok((stream.into(), peer))
            }
            Accepting::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let stream = stream.into_std()?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(false)?;
                Ok((stream.into(), peer.to_string()))
            }
        }
    }
}
