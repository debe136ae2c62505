//! One daemon per initiator name.
//!
//! ISIDs are derived from the configuration, so a second daemon with the same name would reinstate the
//! sessions of the first one away from it. The lock is `flock` on a file that names the process; the
//! kernel drops it when the process ends, however it ends. The file stays: removing it would let two
//! processes lock two files of the same name.

use super::config::secret::plain;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The lock; held until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "initiator name {name}: in use by {holder}; try: stop that process, or give this one another name under [initiator]"
    )]
    Held {
        /// Our iSCSI name.
        name: String,
        /// The process.
        holder: String,
    },
    /// The file cannot be made.
    #[error("lock file {path}: {why}; try: a directory that this user can write to")]
    Io {
        /// The file.
        path: String,
        /// The error's text.
        why: String,
    },
}

impl Lock {
    /// Takes the lock of `initiator` in `dir`, which is made if it is not there.
    ///
    /// # Errors
    /// When another process holds it, naming its pid; when the file cannot be made.
    pub fn take(dir: &Path, initiator: &str) -> Result<Lock, LockError> {
        let path = file_of(dir, initiator);
        let io = |error: std::io::Error| LockError::Io {
            path: path.display().to_string(),
            why: plain(&error),
        };
        std::fs::create_dir_all(dir).map_err(io)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&path)
            .map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).map_err(io)?;
                file.rewind().map_err(io)?;
                writeln!(file, "{}", std::process::id()).map_err(io)?;
                Ok(Lock { _file: file })
            }
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                Err(LockError::Held { name: initiator.to_owned(), holder: holder(file) })
            }
            Err((_, errno)) => Err(io(errno.into())),
        }
    }
}

fn holder(file: File) -> String {
    let mut text = String::new();
    let _ = file.take(32).read_to_string(&mut text);
    match text.trim().parse::<u32>() {
        Ok(pid) => format!("another mpio, pid {pid}"),
        Err(_) => "another mpio that is just starting".to_owned(),
    }
}

fn file_of(dir: &Path, initiator: &str) -> PathBuf {
    dir.join(stem(initiator) + ".lock")
}

/// A file name for an initiator: characters that are safe there stay, the others are written in hex.
#[must_use]
pub fn stem(initiator: &str) -> String {
    let mut name = String::from("initiator-");
    for byte in initiator.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b':' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    // 223 bytes of name can become longer than a file name may be.
    if name.len() > 140 {
        name.truncate(120);
        let digest = <sha2::Sha256 as sha2::Digest>::digest(initiator.as_bytes());
        name.push_str(&data_encoding::HEXLOWER.encode(&digest[..8]));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_the_pid_of_the_first() {
        let dir = std::env::temp_dir().join(format!("mpio-lock-{}", std::process::id()));
        let first = Lock::take(&dir, "iqn.2026-11.example:a").unwrap();
        let second = Lock::take(&dir, "iqn.2026-11.example:a").unwrap_err().to_string();
        assert_eq!(
            second,
            format!(
                "initiator name iqn.2026-11.example:a: in use by another mpio, pid {}; try: stop that \
                 process, or give this one another name under [initiator]",
                std::process::id()
            )
        );
        let _other = Lock::take(&dir, "iqn.2026-11.example:b").unwrap();
        drop(first);
        let _again = Lock::take(&dir, "iqn.2026-11.example:a").unwrap();
        let refused = Lock::take(Path::new("/proc/nothing"), "x").unwrap_err().to_string();
        assert!(refused.starts_with("lock file /proc/nothing/initiator-x.lock: "), "{refused}");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn file_names_stay_legal() {
        let long = format!("iqn.2026-11.example:{}", "ä".repeat(100));
        let name = file_of(Path::new("/x"), &long);
        assert!(name.file_name().unwrap().len() < 255);
        assert_eq!(file_of(Path::new("/x"), "a/b"), Path::new("/x/initiator-a%2fb.lock"));
    }
}
