//! Where the daemon keeps what lives only as long as it does (`/run/mpio`, else `$XDG_RUNTIME_DIR/mpio`),
//! and what outlives it.

use std::path::PathBuf;

const SYSTEM: &str = "/run/mpio";
const CONTROL: &str = "control.sock";

fn of_user() -> Option<PathBuf> {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)?;
    dir.is_absolute().then(|| dir.join("mpio"))
}

/// Control sockets to try, in order.
#[must_use]
pub fn control_sockets() -> Vec<PathBuf> {
    let system = PathBuf::from(SYSTEM);
    std::iter::once(system).chain(of_user()).map(|dir| dir.join(CONTROL)).collect()
}

/// The control socket of a daemon of this user.
#[must_use]
pub fn control_socket() -> PathBuf {
    run_dir().join(CONTROL)
}

/// Where a daemon of this user keeps what outlives it and the machine's next start: `$STATE_DIRECTORY` (which
/// systemd sets), `/var/lib/mpio`, else `$XDG_STATE_HOME/mpio`.
#[must_use]
pub fn state_dir() -> PathBuf {
    let of = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    // systemd lists all of the unit's; the first one is the unit's own.
    let first = |dirs: PathBuf| dirs.to_str().and_then(|d| d.split(':').next()).map(PathBuf::from);
    if let Some(dir) = of("STATE_DIRECTORY").and_then(first) {
        return dir;
    }
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/mpio");
    }
    let home = of("XDG_STATE_HOME").or_else(|| of("HOME").map(|home| home.join(".local/state")));
    home.map_or_else(run_dir, |home| home.join("mpio"))
}

/// Where a daemon of this user keeps its control socket and its lock.
#[must_use]
pub fn run_dir() -> PathBuf {
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        return PathBuf::from(SYSTEM);
    }
    of_user().unwrap_or_else(|| std::env::temp_dir().join(format!("mpio-{uid}")))
}
