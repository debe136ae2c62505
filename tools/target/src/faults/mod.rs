//! What goes wrong on purpose: layers between the wire and the server, each with a trigger and a rate.
//!
//! The server asks the [`Stack`] at a handful of places ("a command is about to be executed", "a PDU
//! leaves") and does what it says; it knows no fault by name. Rules compose: all that match speak, so
//! a delay and a bad digest may hit one command. They are changed while the node runs, from any
//! thread, through [`Faults`]. Every choice comes from the seed of the pair, so a run can be repeated.
//!
//! Deliberately not here: faults of the network between the two sides (the simulator and nft do
//! those), and settings of a healthy target ([`crate::config`]).

mod stack;
mod text;

pub(crate) use stack::{Accept, AtCommand, AtLogin, AtTaskManagement, Cut, Operation, Stack};
pub use text::{HELP, RuleError};

use crate::base::Duration;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// New connections are reset as soon as they are accepted.
    Refuse,
    /// New connections are accepted and never answered.
    HalfOpen,
    /// The login ends with this status class and detail (RFC 7143 section 11.13.5).
    LoginStatus {
        /// Status-Class, byte 36.
        class: u8,
        /// Status-Detail, byte 37.
        detail: u8,
    },
    /// The login is answered with a redirect to `address` (`host:port`).
    Redirect {
        /// The TargetAddress value.
        address: String,
        /// 0102 rather than 0101.
        permanent: bool,
    },
    /// The command is executed later by a time between the two.
    Delay(Duration, Duration),
    /// The command stays where it is until it is released, aborted or reset: a disk that hangs.
    Hold,
    /// The command is executed and never answered.
    Mute,
    /// The command is not executed and ends with this SCSI status.
    Status(u8),
    /// The command is not executed and ends with CHECK CONDITION and this sense.
    Sense(SenseCode),
    /// The session finds a unit attention with this code (its key is always 6).
    UnitAttention {
        /// Additional sense code.
        asc: u8,
        /// Its qualifier.
        ascq: u8,
    },
    /// A read ends with GOOD, this many bytes short and with the residual that says so.
    ShortRead(u32),
    /// The connection is reset before the command is executed.
    Reset,
    /// The connection is reset after the command was executed, before its answer.
    ResetAfter,
    /// The connection is closed in order (FIN) instead of executing the command.
    Close,
    /// From this command on the connection is open and silent; what came before is still executed.
    Silence,
    /// An Async Message goes out before the command is executed.
    Async(AsyncMessage),
    /// Task management is never answered and does nothing.
    TaskManagementMute,
    /// Task management does nothing and is answered with this response code.
    TaskManagementAnswer(u8),
    /// Data-In PDUs leave in another order, where the negotiation allows it.
    Reorder,
    /// A header digest is wrong.
    HeaderDigest,
    /// A data digest is wrong.
    DataDigest,
    /// The first bytes (1 to 48) of a PDU are lost: the stream is out of frame from there on.
    DropBytes(u8),
    /// The CmdSN window is no wider than this.
    Window(u32),
    /// A write is not asked for its data: it waits for them for ever.
    NoReady,
    /// Nothing is read, executed or sent until the rule is removed: a process that was stopped.
    Freeze,
}

/// Sense key, additional sense code and qualifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SenseCode {
    /// Sense key, 4 bits.
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Its qualifier.
    pub ascq: u8,
}

/// Content of an Async Message (RFC 7143 section 11.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AsyncMessage {
    /// AsyncEvent: 0 SCSI, 1 logout wanted, 2 connection dropped, 3 session dropped, 4 negotiation.
    pub event: u8,
    /// AsyncVCode.
    pub vendor_code: u8,
    /// Parameter1.
    pub parameter1: u16,
    /// Parameter2 (Time2Wait of the drop events).
    pub parameter2: u16,
    /// Parameter3.
    pub parameter3: u16,
    /// Sense of event 0.
    pub sense: Option<SenseCode>,
}

/// Which commands a rule speaks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Commands {
    /// Every SCSI command.
    #[default]
    All,
    /// READ and WRITE, UNMAP, WRITE SAME, SYNCHRONIZE CACHE: what a running device sends.
    Medium,
    /// READ.
    Reads,
    /// WRITE, WRITE SAME and UNMAP.
    Writes,
    /// SYNCHRONIZE CACHE.
    Flushes,
    /// One operation code.
    Opcode(u8),
}

