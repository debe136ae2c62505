//! The kernel that is booted: a Debian kernel package, unpacked (never installed) into a cache directory.
//!
//! `tests/install` puts it there: `CACHE/linux-image-VERSION/{complete, boot/vmlinuz-VERSION,
//! lib/modules/VERSION}`, with `complete` written last. Which modules the first program has to load, and in
//! which order, is read from depmod's `modules.dep`.

use crate::Error;
use std::path::{Path, PathBuf};

/// What the initial file system needs before it can see the host's root: the bus, 9p, and the overlay.
const FIRST_MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Such as `6.1.0-50-amd64`.
    pub version: String,
    /// The directory that holds `boot` and `lib/modules`.
    pub directory: PathBuf,
}

impl Kernel {
    /// The cache: `$MPIO_VM_CACHE`, else `mpio/vm` in `$XDG_CACHE_HOME` or `~/.cache`; as in `tests/install`.
    pub fn cache_directory() -> PathBuf {
        let set = |name: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        set("MPIO_VM_CACHE").unwrap_or_else(|| {
            set("XDG_CACHE_HOME")
                .unwrap_or_else(|| set("HOME").unwrap_or_else(|| "/root".into()).join(".cache"))
                .join("mpio/vm")
        })
    }

    /// The newest complete kernel in `cache`.
    pub fn find(cache: &Path) -> Result<Kernel, Error> {
        let missing = || Error::MissingKernel(cache.to_path_buf());
        let entries = std::fs::read_dir(cache).map_err(|_| missing())?;
        entries
            .filter_map(|entry| {
                let directory = entry.ok()?.path();
                let name = directory.file_name()?.to_str()?.to_owned();
                let version = name.strip_prefix("linux-image-")?.to_owned();
                directory.join("complete").is_file().then_some(Kernel { version, directory })
            })
            .max_by_key(|kernel| version_key(&kernel.version))
            .ok_or_else(missing)
    }

    /// The kernel image.
    pub fn image(&self) -> PathBuf {
        self.directory.join(format!("boot/vmlinuz-{}", self.version))
    }

    /// The modules' directory: what belongs under `/lib/modules/VERSION`.
    pub fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.version)
    }

    /// Files of the modules that the initial file system loads, in the order in which they must be loaded.
    pub(crate) fn first_modules(&self) -> Result<Vec<PathBuf>, Error> {
        let list = self.modules().join("modules.dep");
        let text = std::fs::read_to_string(&list)
            .map_err(|error| self.unusable(format!("{}: {error}", list.display())))?;
        let mut order = Vec::new();
        for name in FIRST_MODULES {
            let needed = load_order(&text, name)
                .ok_or_else(|| self.unusable(format!("it has no module {name}")))?;
            for file in needed {
                let path = self.modules().join(&file);
                if !file.ends_with(".ko") {
                    return Err(self.unusable(format!(
                        "{file} is compressed, which the first program cannot read"
                    )));
                }
                if !order.contains(&path) {
                    order.push(path);
                }
            }
        }
        Ok(order)
    }

    fn unusable(&self, why: String) -> Error {
        Error::UnusableKernel { directory: self.directory.clone(), why }
    }
}

/// Numbers of a version in their order, so that 6.1.0-50 is newer than 6.1.0-9.
fn version_key(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// The files to load for `module`, dependencies first, from the text of `modules.dep`. A module that is built
/// into the kernel is not listed there; `None` then, as for one that does not exist.
fn load_order(modules_dep: &str, module: &str) -> Option<Vec<String>> {
    modules_dep.lines().find_map(|line| {
        let (file, needs) = line.split_once(':')?;
        let stem = file.rsplit('/').next()?.split('.').next()?;
        if stem.replace('-', "_") != module.replace('-', "_") {
            return None;
        }
        // depmod lists what is needed nearest first, so that loading goes from the end.
        let mut order: Vec<String> = needs.split_whitespace().rev().map(str::to_owned).collect();
        order.push(file.to_owned());
        Some(order)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first() {
        let text = "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/fscache/fscache.ko kernel/fs/netfs/netfs.ko\n\
                    kernel/drivers/virtio/virtio_pci.ko:\n\
                    kernel/drivers/x-y.ko: kernel/z.ko\n";
        assert_eq!(
            load_order(text, "9p").unwrap(),
            [
                "kernel/fs/netfs/netfs.ko",
                "kernel/fs/fscache/fscache.ko",
                "kernel/net/9p/9pnet.ko",
                "kernel/fs/9p/9p.ko"
            ]
        );
        assert_eq!(
            load_order(text, "virtio_pci").unwrap(),
            ["kernel/drivers/virtio/virtio_pci.ko"]
        );
        assert_eq!(load_order(text, "x_y").unwrap(), ["kernel/z.ko", "kernel/drivers/x-y.ko"]);
        assert_eq!(load_order(text, "overlay"), None);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(version_key("6.1.0-50-amd64") > version_key("6.1.0-9-amd64"));
        assert!(version_key("6.12.1-1-amd64") > version_key("6.1.0-50-amd64"));
    }

    #[test]
    fn a_missing_cache_says_how_to_fill_it() {
        let error = Kernel::find(Path::new("/nonexistent/mpio")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/mpio") && error.contains("tests/install"), "{error}");
    }
}
