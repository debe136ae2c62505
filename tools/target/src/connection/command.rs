//! SCSI commands of a connection: acceptance, the fault layers' say, execution, answer.
//!
//! A command is *complete* when all its write data is here; only then is it executed (or held), so
//! that a held command needs nothing more from its connection and can outlive it.

use super::{Connection, transfer};
use crate::base::{Instant, Serial};
use crate::faults::AtCommand;
use crate::state::{Core, Counters, Held};
use crate::unit::{Answer, Origin};
use crate::wire::iscsi::request::ScsiCommand;
use crate::wire::iscsi::response::{DataIn, ScsiResponse};
use crate::wire::scsi::cdb::CdbError;
use crate::wire::scsi::{Cdb, Data, Sense, SenseKey, Status};
use smallvec::SmallVec;

/// What a command ended with.
enum End<'a> {
    Status(Status),
    Sense(Sense),
    Data(&'a [u8]),
    Medium { offset: u64, len: u64 },
}

/// One Data-In PDU to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    offset: u32,
    len: u32,
    last_of_sequence: bool,
}

impl Connection {
    pub(super) fn command(
        &mut self,
        core: &mut Core,
        now: Instant,
        command: &ScsiCommand,
        data: &[u8],
    ) {
        if self.session.as_ref().is_none_or(|session| session.discovery) {
            return self.violation(core, "a SCSI command on a discovery session");
        }
        if self.writes.contains_key(&command.task_tag) {
            return self.violation(core, "an initiator task tag in use");
        }
        if !self.accept(core, command.cmd_sn, command.immediate) {
            return;
        }
        self.outstanding += 1;
        if let Err(what) = transfer::check_unsolicited(command, data.len(), &self.parameters) {
            return self.violation(core, what);
        }
        if command.write && (data.len() as u32) < command.expected_len {
            return self.begin_write(core, now, command, data);
        }
        self.complete(core, now, command, data);
    }

    /// All data is here.
    pub(super) fn complete(
        &mut self,
        core: &mut Core,
        now: Instant,
        command: &ScsiCommand,
        data: &[u8],
    ) {
        let cdb = Cdb::parse(&command.cdb);
        let at = if core.faults.is_empty() {
            AtCommand::default()
        } else {
            let operation = core.unit.operation(command.cdb[0], cdb.as_ref().ok());
            core.faults.command(&operation)
        };
        if let Some(message) = &at.message {
            self.async_message(core, message);
        }
        if let Some((asc, ascq)) = at.unit_attention {
            self.attention(asc, ascq);
        }
        if let Some(cut) = at.before {
            return self.cut(core, cut);
        }
        if at.hold || !at.delay.is_zero() {
            let until = if at.hold { Instant::MAX } else { now + at.delay };
            let session = self.session.as_ref().expect("a command belongs to a session");
            let held = Held {
                connection: self.id,
                nexus: session.nexus,
                command: *command,
                data: data.to_vec(),
                at,
                received_at: now,
            };
            return core.hold(until, held);
        }
        self.run(core, now, now, command, data, &at);
    }

    /// Executes a command and answers it.
    pub(crate) fn run(
        &mut self,
        core: &mut Core,
        now: Instant,
        received_at: Instant,
        command: &ScsiCommand,
        data: &[u8],
        at: &AtCommand,
    ) {
        let cdb = Cdb::parse(&command.cdb);
        let nexus = self.session.as_ref().map(|session| session.nexus).unwrap_or_default();
        let origin = Origin {
            nexus,
            task_tag: command.task_tag,
            command_sn: command.cmd_sn.0,
            received_at,
            now,
            orphaned: false,
        };
        self.outstanding = self.outstanding.saturating_sub(1);
        let attention = match cdb {
            // SPC-4: these do not report a unit attention.
            Ok(Cdb::Inquiry { .. } | Cdb::ReportLuns { .. } | Cdb::RequestSense { .. }) => None,
            _ => self.attentions.pop_front(),
        };
        let answer = if let Some((asc, ascq)) = attention {
            Answer::Check(Sense::new(SenseKey::UnitAttention, asc, ascq))
        } else if let Some(code) = at.sense {
            let key = SenseKey::from_bits(code.key);
            Answer::Check(Sense::new(key, code.asc, code.ascq))
        } else if let Some(status) = at.status {
            let end = End::Status(Status::from_byte(status));
            return self.finish(core, command, end, at);
        } else {
            execute(core, command, &cdb, data, &origin)
        };
        let end = match &answer {
            Answer::Good => End::Status(Status::Good),
            Answer::Data(data) => End::Data(data),
            Answer::Read { offset, len } => End::Medium { offset: *offset, len: *len },
            Answer::Check(sense) => End::Sense(*sense),
        };
        self.finish(core, command, end, at);
    }

