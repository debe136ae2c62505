//! From what portals told to the paths of devices. Pure: no socket, no clock.
//!
//! A path exists where a target of a device stands at a configured portal. What a portal advertises at
//! an address that is not configured is never used, and told once.

use super::config::{Address, Config};
use super::names;
use crate::limits;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

/// One target of a SendTargets answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The target's name.
    pub target: String,
    /// Where it says that it can be reached; empty means where we asked (RFC 7143 appendix C).
    pub addresses: Vec<Advertised>,
}

/// One address of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    /// IP address or host name.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Portal group tag.
    pub portal_group: Option<u16>,
}

/// A path that came to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPath {
    /// Index of the device.
    pub device: usize,
    /// Index of the portal.
    pub portal: usize,
    /// Index of the target in the device.
    pub target: usize,
    /// `PORTAL:TAIL`, unique in the device.
    pub name: String,
    /// Portal group tag, if known.
    pub portal_group: Option<u16>,
}

impl NewPath {
    /// Position in the configured order: portal, then target.
    #[must_use]
    pub fn order(&self, config: &Config) -> u32 {
        let targets = config.devices[self.device].targets.len();
        (self.portal * targets + self.target) as u32
    }
}

/// What one discovery brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Paths that were not known before, in the configured order.
    pub paths: Vec<NewPath>,
    /// Addresses that no portal of the configuration has, told for the first time: target and address.
    pub unused: Vec<(String, String)>,
    /// Paths beyond the limit of a device, told for the first time.
    pub too_many: Vec<(usize, String)>,
}

/// What is known so far.
#[derive(Default)]
pub struct Plan {
    known: Vec<NewPath>,
    told: HashSet<(String, String)>,
    refused: HashSet<(usize, usize, usize)>,
    /// Portals by the address that their name stands for now.
    resolved: Vec<Option<SocketAddr>>,
}

impl Plan {
    /// Nothing known yet.
    #[must_use]
    pub fn new(config: &Config) -> Plan {
        let resolved = config.portals.iter().map(|portal| portal.address.socket_addr()).collect();
        Plan { resolved, ..Plan::default() }
    }

    /// A portal's host name was looked up.
    pub fn resolve(&mut self, portal: usize, address: SocketAddr) {
        self.resolved[portal] = Some(address);
    }

    /// Where a portal is, if that is known.
    #[must_use]
    pub fn address(&self, portal: usize) -> Option<SocketAddr> {
        self.resolved[portal]
    }

    /// Whether a target of a device was seen at any portal.
    #[must_use]
    pub fn seen(&self, device: usize, target: usize) -> bool {
        self.known.iter().any(|path| path.device == device && path.target == target)
    }

