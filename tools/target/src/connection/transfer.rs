//! Write data of a connection: immediate, unsolicited, and asked for by R2T (RFC 7143 section 11.7).
//!
//! A task keeps a buffer of the whole expected length. Unsolicited data comes first and in order;
//! what it leaves is asked for in bursts, as many at once as was negotiated. Every rule that the
//! initiator must keep here is checked, and breaking one is recorded. Deliberately not here:
//! execution.

use super::Connection;
use crate::base::{Instant, Serial};
use crate::negotiate::Parameters;
use crate::state::Core;
use crate::wire::iscsi::TAG_NONE;
use crate::wire::iscsi::request::{DataOut, ScsiCommand};
use crate::wire::iscsi::response::R2t;
use crate::wire::scsi::{Sense, SenseKey, Status};
use smallvec::SmallVec;

/// Longest write that is taken, bytes: bounds the memory of one task.
const WRITE_MAX: u32 = 64 * 1024 * 1024;

/// Buffers kept for the next write.
const SPARE_MAX: usize = 256;

/// An R2T that is being served.
#[derive(Debug, Clone, Copy)]
struct Request {
    transfer_tag: u32,
    next: u32,
    end: u32,
    data_sn: u32,
}

/// A write whose data is not all here.
pub(super) struct WriteTask {
    command: ScsiCommand,
    buffer: Vec<u8>,
    received: u32,
    /// Where unsolicited Data-Out goes on, while it may come.
    unsolicited: Option<Request>,
    requests: SmallVec<[Request; 8]>,
    /// First byte that no R2T has asked for.
    asked: u32,
    r2t_sn: u32,
    /// Data was damaged: the task ends with this once its data is through.
    failed: Option<Sense>,
    /// When its data last moved.
    moved: Instant,
    /// It is never answered: see [`NodeConfig::reset_beside_open_writes`](crate::NodeConfig).
    stuck: bool,
}

/// Whether a command's immediate data and its promise of more keep to what was negotiated.
pub(super) fn check_unsolicited(
    command: &ScsiCommand,
    immediate: usize,
    p: &Parameters,
) -> Result<(), &'static str> {
    if command.read && command.write {
        return Err("a bidirectional command");
    }
    if !command.read && !command.write && command.expected_len > 0 {
        return Err("an expected length without R or W");
    }
    let first_burst = p.first_burst.min(p.max_burst);
    if immediate > 0 {
        if !command.write || !p.immediate_data {
            return Err("immediate data that was not agreed");
        }
        if immediate as u64 > u64::from(command.expected_len.min(first_burst)) {
            return Err("immediate data beyond FirstBurstLength or the expected length");
        }
    }
    if !command.last {
        if p.initial_r2t {
            return Err("unsolicited data although InitialR2T=Yes");
        }
        if !command.write || immediate as u64 >= u64::from(command.expected_len.min(first_burst)) {
            return Err("F=0 although no unsolicited data can follow");
        }
    }
    Ok(())
}

