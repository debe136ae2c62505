//! Making and ending sockets: what is set before the first byte, and the words for what goes wrong.
//!
//! A socket of ours resets when it is closed (SO_LINGER {1,0} from its first moment), so that whatever
//! ends it, a crash included, no byte that was queued is delivered later. Only [`finish`] of a graceful
//! close takes that back.
//!
//! Deliberately not here: the name of a host. Names are resolved above; here are addresses.

use std::fmt::{self, Display};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::sockopt;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::Connect;

/// What a descriptor is, as far as its end is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    /// Everything else that has a stream: unix sockets.
    Other,
}

/// Makes an unconnected socket for `connect`: linger, no delay, interface, source.
///
/// # Errors
/// With the kernel's error kinds; [`explain`] with [`Stage::Prepare`] puts them into words.
pub(super) fn make(connect: &Connect, send_buffer: Option<usize>) -> io::Result<Socket> {
    let domain = Domain::for_address(connect.remote);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(interface) = &connect.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if let Some(source) = connect.source {
        if source.is_ipv4() != connect.remote.is_ipv4() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the source and the portal are of different IP versions",
            ));
        }
        // The port is chosen at connect, per destination, where the kernel can: more sessions fit.
        let _ = nix::sys::socket::setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
        socket.bind(&bind_address(source, connect.remote).into())?;
    }
    Ok(socket)
}

/// The source with port 0; a link-local IPv6 source takes the zone of the portal.
fn bind_address(source: IpAddr, remote: SocketAddr) -> SocketAddr {
    match (source, remote) {
        (IpAddr::V6(address), SocketAddr::V6(remote)) if address.is_unicast_link_local() => {
            SocketAddrV6::new(address, 0, 0, remote.scope_id()).into()
        }
        (source, _) => SocketAddr::new(source, 0),
    }
}

/// Prepares a descriptor that was made elsewhere (an accepted connection) and says what it is.
///
/// # Errors
/// When it is no socket of a stream.
pub(super) fn adopt(
    fd: &OwnedFd,
    linger_reset: bool,
    send_buffer: Option<usize>,
) -> io::Result<Kind> {
    let socket = SockRef::from(fd);
    if socket.r#type()? != Type::STREAM {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a stream socket"));
    }
    // On a non-blocking descriptor io_uring reports EAGAIN instead of waiting.
    socket.set_nonblocking(false)?;
    if !matches!(socket.domain()?, Domain::IPV4 | Domain::IPV6) {
        return Ok(Kind::Other);
    }
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if linger_reset {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    Ok(Kind::Tcp)
}

/// Ends the connection for the peer now, whatever is in flight here: TCP sends RST and forgets what was
/// queued, anything else is shut down both ways. The descriptor stays open.
pub(super) fn reset(fd: &OwnedFd, kind: Kind) {
    let socket = SockRef::from(fd);
    if kind == Kind::Other {
        // The one failure is that the peer has gone already.
        let _ = socket.shutdown(std::net::Shutdown::Both);
        return;
    }
    let nowhere =
        libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the address is a live sockaddr of the given length, and connect only reads it. Dissolving
    // an association never waits.
    let result = unsafe {
        libc::connect(fd.as_raw_fd(), &raw const nowhere, size_of_val(&nowhere) as libc::socklen_t)
    };
    if result != 0 {
        // Some 6.1 and 6.4 kernels answer EBUSY while a thread waits in the socket. The close that
        // follows resets then.
        let _ = socket.set_linger(Some(Duration::ZERO));
    }
}

/// Ends the connection in good order: what was queued goes out first, then FIN. The close must follow.
pub(super) fn finish(fd: &OwnedFd, kind: Kind) {
    let socket = SockRef::from(fd);
    if kind == Kind::Tcp {
        let _ = socket.set_linger(None);
    }
    // Fails only where there is no connection any more, which is what the caller wants.
    let _ = socket.shutdown(std::net::Shutdown::Write);
}

/// Where an error came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// [`Ring::connect`](super::Ring::connect) returned it: making and binding the socket.
    Prepare,
    /// [`Completion::ConnectFailed`](super::Completion::ConnectFailed) carried it.
    Connect,
}

/// The words for an error of connecting, for an administrator: what happened between which addresses,
/// and what to look at. The error itself keeps its kind.
#[must_use]
pub fn explain<'a>(error: &'a io::Error, stage: Stage, connect: &'a Connect) -> impl Display + 'a {
    Explanation { error, stage, connect }
}

struct Explanation<'a> {
    error: &'a io::Error,
    stage: Stage,
    connect: &'a Connect,
}

