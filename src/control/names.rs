//! Names of paths: `PORTAL:TAIL`, the portal's name and what follows the last `:` of the target's name.
//! Where that is not unique in a device, `#2`, `#3` follow in order of discovery.

use super::config::{Config, Device};
use crate::limits;

/// The name of a path before it is made unique.
#[must_use]
pub fn path(portal: &str, target: &str) -> String {
    let tail = target.rsplit_once(':').map_or(target, |(_, tail)| tail);
    format!("{portal}:{tail}")
}

/// `base`, or `base#2`, `base#3`, … whichever is the first that is not `taken`.
#[must_use]
pub fn unique(base: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(base) {
        return base.to_owned();
    }
    (2..).map(|n| format!("{base}#{n}")).find(|name| !taken(name)).expect("some number is free")
}

/// How many paths a device can have at most, lanes not counted.
#[must_use]
pub fn possible_paths(config: &Config, device: &Device) -> usize {
    let at = |portal: &super::config::Portal| {
        let here = |name: &String| {
            portal.discovery || portal.targets.is_empty() || portal.targets.contains(name)
        };
        device.targets.iter().filter(|target| here(&target.name)).count()
    };
    config.portals.iter().map(at).sum::<usize>().min(limits::PATHS_PER_DEVICE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails() {
        assert_eq!(path("a", "iqn.2026-11.example.san:ha1"), "a:ha1");
        assert_eq!(path("a", "iqn.2026-11.example.san:x:y"), "a:y");
        assert_eq!(path("a", "iqn.2026-11.example"), "a:iqn.2026-11.example");
        assert_eq!(path("a", "eui.02004567a425678d"), "a:eui.02004567a425678d");
    }

    #[test]
    fn numbers_follow_in_order() {
        let mut taken: Vec<String> = Vec::new();
        for expected in ["a:x", "a:x#2", "a:x#3"] {
            let name = unique("a:x", |n| taken.iter().any(|t| t == n));
            assert_eq!(name, expected);
            taken.push(name);
        }
    }
}