    fn finish(&mut self, core: &mut Core, command: &ScsiCommand, end: End<'_>, at: &AtCommand) {
        if let Some(cut) = at.after {
            return self.cut(core, cut);
        }
        if at.mute {
            return;
        }
        match end {
            End::Status(status) => {
                let moved = wanted(core, command);
                self.respond(core, command, status, None, moved, 0);
            }
            End::Sense(sense) => {
                let moved = wanted(core, command);
                let status = Status::CheckCondition;
                self.respond(core, command, status, Some(&sense), moved, 0);
            }
            End::Data(data) => {
                let len = (data.len() as u64).min(command.expected_len.into()) as u32;
                let segments = self.segments(core, len);
                let moved = data.len() as u64;
                self.data_in(core, command, &segments, moved, |this, core, bhs, segment| {
                    let from = segment.offset as usize;
                    this.send(core, bhs, &data[from..from + segment.len as usize]);
                    true
                });
            }
            End::Medium { offset, len } => {
                let moved = len.saturating_sub(at.short.into());
                let len = moved.min(command.expected_len.into()) as u32;
                let segments = self.segments(core, len);
                Counters::add(&core.counters.bytes_read, len.into());
                self.data_in(core, command, &segments, moved, |this, core, bhs, segment| {
                    let from = offset + u64::from(segment.offset);
                    this.output.put_medium(&mut this.tx, core, bhs, from).is_ok()
                });
            }
        }
    }

    /// Cuts `len` bytes into Data-In PDUs: by the initiator's segment, by MaxBurstLength.
    fn segments(&self, core: &mut Core, len: u32) -> SmallVec<[Segment; 4]> {
        let most = self.parameters.send_segment;
        let most = most.min(core.config.negotiation.data_in_segment.unwrap_or(u32::MAX)).max(4);
        let mut out = SmallVec::new();
        let mut offset = 0;
        while offset < len {
            let sequence_end = len.min(offset.saturating_add(self.parameters.max_burst));
            let from = out.len();
            while offset < sequence_end {
                let n = most.min(sequence_end - offset);
                let last_of_sequence = offset + n == sequence_end;
                out.push(Segment { offset, len: n, last_of_sequence });
                offset += n;
            }
            if !self.parameters.pdu_in_order && core.faults.reorder() {
                let sequence: &mut [Segment] = &mut out[from..];
                sequence.reverse();
                for (i, segment) in sequence.iter_mut().rev().enumerate() {
                    segment.last_of_sequence = i == 0;
                }
            }
        }
        out
    }

    /// Sends the segments, and the status in the last one where that is allowed.
    fn data_in(
        &mut self,
        core: &mut Core,
        command: &ScsiCommand,
        segments: &[Segment],
        available: u64,
        mut put: impl FnMut(&mut Connection, &mut Core, &[u8; 48], &Segment) -> bool,
    ) {
        let (mut sent, mut intact) = (0, true);
        let collapse = core.config.negotiation.phase_collapse;
        for (i, segment) in segments.iter().enumerate() {
            let with_status = collapse && intact && i + 1 == segments.len();
            let mut header = DataIn {
                last: segment.last_of_sequence,
                task_tag: command.task_tag,
                transfer_tag: crate::wire::iscsi::TAG_NONE,
                numbers: self.numbers(core, with_status),
                data_sn: Serial(i as u32),
                offset: segment.offset,
                data_len: segment.len,
                ..DataIn::default()
            };
            if with_status {
                header.has_status = true;
                let residual = residual(command.expected_len, available);
                (header.overflow, header.underflow, header.residual) = residual;
            } else {
                header.numbers.stat_sn = Serial(0);
            }
            intact &= put(self, core, &header.to_bhs(), segment);
            sent += 1;
        }
        if !intact {
            let sense = Sense::new(SenseKey::MediumError, 0x11, 0x00);
            let status = Status::CheckCondition;
            self.respond(core, command, status, Some(&sense), available, sent);
        } else if segments.is_empty() || !collapse {
            self.respond(core, command, Status::Good, None, available, sent);
        }
    }

