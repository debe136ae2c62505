//! The syntax of single values: durations, sizes, modes, addresses, names, LUNs.
//!
//! Pure functions from text to meaning; durations and sizes come from [`crate::base::text`]. Each error says what is wrong ([`Wrong::problem`]) and shows a
//! value that would do ([`Wrong::hint`]); where it stood in the file is added by the caller.

pub use crate::base::text::{Wrong, duration, duration_text, size, size_text};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The port of iSCSI (RFC 7143 section 14).
pub const ISCSI_PORT: u16 = 3260;
/// The port of NBD.
pub const NBD_PORT: u16 = 10809;
/// Longest iSCSI name in bytes (RFC 7143 section 4.2.7.1).
const ISCSI_NAME_MAX: usize = 223;
/// Longest path of a unix socket in bytes: `sun_path` and its terminating NUL.
const SUN_PATH_MAX: usize = 107;
/// Longest name of a device or portal in bytes.
const NAME_MAX: usize = 64;
/// Greatest LUN of the flat space addressing method (SAM-5).
const LUN_MAX: u64 = 0x3fff;

/// File mode in octal (`0600`): permission bits only.
pub fn mode(text: &str) -> Result<u32, Wrong> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => Err(Wrong::new(format!("{text:?} is not a file mode"), "0600, 0660 or 0666")),
    }
}

/// A host and a port: the host is kept as written, because the ISID is derived from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// IP address (IPv6 without brackets) or host name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Address {
    /// `10.10.1.10`, `10.10.1.10:3260`, `[fd00::10]:3260`, `host`, `host:3260`.
    pub fn parse(text: &str, default_port: u16) -> Result<Address, Wrong> {
        let hint = || format!("10.10.1.10, 10.10.1.10:{default_port} or [fd00::10]:{default_port}");
        if text.parse::<Ipv6Addr>().is_ok() {
            let fix = format!("[{text}] or [{text}]:{default_port}");
            return Err(Wrong::new(format!("the IPv6 address {text:?} has no brackets"), fix));
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let Some((host, tail)) = rest.split_once(']') else {
                return Err(Wrong::new(format!("{text:?} has no closing bracket"), hint()));
            };
            if host.parse::<Ipv6Addr>().is_err() {
                return Err(Wrong::new(format!("{host:?} is not an IPv6 address"), hint()));
            }
            match tail.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if tail.is_empty() => (host, None),
                None => return Err(Wrong::new(format!("{tail:?} follows the bracket"), hint())),
            }
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        check_host(host, text).map_err(|problem| Wrong::new(problem, hint()))?;
        let port = match port {
            None => default_port,
            Some(port) => match port.parse::<u16>() {
                Ok(number) if number != 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
                _ => return Err(Wrong::new(format!("{port:?} is not a TCP port"), hint())),
            },
        };
        Ok(Address { host: host.to_owned(), port })
    }

    /// The address as a literal, if it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The address and port, if the host is a literal.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.ip().map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn check_host(host: &str, text: &str) -> Result<(), String> {
    if host.is_empty() {
        return Err(format!("{text:?} has no host"));
    }
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err(format!("{host:?} is not an IPv4 address"));
    }
    let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    if host.len() > 253 || !host.bytes().all(letters) {
        return Err(format!("{host:?} is not a host name"));
    }
    Ok(())
}

/// A local address to bind to.
pub fn source(text: &str) -> Result<IpAddr, Wrong> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let hint = "an IP address of this host, such as 10.10.1.1 (see `ip addr`)";
    match bare.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
            Err(Wrong::new(format!("{text} cannot be a source address"), hint))
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(Wrong::new(format!("{text:?} is not an IP address"), hint)),
    }
}

/// Where a device is exported.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Export {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port.
    Tcp(SocketAddr),
}

