//! CHAP secrets: where they are read from and which are refused (RFC 7143 section 9.2.1).
//!
//! A secret is a file of its own, so that the configuration can be shown to anybody. What was read never
//! appears in a message.

use super::document::Section;
use super::values::Wrong;
use crate::session::chap::{Credentials, CredentialsError};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use zeroize::Zeroizing;

/// 96 bits: what RFC 7143 section 9.2.1 asks for on a link without IPsec.
const SECRET_MIN: usize = 12;
/// A secret file is never longer, in bytes.
const FILE_MAX: u64 = 4096;
/// Longest CHAP name in bytes: a text value (RFC 7143 section 6.1).
const USER_MAX: usize = 255;

/// CHAP names and secrets of one portal.
pub struct Chap {
    /// Our name (CHAP_N) and secret towards the target.
    pub user: String,
    /// Secret that we prove.
    pub secret: Zeroizing<Vec<u8>>,
    /// The target's name and secret when it must prove itself too.
    pub mutual: Option<(String, Zeroizing<Vec<u8>>)>,
    credentials: OnceLock<Arc<Credentials>>,
}

impl Chap {
    /// Checked by [`check`].
    #[must_use]
    pub fn new(user: String, secret: Vec<u8>, mutual: Option<(String, Vec<u8>)>) -> Chap {
        let mutual = mutual.map(|(name, secret)| (name, Zeroizing::new(secret)));
        Chap { user, secret: Zeroizing::new(secret), mutual, credentials: OnceLock::new() }
    }

    /// What sessions authenticate with: one for all of a portal, so that a challenge that comes back on
    /// another connection is noticed.
    ///
    /// # Errors
    /// When names or secrets break a rule that [`check`] did not look at.
    pub fn credentials(&self) -> Result<Arc<Credentials>, CredentialsError> {
        if let Some(known) = self.credentials.get() {
            return Ok(known.clone());
        }
        let mutual = self.mutual.as_ref().map(|(name, secret)| (name.clone(), secret.to_vec()));
        let made = Credentials::new(self.user.clone(), self.secret.to_vec(), mutual)?;
        Ok(self.credentials.get_or_init(|| Arc::new(made)).clone())
    }
}

/// Reads a secret file: a trailing newline is dropped, `0x…` is hex.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Wrong> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        Wrong::new(
            format!("{shown} cannot be read: {}", plain(&error)),
            "a file that this user can read",
        )
    };
    let file = File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Wrong::new(
            format!("{shown} is not a regular file"),
            "a file that holds only the secret",
        ));
    }
    if meta.mode() & 0o006 != 0 {
        return Err(Wrong::new(
            format!("{shown} can be read or written by others (mode {:04o})", meta.mode() & 0o7777),
            format!("chmod 0600 {shown}"),
        ));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_MAX as usize + 1));
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Wrong::new(
            format!("{shown} is longer than {FILE_MAX} bytes"),
            "a file that holds only the secret",
        ));
    }
    decode(&bytes).map_err(|problem| {
        Wrong::new(format!("{shown} {problem}"), "12 bytes or more, or 0x and hex digits")
    })
}

/// The text of an I/O error without its number.
pub fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_lowercase(),
        None => text,
    }
}

fn decode(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err("is empty".to_owned());
    }
    let Some(digits) = line.strip_prefix(b"0x").or_else(|| line.strip_prefix(b"0X")) else {
        return Ok(Zeroizing::new(line.to_vec()));
    };
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return Err("starts with 0x and has an odd number of hex digits, or none".to_owned());
    }
    data_encoding::HEXLOWER_PERMISSIVE
        .decode(digits)
        .map(Zeroizing::new)
        .map_err(|_| "starts with 0x and holds something that is not a hex digit".to_owned())
}

/// Refuses what RFC 7143 section 9.2.1 forbids or advises against.
pub fn check(chap: &Chap, allow_short: bool) -> Result<(), Wrong> {
    if let Some((_, mutual)) = &chap.mutual
        && *mutual == chap.secret
    {
        return Err(Wrong::new(
            "the secret and the mutual secret are equal (RFC 7143 9.2.1 forbids it)",
            "another secret for the target",
        ));
    }
    let shortest =
        chap.mutual.as_ref().map_or(chap.secret.len(), |(_, s)| s.len().min(chap.secret.len()));
    if shortest < SECRET_MIN && !allow_short {
        return Err(Wrong::new(
            format!("a secret of {shortest} bytes is shorter than {SECRET_MIN} (RFC 7143 9.2.1)"),
            "a longer secret on both sides, or allow_short_secret = true",
        ));
    }
    Ok(())
}

