//! [`Machine`]: the files, the device under them, and what is in flight. No locks, no waiting.
//!
//! Invariants:
//! - M1. When the machine stops, nothing changes any more: what was in flight is put down as such,
//!   and what is asked for later fails.
//! - M2. An effect that stops the machine has happened; whoever caused it is not told.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use esker_io::{
    Action, Allocated, Context, Durability, IoError, KindStatistics, Operation, OperationKind,
    Statistics,
};

use crate::Dice;
use crate::fault::{Fault, Faults, MachineDown, Turn};
use crate::file::{Description, SimFile, end_of};
use crate::names::{Found, Names, NodeId};
use crate::node::Node;
use crate::options::SimOptions;
use crate::survival::{Loss, Survival, Undurable};
use crate::sync::Arc;

/// An operation that was submitted and has not been carried out.
pub(crate) struct Queued {
    pub(crate) operation: Operation<SimFile>,
    /// How much had landed when it was submitted: what a sync covers.
    pub(crate) landed: u64,
    /// How it has ended, if nobody has been told yet: it was carried out ahead of its completion, or
    /// refused because its file is of another life.
    pub(crate) ended: Option<Result<usize, IoError>>,
    /// It completes after all that are not slow.
    pub(crate) slow: bool,
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
    pub(crate) statistics: Statistics,
}

/// An error with a number of the operating system's.
pub(crate) fn os_error(context: Context, errno: i32) -> IoError {
    IoError::from_os(context, io::Error::from_raw_os_error(errno))
}

fn down(context: Context) -> IoError {
    IoError::from_os(context, io::Error::other(MachineDown))
}