impl Connection {
    pub(super) fn begin_write(
        &mut self,
        core: &mut Core,
        now: Instant,
        command: &ScsiCommand,
        data: &[u8],
    ) {
        if command.expected_len > WRITE_MAX {
            let sense = Sense::invalid_field_in_cdb(0);
            self.outstanding = self.outstanding.saturating_sub(1);
            return self.respond(core, command, Status::CheckCondition, Some(&sense), 0, 0);
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(command.expected_len as usize, 0);
        buffer[..data.len()].copy_from_slice(data);
        let received = data.len() as u32;
        let burst = self.parameters.first_burst.min(self.parameters.max_burst);
        let end = command.expected_len.min(burst);
        let unsolicited = (!command.last).then_some(Request {
            transfer_tag: TAG_NONE,
            next: received,
            end,
            data_sn: 0,
        });
        let mut task = WriteTask {
            command: *command,
            buffer,
            received,
            unsolicited,
            requests: SmallVec::new(),
            asked: received,
            r2t_sn: 0,
            failed: None,
            moved: now,
            stuck: false,
        };
        if task.unsolicited.is_none() {
            self.ask(core, &mut task);
        }
        self.writes.insert(command.task_tag, task);
    }

    /// Sends as many R2Ts as may be outstanding.
    fn ask(&mut self, core: &mut Core, task: &mut WriteTask) {
        let most = self.parameters.max_outstanding_r2t as usize;
        if task.asked < task.command.expected_len && core.faults.no_ready() {
            return;
        }
        while task.requests.len() < most && task.asked < task.command.expected_len {
            let left = task.command.expected_len - task.asked;
            let len = left.min(self.parameters.max_burst);
            self.next_transfer_tag = self.next_transfer_tag.wrapping_add(1);
            if self.next_transfer_tag == TAG_NONE {
                self.next_transfer_tag = 0;
            }
            let transfer_tag = self.next_transfer_tag;
            let r2t = R2t {
                lun: task.command.lun,
                task_tag: task.command.task_tag,
                transfer_tag,
                numbers: self.numbers(core, false),
                r2t_sn: Serial(task.r2t_sn),
                offset: task.asked,
                desired_len: len,
                data_len: 0,
            };
            self.send(core, &r2t.to_bhs(), &[]);
            task.requests.push(Request {
                transfer_tag,
                next: task.asked,
                end: task.asked + len,
                data_sn: 0,
            });
            task.r2t_sn += 1;
            task.asked += len;
        }
    }

    pub(super) fn data_out(&mut self, core: &mut Core, now: Instant, pdu: &DataOut, data: &[u8]) {
        let Some(mut task) = self.writes.remove(&pdu.task_tag) else {
            // The task may have been aborted while its data was on the way.
            return;
        };
        if let Err(what) = task.take(pdu, data) {
            return self.violation(core, what);
        }
        task.moved = now;
        if task.unsolicited.is_none() {
            self.ask(core, &mut task);
        }
        if !task.is_complete() || task.stuck {
            self.writes.insert(pdu.task_tag, task);
            return;
        }
        if let Some(sense) = task.failed {
            let moved = task.command.expected_len.into();
            self.outstanding = self.outstanding.saturating_sub(1);
            let status = Status::CheckCondition;
            self.respond(core, &task.command, status, Some(&sense), moved, 0);
        } else {
            self.complete(core, now, &task.command, &task.buffer);
        }
        if self.spare.len() < SPARE_MAX {
            self.spare.push(task.buffer);
        }
    }

    /// A data segment that does not match its digest (RFC 7143 section 7.8).
    pub(super) fn bad_data_digest(&mut self, core: &mut Core, now: Instant) {
        use crate::wire::iscsi::codes::{opcode, reject};
        let Some(bhs) = self.current.take() else { return };
        self.gathered.clear();
        core.violation(format!("connection {}: data digest error", self.id.0));
        if crate::wire::iscsi::opcode(&bhs) != opcode::DATA_OUT {
            // A command that never counted as received would leave a gap that cannot be closed.
            self.reject(core, reject::DATA_DIGEST, &bhs);
            return self.cut(core, crate::faults::Cut::Close);
        }
        self.reject(core, reject::DATA_DIGEST, &bhs);
        let pdu = DataOut::parse(&bhs);
        if let Some(task) = self.writes.get_mut(&pdu.task_tag) {
            task.failed = Some(Sense::new(SenseKey::AbortedCommand, 0x47, 0x05));
            let zeros = vec![0; pdu.data_len as usize];
            self.data_out(core, now, &pdu, &zeros);
        }
    }

    /// Forgets a write that waits for data; true if there was one.
    pub(super) fn abort_write(&mut self, task_tag: u32) -> bool {
        let found = self.writes.remove(&task_tag).is_some();
        if found {
            self.outstanding = self.outstanding.saturating_sub(1);
        }
        found
    }

    /// When data last moved of the write that has waited longest for some; `None` without one.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        self.writes.values().map(|task| task.moved).min()
    }

    /// Writes that wait for data are never answered.
    pub(crate) fn stick_writes(&mut self) {
        for task in self.writes.values_mut() {
            task.stuck = true;
        }
    }

    /// Forgets all writes that wait for data.
    pub(crate) fn abort_writes(&mut self) -> usize {
        let count = self.writes.len();
        self.writes.clear();
        self.outstanding = self.outstanding.saturating_sub(count as u32);
        count
    }
}

impl WriteTask {
    fn is_complete(&self) -> bool {
        self.received == self.command.expected_len
    }

    /// Takes the data of one PDU, or says which rule it breaks.
    fn take(&mut self, pdu: &DataOut, data: &[u8]) -> Result<(), &'static str> {
        let unsolicited = pdu.transfer_tag == TAG_NONE;
        let request = if unsolicited {
            self.unsolicited.as_mut().ok_or("unsolicited Data-Out that was not announced")?
        } else {
            if pdu.lun != self.command.lun {
                return Err("a Data-Out with another LUN than its R2T");
            }
            let found = self.requests.iter_mut().find(|r| r.transfer_tag == pdu.transfer_tag);
            found.ok_or("a Data-Out for an R2T that is not outstanding")?
        };
        if pdu.data_sn != Serial(request.data_sn) {
            return Err("a DataSN out of order");
        }
        if pdu.offset != request.next {
            return Err("a buffer offset out of order");
        }
        let len = u32::try_from(data.len()).map_err(|_| "too much data")?;
        if len > request.end - request.next {
            return Err("more data than was asked for or than FirstBurstLength allows");
        }
        let from = request.next as usize;
        self.buffer[from..from + data.len()].copy_from_slice(data);
        request.next += len;
        request.data_sn += 1;
        self.received += len;
        let through = request.next == request.end;
        if through != pdu.last {
            return Err(if pdu.last {
                "F before all the data of the sequence"
            } else {
                "no F at the end of the sequence"
            });
        }
        if unsolicited {
            self.asked = request.next;
            if through {
                self.unsolicited = None;
            }
        } else if through {
            self.requests.retain(|r| r.transfer_tag != pdu.transfer_tag);
        }
        Ok(())
    }
}