impl Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remote = self.connect.remote;
        let interface = self.connect.interface.as_deref().unwrap_or("?");
        write!(f, "portal {remote}")?;
        if let Some(source) = self.connect.source {
            write!(f, " from source {source}")?;
        }
        if let Some(interface) = &self.connect.interface {
            write!(f, " on interface {interface}")?;
        }
        f.write_str(": ")?;
        let errno = self.error.raw_os_error().unwrap_or(0);
        match (self.stage, errno) {
            (Stage::Prepare, libc::EADDRNOTAVAIL) => match self.connect.source {
                Some(source) => write!(
                    f,
                    "{source} is not an address of this host; `ip -br address` lists those it has"
                ),
                None => write!(f, "{}", self.error),
            },
            (Stage::Prepare, libc::ENODEV) => {
                write!(f, "this host has no interface {interface}; `ip -br link` lists those it has")
            }
            (Stage::Prepare, libc::EPERM | libc::EACCES) => write!(
                f,
                "binding to interface {interface} is not permitted; it needs CAP_NET_RAW on this kernel"
            ),
            (Stage::Connect, libc::EADDRNOTAVAIL) => {
                f.write_str("no free local port is left (net.ipv4.ip_local_port_range)")
            }
            (Stage::Connect, libc::ECONNREFUSED) => f.write_str(
                "connection refused: the host answers, but nothing listens on that port \
                 (is the target running, is the port right?)",
            ),
            (Stage::Connect, libc::ETIMEDOUT) => f.write_str(
                "no answer: the host may be down, the link may be cut, or a firewall may drop the packets",
            ),
            (Stage::Connect, libc::ENETUNREACH) => {
                f.write_str("no route: the portal's network cannot be reached from here")
            }
            (Stage::Connect, libc::EHOSTUNREACH) => f.write_str(
                "host unreachable: nobody on the network answers for that address (host down, or \
                 a router says so)",
            ),
            (Stage::Connect, libc::EINVAL) if self.connect.source.is_some() => f.write_str(
                "the portal cannot be reached from that source address (no route between them)",
            ),
            (Stage::Connect, libc::EPERM | libc::EACCES) => {
                f.write_str("a firewall of this host forbids the connection")
            }
            (_, libc::EMFILE | libc::ENFILE) => write!(
                f,
                "{}; raise the limit of open files (`ulimit -n`, LimitNOFILE=)",
                self.error
            ),
            _ => write!(f, "{}", self.error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(remote: &str, source: Option<&str>) -> Connect {
        Connect {
            remote: remote.parse().expect("an address"),
            source: source.map(|source| source.parse().expect("an address")),
            interface: None,
            timeout: Duration::from_secs(1),
        }
    }

    fn words(errno: i32, stage: Stage, connect: &Connect) -> String {
        explain(&io::Error::from_raw_os_error(errno), stage, connect).to_string()
    }

    #[test]
    fn a_made_socket_resets_at_close_sends_at_once_and_is_bound() {
        let socket =
            make(&connect("127.0.0.1:3260", Some("127.0.0.9")), Some(65536)).expect("a socket");
        assert_eq!(socket.linger().expect("linger"), Some(Duration::ZERO));
        assert!(socket.tcp_nodelay().expect("nodelay"));
        assert!(!socket.nonblocking().expect("flags"));
        assert!(socket.send_buffer_size().expect("size") >= 65536);
        let local = socket.local_addr().expect("local").as_socket().expect("an IP address");
        assert_eq!(local.ip().to_string(), "127.0.0.9");
    }

    #[test]
    fn a_foreign_source_is_said_with_both_addresses() {
        let connect = connect("127.0.0.1:3260", Some("192.0.2.77"));
        let error = make(&connect, None).expect_err("the documentation's network is not ours");
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        let words = explain(&error, Stage::Prepare, &connect).to_string();
        assert!(words.starts_with("portal 127.0.0.1:3260 from source 192.0.2.77: "), "{words}");
        assert!(words.contains("192.0.2.77 is not an address of this host"), "{words}");
    }

    #[test]
    fn a_missing_interface_and_mixed_versions_are_said() {
        let mut wrong = connect("127.0.0.1:3260", None);
        wrong.interface = Some("nosuch0".into());
        let error = make(&wrong, None).expect_err("no such interface");
        let text = explain(&error, Stage::Prepare, &wrong).to_string();
        assert!(text.contains("nosuch0"), "{text}");
        let mixed = connect("[::1]:3260", Some("127.0.0.1"));
        let error = make(&mixed, None).expect_err("versions differ");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn refused_silent_and_unreachable_are_different_messages() {
        let connect = connect("10.0.0.2:3260", Some("10.0.0.1"));
        let texts: Vec<String> = [
            libc::ECONNREFUSED,
            libc::ETIMEDOUT,
            libc::EHOSTUNREACH,
            libc::ENETUNREACH,
            libc::EADDRNOTAVAIL,
            libc::EINVAL,
            libc::EPERM,
        ]
        .iter()
        .map(|errno| words(*errno, Stage::Connect, &connect))
        .collect();
        for (i, text) in texts.iter().enumerate() {
            assert!(text.contains("10.0.0.2:3260") && text.contains("10.0.0.1"), "{text}");
            assert!(texts[..i].iter().all(|other| other != text), "{text}");
        }
        assert!(texts[1].contains("firewall may drop"));
    }

    #[test]
    fn a_link_local_source_takes_the_zone_of_the_portal() {
        let source = "fe80::1".parse().expect("an address");
        let remote: SocketAddr =
            SocketAddrV6::new("fe80::2".parse().expect("one"), 3260, 0, 7).into();
        let SocketAddr::V6(bound) = bind_address(source, remote) else { panic!("not IPv6") };
        assert_eq!((bound.scope_id(), bound.port()), (7, 0));
    }

    #[test]
    fn only_streams_are_adopted() {
        let (datagram, _other) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
        assert!(adopt(&datagram.into(), false, None).is_err());
        let (stream, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        stream.set_nonblocking(true).expect("flags");
        let fd = OwnedFd::from(stream);
        assert_eq!(adopt(&fd, true, None).expect("a stream"), Kind::Other);
        assert!(!SockRef::from(&fd).nonblocking().expect("flags"));
    }
}
