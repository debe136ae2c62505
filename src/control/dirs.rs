//! Where the daemon keeps what lives only as long as it does: `/run/mpio`, else `$XDG_RUNTIME_DIR/mpio`.

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

/// Where a daemon of this user keeps its control socket and its lock.
#[must_use]
pub fn run_dir() -> PathBuf {
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        return PathBuf::from(SYSTEM);
    }
    of_user().unwrap_or_else(|| std::env::temp_dir().join(format!("mpio-{uid}")))
}