impl Export {
    /// `unix:/path` or `tcp:ADDRESS[:PORT]`.
    pub fn parse(text: &str) -> Result<Export, Wrong> {
        const HINT: &str = "unix:/run/mpio/vm0.sock or tcp:127.0.0.1:10809";
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                _ if !path.starts_with('/') || path.contains('\0') => {
                    Err(Wrong::new(format!("the socket path {path:?} is not absolute"), HINT))
                }
                _ if path.len() > SUN_PATH_MAX => Err(Wrong::new(
                    format!("the socket path has {} bytes; {SUN_PATH_MAX} fit", path.len()),
                    HINT,
                )),
                _ => Ok(Export::Unix(Path::new(path).components().collect())),
            };
        }
        let Some(address) = text.strip_prefix("tcp:") else {
            return Err(Wrong::new(format!("{text:?} is neither unix: nor tcp:"), HINT));
        };
        let address = if address.starts_with("localhost") {
            address.replacen("localhost", "127.0.0.1", 1)
        } else {
            address.to_owned()
        };
        let parsed =
            Address::parse(&address, NBD_PORT).map_err(|wrong| Wrong::new(wrong.problem, HINT))?;
        parsed.socket_addr().map(Export::Tcp).ok_or_else(|| {
            Wrong::new(format!("{:?} is not an IP address of this host", parsed.host), HINT)
        })
    }

    /// Whether both would take the same port or path.
    #[must_use]
    pub fn clashes(&self, other: &Export) -> bool {
        match (self, other) {
            (Export::Unix(a), Export::Unix(b)) => a == b,
            (Export::Tcp(a), Export::Tcp(b)) => {
                let any = a.ip().is_unspecified() || b.ip().is_unspecified();
                a.port() == b.port() && (a.ip() == b.ip() || any)
            }
            _ => false,
        }
    }

    /// Whether others than processes of this host can reach it.
    #[must_use]
    pub fn beyond_this_host(&self) -> bool {
        matches!(self, Export::Tcp(address) if !address.ip().is_loopback())
    }
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Export::Unix(path) => write!(f, "unix:{}", path.display()),
            Export::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// A name of a device or portal: it becomes part of path names and of the NBD export name.
pub fn name(text: &str) -> Result<String, Wrong> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if text.is_empty() || text.len() > NAME_MAX || !text.bytes().all(good) {
        return Err(Wrong::new(
            format!("{text:?} is not a name"),
            format!("1 to {NAME_MAX} of a-z, A-Z, 0-9, '.', '-', '_'"),
        ));
    }
    Ok(text.to_owned())
}

/// An iSCSI name (RFC 7143 section 4.2.7, RFC 3722): iqn, eui or naa, normalised.
pub fn iscsi_name(text: &str) -> Result<String, Wrong> {
    const HINT: &str = "iqn.2026-11.example.san:ha1";
    let wrong = |problem: String| Err(Wrong::new(problem, HINT));
    if text.len() > ISCSI_NAME_MAX {
        return wrong(format!("the name has {} bytes; {ISCSI_NAME_MAX} are allowed", text.len()));
    }
    if let Some(bad) =
        text.chars().find(|c| c.is_whitespace() || c.is_control() || ",/".contains(*c))
    {
        return wrong(format!("{text:?} contains {bad:?}"));
    }
    if text.chars().any(|c| c.is_ascii_uppercase()) {
        let fix = text.to_lowercase();
        return Err(Wrong::new(format!("{text:?} has upper-case letters (RFC 3722)"), fix));
    }
    let hex =
        |t: &str, len: &[usize]| len.contains(&t.len()) && t.bytes().all(|b| b.is_ascii_hexdigit());
    let good = match text.split_once('.') {
        Some(("iqn", rest)) => is_dated_domain(rest),
        Some(("eui", rest)) => hex(rest, &[16]),
        Some(("naa", rest)) => hex(rest, &[16, 32]),
        _ => false,
    };
    if good { Ok(text.to_owned()) } else { wrong(format!("{text:?} is not an iSCSI name")) }
}

/// `2026-11.example` and what may follow.
fn is_dated_domain(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() > 8
        && bytes[..4].iter().all(u8::is_ascii_digit)
        && bytes[4] == b'-'
        && matches!(&bytes[5..7], [b'0', b'1'..=b'9'] | [b'1', b'0'..=b'2'])
        && bytes[7] == b'.'
        && bytes[8] != b':'
}