fn statistics_of(statistics: &mut Statistics, kind: OperationKind) -> &mut KindStatistics {
    match kind {
        OperationKind::Read => &mut statistics.reads,
        OperationKind::Write => &mut statistics.writes,
        _ => &mut statistics.syncs,
    }
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
            .filter_map(|operation| flying(operation.file.description(), &operation.action))
            .collect()
    }

    fn check_up(&mut self, context: impl FnOnce() -> Context) -> Result<(), IoError> {
        if self.down {
            return Err(down(context()));
        }
        if !self.late.is_empty() && self.dice.chance(1, 8) {
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

    // Names.

    pub(crate) fn create_dirs(&mut self, path: &Path) -> Result<(), IoError> {
        let context = || Context::new(OperationKind::CreateDir, path);
        self.check_up(context)?;
        if self.names.find(path) == Found::Directory {
            return Ok(());
        }
        if !self.names.create_dirs(path) {
            return Err(os_error(context(), libc::EEXIST));
        }
        self.effect(context)
    }

    /// Finds or creates a file and gives it a description's number.
    pub(crate) fn open(
        &mut self,
        path: &Path,
        create: esker_io::Create,
    ) -> Result<(NodeId, u64), IoError> {
        use esker_io::Create;
        let context = || Context::new(OperationKind::Open, path);
        self.check_up(context)?;
        let node = match (self.names.find(path), create) {
            (Found::Directory, _) => return Err(IoError::NotAFile { context: context() }),
            (Found::File(_), Create::New) => return Err(os_error(context(), libc::EEXIST)),
            (Found::File(node), _) => node,
            (Found::Nothing, Create::Never) => return Err(os_error(context(), libc::ENOENT)),
            (Found::Nothing, _) if !self.names.has_parent(path) => {
                return Err(os_error(context(), libc::ENOENT));
            }
            (Found::Nothing, _) => {
                let node = self.next_node;
                self.next_node += 1;
                self.nodes.insert(node, Node::default());
                self.names.set(path, Some(node));
                self.effect(context)?;
                node
            }
        };
        self.nodes.entry(node).or_default().open += 1;
        self.next_description += 1;
        Ok((node, self.next_description))
    }

    /// A description has ended.
    pub(crate) fn close(&mut self, node: NodeId, description: u64) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.open = node.open.saturating_sub(1);
            if node.lock == Some(description) {
                node.lock = None;
            }
        }
    }

    pub(crate) fn list(&mut self, dir: &Path) -> Result<Vec<OsString>, IoError> {
        let context = || Context::new(OperationKind::List, dir);
        self.check_up(context)?;
        match (self.names.list(dir), self.names.find(dir)) {
            (Some(names), _) => Ok(names),
            (None, Found::File(_)) => Err(os_error(context(), libc::ENOTDIR)),
            (None, _) => Err(os_error(context(), libc::ENOENT)),
        }
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), IoError> {
        let context = || Context::new(OperationKind::Rename, from);
        self.check_up(context)?;
        let node = self.named_file(from, context)?;
        if !self.names.has_parent(to) {
            return Err(os_error(context(), libc::ENOENT));
        }
        if self.names.find(to) == Found::Directory {
            return Err(os_error(context(), libc::EISDIR));
        }
        self.names.rename(from, to, node);
        self.effect(context)
    }

    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), IoError> {
        let context = || Context::new(OperationKind::Remove, path);
        self.check_up(context)?;
        self.named_file(path, context)?;
        self.names.set(path, None);
        self.effect(context)
    }

    fn named_file(
        &self,
        path: &Path,
        context: impl FnOnce() -> Context,
    ) -> Result<NodeId, IoError> {
        match self.names.find(path) {
            Found::File(node) => Ok(node),
            Found::Directory => Err(os_error(context(), libc::EISDIR)),
            Found::Nothing => Err(os_error(context(), libc::ENOENT)),
        }
    }

    pub(crate) fn sync_dir(&mut self, dir: &Path) -> Result<(), IoError> {
        let context = || Context::new(OperationKind::SyncDir, dir);
        self.check_up(context)?;
        if self.names.find(dir) != Found::Directory {
            return Err(os_error(context(), libc::ENOENT));
        }
        if let Some(fault) = self.faults.take(Turn::DirSync) {
            if fault == Fault::FlushFails {
                self.lose_cache();
            }
            return Err(os_error(context(), libc::EIO));
        }
        self.names.sync(dir);
        self.effect(context)
    }

    // Files.

    pub(crate) fn len(&mut self, file: &Description) -> Result<u64, IoError> {
        self.check_up(|| file.context(OperationKind::Facts))?;
        Ok(self.node(file).len())
    }

    pub(crate) fn try_lock(&mut self, file: &Description) -> Result<bool, IoError> {
        let context = file.check_writable(file.context(OperationKind::Lock))?;
        self.check_up(|| context)?;
        let holder = self.node(file).lock.get_or_insert(file.id);
        Ok(*holder == file.id)
    }

    pub(crate) fn is_locked(&mut self, file: &Description) -> Result<bool, IoError> {
        self.check_up(|| file.context(OperationKind::Lock))?;
        Ok(self.node(file).lock.is_some_and(|holder| holder != file.id))
    }

    pub(crate) fn allocate(
        &mut self,
        file: &Description,
        offset: u64,
        len_bytes: u64,
    ) -> Result<Allocated, IoError> {
        let context = file.context(OperationKind::Allocate).at(offset, len_bytes);
        let context = file.check_writable(context)?;
        let Some(end) = end_of(offset, len_bytes) else {
            return Err(IoError::OutOfRange { context });
        };
        self.check_up(|| context.clone())?;
        if len_bytes == 0 {
            return Ok(Allocated::WrittenZeroes);
        }
        let is_full = self.faults.take(Turn::Allocate).is_some();
        if is_full || !self.has_space(file, end) {
            return Err(os_error(context, libc::ENOSPC));
        }
        let number = self.next_landing();
        self.node(file).allocate(number, offset, len_bytes);
        self.effect(|| context)?;
        Ok(self.options.allocated)
    }

    pub(crate) fn truncate(&mut self, file: &Description, len_bytes: u64) -> Result<(), IoError> {
        let context = file.context(OperationKind::Truncate).at(len_bytes, 0);
        let context = file.check_writable(context)?;
        if end_of(len_bytes, 0).is_none() {
            return Err(IoError::OutOfRange { context });
        }
        self.check_up(|| context.clone())?;
        let number = self.next_landing();
        self.node(file).truncate(number, len_bytes);
        self.effect(|| context)
    }

    /// Whether a file can have space up to `end`.
    fn has_space(&mut self, file: &Description, end: u64) -> bool {
        let Some(capacity_bytes) = self.options.capacity_bytes else {
            return true;
        };
        let more = end.saturating_sub(self.node(file).space_bytes);
        more == 0 || self.used_bytes() + more <= capacity_bytes
    }

    /// The space of every file that has a name or is open.
    pub(crate) fn used_bytes(&self) -> u64 {
        let named: BTreeSet<_> = self.names.files().map(|(_, node)| node).collect();
        let used = self.nodes.iter();
        used.filter(|(id, node)| node.open > 0 || named.contains(id))
            .map(|(_, node)| node.space_bytes)
            .sum()
    }

    // Data.

    /// An operation has been submitted; what a sync of now covers. A machine that is down, or goes
    /// down with this, has noted it as in flight if it was so.
    pub(crate) fn submitted(&mut self, file: &Description, action: &Action) -> u64 {
        let kind = action.kind();
        statistics_of(&mut self.statistics, kind).submitted += 1;
        self.statistics.durable_writes += u64::from(action.is_durable());
        if kind == OperationKind::Write && !self.down && file.check(action).is_ok() {
            // If this stops the machine, the write itself is in nobody's queue yet.
            let stopped = self.effect(|| file.context(kind)).is_err();
            if stopped {
                self.flying.extend(flying(file, action));
            }
        }
        self.landed
    }

    /// Carries an action out.
    pub(crate) fn run(
        &mut self,
        file: &Description,
        action: &mut Action,
        landed: u64,
    ) -> Result<usize, IoError> {
        let kind = action.kind();
        let result = self.carry_out(file, action, landed);
        let statistics = statistics_of(&mut self.statistics, kind);
        statistics.completed += 1;
        match result {
            Ok(bytes) => statistics.bytes += bytes as u64,
            Err(_) => statistics.failed += 1,
        }
        result
    }

    fn carry_out(
        &mut self,
        file: &Description,
        action: &mut Action,
        landed: u64,
    ) -> Result<usize, IoError> {
        file.check(action)?;
        let context = action.context(Arc::clone(&file.path));
        self.check_up(|| context.clone())?;
        match action {
            Action::Read { offset, memory } => {
                let fails = self.faults.take(Turn::Read).is_some();
                let node = self.node(file);
                if fails || node.is_unreadable(*offset, memory.len_bytes()) {
                    return Err(os_error(context, libc::EIO));
                }
                Ok(node.seen().read(*offset, memory.bytes_mut()))
            }
            Action::Write {
                offset,
                memory,
                durability,
            } => {
                let durable = *durability == Durability::Durable;
                self.write(file, *offset, memory.bytes(), durable, &context)?;
                self.effect(|| context)?;
                Ok(memory.len_bytes())
            }
            Action::SyncData | Action::SyncAll => {
                match self.faults.take(Turn::Sync) {
                    Some(fault) => {
                        if fault == Fault::FlushFails {
                            self.lose_cache();
                        } else {
                            self.node(file).drop_undurable(landed);
                        }
                        return Err(os_error(context, libc::EIO));
                    }
                    None => self.node(file).sync(landed),
                }
                self.effect(|| context)?;
                Ok(0)
            }
        }
    }

    /// The device's cache is gone, with what no flush has covered.
    fn lose_cache(&mut self) {
        for node in self.nodes.values_mut() {
            node.drop_undurable(self.landed);
        }
    }

    fn write(
        &mut self,
        file: &Description,
        offset: u64,
        bytes: &[u8],
        durable: bool,
        context: &Context,
    ) -> Result<(), IoError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let fault = self.faults.take(Turn::Write);
        let to = match fault {
            Some(Fault::WriteGoesTo { offset }) => offset,
            _ => offset,
        };
        if !self.has_space(file, to + bytes.len() as u64) {
            return Err(os_error(context.clone(), libc::ENOSPC));
        }
        let landed = match fault {
            Some(Fault::WriteIsLost) => 0,
            Some(Fault::WriteFails) if self.dice.chance(1, 2) => 0,
            Some(Fault::WriteIsShort { sectors }) => sectors_end(to, bytes.len(), sectors),
            _ => bytes.len(),
        };
        let fails = matches!(fault, Some(Fault::WriteFails | Fault::WriteIsShort { .. }));
        if landed > 0 {
            let number = self.next_landing();
            self.node(file)
                .write(number, to, &bytes[..landed], durable && !fails);
        }
        if fails {
            let mut context = context.clone();
            if matches!(fault, Some(Fault::WriteIsShort { .. })) {
                context = context.after(landed as u64);
            }
            return Err(os_error(context, libc::EIO));
        }
        Ok(())
    }

    /// Carries out any of the operations in the queue that have not been; whether there was one.
    pub(crate) fn run_ahead(&mut self) -> bool {
        let left = self.queue.iter().enumerate();
        let left = left.filter(|(_, queued)| queued.ended.is_none());
        let left: Vec<_> = left.map(|(index, _)| index).collect();
        if left.is_empty() {
            return false;
        }
        let index = left[self.dice.index(left.len())];
        let mut queued = self.queue.remove(index);
        let Queued {
            operation, landed, ..
        } = &mut queued;
        queued.ended = Some(self.run(operation.file.description(), &mut operation.action, *landed));
        self.queue.insert(index, queued);
        true
    }

    /// Takes an operation out of the queue: the first, or any.
    pub(crate) fn take_queued(&mut self, in_order: bool) -> Option<Queued> {
        if self.queue.is_empty() {
            return None;
        }
        if in_order {
            return Some(self.queue.remove(0));
        }
        let quick = self.queue.iter().filter(|queued| !queued.slow).count();
        if quick == 0 || quick == self.queue.len() {
            return Some(self.queue.remove(self.dice.index(self.queue.len())));
        }
        let number = self.dice.index(quick);
        let mut places = (0..self.queue.len()).filter(|&place| !self.queue[place].slow);
        places.nth(number).map(|place| self.queue.remove(place))
    }

    // Ends and beginnings.

    /// How many writes of processes that were killed are still on their way.
    pub(crate) fn late_writes(&self) -> usize {
        if self.down { 0 } else { self.late.len() }
    }

    /// One of them lands; when the last one of its file has, the lock is free.
    pub(crate) fn land_late(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let index = self.dice.index(self.late.len());
        let write = self.late.swap_remove(index);
        let number = self.next_landing();
        let others = self.late.iter();
        let is_last = !others
            .into_iter()
            .any(|late| late.description == write.description);
        let node = self.nodes.entry(write.node).or_default();
        node.write(number, write.offset, &write.bytes, write.durable);
        if is_last && node.lock == Some(write.description) {
            node.lock = None;
        }
    }

    /// What a power failure may take, in the order in which it is decided.
    pub(crate) fn undurable(&self) -> Vec<Undurable> {
        let names = self.names.undurable().map(|path| Undurable {
            what: Loss::Name,
            path: path.to_owned(),
        });
        let mut list: Vec<_> = names.collect();
        let paths = self.paths();
        for (id, node) in &self.nodes {
            let path = paths.get(id).cloned().unwrap_or_default();
            if node.is_resized() {
                list.push(Undurable {
                    what: Loss::Length,
                    path: path.clone(),
                });
            }
            list.extend(node.undurable().iter().map(|landed| Undurable {
                what: Loss::Written {
                    offset: landed.offset,
                    len_bytes: landed.bytes.len(),
                },
                path: path.clone(),
            }));
        }
        list.extend(self.all_flying().iter().map(undurable_flight));
        list
    }

    /// What the end of the process leaves to chance.
    pub(crate) fn in_flight_list(&self) -> Vec<Undurable> {
        let flying = self.process_flying();
        flying.iter().map(undurable_flight).collect()
    }

    fn process_flying(&self) -> Vec<Flying> {
        if self.down {
            self.flying.clone()
        } else {
            self.in_flight()
        }
    }

    fn all_flying(&self) -> Vec<Flying> {
        let mut flying = self.process_flying();
        flying.extend(self.late.iter().cloned());
        flying
    }

    fn paths(&self) -> BTreeMap<NodeId, PathBuf> {
        self.names
            .files()
            .map(|(path, node)| (node, path))
            .collect()
    }

    /// The machine that starts after a power failure.
    pub(crate) fn after_power_failure(&self, mut decisions: Vec<Survival>) -> Self {
        decisions.reverse();
        let mut decide = || decisions.pop().unwrap_or(Survival::Lost);
        let kept: Vec<bool> = self
            .names
            .undurable()
            .map(|_| !matches!(decide(), Survival::Lost | Survival::Late))
            .collect();
        let names = self.names.after_power_failure(|number| kept[number]);
        let mut nodes = BTreeMap::new();
        for (id, node) in &self.nodes {
            let keeps_len =
                node.is_resized() && !matches!(decide(), Survival::Lost | Survival::Late);
            let mut left = node.after_power_failure(keeps_len);
            for landed in node.undurable() {
                for piece in decide().pieces(landed.offset, landed.bytes.len()) {
                    let at = landed.offset + piece.start as u64;
                    left.restore(at, &landed.bytes[piece]);
                }
            }
            nodes.insert(*id, left);
        }
        for write in self.all_flying() {
            let left = nodes.entry(write.node).or_default();
            for piece in decide().pieces(write.offset, write.bytes.len()) {
                left.restore(write.offset + piece.start as u64, &write.bytes[piece]);
            }
        }
        let named: BTreeSet<_> = names.files().map(|(_, node)| node).collect();
        nodes.retain(|id, _| named.contains(id));
        self.restarted(names, nodes)
    }

    /// The machine as the next process finds it after this one was killed: only what was in flight
    /// is uncertain, and nothing has become durable by it.
    pub(crate) fn after_kill(&self, mut decisions: Vec<Survival>) -> Self {
        decisions.reverse();
        let nodes = self.nodes.iter().map(|(id, node)| (*id, node.after_kill()));
        let mut next = self.restarted(self.names.clone(), nodes.collect());
        next.late.clone_from(&self.late);
        for write in self.process_flying() {
            let decision = decisions.pop().unwrap_or(Survival::Lost);
            if decision == Survival::Late {
                next.late.push(write);
                continue;
            }
            for piece in decision.pieces(write.offset, write.bytes.len()) {
                let number = next.next_landing();
                let at = write.offset + piece.start as u64;
                let node = next.nodes.entry(write.node).or_default();
                node.write(number, at, &write.bytes[piece], false);
            }
        }
        for late in &next.late {
            let held = self.nodes.get(&late.node).and_then(|node| node.lock);
            if held == Some(late.description)
                && let Some(node) = next.nodes.get_mut(&late.node)
            {
                node.lock = held;
            }
        }
        next
    }

    fn restarted(&self, names: Names, nodes: BTreeMap<NodeId, Node>) -> Self {
        Self {
            options: self.options,
            dice: self.dice.clone(),
            names,
            nodes,
            next_node: self.next_node,
            next_description: self.next_description,
            landed: self.landed,
            faults: Faults::default(),
            effects: 0,
            stop_after: None,
            down: false,
            queue: Vec::new(),
            flying: Vec::new(),
            late: Vec::new(),
            statistics: Statistics::default(),
        }
    }

    // Damage, and looking at the disk from outside.

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

/// The length of the first `count` sectors of a write.
fn sectors_end(offset: u64, len: usize, count: usize) -> usize {
    let sectors = crate::node::sectors(offset, len).take(count);
    sectors.last().map_or(0, |sector| sector.end)
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

fn undurable_flight(write: &Flying) -> Undurable {
    Undurable {
        what: Loss::InFlight {
            offset: write.offset,
            len_bytes: write.bytes.len(),
        },
        path: write.path.to_path_buf(),
    }
}
