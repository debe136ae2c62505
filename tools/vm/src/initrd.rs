//! The initial file system: busybox, a few modules, and the two scripts that lead to the guest script.
//!
//! It is a cpio archive in the "newc" format, written here because it is short: a header of hexadecimal
//! fields, the name, the data, each padded to four bytes. `init` finds the host's root through 9p and lays
//! memory over it; `stage2` then runs with the host's programs and starts the guest script.

use crate::Error;
use crate::kernel::Kernel;
use std::path::Path;

/// Where files go in and results come out, inside the machine.
const SHARE: &str = "/vm";

/// Mounts the host's root read-only under memory, the modules, the share; then hands over to `stage2`.
const INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev /host /memory /root
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev 2>/dev/null
for module in /modules/*; do
  $b insmod "$module" || echo "init: cannot load $module"
done
options=trans=virtio,version=9p2000.L,msize=512000
set -e
$b mount -t 9p -o "$options,ro,cache=loose" hostroot /host
$b mount -t tmpfs -o size=70% memory /memory
$b mkdir -p /memory/upper /memory/work
$b mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /root
$b mkdir -p /root/proc /root/sys /root/dev /root/run /root/tmp /root/vm "/root/lib/modules/$1"
$b mount -t 9p -o "$options,ro,cache=loose" modules "/root/lib/modules/$1"
$b mount -t 9p -o "$options" share /root/vm
$b mount -t tmpfs run /root/run
$b mount -t tmpfs tmp /root/tmp
$b chmod 1777 /root/tmp
$b cp /stage2 /root/run/stage2
for directory in proc sys dev; do $b mount --move "/$directory" "/root/$directory"; done
exec $b switch_root /root /bin/bash /run/stage2
"#;

/// Runs the guest script, keeps its exit code in the share, and powers off.
const STAGE2: &str = r#"export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C LC_ALL=C TERM=dumb
exec </dev/null >/dev/console 2>&1
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
ip link set lo up
# Files are run from memory: 9p without a cache is slow, and mapped files would be read again and again.
cp -r /vm/files /run/files
cd /run/files
eval "set -- $(cat /vm/arguments)"
echo "vm: guest script $1 starts"
bash "./$@"
code=$?
echo "vm: guest script ended with $code"
echo "$code" >/vm/exit
sync
echo o >/proc/sysrq-trigger
sleep 60
"#;

/// Builds the archive for `kernel`.
pub(crate) fn build(kernel: &Kernel, busybox: &Path) -> Result<Vec<u8>, Error> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(Error::io(format!("cannot read {}", path.display())))
    };
    let mut archive = Archive::default();
    archive.directory("bin");
    archive.directory("modules");
    archive.file("bin/busybox", 0o755, &read(busybox)?);
    for (index, module) in kernel.first_modules()?.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        // The number keeps the order of loading for the shell's glob.
        archive.file(&format!("modules/{index:02}-{name}"), 0o644, &read(module)?);
    }
    archive.file("init", 0o755, INIT.replace("$1", &kernel.version).as_bytes());
    archive.file("stage2", 0o755, STAGE2.as_bytes());
    debug_assert!(STAGE2.contains(SHARE));
    Ok(archive.finish())
}

/// A cpio archive in the making.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn directory(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, permissions: u32, data: &[u8]) {
        self.entry(name, 0o100_000 | permissions, data);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        let size =
            u32::try_from(data.len()).expect("what goes into the archive is far below 4 GiB");
        let name_size = name.len() as u32 + 1;
        // Magic; inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name size, check.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernel documentation, "initramfs buffer format": header of 110 bytes, name and data padded to four.
    #[test]
    fn an_entry_is_newc() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"#!/x\n");
        let expected = [
            &b"070701"[..],
            b"00000001", // inode
            b"000081ED", // regular file, 0755
            b"0000000000000000",
            b"00000001", // one link
            b"00000000", // mtime
            b"00000005", // size
            b"00000000000000000000000000000000",
            b"00000005", // name with its zero byte
            b"00000000",
            b"init\0\0", // 110 + 5 bytes, padded to 116
            b"#!/x\n\0\0\0",
        ]
        .concat();
        assert_eq!(archive.bytes, expected);
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
    }
}
