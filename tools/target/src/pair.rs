//! The pair without I/O: one medium (or two that look alike), one journal, and nodes on demand.
//!
//! A node can be made again at any time: that is a target process that was killed and started again.
//! The medium, the journal and the rules stay.

use crate::access::Access;
use crate::config::{ConfigError, PairConfig};
use crate::faults::{Faults, Stack};
use crate::journal::Journal;
use crate::node::Node;
use crate::state::{Core, Counters};
use crate::store::{Backing, Store};
use crate::unit::{Medium, Unit};
use std::io;
use std::sync::Arc;

/// Why there is no pair.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// A setting that does not work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file behind the unit, a socket, or a thread.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What came of it.
        error: io::Error,
    },
}

/// Two targets' worth of state.
pub struct Pair {
    config: PairConfig,
    media: [Arc<Medium>; 2],
    faults: [Arc<Faults>; 2],
    counters: [Arc<Counters>; 2],
    access: Arc<Access>,
    journal: Arc<Journal>,
}

impl Pair {
    /// Opens the medium.
    ///
    /// # Errors
    /// A setting that does not work, or a file that cannot be opened. Two units that only look alike
    /// need memory behind them, or a second file: `FILE.b`.
    pub fn new(config: PairConfig) -> Result<Pair, PairError> {
        config.check()?;
        let journal = Arc::new(Journal::new(config.journal, config.journal_capacity));
        let open = |backing: &Backing, name: &str| {
            let failed = |error| {
                let what = format!("cannot open {backing:?} with {} bytes", config.size);
                PairError::Io { what, error }
            };
            let store = Store::open(backing, config.size).map_err(failed)?;
            if *backing == Backing::Memory && !config.blank {
                let label = format!("mpio-target, {name}, seed {}", config.seed);
                let last = config.size - u64::from(config.block_size);
                store.write(last, label.as_bytes()).map_err(failed)?;
            }
            Ok::<_, PairError>(Arc::new(Medium { store, journal: journal.clone() }))
        };
        let first = open(&config.backing, "first medium")?;
        let second = match &config.backing {
            _ if config.mirrored => first.clone(),
            Backing::Memory => open(&Backing::Memory, "second medium")?,
            Backing::File(path) => {
                let mut name = path.clone().into_os_string();
                name.push(".b");
                open(&Backing::File(name.into()), "second medium")?
            }
        };
        let access = Access::new([&config.nodes[0].abilities, &config.nodes[1].abilities]);
        Ok(Pair {
            access: Arc::new(access),
            config,
            media: [first, second],
            faults: Default::default(),
            counters: Default::default(),
            journal,
        })
    }

    /// A fresh node, as after the start of its process. `seed` decides its challenges and numbers.
    ///
    /// # Panics
    /// When `index` is neither 0 nor 1.
    #[must_use]
    pub fn node(&self, index: usize, seed: u64) -> Node {
        let config = Arc::new(self.config.nodes[index].clone());
        let (medium, access) = (self.media[index].clone(), self.access.clone());
        let unit = Unit::new(&self.config, &config, index as u8, medium, access);
        let faults = self.faults[index].clone();
        let stack = Stack::new(faults.clone(), self.config.seed ^ index as u64);
        let counters = self.counters[index].clone();
        Node::new(Core::new(index as u8, config, unit, stack, seed, counters), faults)
    }

    /// What the pair was made of.
    #[must_use]
    pub fn config(&self) -> &PairConfig {
        &self.config
    }

    /// The journal of both nodes.
    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// The bytes behind node `index`, for tests that look at them directly.
    #[must_use]
    pub fn store(&self, index: usize) -> &Store {
        &self.media[index].store
    }

    /// The access states of both nodes.
    #[must_use]
    pub fn access(&self) -> &Arc<Access> {
        &self.access
    }

    /// The rules of node `index`.
    #[must_use]
    pub fn faults(&self, index: usize) -> &Arc<Faults> {
        &self.faults[index]
    }

    /// The counts of node `index`.
    #[must_use]
    pub fn counters(&self, index: usize) -> &Arc<Counters> {
        &self.counters[index]
    }
}