/// The 8-byte LUN field (SAM-5, RFC 7143 section 11.2.1.7): peripheral addressing below 256, flat above.
pub fn lun_field(lun: u64) -> Result<u64, Wrong> {
    match lun {
        0..=0xff => Ok(lun << 48),
        0x100..=LUN_MAX => Ok((0x4000 | lun) << 48),
        _ => Err(Wrong::new(format!("LUN {lun} is out of range"), format!("0 to {LUN_MAX}"))),
    }
}

/// The number in a LUN field, where it has one level; the field itself otherwise.
#[must_use]
pub fn lun_number(field: u64) -> u64 {
    match (field >> 62, field & 0xffff_ffff_ffff) {
        (0, 0) if field >> 56 == 0 => field >> 48,
        (1, 0) => (field >> 48) & LUN_MAX,
        _ => field,
    }
}

/// `iqn…`, or `iqn…/LUN`.
pub fn target(text: &str) -> Result<(String, Option<u64>), Wrong> {
    let Some((name, lun)) = text.rsplit_once('/') else {
        return Ok((iscsi_name(text)?, None));
    };
    let number = lun.parse::<u64>().ok().filter(|_| lun.bytes().all(|b| b.is_ascii_digit()));
    match number {
        Some(number) => Ok((iscsi_name(name)?, Some(number))),
        None => Err(Wrong::new(format!("{lun:?} is not a LUN"), format!("{name}/1"))),
    }
}

