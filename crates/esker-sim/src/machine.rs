//! [`Machine`]: the files, the device under them, and what is in flight. No locks, no waiting.
//!
//! Invariants:
//! - M1. When the machine stops, nothing changes any more: what was in flight is put down as such,
//!   and what is asked for later fails.
//! - M2. An effect that stops the machine has happened; whoever caused it is not told.

mod actions;
mod ends;
mod files;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use esker_io::{Action, Context, Durability, IoError, Operation, Statistics};

use crate::Dice;
use crate::fault::{Faults, MachineDown};
use crate::file::{Description, Opened, SimFile};
use crate::names::{Found, Names, NodeId};
use crate::node::Node;
use crate::options::SimOptions;
use crate::sync::Arc;

/// An operation that was submitted and has not been carried out.
pub(crate) struct Queued {
    pub(crate) operation: Operation<SimFile>,
    /// How much had landed when it was submitted, or how many names had changed: what a sync covers.
    pub(crate) before: u64,
    /// How it has ended, if nobody has been told yet: it was carried out ahead of its completion, or
    /// refused because its file is of another life.
    pub(crate) ended: Option<Result<Done, IoError>>,
    /// It completes after all that are not slow.
    pub(crate) slow: bool,
}

/// What came of an operation.
pub(crate) enum Done {
    /// So many bytes were transferred, or none.
    Bytes(usize),
    Opened(Opened),
}

impl Done {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Opened(_) => 0,
        }
    }
}

/// A write that was in flight when its machine or its process ended.
#[derive(Clone)]
struct Flying {
    node: NodeId,
    path: Arc<Path>,
    offset: u64,
    bytes: Vec<u8>,
    durable: bool,
    description: u64,
}

pub(crate) struct Machine {
    pub(crate) options: SimOptions,
    pub(crate) dice: Dice,
    names: Names,
    nodes: BTreeMap<NodeId, Node>,
    next_node: NodeId,
    next_description: u64,
    /// How many changes of content and length have landed.
    landed: u64,
    pub(crate) faults: Faults,
    pub(crate) effects: u64,
    pub(crate) stop_after: Option<u64>,
    down: bool,
    pub(crate) queue: Vec<Queued>,
    /// What was in flight when this machine stopped.
    flying: Vec<Flying>,
    /// Writes of a process that was killed, still on their way, their files locked.
    late: Vec<Flying>,
    /// In one of so many calls one of them lands.
    late_one_in: u64,
    pub(crate) statistics: Statistics,
}

/// An error with a number of the operating system's.
pub(crate) fn os_error(context: Context, errno: i32) -> IoError {
    IoError::from_os(context, io::Error::from_raw_os_error(errno))
}

fn down(context: Context) -> IoError {
    IoError::from_os(context, io::Error::other(MachineDown))
}

impl Machine {
    pub(crate) fn new(options: SimOptions) -> Self {
        Self {
            dice: Dice::new(options.seed),
            options,
            names: Names::default(),
            nodes: BTreeMap::new(),
            next_node: 0,
            next_description: 0,
            landed: 0,
            faults: Faults::default(),
            effects: 0,
            stop_after: None,
            down: false,
            queue: Vec::new(),
            flying: Vec::new(),
            late: Vec::new(),
            late_one_in: 1,
            statistics: Statistics::default(),
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down
    }

    /// The machine stops, now.
    pub(crate) fn stop(&mut self) {
        if self.down {
            return;
        }
        self.down = true;
        self.flying.extend(self.in_flight());
    }

    fn in_flight(&self) -> Vec<Flying> {
        let left = self.queue.iter().filter(|queued| queued.ended.is_none());
        left.map(|queued| &queued.operation)
            .filter_map(|operation| match operation {
                Operation::OnFile { file, action, .. } => flying(file.description(), action),
                Operation::Open { .. } | Operation::SyncDir { .. } => None,
            })
            .collect()
    }

    fn check_up(&mut self, context: impl FnOnce() -> Context) -> Result<(), IoError> {
        if self.down {
            return Err(down(context()));
        }
        if !self.late.is_empty() && self.dice.chance(1, self.late_one_in) {
            self.land_late();
        }
        Ok(())
    }

    /// Something has happened that a crash can come right after.
    fn effect(&mut self, context: impl FnOnce() -> Context) -> Result<(), IoError> {
        self.effects += 1;
        if self.stop_after == Some(self.effects) {
            self.stop();
            return Err(down(context()));
        }
        Ok(())
    }

    fn next_landing(&mut self) -> u64 {
        self.landed += 1;
        self.landed
    }

    fn node(&mut self, description: &Description) -> &mut Node {
        self.nodes.entry(description.node).or_default()
    }

    pub(crate) fn named(&mut self, path: &Path) -> Option<&mut Node> {
        match self.names.find(path) {
            Found::File(node) => self.nodes.get_mut(&node),
            _ => None,
        }
    }

    pub(crate) fn file_paths(&self) -> Vec<PathBuf> {
        self.names.files().map(|(path, _)| path).collect()
    }
}

fn flying(file: &Description, action: &Action) -> Option<Flying> {
    match action {
        Action::Write {
            offset,
            memory,
            durability,
        } if file.check(action).is_ok() && memory.len_bytes() > 0 => Some(Flying {
            node: file.node,
            path: Arc::clone(&file.path),
            offset: *offset,
            bytes: memory.bytes().to_vec(),
            durable: *durability == Durability::Durable,
            description: file.id,
        }),
        _ => None,
    }
}
