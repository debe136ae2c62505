//! The logical unit as one node shows it: a device server for a disk, without queues and transport.
//!
//! A command and its data go in, an [`Answer`] comes out; reads come out as a range of the medium, so
//! that the transport copies them straight into its PDUs. Both nodes of a mirror have a unit of their
//! own over one [`Medium`]. Deliberately not here: unit attentions (they belong to a session),
//! reservations, and everything that changes mode pages.

use crate::access::{Access, Lie};
use crate::base::Instant;
use crate::config::{Abilities, Identity, NodeConfig, PairConfig};
use crate::faults::{Commands, Operation};
use crate::journal::{Journal, Nexus, Record};
use crate::store::{CHUNK, Store};
use crate::wire::iscsi::digest;
use crate::wire::scsi::block_pages::{PAGE_CHARACTERISTICS, PAGE_LIMITS, PAGE_PROVISIONING};
use crate::wire::scsi::vpd::{self, PAGE_IDENTIFICATION, PAGE_SERIAL, PAGE_SUPPORTED};
use crate::wire::scsi::{
    AccessState, Association, BlockCharacteristics, BlockLimits, Caching, Capacity10, Capacity16,
    Cdb, Control, Designator, DesignatorKind, DeviceType, Emit, Inquiry, LbaStatus, ModeData,
    ModeForm, PortGroup, PortGroups, Provision, Provisioning, ReportedLuns, Sense, SenseKey, Width,
    luns, mode, port_groups, unmap,
};
use std::io;
use std::sync::Arc;

/// Bytes behind one or both units, and the journal of what was done to them.
pub struct Medium {
    /// The bytes.
    pub store: Store,
    /// The journal.
    pub journal: Arc<Journal>,
}

/// What a command ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// GOOD without data.
    Good,
    /// GOOD with parameter data, already cut to the allocation length.
    Data(Vec<u8>),
    /// GOOD with these bytes of the medium.
    Read { offset: u64, len: u64 },
    /// CHECK CONDITION.
    Check(Sense),
}

/// Who wants a command executed, and when: what the journal records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub nexus: Nexus,
    pub task_tag: u32,
    pub command_sn: u32,
    pub received_at: Instant,
    pub now: Instant,
    pub orphaned: bool,
}

/// One node's view of the medium.
pub(crate) struct Unit {
    medium: Arc<Medium>,
    identity: Identity,
    abilities: Abilities,
    lun: u64,
    block_size: u32,
    blocks: u64,
    target: String,
    /// Target port groups by node: the portal groups. Of two units that only look alike each has its own.
    groups: [Option<u16>; 2],
    node: usize,
    access: Arc<Access>,
    portal_group: u16,
}

const LBA_OUT_OF_RANGE: Sense = Sense::new(SenseKey::IllegalRequest, 0x21, 0x00);
const INVALID_OPCODE: Sense = Sense::new(SenseKey::IllegalRequest, 0x20, 0x00);
const INVALID_PARAMETER: Sense = Sense::new(SenseKey::IllegalRequest, 0x26, 0x00);
const LIST_LENGTH_ERROR: Sense = Sense::new(SenseKey::IllegalRequest, 0x1a, 0x00);
const NO_UNIT: Sense = Sense::new(SenseKey::IllegalRequest, 0x25, 0x00);
const WRITE_PROTECTED: Sense = Sense::new(SenseKey::DataProtect, 0x27, 0x00);
const INTERNAL_FAILURE: Sense = Sense::new(SenseKey::HardwareError, 0x44, 0x00);

