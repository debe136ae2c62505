//! The rules in force as the server sees them: one question per place where something can go wrong.
//!
//! A node owns its stack and takes the shared rules over when their version has changed, so that
//! the question costs nothing while there are no rules. Deliberately not here: what the answer does
//! to a connection.

use super::{Armed, AsyncMessage, Commands, Fault, Faults, SenseCode};
use crate::base::Duration;
use crate::random::Random;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// RST.
    Reset,
    /// FIN.
    Close,
    /// Open, and silent for ever.
    Silence,
}

/// What happens to a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accept {
    Serve,
    Refuse,
    HalfOpen,
}

/// How a login ends early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AtLogin {
    Status { class: u8, detail: u8 },
    Redirect { address: String, permanent: bool },
}

/// What happens to task management.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtTaskManagement {
    Mute,
    Answer(u8),
}

/// A command as rules see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub opcode: u8,
    pub kind: Commands,
    pub lba: u64,
    pub blocks: u64,
}

/// All that rules say about one command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AtCommand {
    pub delay: Duration,
    pub hold: bool,
    pub mute: bool,
    pub status: Option<u8>,
    pub sense: Option<SenseCode>,
    pub unit_attention: Option<(u8, u8)>,
    pub short: u32,
    pub before: Option<Cut>,
    pub after: Option<Cut>,
    pub message: Option<AsyncMessage>,
}

/// The rules that one node goes by.
pub(crate) struct Stack {
    shared: Arc<Faults>,
    version: u64,
    rules: Vec<Arc<Armed>>,
    random: Random,
    at_pdus: bool,
}

impl Armed {
    /// Whether the rule strikes at an occasion that it matches.
    fn strikes(&self, random: &mut Random) -> bool {
        let when = &self.rule.when;
        if self.matched.fetch_add(1, Ordering::Relaxed) < when.skip
            || self.struck.load(Ordering::Relaxed) >= when.limit
            || !random.chance(when.rate)
        {
            return false;
        }
        self.struck.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn matches(&self, operation: &Operation) -> bool {
        let when = &self.rule.when;
        let kind = match when.commands {
            Commands::All => true,
            Commands::Medium => operation.kind != Commands::All,
            Commands::Opcode(opcode) => operation.opcode == opcode,
            kind => operation.kind == kind,
        };
        kind && when.blocks.is_none_or(|(lba, count)| {
            operation.lba < lba.saturating_add(count)
                && lba < operation.lba.saturating_add(operation.blocks)
        })
    }
}

impl Stack {
    pub(crate) fn new(shared: Arc<Faults>, seed: u64) -> Stack {
        let random = Random::new(seed);
        Stack { shared, version: 0, rules: Vec::new(), random, at_pdus: false }
    }

    /// Whether nothing can go wrong now.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Takes changed rules over; true if there were any.
    pub(crate) fn refresh(&mut self) -> bool {
        let version = self.shared.version();
        if version == self.version {
            return false;
        }
        self.version = version;
        self.rules = self.shared.armed();
        self.at_pdus = self.rules.iter().any(|armed| {
            matches!(
                armed.rule.fault,
                Fault::HeaderDigest | Fault::DataDigest | Fault::DropBytes(_)
            )
        });
        true
    }

    /// A connection was accepted.
    pub(crate) fn accept(&mut self) -> Accept {
        self.first(|fault| match fault {
            Fault::Refuse => Some(Accept::Refuse),
            Fault::HalfOpen => Some(Accept::HalfOpen),
            _ => None,
        })
        .unwrap_or(Accept::Serve)
    }

    /// A login is about to succeed.
    pub(crate) fn login(&mut self) -> Option<AtLogin> {
        self.first(|fault| match fault {
            Fault::LoginStatus { class, detail } => {
                Some(AtLogin::Status { class: *class, detail: *detail })
            }
            Fault::Redirect { address, permanent } => {
                Some(AtLogin::Redirect { address: address.clone(), permanent: *permanent })
            }
            _ => None,
        })
    }

    /// Task management has arrived.
    pub(crate) fn task_management(&mut self) -> Option<AtTaskManagement> {
        self.first(|fault| match fault {
            Fault::TaskManagementMute => Some(AtTaskManagement::Mute),
            Fault::TaskManagementAnswer(code) => Some(AtTaskManagement::Answer(*code)),
            _ => None,
        })
    }

    /// Data-In of one read is about to leave: may it change places?
    pub(crate) fn reorder(&mut self) -> bool {
        self.first(|fault| matches!(fault, Fault::Reorder).then_some(())).is_some()
    }

    /// A PDU leaves: what its header digest is changed by.
    pub(crate) fn header_digest(&mut self) -> u32 {
        self.flip(|fault| matches!(fault, Fault::HeaderDigest))
    }

    /// A data segment leaves: what its digest is changed by.
    pub(crate) fn data_digest(&mut self) -> u32 {
        self.flip(|fault| matches!(fault, Fault::DataDigest))
    }

    /// A PDU leaves: how many of its first bytes are lost.
    pub(crate) fn dropped_bytes(&mut self) -> usize {
        if !self.at_pdus {
            return 0;
        }
        let count = self.first(|fault| match fault {
            Fault::DropBytes(n) => Some(usize::from(*n).min(48)),
            _ => None,
        });
        count.unwrap_or(0)
    }

    /// The widest CmdSN window that is allowed.
    pub(crate) fn window(&self) -> u32 {
        let limit = |armed: &Arc<Armed>| match armed.rule.fault {
            Fault::Window(n) => Some(n),
            _ => None,
        };
        self.rules.iter().filter_map(limit).min().unwrap_or(u32::MAX)
    }

    /// Whether a write is not asked for its data now.
    pub(crate) fn no_ready(&mut self) -> bool {
        self.first(|fault| (*fault == Fault::NoReady).then_some(())).is_some()
    }

