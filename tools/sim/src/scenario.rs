//! Named scenarios: a small language over the same simulator, for a reader who wants to see one story.
//!
//! ```text
//! setup policy failover          # before anything else: paths, lanes, policy, fence, a tunable, a target
//! setup paths 0 1                # path A leads to node 0, path B to node 1
//! stall A; begin write 0..8 as w1; wait 3s
//! expect answered w1
//! overwrite                      # the same range again, and waits for the answer
//! thaw A; wait 1s
//! expect read 0..8 = last        # what the last write wrote
//! ```
//!
//! A statement ends with its line or with `;`, a comment begins with `#`. Ranges are cells of 512 bytes, the
//! end not included. `write`, `read`, `zero`, `trim` and `flush` wait for their answer, after `begin` they do
//! not; `as NAME` names a request, `by CLIENT` says who asks. At the end every read is judged, unless the
//! scenario expects that it finds something (`expect stale`).

mod parse;
mod play;

use crate::check::Broken;
use crate::load::Kind;
use crate::net::Net;
use mpio::base::Duration;
use mpio::path::State;
use mpio_target::Rule;
use mpio_target::wire::scsi::AccessState;
pub use parse::parse;
pub use play::play;

/// A scenario that can be played.
pub struct Scenario {
    /// Its targets, paths and settings.
    pub setup: crate::world::Setup,
    /// What happens, each with its line.
    pub steps: Vec<(usize, Step)>,
}

/// Why a scenario ended early, or was not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Line of the file, from 1; 0 for the end.
    pub line: usize,
    /// What.
    pub what: String,
}

impl Trouble {
    fn new(line: usize, what: impl Into<String>) -> Trouble {
        Trouble { line, what: what.into() }
    }

    fn of(broken: &Broken) -> Trouble {
        Trouble::new(0, format!("{}: {}", broken.rule.words(), broken.what))
    }
}

/// Cells: first, and one behind the last.
pub type Cells = (u64, u64);

/// A request of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Who asks.
    pub client: String,
    /// What for.
    pub kind: Kind,
    /// Which cells; those of the write before where there are none.
    pub cells: Option<Cells>,
    /// Its name.
    pub name: Option<String>,
    /// Goes on without an answer.
    pub begin: bool,
}

/// One thing that happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A client connects to a lane.
    Client(String, usize),
    /// A client is gone without a word.
    Vanish(String),
    /// A request.
    Ask(Ask),
    /// Time passes.
    Wait(Duration),
    /// What a path's portal does.
    Net(usize, Net),
    /// How far away it is.
    Delay(usize, Duration),
    /// Bytes of its connections of now wait.
    Stall(usize, bool),
    /// A target process.
    Node(usize, NodeVerb),
    /// A rule of the target's fault layers, by name; `None` takes it away.
    Rule(usize, &'static str, Option<Rule>),
    /// Whether one side of the mirror is synchronized: else it answers NOT READY.
    Synchronized(usize, bool),
    /// The storage serves its nodes' ports so from now on (ALUA).
    Access([AccessState; 2]),
    /// A unit of the same names and other content stands behind a path's portal, or does not any more.
    LookAlike(usize, bool),
    /// The daemon is killed (`false`) or started.
    Daemon(bool),
    /// An administrator.
    Path(usize, AdminVerb),
    /// Everything heals, and everything has to come back.
    Heal,
    /// What has to be so.
    Expect(Expect),
}

/// What is done to a target process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeVerb {
    /// `kill -9`.
    Kill,
    /// Nothing is said and nothing answers.
    PowerCut,
    /// Starts again.
    Start,
    /// Starts as another unit.
    Swap,
    /// Executes what it held.
    Release,
    /// Forgets what it held.
    Forget,
    /// Resets its connections and goes on with what it holds.
    Reset,
    /// Asks for a logout.
    LogOut,
}

/// What an administrator does to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminVerb {
    /// Out.
    Disable,
    /// Back.
    Enable,
    /// Looked at again.
    Recheck,
    /// Preferred.
    Prefer,
}

/// What has to be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// A request is answered well, at the latest after a time.
    Answered(String, Duration),
    /// A request has no answer yet.
    Open(String),
    /// A request was answered with an error.
    Refused(String),
    /// A path comes to be in a state, at the latest after a time.
    State(usize, State, Duration),
    /// These cells read as this request wrote them; `None` for zeros.
    Reads(Cells, Option<String>),
    /// A number of the ledger.
    Fences(&'static str, u64),
    /// Commands with this operation code that a node has executed.
    Executed(usize, u8, usize),
    /// Commands that a node holds.
    Held(usize, usize),
    /// How often the product has told something.
    Told(String, usize),
    /// The judge finds that a read cannot be explained.
    Stale,
}