impl Unit {
    pub(crate) fn new(
        pair: &PairConfig,
        config: &NodeConfig,
        index: u8,
        medium: Arc<Medium>,
        access: Arc<Access>,
    ) -> Unit {
        let node = usize::from(index);
        let group = |i: usize| {
            let known = pair.mirrored || i == node;
            known.then_some(pair.nodes[i].portal_group)
        };
        let size = config.claimed_size.unwrap_or(pair.size);
        Unit {
            medium,
            identity: config.identity.clone(),
            abilities: config.abilities.clone(),
            lun: luns::flat(config.lun).expect("the LUN was checked with the configuration"),
            block_size: pair.block_size,
            blocks: size / u64::from(pair.block_size),
            target: config.target.clone(),
            portal_group: config.portal_group,
            groups: [group(0), group(1)],
            node,
            access,
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.medium.store
    }

    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    pub(crate) fn block_size(&self) -> u32 {
        self.block_size
    }

    pub(crate) fn resize(&mut self, size: u64) {
        self.blocks = size / u64::from(self.block_size);
        assert!(self.blocks > 0 && size <= self.medium.store.size(), "{size} bytes are not there");
    }

    pub(crate) fn protect(&mut self, protected: bool) {
        self.abilities.write_protect = protected;
    }

    /// The LUN field of this unit.
    pub(crate) fn lun(&self) -> u64 {
        self.lun
    }

    /// Whether `lun` addresses this unit, in either of the two methods that fit its number.
    pub(crate) fn is(&self, lun: u64) -> bool {
        luns::number(lun).is_some() && luns::number(lun) == luns::number(self.lun)
    }

    /// Sense in the format that the control page tells.
    pub(crate) fn sense_bytes(&self, sense: &Sense) -> Vec<u8> {
        if self.abilities.descriptor_sense {
            sense.to_descriptors()
        } else {
            sense.to_fixed().to_vec()
        }
    }

    /// What fault rules see of a command.
    pub(crate) fn operation(&self, opcode: u8, cdb: Option<&Cdb>) -> Operation {
        let (kind, lba, blocks) = match cdb {
            Some(Cdb::Read(t)) => (Commands::Reads, t.lba, t.blocks),
            Some(Cdb::Write(t)) => (Commands::Writes, t.lba, t.blocks),
            Some(Cdb::WriteSame { lba, blocks, .. }) => (Commands::Writes, *lba, *blocks),
            Some(Cdb::Unmap { .. }) => (Commands::Writes, 0, u32::MAX),
            Some(Cdb::SynchronizeCache { .. }) => (Commands::Flushes, 0, u32::MAX),
            _ => (Commands::All, 0, 0),
        };
        Operation { opcode, kind, lba, blocks: blocks.into() }
    }

    /// Executes one command on this unit. `data` is what the initiator sent with it.
    pub(crate) fn execute(&self, cdb: &Cdb, data: &[u8], origin: &Origin, opcode: u8) -> Answer {
        match *cdb {
            Cdb::Read(t) => self.read(t.lba, t.blocks, t.protect, origin, opcode),
            Cdb::Write(t) => self.write(&t, data, origin, opcode),
            Cdb::TestUnitReady => self.ready(),
            Cdb::SynchronizeCache { lba, blocks, .. } => {
                self.synchronize(lba, blocks, origin, opcode)
            }
            Cdb::Unmap { anchor, .. } => self.unmap(anchor, data, origin, opcode),
            Cdb::WriteSame { .. } => self.write_same(cdb, data, origin, opcode),
            Cdb::GetLbaStatus { lba, allocation } => self.lba_status(lba, allocation),
            Cdb::RequestSense { descriptor, allocation } => {
                let none = Sense::new(SenseKey::NoSense, 0, 0);
                let bytes =
                    if descriptor { none.to_descriptors() } else { none.to_fixed().to_vec() };
                cut(bytes, allocation.into())
            }
            Cdb::Inquiry { vpd, allocation } => self.inquiry(vpd, allocation),
            Cdb::ReportLuns { select, allocation } => self.report_luns(select, allocation),
            Cdb::ReadCapacity10 => {
                let last_lba = u32::try_from(self.blocks - 1).unwrap_or(u32::MAX);
                Answer::Data(Capacity10 { last_lba, block_size: self.block_size }.to_vec())
            }
            Cdb::ReadCapacity16 { allocation } => self.read_capacity_16(allocation),
            Cdb::ModeSense { six, control, page, subpage, allocation, .. } => {
                self.mode_sense(six, control, page, subpage, allocation)
            }
            Cdb::ReportTargetPortGroups { extended, allocation } => {
                self.port_groups(extended, allocation)
            }
            Cdb::SetTargetPortGroups { .. } => self.set_port_groups(data, origin),
            Cdb::CompareAndWrite(_) => Answer::Check(INVALID_OPCODE),
        }
    }

    /// Executes a command for a LUN where there is no unit (SPC-4: INQUIRY and REPORT LUNS work).
    pub(crate) fn execute_nowhere(&self, cdb: &Cdb) -> Answer {
        match *cdb {
            Cdb::Inquiry { vpd: None, allocation } => {
                let inquiry = Inquiry { device: DeviceType::NO_DEVICE, ..self.standard_inquiry() };
                cut(inquiry.to_vec(), allocation.into())
            }
            Cdb::ReportLuns { select, allocation } => self.report_luns(select, allocation),
            Cdb::RequestSense { allocation, .. } => {
                cut(NO_UNIT.to_fixed().to_vec(), allocation.into())
            }
            _ => Answer::Check(NO_UNIT),
        }
    }

    fn ready(&self) -> Answer {
        let not_ready = |ascq| Answer::Check(Sense::new(SenseKey::NotReady, 0x04, ascq));
        match self.access.group(self.node).map(|group| group.state) {
            Some(AccessState::Standby) => not_ready(0x0b),
            Some(AccessState::Unavailable | AccessState::Offline) => not_ready(0x0c),
            Some(AccessState::Transitioning) => not_ready(0x0a),
            Some(
                AccessState::ActiveOptimized
                | AccessState::ActiveNonOptimized
                | AccessState::LbaDependent
                | AccessState::Unknown(_),
            )
            | None => Answer::Good,
        }
    }

    /// Byte range of a transfer, or why it cannot be.
    fn range(&self, lba: u64, blocks: u32) -> Result<(u64, u64), Sense> {
        if let Answer::Check(sense) = self.ready() {
            return Err(sense);
        }
        let end = lba.checked_add(blocks.into()).ok_or(LBA_OUT_OF_RANGE)?;
        if end > self.blocks {
            return Err(LBA_OUT_OF_RANGE);
        }
        let size = u64::from(self.block_size);
        Ok((lba * size, u64::from(blocks) * size))
    }

    fn record(&self, origin: &Origin, opcode: u8, lba: u64, blocks: u64, checksum: u32) -> Record {
        Record {
            sequence: 0,
            received_at: origin.received_at,
            executed_at: origin.now,
            nexus: origin.nexus,
            task_tag: origin.task_tag,
            command_sn: origin.command_sn,
            opcode,
            lba,
            blocks,
            checksum,
            orphaned: origin.orphaned,
        }
    }

    fn change(
        &self,
        record: Record,
        apply: impl FnOnce(&Store) -> io::Result<()>,
    ) -> Result<(), Sense> {
        self.medium
            .journal
            .change(record, || apply(&self.medium.store))
            .map_err(|_| INTERNAL_FAILURE)
    }

    fn transfer_fits(&self, blocks: u32) -> bool {
        self.abilities.max_transfer == 0 || blocks <= self.abilities.max_transfer
    }

    fn read(&self, lba: u64, blocks: u32, protect: u8, origin: &Origin, opcode: u8) -> Answer {
        if protect != 0 {
            return Answer::Check(Sense::invalid_field_in_cdb(1));
        }
        let (offset, len) = match self.range(lba, blocks) {
            Ok(range) => range,
            Err(sense) => return Answer::Check(sense),
        };
        if !self.transfer_fits(blocks) {
            return Answer::Check(Sense::invalid_field_in_cdb(length_byte(opcode)));
        }
        if self.medium.journal.wants_reads() {
            let record = self.record(origin, opcode, lba, blocks.into(), 0);
            self.medium.journal.change(record, || ());
        }
        Answer::Read { offset, len }
    }

    fn write(
        &self,
        t: &crate::wire::scsi::Transfer,
        data: &[u8],
        origin: &Origin,
        opcode: u8,
    ) -> Answer {
        let run = || -> Result<(), Sense> {
            if self.abilities.write_protect {
                return Err(WRITE_PROTECTED);
            }
            if t.protect != 0 || (t.fua && !self.abilities.fua) {
                return Err(Sense::invalid_field_in_cdb(1));
            }
            let (offset, len) = self.range(t.lba, t.blocks)?;
            if !self.transfer_fits(t.blocks) || len != data.len() as u64 {
                return Err(Sense::invalid_field_in_cdb(length_byte(opcode)));
            }
            if len == 0 {
                return Ok(());
            }
            let checksum = digest::crc32c(data);
            let record = self.record(origin, opcode, t.lba, t.blocks.into(), checksum);
            self.change(record, |store| {
                store.write(offset, data)?;
                if t.fua { store.sync() } else { Ok(()) }
            })
        };
        run().map_or_else(Answer::Check, |()| Answer::Good)
    }

    fn synchronize(&self, lba: u64, blocks: u32, origin: &Origin, opcode: u8) -> Answer {
        if !self.abilities.synchronize_cache {
            return Answer::Check(INVALID_OPCODE);
        }
        if let Err(sense) = self.range(lba, blocks) {
            return Answer::Check(sense);
        }
        let record = self.record(origin, opcode, lba, blocks.into(), 0);
        self.change(record, Store::sync).map_or_else(Answer::Check, |()| Answer::Good)
    }

    fn unmap(&self, anchor: bool, data: &[u8], origin: &Origin, opcode: u8) -> Answer {
        let run = || -> Result<(), Sense> {
            if !self.abilities.unmap {
                return Err(INVALID_OPCODE);
            }
            if self.abilities.write_protect {
                return Err(WRITE_PROTECTED);
            }
            if anchor {
                return Err(Sense::invalid_field_in_cdb(1));
            }
            let ranges: Vec<(u64, u32)> = unmap::ranges(data).ok_or(LIST_LENGTH_ERROR)?.collect();
            let total: u64 = ranges.iter().map(|r| u64::from(r.1)).sum();
            if ranges.len() > self.abilities.max_unmap_descriptors as usize
                || total > self.abilities.max_unmap.into()
            {
                return Err(INVALID_PARAMETER);
            }
            // All ranges are checked before the first one is touched (SBC-3, UNMAP).
            for &(lba, blocks) in &ranges {
                self.range(lba, blocks)?;
            }
            for (lba, blocks) in ranges {
                let (offset, len) = self.range(lba, blocks)?;
                let record = self.record(origin, opcode, lba, blocks.into(), 0);
                self.change(record, |store| self.deallocate(store, offset, len))?;
            }
            Ok(())
        };
        run().map_or_else(Answer::Check, |()| Answer::Good)
    }

    /// Without LBPRZ nothing is promised about deallocated blocks; leaving them as they are is legal
    /// and shows an initiator that relies on zeros.
    fn deallocate(&self, store: &Store, offset: u64, len: u64) -> io::Result<()> {
        if self.abilities.zeros_when_deallocated { store.deallocate(offset, len) } else { Ok(()) }
    }

    fn write_same(&self, cdb: &Cdb, data: &[u8], origin: &Origin, opcode: u8) -> Answer {
        let Cdb::WriteSame { width, lba, blocks, unmap, anchor, ndob, protect } = *cdb else {
            return Answer::Check(INVALID_OPCODE);
        };
        let run = || -> Result<(), Sense> {
            if !self.abilities.write_same {
                return Err(INVALID_OPCODE);
            }
            if self.abilities.write_protect {
                return Err(WRITE_PROTECTED);
            }
            if anchor || protect != 0 || (unmap && !self.abilities.unmap) {
                return Err(Sense::invalid_field_in_cdb(1));
            }
            // WSNZ is told: no blocks would mean "to the end", and is refused.
            let max = self.abilities.max_write_same;
            if blocks == 0 || (max != 0 && u64::from(blocks) > max) {
                let byte = if width == Width::Ten { 7 } else { 10 };
                return Err(Sense::invalid_field_in_cdb(byte));
            }
            let zero_block = vec![0; if ndob { self.block_size as usize } else { 0 }];
            let block = if ndob { &zero_block[..] } else { data };
            if block.len() != self.block_size as usize {
                return Err(INVALID_PARAMETER);
            }
            let (offset, len) = self.range(lba, blocks)?;
            let checksum = digest::crc32c(block);
            let record = self.record(origin, opcode, lba, blocks.into(), checksum);
            let zero = block.iter().all(|&byte| byte == 0);
            self.change(record, |store| {
                if zero && unmap && self.abilities.zeros_when_deallocated {
                    return store.deallocate(offset, len);
                }
                fill(store, offset, len, block)
            })
        };
        run().map_or_else(Answer::Check, |()| Answer::Good)
    }

    fn lba_status(&self, lba: u64, allocation: u32) -> Answer {
        if !self.abilities.lba_status {
            return Answer::Check(Sense::invalid_field_in_cdb(1));
        }
        if lba >= self.blocks {
            return Answer::Check(LBA_OUT_OF_RANGE);
        }
        // Bounded so that one command over an empty medium of many TiB ends.
        const RUN_MAX: u64 = 1 << 30;
        let size = u64::from(self.block_size);
        let end = self.blocks * size;
        let mut at = lba * size;
        let mut found: Vec<LbaStatus> = Vec::new();
        let most = (allocation.saturating_sub(8) / 16).clamp(1, 64) as usize;
        while at < end && found.len() < most {
            let Ok((allocated, run)) = self.medium.store.allocation(at, RUN_MAX.min(end - at))
            else {
                return Answer::Check(INTERNAL_FAILURE);
            };
            // A file system may know smaller pieces than our blocks: those count as mapped.
            let run = (run / size).max(1) * size;
            let provision = if allocated { Provision::Mapped } else { Provision::Deallocated };
            found.push(LbaStatus { lba: at / size, blocks: (run / size) as u32, provision });
            at += run;
        }
        cut(found[..].to_vec_emit(), allocation as usize)
    }

    fn report_luns(&self, select: u8, allocation: u32) -> Answer {
        if select > 2 {
            return Answer::Check(Sense::invalid_field_in_cdb(2));
        }
        if allocation < luns::ALLOCATION_MIN {
            return Answer::Check(Sense::invalid_field_in_cdb(6));
        }
        let luns = if select == 1 { Vec::new() } else { vec![self.lun] };
        cut(ReportedLuns { luns, available: 0 }.to_vec(), allocation as usize)
    }

    fn read_capacity_16(&self, allocation: u32) -> Answer {
        if !self.abilities.read_capacity_16 {
            return Answer::Check(INVALID_OPCODE);
        }
        let provisioned = self.abilities.unmap || self.abilities.lba_status;
        let capacity = Capacity16 {
            last_lba: self.blocks - 1,
            block_size: self.block_size,
            physical_exponent: if self.block_size == 512 { 3 } else { 0 },
            provisioned,
            unmapped_zero: provisioned && self.abilities.zeros_when_deallocated,
            ..Capacity16::default()
        };
        cut(capacity.to_vec(), allocation as usize)
    }

    fn mode_sense(&self, six: bool, control: u8, page: u8, sub: u8, allocation: u16) -> Answer {
        if !six && !self.abilities.mode_sense_10 {
            return Answer::Check(INVALID_OPCODE);
        }
        if control == 3 {
            // Saving is not supported (SPC-4: SAVING PARAMETERS NOT SUPPORTED).
            return Answer::Check(Sense::new(SenseKey::IllegalRequest, 0x39, 0x00));
        }
        let wanted = |code: u8| page == code || page == mode::PAGE_ALL;
        let known = wanted(mode::PAGE_CACHING) || wanted(mode::PAGE_CONTROL);
        if !known || (sub != 0 && sub != 0xff) {
            return Answer::Check(Sense::invalid_field_in_cdb(2));
        }
        // Changeable values: nothing can be changed, so every page is told with zeros.
        let current = control != 1;
        let caching = Caching {
            write_cache: current && self.abilities.write_cache,
            read_cache_disabled: false,
        };
        let control = Control {
            descriptor_sense: current && self.abilities.descriptor_sense,
            software_write_protect: current && self.abilities.write_protect,
            ..Control::default()
        };
        let data = ModeData {
            write_protect: self.abilities.write_protect,
            dpofua: self.abilities.fua,
            caching: wanted(mode::PAGE_CACHING).then_some(caching),
            control: wanted(mode::PAGE_CONTROL).then_some(control),
        };
        let form = if six { ModeForm::Six } else { ModeForm::Ten };
        cut(data.to_vec_as(form), allocation.into())
    }

    fn port_groups(&self, extended: bool, allocation: u32) -> Answer {
        if self.access.group(self.node).is_none() {
            return Answer::Check(INVALID_OPCODE);
        }
        match self.access.lie_of(self.node) {
            Some(Lie::Answer(bytes)) => return cut(bytes, allocation as usize),
            Some(Lie::NoCommand) => return Answer::Check(INVALID_OPCODE),
            Some(Lie::NoExtendedHeader) if extended => {
                return Answer::Check(Sense::invalid_field_in_cdb(1));
            }
            Some(Lie::NoExtendedHeader) | None => {}
        }
        let group = |node: usize| {
            let (number, group) = self.groups[node].zip(self.access.group(node))?;
            Some(PortGroup {
                preferred: group.preferred,
                state: group.state,
                supported: 0x0f,
                group: number,
                status: group.status,
                ports: vec![relative_port(node)],
                ports_cut: false,
            })
        };
        let groups = PortGroups {
            transition_secs: extended.then_some(self.abilities.alua_transition_secs),
            groups: [0, 1].into_iter().filter_map(group).collect(),
            available: 0,
        };
        cut(groups.to_vec(), allocation as usize)
    }

    /// SPC-4, SET TARGET PORT GROUPS: all descriptors are checked before the first one is obeyed.
    fn set_port_groups(&self, data: &[u8], origin: &Origin) -> Answer {
        if self.access.group(self.node).is_none() || self.abilities.alua_by & 2 == 0 {
            return Answer::Check(INVALID_OPCODE);
        }
        let Some(wanted) = port_groups::wanted(data) else {
            return Answer::Check(LIST_LENGTH_ERROR);
        };
        let node_of = |group: u16| self.groups.iter().position(|g| *g == Some(group));
        for (group, state) in &wanted {
            let settable = matches!(
                state,
                AccessState::ActiveOptimized
                    | AccessState::ActiveNonOptimized
                    | AccessState::Standby
                    | AccessState::Unavailable
            );
            if node_of(*group).is_none() || !settable {
                return Answer::Check(INVALID_PARAMETER);
            }
        }
        for (group, state) in wanted {
            let node = node_of(group).expect("checked above");
            self.access.set_by(origin.nexus, node, state);
        }
        Answer::Good
    }

    fn standard_inquiry(&self) -> Inquiry {
        Inquiry {
            device: DeviceType::DISK,
            version: 6,
            tpgs: self.abilities.alua.map_or(0, |_| self.abilities.alua_by & 3),
            protect: false,
            command_queueing: true,
            vendor: padded(&self.identity.vendor),
            product: padded(&self.identity.product),
            revision: padded(&self.identity.revision),
            // SAM-5, SPC-4, SBC-3, iSCSI.
            versions: [0x00a0, 0x0460, 0x04c0, 0x0960, 0, 0, 0, 0],
            available: 96,
        }
    }

    fn inquiry(&self, page: Option<u8>, allocation: u16) -> Answer {
        let Some(page) = page else {
            return cut(self.standard_inquiry().to_vec(), allocation.into());
        };
        let block_pages = [PAGE_LIMITS, PAGE_CHARACTERISTICS, PAGE_PROVISIONING];
        let data = match page {
            PAGE_SUPPORTED => {
                let mut pages = vec![PAGE_SUPPORTED, PAGE_SERIAL, PAGE_IDENTIFICATION];
                if self.abilities.block_pages {
                    pages.extend(block_pages);
                }
                vpd::page(PAGE_SUPPORTED, &pages)
            }
            PAGE_SERIAL => vpd::page(PAGE_SERIAL, self.identity.serial.as_bytes()),
            PAGE_IDENTIFICATION => {
                vpd::page(PAGE_IDENTIFICATION, &vpd::identification(&self.designators()))
            }
            PAGE_LIMITS if self.abilities.block_pages => self.block_limits().to_vec(),
            PAGE_CHARACTERISTICS if self.abilities.block_pages => {
                BlockCharacteristics { rotation: 1, zoned: 0 }.to_vec()
            }
            PAGE_PROVISIONING if self.abilities.block_pages => self.provisioning().to_vec(),
            _ => return Answer::Check(Sense::invalid_field_in_cdb(2)),
        };
        cut(data, allocation.into())
    }

    fn designators(&self) -> Vec<Designator> {
        let unit =
            |kind, set, value: &[u8]| Designator::new(Association::LogicalUnit, kind, set, value);
        let mut out = Vec::new();
        if let Some(naa) = &self.identity.naa {
            out.push(unit(DesignatorKind::Naa, vpd::CODE_BINARY, naa));
        }
        if let Some(eui) = &self.identity.eui64 {
            out.push(unit(DesignatorKind::Eui64, vpd::CODE_BINARY, eui));
        }
        if self.identity.t10 {
            let text = format!("{:8.8}{}", self.identity.vendor, self.identity.serial);
            out.push(unit(DesignatorKind::T10, vpd::CODE_ASCII, text.as_bytes()));
        }
        let port =
            |kind, set, value: &[u8]| Designator::new(Association::TargetPort, kind, set, value);
        let relative = u32::from(relative_port(self.node)).to_be_bytes();
        out.push(port(DesignatorKind::RelativePort, vpd::CODE_BINARY, &relative));
        if self.abilities.alua.is_some() && self.abilities.alua_group_told {
            let group = u32::from(self.portal_group).to_be_bytes();
            out.push(port(DesignatorKind::PortGroup, vpd::CODE_BINARY, &group));
        }
        let name = format!("{},t,0x{:04x}", self.target, self.portal_group);
        out.push(port(DesignatorKind::Name, vpd::CODE_UTF8, name.as_bytes()));
        out
    }

    fn block_limits(&self) -> BlockLimits {
        let a = &self.abilities;
        BlockLimits {
            write_same_non_zero: true,
            max_transfer: a.max_transfer,
            optimal_transfer: a.optimal_transfer,
            max_unmap_blocks: if a.unmap { a.max_unmap } else { 0 },
            max_unmap_descriptors: if a.unmap { a.max_unmap_descriptors } else { 0 },
            unmap_granularity: if a.unmap { CHUNK as u32 / self.block_size } else { 0 },
            max_write_same: if a.write_same { a.max_write_same } else { 0 },
            ..BlockLimits::default()
        }
    }

    fn provisioning(&self) -> Provisioning {
        let a = &self.abilities;
        Provisioning {
            unmap: a.unmap,
            write_same_16: a.unmap && a.write_same,
            write_same_10: a.unmap && a.write_same,
            lbprz: u8::from(a.zeros_when_deallocated),
            kind: 2,
            ..Provisioning::default()
        }
    }
}

/// RELATIVE TARGET PORT IDENTIFIER of a node's port.
fn relative_port(node: usize) -> u16 {
    node as u16 + 1
}

/// Where the length stands in a CDB: what a field pointer names.
fn length_byte(opcode: u8) -> u16 {
    if opcode >> 5 == 4 { 10 } else { 7 }
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut out = [b' '; N];
    let len = text.len().min(N);
    out[..len].copy_from_slice(&text.as_bytes()[..len]);
    out
}

fn cut(mut data: Vec<u8>, allocation: usize) -> Answer {
    data.truncate(allocation);
    Answer::Data(data)
}

/// Writes `block` again and again, in pieces large enough to be quick and small enough for memory.
fn fill(store: &Store, offset: u64, len: u64, block: &[u8]) -> io::Result<()> {
    let piece = block.repeat((CHUNK as usize / block.len()).max(1));
    let mut done = 0;
    while done < len {
        let n = (len - done).min(piece.len() as u64);
        store.write(offset + done, &piece[..n as usize])?;
        done += n;
    }
    Ok(())
}

/// `to_vec` of a slice of descriptors would be the slice's own.
trait EmitSlice {
    fn to_vec_emit(&self) -> Vec<u8>;
}

impl EmitSlice for [LbaStatus] {
    fn to_vec_emit(&self) -> Vec<u8> {
        let mut out = vec![0; self.buffer_len()];
        self.emit(&mut out);
        out
    }
}