    /// Whether the node stands still.
    pub(crate) fn frozen(&self) -> bool {
        self.rules.iter().any(|armed| armed.rule.fault == Fault::Freeze)
    }

    /// A command is complete and about to be executed.
    pub(crate) fn command(&mut self, operation: &Operation) -> AtCommand {
        let mut out = AtCommand::default();
        for armed in &self.rules {
            let fault = &armed.rule.fault;
            if is_about_commands(fault)
                && armed.matches(operation)
                && armed.strikes(&mut self.random)
            {
                add(&mut out, fault, &mut self.random);
            }
        }
        out
    }

    fn first<T>(&mut self, pick: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        self.rules.iter().find_map(|armed| {
            let picked = pick(&armed.rule.fault)?;
            armed.strikes(&mut self.random).then_some(picked)
        })
    }

    fn flip(&mut self, is: impl Fn(&Fault) -> bool) -> u32 {
        if !self.at_pdus {
            return 0;
        }
        let bit = 1 << self.random.below(32);
        if self.first(|fault| is(fault).then_some(())).is_some() { bit } else { 0 }
    }
}

fn is_about_commands(fault: &Fault) -> bool {
    match fault {
        Fault::Delay(..)
        | Fault::Hold
        | Fault::Mute
        | Fault::Status(_)
        | Fault::Sense(_)
        | Fault::UnitAttention { .. }
        | Fault::ShortRead(_)
        | Fault::Reset
        | Fault::ResetAfter
        | Fault::Close
        | Fault::Silence
        | Fault::Async(_) => true,
        Fault::Refuse
        | Fault::HalfOpen
        | Fault::LoginStatus { .. }
        | Fault::Redirect { .. }
        | Fault::TaskManagementMute
        | Fault::TaskManagementAnswer(_)
        | Fault::Reorder
        | Fault::HeaderDigest
        | Fault::DataDigest
        | Fault::DropBytes(_)
        | Fault::Window(_)
        | Fault::NoReady
        | Fault::Freeze => false,
    }
}

fn add(out: &mut AtCommand, fault: &Fault, random: &mut Random) {
    match fault {
        Fault::Delay(least, most) => {
            let spread = most.saturating_sub(*least).as_nanos() as u64;
            out.delay += *least + Duration::from_nanos(random.below(spread.saturating_add(1)));
        }
        Fault::Hold => out.hold = true,
        Fault::Mute => out.mute = true,
        Fault::Status(status) => out.status = Some(*status),
        Fault::Sense(sense) => out.sense = Some(*sense),
        Fault::UnitAttention { asc, ascq } => out.unit_attention = Some((*asc, *ascq)),
        Fault::ShortRead(bytes) => out.short = out.short.max(*bytes),
        Fault::Reset => out.before = Some(Cut::Reset),
        Fault::Close => out.before = Some(Cut::Close),
        Fault::Silence => out.before = Some(Cut::Silence),
        Fault::ResetAfter => out.after = Some(Cut::Reset),
        Fault::Async(message) => out.message = Some(*message),
        other => unreachable!("{other:?} is not about a command"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::*;

    fn stack() -> (Arc<Faults>, Stack) {
        let faults = Arc::new(Faults::default());
        (faults.clone(), Stack::new(faults, 1))
    }

    const WRITE: Operation = Operation { opcode: 0x8a, kind: Commands::Writes, lba: 8, blocks: 8 };
    const READ: Operation = Operation { opcode: 0x88, kind: Commands::Reads, lba: 8, blocks: 8 };

    #[test]
    fn rules_compose_and_can_be_taken_away() {
        let (faults, mut stack) = stack();
        let ms = Duration::from_millis;
        faults.set("slow", Rule::new(Fault::Delay(ms(2), ms(4))));
        faults.set("mute", Rule::new(Fault::Mute).on(Commands::Writes));
        assert_eq!(stack.command(&WRITE), AtCommand::default(), "before the rules are taken over");
        assert!(stack.refresh() && !stack.refresh());
        let (write, read) = (stack.command(&WRITE), stack.command(&READ));
        assert!(write.mute && !read.mute);
        assert!((ms(2)..=ms(4)).contains(&write.delay) && write.delay != read.delay);
        faults.clear();
        stack.refresh();
        assert_eq!(stack.command(&WRITE), AtCommand::default());
    }

    #[test]
    fn skip_limit_and_range_decide_when() {
        let (faults, mut stack) = stack();
        faults.set("x", Rule::new(Fault::Hold).skip(2).times(1).blocks(15, 1));
        stack.refresh();
        let elsewhere = Operation { lba: 16, ..WRITE };
        assert!(!stack.command(&elsewhere).hold);
        let struck: Vec<_> = (0..4).map(|_| stack.command(&WRITE).hold).collect();
        assert_eq!(struck, [false, false, true, false]);
        assert_eq!((faults.struck("x"), faults.struck("y")), (1, 0));
    }

    #[test]
    fn a_smaller_window_wins() {
        let (faults, mut stack) = stack();
        assert_eq!(stack.window(), u32::MAX);
        faults.set("a", Rule::new(Fault::Window(4)));
        faults.set("b", Rule::new(Fault::Window(1)));
        stack.refresh();
        assert_eq!(stack.window(), 1);
    }

    #[test]
    fn a_changed_digest_differs_in_one_bit() {
        let (faults, mut stack) = stack();
        assert_eq!(stack.data_digest(), 0);
        faults.set("d", Rule::new(Fault::DataDigest).times(1));
        stack.refresh();
        assert_eq!(stack.header_digest(), 0);
        assert_eq!(stack.data_digest().count_ones(), 1);
        assert_eq!(stack.data_digest(), 0);
    }
}
