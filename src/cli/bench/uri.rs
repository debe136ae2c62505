//! NBD URIs: `nbd://HOST[:PORT]/EXPORT` and `nbd+unix:///EXPORT?socket=PATH`, as `nbdinfo`, QEMU and fio
//! write them.

use crate::control::config::Export;
use std::net::ToSocketAddrs;
use std::path::Path;

/// Port that IANA gave to NBD.
const PORT: u16 = 10809;
/// What every message about a URI proposes.
const HINT: &str = "nbd://127.0.0.1:10809/vm0 or nbd+unix:///vm0?socket=/run/mpio/vm0.sock";

/// Where a URI leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The socket.
    pub export: Export,
    /// The export's name; empty for the default one.
    pub name: String,
}

/// Whether `text` is a URI and not the name of a device.
#[must_use]
pub fn is_uri(text: &str) -> bool {
    text.contains("://") || text.starts_with("nbd:") || text.starts_with("nbd+unix:")
}

/// Reads a URI and looks up its host.
///
/// # Errors
/// `why; try: …`.
pub fn parse(text: &str) -> Result<Place, String> {
    let wrong = |why: String| format!("{why}; try: {HINT}");
    let (scheme, rest) =
        text.split_once("://").ok_or_else(|| wrong("it is no NBD URI".to_owned()))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, name) = rest.split_once('/').unwrap_or((rest, ""));
    let name = decoded(name).map_err(wrong)?;
    match scheme {
        "nbd" => {
            if !query.is_empty() {
                return Err(wrong(format!("?{query} means nothing over TCP")));
            }
            let export = Export::Tcp(address(authority).map_err(wrong)?);
            Ok(Place { export, name })
        }
        "nbd+unix" => {
            let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket="));
            let socket = decoded(socket.unwrap_or_default()).map_err(wrong)?;
            if !authority.is_empty() {
                return Err(wrong(format!(
                    "a unix socket has no host, and {authority:?} stands there"
                )));
            }
            let path = Path::new(&socket);
            if !path.is_absolute() {
                return Err(wrong(format!("socket={socket:?} is not an absolute path")));
            }
            Ok(Place { export: Export::Unix(path.to_owned()), name })
        }
        "nbds" | "nbds+unix" => Err(wrong("TLS is not available in this version".to_owned())),
        other => Err(wrong(format!("{other}:// is not NBD"))),
    }
}

fn address(authority: &str) -> Result<std::net::SocketAddr, String> {
    let bare = authority.trim_start_matches('[').trim_end_matches(']');
    let whole = match authority {
        "" => return Err("it names no host".to_owned()),
        _ if bare.parse::<std::net::Ipv6Addr>().is_ok() => format!("[{bare}]:{PORT}"),
        _ if authority.rsplit_once(':').is_some() => authority.to_owned(),
        _ => format!("{authority}:{PORT}"),
    };
    let mut found =
        whole.to_socket_addrs().map_err(|_| format!("{authority:?} is no host that is known"))?;
    found.next().ok_or_else(|| format!("{authority:?} has no address"))
}

fn decoded(text: &str) -> Result<String, String> {
    let (mut out, mut bytes) = (Vec::new(), text.bytes());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
            _ => return Err(format!("{text:?} has a % without two hex digits")),
        }
    }
    String::from_utf8(out).map_err(|_| format!("{text:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_programs_write() {
        let tcp = |text: &str| match parse(text).unwrap() {
            Place { export: Export::Tcp(address), name } => (address.to_string(), name),
            other => panic!("{other:?}"),
        };
        let pair = |a: &str, n: &str| (a.to_owned(), n.to_owned());
        assert_eq!(tcp("nbd://127.0.0.1"), pair("127.0.0.1:10809", ""));
        assert_eq!(tcp("nbd://127.0.0.1:1234/vm0"), pair("127.0.0.1:1234", "vm0"));
        assert_eq!(tcp("nbd://[::1]/a%20b"), pair("[::1]:10809", "a b"));
        assert_eq!(tcp("nbd://[::1]:99/"), pair("[::1]:99", ""));
        let unix = parse("nbd+unix:///vm0?socket=/run/mpio/a%2Fb.sock").unwrap();
        let export = Export::Unix("/run/mpio/a/b.sock".into());
        assert_eq!(unix, Place { export, name: "vm0".to_owned() });
    }

    #[test]
    fn what_is_refused_and_why() {
        for (text, why) in [
            ("http://x/y", "http:// is not NBD"),
            ("nbds://x/y", "TLS is not available"),
            ("nbd:///vm0", "it names no host"),
            ("nbd://127.0.0.1:x/vm0", "is no host that is known"),
            ("nbd://127.0.0.1/vm0?socket=/x", "means nothing over TCP"),
            ("nbd+unix:///vm0", "is not an absolute path"),
            ("nbd+unix:///vm0?socket=a.sock", "is not an absolute path"),
            ("nbd+unix://host/vm0?socket=/a.sock", "has no host"),
            ("nbd://127.0.0.1/%zz", "without two hex digits"),
            ("nbd:unix:/x", "it is no NBD URI"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why) && error.contains("; try: nbd://"), "{text}: {error}");
        }
        assert!(is_uri("nbd:x") && is_uri("http://x") && !is_uri("vm0"));
    }
}