/// When a rule speaks: it must match, then `skip` matches pass, then chance decides, `limit` times.
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    /// Which commands; without meaning for faults that are not about a command.
    pub commands: Commands,
    /// Only commands that touch these blocks: first and count.
    pub blocks: Option<(u64, u64)>,
    /// Probability, 0 to 1.
    pub rate: f64,
    /// Matches that pass unharmed first.
    pub skip: u64,
    /// Times that it strikes at most.
    pub limit: u64,
}

impl Default for Trigger {
    fn default() -> Trigger {
        Trigger { commands: Commands::All, blocks: None, rate: 1.0, skip: 0, limit: u64::MAX }
    }
}

/// A fault and when it strikes.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// What goes wrong.
    pub fault: Fault,
    /// When.
    pub when: Trigger,
}

impl Rule {
    /// `fault` at every occasion.
    #[must_use]
    pub fn new(fault: Fault) -> Rule {
        Rule { fault, when: Trigger::default() }
    }

    /// Only for these commands.
    #[must_use]
    pub fn on(mut self, commands: Commands) -> Rule {
        self.when.commands = commands;
        self
    }

    /// Only for commands that touch `count` blocks from `lba`.
    #[must_use]
    pub fn blocks(mut self, lba: u64, count: u64) -> Rule {
        self.when.blocks = Some((lba, count));
        self
    }

    /// With this probability.
    #[must_use]
    pub fn rate(mut self, rate: f64) -> Rule {
        self.when.rate = rate;
        self
    }

    /// After `n` matches.
    #[must_use]
    pub fn skip(mut self, n: u64) -> Rule {
        self.when.skip = n;
        self
    }

    /// At most `n` times.
    #[must_use]
    pub fn times(mut self, n: u64) -> Rule {
        self.when.limit = n;
        self
    }
}

/// A rule in force, with what happened to it.
#[derive(Debug)]
pub(crate) struct Armed {
    name: String,
    rule: Rule,
    matched: AtomicU64,
    struck: AtomicU64,
}

/// The rules of one node, changed live from any thread.
pub struct Faults {
    rules: Mutex<Vec<Arc<Armed>>>,
    version: AtomicU64,
    waker: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults { rules: Mutex::default(), version: AtomicU64::new(1), waker: OnceLock::new() }
    }
}

impl core::fmt::Debug for Faults {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.lock().iter().map(|armed| &armed.rule)).finish()
    }
}

impl Faults {
    /// Puts `rule` in force under `name`; one of that name before is replaced, its counts forgotten.
    pub fn set(&self, name: &str, rule: Rule) {
        self.change(|rules| {
            rules.retain(|armed| armed.name != name);
            rules.push(Arc::new(Armed {
                name: name.to_owned(),
                rule,
                matched: AtomicU64::new(0),
                struck: AtomicU64::new(0),
            }));
        });
    }

    /// Takes the rule `name` away; what it holds stays held until it is released.
    pub fn remove(&self, name: &str) {
        self.change(|rules| rules.retain(|armed| armed.name != name));
    }

    /// Takes all rules away.
    pub fn clear(&self) {
        self.change(Vec::clear);
    }

    /// How often the rule `name` has struck; 0 when there is none.
    #[must_use]
    pub fn struck(&self, name: &str) -> u64 {
        let rules = self.lock();
        let armed = rules.iter().find(|armed| armed.name == name);
        armed.map_or(0, |armed| armed.struck.load(Ordering::Relaxed))
    }

    /// Names and rules in force.
    #[must_use]
    pub fn rules(&self) -> Vec<(String, Rule)> {
        self.lock().iter().map(|armed| (armed.name.clone(), armed.rule.clone())).collect()
    }

    /// Called after each change, so that a sleeping driver looks again. Only the first one counts.
    pub(crate) fn on_change(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.waker.set(Box::new(wake));
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn armed(&self) -> Vec<Arc<Armed>> {
        self.lock().clone()
    }

    fn change(&self, edit: impl FnOnce(&mut Vec<Arc<Armed>>)) {
        edit(&mut self.lock());
        self.version.fetch_add(1, Ordering::Release);
        if let Some(wake) = self.waker.get() {
            wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Armed>>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
