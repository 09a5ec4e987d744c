//! Actions on files: how they are carried out, when, and in which order they end.

use esker_io::{
    Action, Context, Durability, IoError, KindStatistics, Operation, OperationKind, Statistics,
};

use super::{Done, Machine, Queued, flying, os_error};
use crate::fault::{Fault, Turn};
use crate::file::{Description, SimFile};
use crate::sync::Arc;

impl Machine {
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

    /// The same of an operation on a name.
    pub(crate) fn submitted_name(&mut self, kind: OperationKind) -> u64 {
        statistics_of(&mut self.statistics, kind).submitted += 1;
        self.names.changes()
    }

    /// Carries an operation out that was submitted when so much had landed, or so many names had changed.
    pub(crate) fn carry(
        &mut self,
        operation: &mut Operation<SimFile>,
        before: u64,
    ) -> Result<Done, IoError> {
        match operation {
            Operation::OnFile { file, action, .. } => {
                let bytes = self.run(file.description(), action, before);
                bytes.map(Done::Bytes)
            }
            Operation::Open { path, options, .. } => self.open(path, options).map(Done::Opened),
            Operation::SyncDir { dir, .. } => self.sync_dir(dir, before).map(|()| Done::Bytes(0)),
        }
    }

    /// Counts the end of an operation on a name.
    pub(super) fn counted<T>(
        &mut self,
        kind: OperationKind,
        result: Result<T, IoError>,
    ) -> Result<T, IoError> {
        let statistics = statistics_of(&mut self.statistics, kind);
        statistics.completed += 1;
        statistics.failed += u64::from(result.is_err());
        result
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
            Ok(bytes) if action.len_bytes() > 0 => statistics.bytes += bytes as u64,
            Ok(_) => {}
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
            Action::Allocate {
                offset,
                len_bytes,
                how,
            } => self.allocate(file, (*offset, *len_bytes), *how, &context),
            Action::Truncate { len_bytes } => self.truncate(file, *len_bytes, &context),
            Action::PunchHole { offset, len_bytes } => {
                self.punch_hole(file, (*offset, *len_bytes), &context)
            }
        }
    }

    /// The device's cache is gone, with what no flush has covered.
    pub(super) fn lose_cache(&mut self) {
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
        let before = queued.before;
        queued.ended = Some(self.carry(&mut queued.operation, before));
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
}

fn statistics_of(statistics: &mut Statistics, kind: OperationKind) -> &mut KindStatistics {
    match kind {
        OperationKind::Read => &mut statistics.reads,
        OperationKind::Write => &mut statistics.writes,
        OperationKind::Allocate => &mut statistics.allocations,
        OperationKind::Truncate => &mut statistics.truncations,
        OperationKind::Punch => &mut statistics.holes,
        OperationKind::Open => &mut statistics.opens,
        OperationKind::SyncDir => &mut statistics.dir_syncs,
        _ => &mut statistics.syncs,
    }
}

/// The length of the first `count` sectors of a write.
fn sectors_end(offset: u64, len: usize, count: usize) -> usize {
    let sectors = crate::node::sectors(offset, len).take(count);
    sectors.last().map_or(0, |sector| sector.end)
}
