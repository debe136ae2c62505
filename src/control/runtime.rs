//! What the control thread runs on: tokio-uring, or plain tokio where io_uring is refused.
//!
//! tokio-uring runs a tokio runtime of one thread and adds a ring to it, so timers, signals and tokio's
//! own sockets work in both; only what is read and written on admin connections goes by the ring. This
//! is the one file that knows which of the two it is, because tokio-uring is no longer maintained.

use std::future::Future;
use std::io;
use std::os::unix::net as std_unix;
use std::sync::Once;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use tokio::task::{JoinHandle, spawn_local as spawn};

/// What a future is run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// io_uring.
    Uring,
    /// epoll.
    Plain,
}

thread_local! {
    static ENGINE: std::cell::Cell<Engine> = const { std::cell::Cell::new(Engine::Plain) };
}

/// Runs `future` on this thread until it is done; [`spawn`] works inside.
///
/// # Errors
/// When neither engine can be made.
pub fn run<F: Future>(future: F) -> io::Result<F::Output> {
    static TOLD: Once = Once::new();
    match tokio_uring::Runtime::new(tokio_uring::builder().entries(64)) {
        Ok(runtime) => {
            ENGINE.set(Engine::Uring);
            Ok(runtime.block_on(future))
        }
        Err(error) => {
            TOLD.call_once(|| {
                tracing::info!(%error, "io_uring is refused to the control thread; it runs on epoll");
            });
            run_plain(future)
        }
    }
}

/// Runs `future` without io_uring.
///
/// # Errors
/// When the runtime cannot be made.
pub fn run_plain<F: Future>(future: F) -> io::Result<F::Output> {
    ENGINE.set(Engine::Plain);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
}

/// A listening unix socket.
pub struct Listener {
    inner: tokio::net::UnixListener,
}

impl Listener {
    /// From a socket that listens already.
    ///
    /// # Errors
    /// When it cannot be registered.
    pub fn new(listener: std_unix::UnixListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        Ok(Listener { inner: tokio::net::UnixListener::from_std(listener)? })
    }

    /// The next connection, and the user id of its peer.
    ///
    /// # Errors
    /// Those of `accept`.
    pub async fn accept(&self) -> io::Result<(Stream, u32)> {
        let (stream, _) = self.inner.accept().await?;
        let uid = stream.peer_cred()?.uid();
        Ok((Stream::new(stream.into_std()?)?, uid))
    }
}

/// A connected unix socket.
pub struct Stream {
    inner: Inner,
}

enum Inner {
    Uring(tokio_uring::net::UnixStream),
    Plain(tokio::net::UnixStream),
}

impl Stream {
    /// From a connected socket.
    ///
    /// # Errors
    /// When it cannot be registered.
    pub fn new(stream: std_unix::UnixStream) -> io::Result<Stream> {
        let inner = match ENGINE.get() {
            Engine::Uring => {
                // A ring answers EAGAIN instead of waiting on a socket that does not block.
                stream.set_nonblocking(false)?;
                Inner::Uring(tokio_uring::net::UnixStream::from_std(stream))
            }
            Engine::Plain => {
                stream.set_nonblocking(true)?;
                Inner::Plain(tokio::net::UnixStream::from_std(stream)?)
            }
        };
        Ok(Stream { inner })
    }

    /// Reads what is there, at most the capacity of `buffer`, which comes back holding just that; empty
    /// at the end of the stream.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn read(&mut self, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
        buffer.clear();
        match &mut self.inner {
            Inner::Uring(stream) => {
                let (result, buffer) = stream.read(buffer).await;
                result.map(|_| buffer)
            }
            Inner::Plain(stream) => {
                let most = buffer.capacity() as u64;
                stream.take(most).read_buf(&mut buffer).await?;
                Ok(buffer)
            }
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// Those of `write`.
    pub async fn write_all(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        match &mut self.inner {
            Inner::Uring(stream) => stream.write_all(bytes).await.0,
            Inner::Plain(stream) => stream.write_all(&bytes).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> (Vec<u8>, bool) {
        let (ours, theirs) = std_unix::UnixStream::pair().unwrap();
        let (mut ours, mut theirs) = (Stream::new(ours).unwrap(), Stream::new(theirs).unwrap());
        let task = spawn(async move {
            let bytes = theirs.read(Vec::with_capacity(16)).await.unwrap();
            theirs.write_all(bytes).await.unwrap();
        });
        ours.write_all(b"hello".to_vec()).await.unwrap();
        let got = ours.read(Vec::with_capacity(16)).await.unwrap();
        task.await.unwrap();
        let end = ours.read(Vec::with_capacity(16)).await.unwrap();
        (got, end.is_empty())
    }

    #[test]
    fn both_engines_carry_bytes_and_see_the_end() {
        assert_eq!(run(echo()).unwrap(), (b"hello".to_vec(), true));
        assert_eq!(run_plain(echo()).unwrap(), (b"hello".to_vec(), true));
    }
}