    /// Names of targets of a device that no portal has shown yet.
    #[must_use]
    pub fn missing<'c>(&self, config: &'c Config, device: usize) -> Vec<&'c str> {
        let targets = config.devices[device].targets.iter().enumerate();
        targets
            .filter(|(i, _)| !self.seen(device, *i))
            .map(|(_, target)| target.name.as_str())
            .collect()
    }

    /// Takes in an answer of the portal `asked`.
    pub fn found(&mut self, config: &Config, asked: usize, records: &[Record]) -> News {
        let mut news = News::default();
        let mut places: Vec<(usize, &str, Option<u16>)> = Vec::new();
        for record in records {
            if record.addresses.is_empty() {
                places.push((asked, &record.target, None));
            }
            for address in &record.addresses {
                let here = self.portals_at(config, address);
                if here.is_empty() {
                    self.tell(&record.target, address, &mut news);
                }
                let tag = address.portal_group;
                places.extend(here.into_iter().map(|portal| (portal, record.target.as_str(), tag)));
            }
        }
        places.sort_by_key(|(portal, ..)| *portal);
        self.add(config, &places, &mut news);
        news
    }

    /// Takes in a portal that is not asked: its targets are taken to be there.
    pub fn fixed(&mut self, config: &Config, portal: usize) -> News {
        let mut news = News::default();
        let listed = &config.portals[portal].targets;
        let mut places: Vec<(usize, &str, Option<u16>)> = Vec::new();
        for target in config.devices.iter().flat_map(|device| &device.targets) {
            if listed.is_empty() || listed.contains(&target.name) {
                places.push((portal, &target.name, None));
            }
        }
        self.add(config, &places, &mut news);
        news
    }

    fn add(&mut self, config: &Config, places: &[(usize, &str, Option<u16>)], news: &mut News) {
        for (device, spec) in config.devices.iter().enumerate() {
            for &(portal, name, portal_group) in places {
                let Some(target) = spec.targets.iter().position(|t| t.name == name) else {
                    continue;
                };
                let same = |p: &NewPath| (p.device, p.portal, p.target) == (device, portal, target);
                if self.known.iter().any(same) {
                    continue;
                }
                let base = names::path(&config.portals[portal].name, name);
                let mine = |p: &&NewPath| p.device == device;
                if self.known.iter().filter(mine).count() >= limits::PATHS_PER_DEVICE_MAX {
                    if self.refused.insert((device, portal, target)) {
                        news.too_many.push((device, base));
                    }
                    continue;
                }
                let taken = |n: &str| self.known.iter().filter(mine).any(|p| p.name == n);
                let path = NewPath {
                    device,
                    portal,
                    target,
                    name: names::unique(&base, taken),
                    portal_group,
                };
                self.known.push(path.clone());
                news.paths.push(path);
            }
        }
        assert!(self.known.len() <= config.devices.len() * limits::PATHS_PER_DEVICE_MAX);
    }

    /// Configured portals that an advertised address means; two may share one and differ in their source.
    fn portals_at(&self, config: &Config, advertised: &Advertised) -> Vec<usize> {
        let ip = advertised.host.parse::<IpAddr>().ok();
        let is = |(index, address): (usize, &Address)| {
            let by_ip = ip.is_some()
                && (ip == address.ip() || self.resolved[index].map(|resolved| resolved.ip()) == ip);
            let by_name = advertised.host.eq_ignore_ascii_case(&address.host);
            (advertised.port == address.port && (by_ip || by_name)).then_some(index)
        };
        config.portals.iter().map(|portal| &portal.address).enumerate().filter_map(is).collect()
    }

    fn tell(&mut self, target: &str, address: &Advertised, news: &mut News) {
        // A target that makes up addresses for ever must not fill the memory.
        const TOLD_MAX: usize = 1024;
        let shown = Address { host: address.host.clone(), port: address.port }.to_string();
        let entry = (target.to_owned(), shown);
        if self.told.len() < TOLD_MAX && self.told.insert(entry.clone()) {
            news.unused.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::{Device, Export, Portal, Target};
    use super::*;

    const HA1: &str = "iqn.2026-11.example.san:ha1";
    const HA2: &str = "iqn.2026-11.example.san:ha1partner";

    fn portal(name: &str, address: &str, source: &str) -> Portal {
        Portal::new(name, Address::parse(address, 3260).unwrap(), Some(source.parse().unwrap()))
    }

    fn config(targets: &[&str]) -> Config {
        let target = |name: &&str| Target { name: (*name).to_owned(), lun: 1, line: 0 };
        let export = Export::parse("unix:/x").unwrap();
        Config {
            file: None,
            initiator_name: "iqn.2026-11.example:i".into(),
            portals: vec![
                portal("a", "10.10.1.10", "10.10.1.1"),
                portal("b", "san2.example", "10.10.2.1"),
            ],
            devices: vec![Device::new("vm0", targets.iter().map(target).collect(), export)],
        }
    }

    fn record(target: &str, addresses: &[(&str, u16)]) -> Record {
        let addresses = addresses
            .iter()
            .map(|(host, tag)| Advertised {
                host: (*host).into(),
                port: 3260,
                portal_group: Some(*tag),
            })
            .collect();
        Record { target: target.into(), addresses }
    }

    fn names(news: &News) -> Vec<&str> {
        news.paths.iter().map(|path| path.name.as_str()).collect()
    }

    #[test]
    fn a_target_is_used_where_it_is_advertised_and_configured() {
        let config = config(&[HA1, HA2]);
        let mut plan = Plan::new(&config);
        plan.resolve(1, "10.10.2.10:3260".parse().unwrap());
        let answer = [
            record(HA1, &[("10.10.1.10", 1), ("172.16.0.1", 2)]),
            record("iqn.2026-11.x:other", &[("10.10.1.10", 1)]),
        ];
        let news = plan.found(&config, 0, &answer);
        assert_eq!(names(&news), ["a:ha1"]);
        assert_eq!(news.paths[0].portal_group, Some(1));
        assert_eq!(news.unused, [(HA1.to_owned(), "172.16.0.1:3260".to_owned())]);
        assert_eq!(plan.missing(&config, 0), [HA2]);
        assert_eq!(plan.found(&config, 0, &answer), News::default(), "told and added once");
        let news = plan.found(&config, 1, &[record(HA2, &[("10.10.2.10", 7)])]);
        assert_eq!(names(&news), ["b:ha1partner"]);
        assert_eq!(news.paths[0].order(&config), 3);
        assert!(plan.missing(&config, 0).is_empty());
    }

    #[test]
    fn a_portal_may_tell_of_the_other_one() {
        let config = config(&[HA1]);
        let mut plan = Plan::new(&config);
        let both = [record(HA1, &[("SAN2.example", 2), ("10.10.1.10", 1)])];
        assert_eq!(names(&plan.found(&config, 0, &both)), ["a:ha1", "b:ha1"]);
    }

    /// RFC 7143 appendix C: no TargetAddress means the address of the discovery session.
    #[test]
    fn without_an_address_it_is_where_we_asked() {
        let config = config(&[HA1]);
        let mut plan = Plan::new(&config);
        assert_eq!(names(&plan.found(&config, 1, &[record(HA1, &[])])), ["b:ha1"]);
    }

    #[test]
    fn equal_tails_are_numbered_in_order_of_discovery() {
        let config = config(&["iqn.2026-11.x:ha", "iqn.2026-11.y:ha"]);
        let mut plan = Plan::new(&config);
        let y = [record("iqn.2026-11.y:ha", &[])];
        assert_eq!(names(&plan.found(&config, 0, &y)), ["a:ha"]);
        assert_eq!(names(&plan.found(&config, 0, &[record("iqn.2026-11.x:ha", &[])])), ["a:ha#2"]);
    }

    #[test]
    fn fixed_portals_and_the_limit() {
        let many: Vec<String> = (0..40).map(|i| format!("iqn.2026-11.x:{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut config = config(&many);
        config.portals[1].targets = vec!["iqn.2026-11.x:3".into()];
        let mut plan = Plan::new(&config);
        assert_eq!(names(&plan.fixed(&config, 1)), ["b:3"]);
        let news = plan.fixed(&config, 0);
        assert_eq!(news.paths.len(), limits::PATHS_PER_DEVICE_MAX - 1);
        assert_eq!(news.too_many.len(), 40 - (limits::PATHS_PER_DEVICE_MAX - 1));
        assert_eq!(plan.fixed(&config, 0), News::default());
    }
}