/// A CHAP name as it goes into CHAP_N.
pub fn user(text: &str) -> Result<String, Wrong> {
    if text.is_empty() || text.len() > USER_MAX || text.contains('\0') {
        return Err(Wrong::new(format!("a CHAP name has 1 to {USER_MAX} bytes"), "\"host1\""));
    }
    Ok(text.to_owned())
}

/// `chap = { user, secret_file, mutual_user, mutual_secret_file, allow_short_secret }`; secret files are
/// looked for relative to `base`.
pub fn section(section: Section<'_>, base: &Path) -> Option<Arc<Chap>> {
    let (line, problems) = (section.line(), section.problems());
    let read = |path: &str| read(&base.join(path)).map(|secret| secret.to_vec());
    let name = section.require("user", section.text("user", user), "\"host1\"");
    let secret = section.text("secret_file", read);
    let secret = section.require("secret_file", secret, "\"/etc/mpio/a.secret\"");
    let mutual_name = section.text("mutual_user", user);
    let mutual_secret = section.text("mutual_secret_file", read);
    let half = match (&mutual_name, &mutual_secret) {
        (Some(_), None) => {
            section.require("mutual_secret_file", None::<()>, "\"/etc/mpio/a.mutual\"");
            true
        }
        (None, Some(_)) => {
            section.require("mutual_user", None::<()>, "\"san\"");
            true
        }
        _ => false,
    };
    let allow_short = section.flag("allow_short_secret").is_some_and(|flag| flag.value);
    section.finish();
    if half {
        return None;
    }
    let mutual = mutual_name.zip(mutual_secret).map(|(name, secret)| (name.value, secret.value));
    let chap = Chap::new(name?.value, secret?.value, mutual);
    match check(&chap, allow_short) {
        Ok(()) => Some(Arc::new(chap)),
        Err(wrong) => {
            problems.wrong(line, "chap", wrong);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(name: &str, content: &[u8], mode: u32) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("mpio-secret-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join(name);
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn one_trailing_newline_is_dropped_and_hex_is_decoded() {
        assert_eq!(**read(&file("a", b"secret secret\n", 0o600)).unwrap(), *b"secret secret");
        assert_eq!(**read(&file("b", b"secret\n\n", 0o640)).unwrap(), *b"secret\n");
        assert_eq!(**read(&file("c", b"secret\r\n", 0o600)).unwrap(), *b"secret");
        assert_eq!(**read(&file("d", b"0x00fFab\n", 0o400)).unwrap(), [0, 0xff, 0xab]);
    }

    #[test]
    fn what_is_refused() {
        let path = file("open", b"secret", 0o644);
        assert_eq!(
            read(&path).unwrap_err(),
            Wrong::new(
                format!("{} can be read or written by others (mode 0644)", path.display()),
                format!("chmod 0600 {}", path.display()),
            )
        );
        let problem = |name, content: &[u8]| read(&file(name, content, 0o600)).unwrap_err().problem;
        assert!(problem("e", b"\n").ends_with(" is empty"));
        assert!(problem("f", b"0xabc").ends_with("an odd number of hex digits, or none"));
        assert!(problem("g", b"0xzz").ends_with("is not a hex digit"));
        assert!(problem("h", &[b'x'; 5000]).ends_with("is longer than 4096 bytes"));
        let gone = read(Path::new("/nonexistent/secret")).unwrap_err().problem;
        assert_eq!(gone, "/nonexistent/secret cannot be read: no such file or directory");
        assert!(read(Path::new("/dev/null")).unwrap_err().problem.ends_with("not a regular file"));
    }

    /// RFC 7143 9.2.1: not the same secret in both directions; 96 bits at least.
    #[test]
    fn rules_of_section_9_2_1() {
        let chap = |a: &[u8], b: Option<&[u8]>| {
            Chap::new("u".into(), a.to_vec(), b.map(|b| ("t".into(), b.to_vec())))
        };
        assert!(check(&chap(b"0123456789ab", None), false).is_ok());
        assert!(check(&chap(b"0123456789a", None), true).is_ok());
        let short = check(&chap(b"0123456789a", None), false).unwrap_err().problem;
        assert_eq!(short, "a secret of 11 bytes is shorter than 12 (RFC 7143 9.2.1)");
        let equal = check(&chap(b"0123456789ab", Some(b"0123456789ab")), true).unwrap_err();
        assert!(equal.problem.starts_with("the secret and the mutual secret are equal"));
        assert!(check(&chap(b"0123456789ab", Some(b"0123456789a")), false).is_err());
    }
}
