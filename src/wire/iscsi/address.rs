//! `TargetAddress` values: `host[:port][,portal-group-tag]` (RFC 7143 section 13.8).

use super::DEFAULT_PORT;
use super::text;
use core::fmt;
use core::str::FromStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use thiserror::Error;

/// Where a portal is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A literal address.
    Ip(IpAddr),
    /// A DNS name.
    Name(String),
}

/// A portal as a target or an administrator names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetAddress {
    /// Address or DNS name.
    pub host: Host,
    /// TCP port, never 0; 3260 when none was given.
    pub port: u16,
    /// Portal group tag, when one was given (always in SendTargets answers, never in a redirect).
    pub portal_group: Option<u16>,
}

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AddressError {
    /// No host, or one that is neither an address nor a DNS name.
    #[error("not a host name, IPv4 address or IPv6 address in brackets")]
    Host,
    /// A port outside 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// A portal group tag outside 0 to 65535.
    #[error("the portal group tag is not a number from 0 to 65535")]
    PortalGroup,
}

impl TargetAddress {
    /// The socket address, unless the host is a name that must be looked up first.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }
}

impl From<SocketAddr> for TargetAddress {
    fn from(addr: SocketAddr) -> TargetAddress {
        TargetAddress { host: Host::Ip(addr.ip()), port: addr.port(), portal_group: None }
    }
}

impl FromStr for TargetAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<TargetAddress, AddressError> {
        let (place, group) = match text.split_once(',') {
            Some((place, tag)) => (place, Some(small(tag).ok_or(AddressError::PortalGroup)?)),
            None => (text, None),
        };
        let (host, port) = if let Some(rest) = place.strip_prefix('[') {
            let (ip, after) = rest.split_once(']').ok_or(AddressError::Host)?;
            let ip = ip.parse::<Ipv6Addr>().map_err(|_| AddressError::Host)?;
            let port = match after {
                "" => None,
                _ => Some(after.strip_prefix(':').ok_or(AddressError::Port)?),
            };
            (Host::Ip(ip.into()), port)
        } else {
            match place.split_once(':') {
                Some((host, port)) => (name_or_v4(host)?, Some(port)),
                None => (name_or_v4(place)?, None),
            }
        };
        let port = match port {
            Some(port) => small(port).filter(|&p| p != 0).ok_or(AddressError::Port)?,
            None => DEFAULT_PORT,
        };
        Ok(TargetAddress { host, port, portal_group: group })
    }
}

fn small(text: &str) -> Option<u16> {
    text::number(text).and_then(|n| u16::try_from(n).ok())
}

fn name_or_v4(text: &str) -> Result<Host, AddressError> {
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
    let name = !text.is_empty()
        && text.len() <= 255
        && text.bytes().all(allowed)
        && !text.starts_with(['-', '.'])
        && text.bytes().any(|b| b.is_ascii_alphabetic());
    if name { Ok(Host::Name(text.to_owned())) } else { Err(AddressError::Host) }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for TargetAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)?;
        match self.portal_group {
            Some(tag) => write!(f, ",{tag}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 7143 13.8: the standard's own examples and their edges.
    #[test]
    fn examples() {
        for (text, shown) in [
            ("10.0.0.1:5003,1", "10.0.0.1:5003,1"),
            ("10.0.0.1", "10.0.0.1:3260"),
            ("[1080:0:0:0:8:800:200C:417A],65", "[1080::8:800:200c:417a]:3260,65"),
            ("[1080::8:800:200C:417A]:5003,1", "[1080::8:800:200c:417a]:5003,1"),
            ("[::1]", "[::1]:3260"),
            ("host.example,23", "host.example:3260,23"),
            ("host.example:860,0", "host.example:860,0"),
            ("10.0.0.1,65535", "10.0.0.1:3260,65535"),
        ] {
            let address: TargetAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse(), Ok(address));
        }
    }

    #[test]
    fn refused() {
        for (text, error) in [
            ("", AddressError::Host),
            (",1", AddressError::Host),
            (":3260", AddressError::Host),
            ("[::1", AddressError::Host),
            ("[fe80::1%eth0]", AddressError::Host),
            ("[10.0.0.1]", AddressError::Host),
            ("10.0.0.256", AddressError::Host),
            ("::1", AddressError::Host),
            ("a b", AddressError::Host),
            ("-a", AddressError::Host),
            ("[::1]3260", AddressError::Port),
            ("h:0", AddressError::Port),
            ("h:65536", AddressError::Port),
            ("h:", AddressError::Port),
            ("h:1:2", AddressError::Port),
            ("h,65536", AddressError::PortalGroup),
            ("h,x", AddressError::PortalGroup),
            ("h,", AddressError::PortalGroup),
        ] {
            assert_eq!(text.parse::<TargetAddress>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<TargetAddress>();
        }
    }
}
