//! REPORT and SET TARGET PORT GROUPS parameter data (SPC-4): which ports are how good for a logical unit.

use crate::wire::scsi::field::{be16, be32, bit, flag, put16, put32, u8_at};
use crate::wire::scsi::{Emit, ParseError, at_least};
use core::fmt;

/// Asymmetric access state of a target port group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessState {
    /// 0h.
    ActiveOptimized,
    /// 1h.
    ActiveNonOptimized,
    /// 2h: only a small command set.
    Standby,
    /// 3h: even less.
    Unavailable,
    /// 4h: depends on the block (referrals).
    LbaDependent,
    /// Eh.
    Offline,
    /// Fh.
    Transitioning,
    /// Anything else.
    Unknown(u8),
}

impl AccessState {
    /// From the 4-bit code.
    #[must_use]
    pub const fn from_bits(bits: u8) -> AccessState {
        match bits & 0xf {
            0x0 => AccessState::ActiveOptimized,
            0x1 => AccessState::ActiveNonOptimized,
            0x2 => AccessState::Standby,
            0x3 => AccessState::Unavailable,
            0x4 => AccessState::LbaDependent,
            0xe => AccessState::Offline,
            0xf => AccessState::Transitioning,
            other => AccessState::Unknown(other),
        }
    }

    /// The 4-bit code.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            AccessState::ActiveOptimized => 0x0,
            AccessState::ActiveNonOptimized => 0x1,
            AccessState::Standby => 0x2,
            AccessState::Unavailable => 0x3,
            AccessState::LbaDependent => 0x4,
            AccessState::Offline => 0xe,
            AccessState::Transitioning => 0xf,
            AccessState::Unknown(bits) => bits & 0xf,
        }
    }

    /// How bad it is, for a group that is listed twice: the worse entry counts.
    #[must_use]
    pub const fn badness(self) -> u8 {
        match self {
            AccessState::ActiveOptimized => 0,
            AccessState::ActiveNonOptimized => 1,
            AccessState::LbaDependent => 2,
            AccessState::Transitioning => 3,
            AccessState::Standby => 4,
            AccessState::Unavailable => 5,
            AccessState::Unknown(_) => 6,
            AccessState::Offline => 7,
        }
    }
}

impl fmt::Display for AccessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AccessState::ActiveOptimized => f.write_str("active-optimized"),
            AccessState::ActiveNonOptimized => f.write_str("active-non-optimized"),
            AccessState::Standby => f.write_str("standby"),
            AccessState::Unavailable => f.write_str("unavailable"),
            AccessState::LbaDependent => f.write_str("lba-dependent"),
            AccessState::Offline => f.write_str("offline"),
            AccessState::Transitioning => f.write_str("transitioning"),
            AccessState::Unknown(bits) => write!(f, "state {bits:#x}"),
        }
    }
}

/// One target port group descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortGroup {
    /// TARGET PORT GROUP.
    pub group: u16,
    /// Current state.
    pub state: AccessState,
    /// PREF: the preferred group.
    pub preferred: bool,
    /// Supported states, byte 1 as it came.
    pub supported: u8,
    /// STATUS CODE: 0 none, 1 changed by SET TARGET PORT GROUPS, 2 changed implicitly.
    pub status: u8,
    /// Relative target port identifiers.
    pub ports: Vec<u16>,
    /// The descriptor counts more ports than came.
    pub ports_cut: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortGroups {
    /// Extended header: implicit transition time in seconds, 0 when not said.
    pub transition_secs: Option<u8>,
    /// Groups in the target's order.
    pub groups: Vec<PortGroup>,
    /// Bytes that the whole answer takes, header included; more than came means: ask again.
    pub available: u64,
}

impl PortGroups {
    /// Reads an answer in either format; a descriptor without its first 8 bytes ends the list. Of one whose ports are
    /// cut those count that came: LIO does not count the extended header in the length of its answer and sends 4 bytes
    /// too few, which are the last port of its last group.
    ///
    /// # Errors
    /// Fewer than 4 bytes.
    pub fn parse(data: &[u8]) -> Result<PortGroups, ParseError> {
        at_least("REPORT TARGET PORT GROUPS data", data, 4)?;
        let available = u64::from(be32(data, 0)) + 4;
        let end = usize::try_from(available).unwrap_or(usize::MAX).min(data.len());
        // An ordinary descriptor has its PREF bit and state in byte 4; only the extended header has
        // format 001b in bits 6:4, which are reserved there.
        let extended = end >= 8 && data[4] >> 4 & 7 == 1;
        let mut rest = &data[if extended { 8 } else { 4 }..end];
        let mut groups = Vec::new();
        while rest.len() >= 8 {
            let ports_end = 8 + 4 * usize::from(rest[7]);
            let ports = &rest[8..ports_end.min(rest.len())];
            groups.push(PortGroup {
                group: be16(rest, 2),
                state: AccessState::from_bits(rest[0]),
                preferred: bit(rest, 0, 7),
                supported: rest[1],
                status: rest[5],
                ports: ports.chunks_exact(4).map(|port| be16(port, 2)).collect(),
                ports_cut: ports_end > rest.len(),
            });
            rest = rest.get(ports_end..).unwrap_or_default();
        }
        let transition_secs = extended.then(|| u8_at(data, 5));
        Ok(PortGroups { transition_secs, groups, available })
    }

    /// State and PREF of `group`; of a group listed twice the worse state.
    #[must_use]
    pub fn state_of(&self, group: u16) -> Option<(AccessState, bool)> {
        self.groups
            .iter()
            .filter(|g| g.group == group)
            .max_by_key(|g| g.state.badness())
            .map(|g| (g.state, g.preferred))
    }
}

/// SET TARGET PORT GROUPS parameter list that asks for one group to be put in this state.
#[must_use]
pub fn set_one(group: u16, state: AccessState) -> [u8; 8] {
    let mut list = [0; 8];
    list[4] = state.bits();
    put16(&mut list, 6, group);
    list
}

/// Groups and the states that a SET TARGET PORT GROUPS parameter list asks for; `None` when the list is cut
/// in a descriptor or has none.
#[must_use]
pub fn wanted(list: &[u8]) -> Option<Vec<(u16, AccessState)>> {
    let descriptors = list.get(4..)?;
    let whole = !descriptors.is_empty() && descriptors.len().is_multiple_of(4);
    let wanted = descriptors.chunks_exact(4).map(|d| (be16(d, 2), AccessState::from_bits(d[0])));
    whole.then(|| wanted.collect())
}

impl Emit for PortGroups {
    fn buffer_len(&self) -> usize {
        let header = if self.transition_secs.is_some() { 8 } else { 4 };
        header + self.groups.iter().map(|g| 8 + 4 * g.ports.len()).sum::<usize>()
    }

    fn emit(&self, out: &mut [u8]) {
        let len = self.buffer_len();
        out[..len].fill(0);
        put32(out, 0, u32::try_from(len - 4).expect("a group list is under 4 GiB"));
        let mut at = 4;
        if let Some(seconds) = self.transition_secs {
            out[4] = 0x10;
            out[5] = seconds;
            at = 8;
        }
        for group in &self.groups {
            out[at] = flag(group.preferred, 7) | group.state.bits();
            out[at + 1] = group.supported;
            put16(out, at + 2, group.group);
            out[at + 5] = group.status;
            out[at + 7] = u8::try_from(group.ports.len()).expect("at most 255 ports in a group");
            at += 8;
            for port in &group.ports {
                put16(out, at + 2, *port);
                at += 4;
            }
        }
    }
}
