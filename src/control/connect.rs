//! A TCP connection to a portal from its source address, and errors that name both.
//!
//! For discovery, and for what an administrator's command does once; paths of devices are connected by
//! their lane. The socket is bound before it connects, and to nothing but what was configured.

use super::config::secret::plain;
use crate::base::Duration;
use socket2::{Domain, SockRef, Socket, Type};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::{TcpSocket, TcpStream};

/// From where to where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Way {
    /// The portal.
    pub portal: SocketAddr,
    /// The local address; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
    /// The interface to bind to as well.
    pub interface: Option<String>,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "portal {}", self.portal)?;
        if let Some(source) = self.source {
            write!(f, " from source {source}")?;
        }
        match &self.interface {
            Some(interface) => write!(f, " on {interface}"),
            None => Ok(()),
        }
    }
}

/// Why a portal was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The source is not ours.
    #[error("{0}: the source is not an address of this host; try: `ip addr` shows the addresses")]
    NotOurs(Way),
    /// The interface is not there, or not ours to bind to.
    #[error(
        "{way}: interface: {why}; try: `ip link` shows the names; binding to one needs CAP_NET_RAW on old kernels"
    )]
    Interface {
        /// From where to where.
        way: Way,
        /// The error's text.
        why: String,
    },
    /// No route from there.
    #[error(
        "{0}: no route; try: `ip route get` with that source, or the source of the portal's subnet"
    )]
    NoRoute(Way),
    /// A reset in answer to SYN.
    #[error(
        "{0}: connection refused: the host answers, no target listens there; try: start the target, or check the port"
    )]
    Refused(Way),
    /// Nothing at all.
    #[error(
        "{way}: no answer within {seconds} s (a firewall may drop it, or the host is down); try: `ping` from that source, or check the firewall"
    )]
    NoAnswer {
        /// From where to where.
        way: Way,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Something answered that the host or network cannot be reached.
    #[error(
        "{0}: the network says that it cannot be reached; try: check cabling and the portal's address"
    )]
    Unreachable(Way),
    /// Anything else.
    #[error("{way}: {why}; try: check the portal's address")]
    Other {
        /// From where to where.
        way: Way,
        /// The error's text.
        why: String,
    },
}

/// Connects.
///
/// # Errors
/// [`ConnectError`], by cause.
pub async fn connect(way: &Way, timeout: Duration) -> Result<TcpStream, ConnectError> {
    let socket = prepare(way)?;
    match tokio::time::timeout(timeout, socket.connect(way.portal)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(cause(way, &error, timeout)),
        Err(_) => Err(no_answer(way, timeout)),
    }
}

fn no_answer(way: &Way, timeout: Duration) -> ConnectError {
    ConnectError::NoAnswer { way: way.clone(), seconds: timeout.as_secs().max(1) }
}

/// A socket with its options and its source.
fn prepare(way: &Way) -> Result<TcpSocket, ConnectError> {
    let other = |error: io::Error| ConnectError::Other { way: way.clone(), why: plain(&error) };
    let socket = Socket::new(Domain::for_address(way.portal), Type::STREAM, None).map_err(other)?;
    socket.set_nonblocking(true).map_err(other)?;
    socket.set_tcp_nodelay(true).map_err(other)?;
    if let Some(interface) = &way.interface {
        SockRef::from(&socket)
            .bind_device(Some(interface.as_bytes()))
            .map_err(|error| ConnectError::Interface { way: way.clone(), why: plain(&error) })?;
    }
    if let Some(source) = way.source {
        let local = SocketAddr::new(source, 0);
        socket.bind(&local.into()).map_err(|error| match error.kind() {
            io::ErrorKind::AddrNotAvailable => ConnectError::NotOurs(way.clone()),
            _ => other(error),
        })?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

fn cause(way: &Way, error: &io::Error, timeout: Duration) -> ConnectError {
    use nix::errno::Errno;
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED) => ConnectError::Refused(way.clone()),
        Some(Errno::ETIMEDOUT) => no_answer(way, timeout),
        Some(Errno::ENETUNREACH) => ConnectError::NoRoute(way.clone()),
        Some(Errno::EHOSTUNREACH) => ConnectError::Unreachable(way.clone()),
        Some(Errno::EADDRNOTAVAIL) => ConnectError::NotOurs(way.clone()),
        // A source on loopback has no way out of this host.
        Some(Errno::EINVAL) if way.source.is_some() => ConnectError::NoRoute(way.clone()),
        _ => ConnectError::Other { way: way.clone(), why: plain(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_connect(portal: &str, source: Option<&str>) -> Result<String, String> {
        let way = Way {
            portal: portal.parse().unwrap(),
            source: source.map(|s| s.parse().unwrap()),
            interface: None,
        };
        crate::control::runtime::run_plain(async {
            let stream =
                connect(&way, Duration::from_millis(300)).await.map_err(|e| e.to_string())?;
            Ok(stream.local_addr().unwrap().ip().to_string())
        })
        .unwrap()
    }

    #[test]
    fn the_source_is_the_configured_one() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let portal = listener.local_addr().unwrap().to_string();
        assert_eq!(try_connect(&portal, Some("127.0.0.7")).unwrap(), "127.0.0.7");
        assert_eq!(try_connect(&portal, None).unwrap(), "127.0.0.1");
    }

    #[test]
    fn each_cause_has_its_own_message() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(
            try_connect(&free.to_string(), Some("127.0.0.1")).unwrap_err(),
            format!(
                "portal {free} from source 127.0.0.1: connection refused: the host answers, no target listens there; try: start the target, or check the port"
            )
        );
        assert_eq!(
            try_connect("10.0.0.1:3260", Some("203.0.113.9")).unwrap_err(),
            "portal 10.0.0.1:3260 from source 203.0.113.9: the source is not an address of this host; try: `ip addr` shows the addresses"
        );
        let route = try_connect("203.0.113.9:3260", Some("127.0.0.1")).unwrap_err();
        assert!(
            route.starts_with("portal 203.0.113.9:3260 from source 127.0.0.1: no route"),
            "{route}"
        );
    }

    #[test]
    fn silence_names_the_firewall() {
        // A listener whose queue is full lets further SYNs go unanswered.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let portal = socket.local_addr().unwrap().as_socket().unwrap();
        let _queue: Vec<_> = (0..2)
            .map(|_| std::net::TcpStream::connect_timeout(&portal, Duration::from_millis(200)))
            .collect();
        let error = try_connect(&portal.to_string(), None).unwrap_err();
        assert_eq!(
            error,
            format!(
                "portal {portal}: no answer within 1 s (a firewall may drop it, or the host is down); try: `ping` from that source, or check the firewall"
            )
        );
    }
}