/// A WWID as `status` shows it.
pub fn wwid(text: &str) -> Result<String, Wrong> {
    let good = match text.split_once('.') {
        Some(("naa", id)) => {
            matches!(id.len(), 16 | 32) && id.bytes().all(|b| b.is_ascii_hexdigit())
        }
        Some(("eui", id)) => {
            matches!(id.len(), 16 | 24 | 32) && id.bytes().all(|b| b.is_ascii_hexdigit())
        }
        Some(("t10" | "name", id)) => !id.is_empty(),
        _ => false,
    };
    if good {
        return Ok(text.to_owned());
    }
    let hint = "naa.6000…, as `mpio discover` shows it (naa., eui., t10. or name.)";
    Err(Wrong::new(format!("{text:?} is not a WWID"), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(mode("0600").unwrap(), 0o600);
        assert_eq!(mode("660").unwrap(), 0o660);
        for bad in ["6", "0999", "01777", "rw-", "+600", "00600"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        let parse = |t| Address::parse(t, ISCSI_PORT).unwrap().to_string();
        assert_eq!(parse("10.10.1.10"), "10.10.1.10:3260");
        assert_eq!(parse("10.10.1.10:3261"), "10.10.1.10:3261");
        assert_eq!(parse("[fd00::10]"), "[fd00::10]:3260");
        assert_eq!(parse("[fd00::10]:1"), "[fd00::10]:1");
        assert_eq!(parse("san.example"), "san.example:3260");
        let wrong = |t| Address::parse(t, ISCSI_PORT).unwrap_err().problem;
        assert_eq!(wrong("fd00::10"), "the IPv6 address \"fd00::10\" has no brackets");
        assert_eq!(wrong("[fd00::10"), "\"[fd00::10\" has no closing bracket");
        assert_eq!(wrong("[fd00::1]x"), "\"x\" follows the bracket");
        assert_eq!(wrong("10.10.1"), "\"10.10.1\" is not an IPv4 address");
        assert_eq!(wrong("10.10.1.256:1"), "\"10.10.1.256\" is not an IPv4 address");
        assert_eq!(wrong("a:0"), "\"0\" is not a TCP port");
        assert_eq!(wrong("a:65536"), "\"65536\" is not a TCP port");
        assert_eq!(wrong("a:+1"), "\"+1\" is not a TCP port");
        assert_eq!(wrong(":3260"), "\":3260\" has no host");
        assert_eq!(wrong("a b"), "\"a b\" is not a host name");
    }

    #[test]
    fn exports() {
        let parse = |t| Export::parse(t).unwrap();
        assert_eq!(parse("unix:/run//mpio/./a.sock").to_string(), "unix:/run/mpio/a.sock");
        assert_eq!(parse("tcp:127.0.0.1").to_string(), "tcp:127.0.0.1:10809");
        assert_eq!(parse("tcp:localhost:1").to_string(), "tcp:127.0.0.1:1");
        assert_eq!(parse("tcp:[::1]:1").to_string(), "tcp:[::1]:1");
        assert!(parse("tcp:0.0.0.0:1").clashes(&parse("tcp:127.0.0.1:1")));
        assert!(!parse("tcp:127.0.0.2:1").clashes(&parse("tcp:127.0.0.1:1")));
        assert!(parse("tcp:10.0.0.1:1").beyond_this_host());
        assert!(!parse("tcp:[::1]:1").beyond_this_host());
        let wrong = |t: &str| Export::parse(t).unwrap_err().problem;
        assert_eq!(wrong("/run/a"), "\"/run/a\" is neither unix: nor tcp:");
        assert_eq!(wrong("unix:a.sock"), "the socket path \"a.sock\" is not absolute");
        assert_eq!(
            wrong("tcp:host.example:1"),
            "\"host.example\" is not an IP address of this host"
        );
        let long = format!("unix:/{}", "x".repeat(107));
        assert_eq!(wrong(&long), "the socket path has 108 bytes; 107 fit");
    }

    /// RFC 7143 4.2.7.1: up to 223 bytes; RFC 3722: no upper case, no white space.
    #[test]
    fn iscsi_names() {
        for good in [
            "iqn.2026-11.example.san:ha1",
            "iqn.2026-11.example",
            "eui.02004567a425678d",
            "naa.52004567ba64678d",
        ] {
            assert_eq!(iscsi_name(good).unwrap(), good);
        }
        for bad in [
            "iqn.2026-13.example",
            "iqn.26-11.e",
            "iqn.2026-11.",
            "eui.02",
            "disk",
            "iqn.2026-11.:x",
        ] {
            assert_eq!(
                iscsi_name(bad).unwrap_err().problem,
                format!("{bad:?} is not an iSCSI name")
            );
        }
        let upper = iscsi_name("iqn.2026-11.Example:A").unwrap_err();
        assert_eq!(upper.hint, "iqn.2026-11.example:a");
        let base = "iqn.2026-11.example:";
        assert!(iscsi_name(&format!("{base}{}", "x".repeat(223 - base.len()))).is_ok());
        assert!(iscsi_name(&format!("{base}{}", "x".repeat(224 - base.len()))).is_err());
    }

    /// RFC 7143 11.2.1.7, SAM-5: single-level LUNs in 8 bytes.
    #[test]
    fn luns() {
        assert_eq!(lun_field(1).unwrap().to_be_bytes(), [0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(lun_field(300).unwrap().to_be_bytes(), [0x41, 0x2c, 0, 0, 0, 0, 0, 0]);
        assert!(lun_field(0x4000).is_err());
        for lun in [0, 1, 255, 256, 300, 0x3fff] {
            assert_eq!(lun_number(lun_field(lun).unwrap()), lun);
        }
        assert_eq!(target("iqn.2026-11.a:b/7").unwrap(), ("iqn.2026-11.a:b".into(), Some(7)));
        assert_eq!(target("iqn.2026-11.a:b").unwrap().1, None);
        assert_eq!(target("iqn.2026-11.a:b/x").unwrap_err().hint, "iqn.2026-11.a:b/1");
    }

    #[test]
    fn names_and_wwids() {
        assert!(name("vm-0.a_B").is_ok());
        for bad in ["", "a:b", "a b", "a#2", "ä"] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert!(wwid("naa.60003ff44dc75adc").is_ok());
        assert!(wwid("t10.VENDOR x").is_ok());
        assert!(wwid("60003ff44dc75adc").is_err());
        assert!(
            source("0.0.0.0").is_err() && source("10.0.0.1").is_ok() && source("[::1]").is_ok()
        );
    }
}