    /// A SCSI Response. `moved` is how many bytes the command had to give or take.
    pub(super) fn respond(
        &mut self,
        core: &mut Core,
        command: &ScsiCommand,
        status: Status,
        sense: Option<&Sense>,
        moved: u64,
        data_pdus: u32,
    ) {
        let mut segment: SmallVec<[u8; 64]> = SmallVec::new();
        if let Some(sense) = sense {
            let bytes = core.unit.sense_bytes(sense);
            segment.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
            segment.extend_from_slice(&bytes);
        }
        let (overflow, underflow, residual) = residual(command.expected_len, moved);
        let response = ScsiResponse {
            overflow,
            underflow,
            residual,
            status: status.byte(),
            task_tag: command.task_tag,
            numbers: self.numbers(core, true),
            exp_data_sn: Serial(data_pdus),
            data_len: segment.len() as u32,
            ..ScsiResponse::default()
        };
        self.send(core, &response.to_bhs(), &segment);
    }
}

/// Overflow, underflow and residual count (RFC 7143 section 11.4.5).
fn residual(expected: u32, moved: u64) -> (bool, bool, u32) {
    let expected = u64::from(expected);
    let count = u32::try_from(expected.abs_diff(moved)).unwrap_or(u32::MAX);
    (moved > expected, moved < expected, count)
}

/// Bytes that a write takes of what was announced; a command that gives no data in has given none.
fn wanted(core: &Core, command: &ScsiCommand) -> u64 {
    match Cdb::parse(&command.cdb).map(|cdb| cdb.data(core.unit.block_size())) {
        Ok(Data::Out(len)) if command.write => len,
        _ if command.write => command.expected_len.into(),
        _ => 0,
    }
}

/// Executes a command whose session may be gone.
pub(crate) fn execute(
    core: &mut Core,
    command: &ScsiCommand,
    cdb: &Result<Cdb, CdbError>,
    data: &[u8],
    origin: &Origin,
) -> Answer {
    Counters::add(&core.counters.commands, 1);
    let cdb = match cdb {
        Ok(cdb) => cdb,
        Err(CdbError::Opcode(_)) => {
            return Answer::Check(Sense::new(SenseKey::IllegalRequest, 0x20, 0x00));
        }
        Err(CdbError::Field { byte }) => {
            return Answer::Check(Sense::invalid_field_in_cdb(*byte));
        }
    };
    if !core.unit.is(command.lun) {
        return core.unit.execute_nowhere(cdb);
    }
    if let Data::Out(len) = cdb.data(core.unit.block_size())
        && !matches!(cdb, Cdb::WriteSame { .. })
    {
        // Fewer bytes than the command needs cannot be executed; more are not its own.
        let Some(data) = usize::try_from(len).ok().and_then(|len| data.get(..len)) else {
            return Answer::Check(Sense::invalid_field_in_cdb(0));
        };
        Counters::add(&core.counters.bytes_written, len);
        return core.unit.execute(cdb, data, origin, command.cdb[0]);
    }
    core.unit.execute(cdb, data, origin, command.cdb[0])
}

/// Executes a held command whose connection is gone: nobody is told.
pub(crate) fn execute_orphan(core: &mut Core, now: Instant, held: &Held) {
    if held.at.sense.is_some() || held.at.status.is_some() {
        return;
    }
    let origin = Origin {
        nexus: held.nexus,
        task_tag: held.command.task_tag,
        command_sn: held.command.cmd_sn.0,
        received_at: held.received_at,
        now,
        orphaned: true,
    };
    let cdb = Cdb::parse(&held.command.cdb);
    let _ = execute(core, &held.command, &cdb, &held.data, &origin);
}
