//! Boots Debian's kernel under QEMU (TCG) with the host's root file system.
fn main() {}
