//! What the integration tests stand on: real processes, real sockets, real namespaces, all cleaned up.
//!
//! Mental model: each helper owns what it started ([`process::Process`], [`tgtd::Tgtd`], [`netns::NetNs`],
//! [`Scratch`]) and ends it when dropped; a child also dies with the thread that started it, so that a killed
//! test run leaves nothing behind. Nothing is ever killed by name. Every wait has a limit and says what it
//! waited for. A missing program is a failure that names the remedy, never a skip.
//!
//! Deliberately not here: assertions about `mpio`; those belong to the tests.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

pub mod daemon;
pub mod embedded;
pub mod forwarder;
pub mod nbd;
pub mod netns;
pub mod network;
pub mod nexus;
pub mod process;
pub mod tgtd;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The search path of everything that is started: administrators' programs are not in everybody's.
pub fn search_path() -> String {
    format!("{}:/usr/local/sbin:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

/// Fails loudly, naming everything that is missing, when one of `programs` is not installed.
pub fn require(programs: &[&str]) {
    let path = search_path();
    let missing: Vec<&str> = programs
        .iter()
        .copied()
        .filter(|program| {
            !std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
        })
        .collect();
    assert!(missing.is_empty(), "not installed: {}; try: tests/install", missing.join(", "));
}

/// Fails loudly when network namespaces cannot be made.
pub fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces, which takes root; try: sudo -E env \"PATH=$PATH\" cargo test"
    );
}

/// Calls `done` until it gives something, at most for `limit`; panics naming `what` otherwise.
#[track_caller]
pub fn wait_for<T>(limit: Duration, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(since.elapsed() < limit, "{what}: not within {:.1} s", limit.as_secs_f64());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A directory of a test's own, removed at the end unless the test failed. Under the system's temporary
/// directory, because socket names are limited to 107 bytes.
pub struct Scratch {
    directory: PathBuf,
}

impl Scratch {
    /// `name` says whose it is.
    pub fn new(name: &str) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory =
            std::env::temp_dir().join(format!("mpio-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        Scratch { directory }
    }

    /// A path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a file inside and gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.directory.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// A port on which nobody listens on any of `addresses`, and that no other test of this process was given.
pub fn free_port(addresses: &[&str]) -> u16 {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    wait_for(Duration::from_secs(5), "a free port", || {
        let port =
            std::net::TcpListener::bind((addresses[0], 0)).unwrap().local_addr().unwrap().port();
        let free =
            addresses.iter().all(|address| std::net::TcpListener::bind((*address, port)).is_ok());
        let mut given = GIVEN.lock().unwrap();
        (free && !given.contains(&port)).then(|| {
            given.push(port);
            port
        })
    })
}

/// `bytes` of noise, a multiple of 8, the same for the same seed.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut out = Vec::with_capacity(bytes);
    while out.len() < bytes {
        // xorshift64*: good enough to be unlike anything else in the tests.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// Whether two files hold the same bytes; the first difference is named.
#[track_caller]
pub fn assert_same_content(one: &Path, other: &Path) {
    let read = |path: &Path| {
        let mut bytes = Vec::new();
        std::fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    let (left, right) = (read(one), read(other));
    assert_eq!(left.len(), right.len(), "sizes of {} and {}", one.display(), other.display());
    let difference = left.iter().zip(&right).position(|(a, b)| a != b);
    assert_eq!(
        difference,
        None,
        "first differing byte of {} and {}",
        one.display(),
        other.display()
    );
}
