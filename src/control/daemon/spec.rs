//! From the configuration to what a lane builds.

use crate::control::config::{Config, Device, Portal, values};
use crate::control::isid;
use crate::control::plan::NewPath;
use crate::session::chap::CredentialsError;
use crate::volume::spec::{DeviceSpec, PathSpec};
use std::net::SocketAddr;
use std::sync::Arc;

/// How ISIDs are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isids {
    /// Derived from the configuration: `serve`.
    Stable,
    /// New ones: everything else.
    Random,
}

/// Why a path cannot be described to a lane.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// No random bytes for an ISID.
    #[error("the kernel has no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// CHAP names or secrets that cannot be used.
    #[error(transparent)]
    Chap(#[from] CredentialsError),
}

/// A device for one lane.
#[must_use]
pub fn device(config: &Config, device: &Device) -> DeviceSpec {
    DeviceSpec {
        name: device.name.clone(),
        initiator_name: config.initiator_name.clone(),
        wwid: device.wwid.clone(),
        policy: device.policy,
        read_only: device.read_only,
        tunables: device.tunables.clone(),
        buffer_memory: device.buffer_memory as usize,
        lanes: device.lanes,
    }
}

/// A path for one lane.
///
/// # Errors
/// [`SpecError`].
pub fn path(
    config: &Config,
    path: &NewPath,
    address: SocketAddr,
    lane: u16,
    isids: Isids,
) -> Result<PathSpec, SpecError> {
    let device = &config.devices[path.device];
    let portal = &config.portals[path.portal];
    let target = &device.targets[path.target];
    let weight = device.weights.iter().find(|(name, _)| *name == path.name);
    let isid = match isids {
        Isids::Stable => isid::of(config, device, portal, target, lane),
        Isids::Random => isid::random()?,
    };
    let chap = portal.chap.as_ref().map(|chap| chap.credentials()).transpose()?;
    Ok(PathSpec {
        name: path.name.clone(),
        portal_name: portal.name.clone(),
        portal: address,
        source: portal.source,
        interface: portal.interface.clone(),
        target: target.name.clone(),
        portal_group: path.portal_group,
        lun: values::lun_field(target.lun).expect("LUNs are checked when they are read"),
        isid,
        chap,
        header_digest: portal.header_digest,
        data_digest: portal.data_digest,
        redirect_allow: redirects(config, portal),
        weight: weight.map_or(1, |(_, weight)| *weight),
        preferred: device.prefer.as_ref() == Some(&path.name),
        order: path.order(config),
    })
}

/// Where a redirect may lead: to any portal of the configuration, and to what the portal allows besides.
fn redirects(config: &Config, portal: &Portal) -> Arc<[SocketAddr]> {
    let portals = config.portals.iter().filter_map(|portal| portal.address.socket_addr());
    portals.chain(portal.redirect_allow.iter().copied()).collect()
}
