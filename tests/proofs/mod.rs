//! One measurement: W1 is stuck at target A; some answer X is asked for; as soon as it is there, W2 goes to the
//! same blocks by target B; then A is let go. Is what is left on the medium W2, or has W1 landed after X?
//!
//! A single W1 after X shows that X proves nothing. That W1 never came says that this target, in this version,
//! keeps what the standard asks for in this situation.

use super::harness::nexus::{Names, Nexus};
use super::harness::noise;
use mpio::session::TaskTag;
use std::fmt;
use std::time::Duration;

/// Bytes of W1 and W2: few enough to travel as immediate data everywhere, so that the command is whole.
pub const LEN: usize = 4096;

/// Bytes of a W1 that needs the target to ask for its data.
const LONG: usize = 128 * 1024;

/// First block of the test's range, in blocks of 512 bytes.
pub const LBA: u64 = 2048;

/// How long an answer may take to count as given while W1 was stuck. Targets answer in milliseconds or not.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Storage whose node A (0) can get stuck with a write, behind which node B (1) writes to the same medium.
pub trait Storage {
    /// How to log in at a node.
    fn names(&self, node: usize) -> Names;
    /// From now on a write to A does not reach the medium.
    fn stick(&self);
    /// Ends that; what A holds is executed unless it is dead. Called once.
    fn release(&self);
    /// What the medium holds at [`LBA`].
    fn medium(&self) -> Vec<u8>;
    /// Time in which everything that can still land lands.
    fn settle(&self) -> Duration {
        Duration::from_millis(700)
    }
}

/// The answer that might prove W1 dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// ABORT TASK for W1, on its session.
    AbortTask,
    /// The same for a W1 whose data the target is still waiting for.
    #[allow(dead_code, reason = "measured before the session refused to ask it")]
    AbortUnfinished,
    /// LOGICAL UNIT RESET on W1's session.
    Reset,
    /// The same for a W1 whose data the target is still waiting for.
    #[allow(dead_code, reason = "measured before the session refused to ask it")]
    ResetUnfinished,
    /// The old connection is reset, the same nexus logs in again.
    Login,
    /// The same, then LOGICAL UNIT RESET on the new session.
    LoginAndReset,
}

/// All of them, in the order of the table.
pub const QUESTIONS: [Question; 4] =
    [Question::AbortTask, Question::Reset, Question::Login, Question::LoginAndReset];

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Question::AbortTask => "ABORT TASK on the old session",
            Question::AbortUnfinished => "ABORT TASK before W1's data are there",
            Question::Reset => "LOGICAL UNIT RESET on the old session",
            Question::ResetUnfinished => "LOGICAL UNIT RESET before W1's data are there",
            Question::Login => "new login with the same ISID",
            Question::LoginAndReset => "new login, then LOGICAL UNIT RESET",
        })
    }
}

/// When the answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// While W1 was stuck.
    Stuck,
    /// Only when A had been let go.
    Released,
    /// Not at all: the connection ended, or nothing came.
    Never,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// When the (last) answer came.
    pub when: When,
    /// Its response code; 0 for a login.
    pub response: Option<u8>,
    /// W1's own status had come before: it is done, and nothing more is needed.
    pub status_first: bool,
    /// W1 landed after the answer: it proved nothing.
    pub stale: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let response = self.response.map_or("none".to_owned(), |code| code.to_string());
        let when = match self.when {
            When::Stuck => "while W1 was stuck",
            When::Released => "when it was let go",
            When::Never => "never",
        };
        let outcome = if self.stale { "W1 landed over W2" } else { "W1 did not land" };
        let status = if self.status_first { ", after W1's own status" } else { "" };
        write!(f, "response {response} {when}{status}: {outcome}")
    }
}

struct Experiment<'a> {
    storage: &'a dyn Storage,
    released: bool,
}

impl Experiment<'_> {
    fn release(&mut self) {
        if !std::mem::replace(&mut self.released, true) {
            self.storage.release();
        }
    }

    /// Waits for an answer with patience; then lets A go and waits again.
    fn answer<T>(&mut self, mut ask: impl FnMut(Duration) -> Option<T>) -> Option<T> {
        if !self.released {
            if let Some(answer) = ask(PATIENCE) {
                return Some(answer);
            }
            self.release();
        }
        ask(Duration::from_secs(8))
    }
}

/// Asks `question` of a stuck W1.
#[track_caller]
pub fn measure(storage: &dyn Storage, question: Question) -> Finding {
    let unfinished = matches!(question, Question::AbortUnfinished | Question::ResetUnfinished);
    let len = if unfinished { LONG } else { LEN };
    let [w0, w1, w2] = [1, 2, 3].map(|seed| noise(len, seed));
    let mut other = Nexus::log_in(&storage.names(1));
    let mut old = Nexus::log_in(&storage.names(0));
    assert!(old.write_through(LBA, &w0, Duration::from_secs(20)), "W0 was not answered");
    assert_eq!(storage.medium(), w0[..LEN], "W0 is not on the medium");

    storage.stick();
    let tag = old.write(LBA, &w1);
    // On its way, and as far as it gets.
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(storage.medium(), w0[..LEN], "W1 is not stuck");

    let mut experiment = Experiment { storage, released: false };
    let (response, sessions) = ask(&mut experiment, question, old, tag);
    let when = match (response, experiment.released) {
        (Some(_), false) => When::Stuck,
        (Some(_), true) => When::Released,
        (None, _) => When::Never,
    };
    assert!(other.write_through(LBA, &w2, Duration::from_secs(20)), "W2 was not answered");
    experiment.release();
    std::thread::sleep(storage.settle());
    let held = storage.medium();
    assert!(held == w1[..LEN] || held == w2[..LEN], "the medium holds neither W1 nor W2");
    let status_first = sessions.iter().any(|session| session.answered(tag));
    Finding { when, response, status_first, stale: held == w1[..LEN] }
}

fn ask(
    experiment: &mut Experiment<'_>,
    question: Question,
    mut old: Nexus,
    tag: TaskTag,
) -> (Option<u8>, Vec<Nexus>) {
    match question {
        Question::AbortTask | Question::AbortUnfinished => {
            old.abort(tag);
            (experiment.answer(|limit| old.managed(limit)), vec![old])
        }
        Question::Reset | Question::ResetUnfinished => {
            old.reset();
            (experiment.answer(|limit| old.managed(limit)), vec![old])
        }
        Question::Login | Question::LoginAndReset => {
            drop(old);
            let mut new = Nexus::connect(&experiment.storage.names(0));
            let mut response = experiment.answer(|limit| new.logged_in(limit).then_some(0));
            if response.is_some() && question == Question::LoginAndReset {
                new.reset();
                response = experiment.answer(|limit| new.managed(limit));
            }
            (response, vec![new])
        }
    }
}

/// What became of a LOGICAL UNIT RESET on one session while a write of another one waited for its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beside {
    /// The response to the reset.
    pub reset: Option<u8>,
    /// The SCSI status of the write, whose data were sent when the reset had been.
    pub write: Option<u8>,
    /// The session that had asked for the reset could be logged into again.
    pub again: bool,
}

/// Asks it of node A, which is well. The write is longer than any first burst, and what is not read is not answered: so its
/// session owes the data for as long as nobody waits for anything there.
#[track_caller]
pub fn reset_beside(storage: &dyn Storage) -> Beside {
    let mut names = storage.names(0);
    let mut old = Nexus::log_in(&names);
    names.isid[5] = 9;
    let mut beside = Nexus::log_in(&names);
    let tag = beside.write(LBA, &noise(1024 * 1024, 4));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!beside.answered(tag), "nobody has read anything");
    old.reset();
    std::thread::sleep(Duration::from_millis(300));
    let write = beside.status_of(tag, 2 * PATIENCE);
    let reset = old.managed(2 * PATIENCE);
    drop(old);
    let again = Nexus::connect(&storage.names(0)).logged_in(2 * PATIENCE);
    Beside { reset, write, again }
}
