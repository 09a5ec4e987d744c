//! What a machine is asked for about names and files.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use esker_buf::Alignment;
use esker_io::{
    Allocated, Allocation, Context, Create, Direct, FileOptions, IoError, OperationKind,
};

use super::{Machine, os_error};
use crate::fault::{Fault, Turn};
use crate::file::{Description, Opened};
use crate::names::{Found, NodeId};
use crate::node::Node;

impl Machine {
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

    /// Opens a file that nobody has submitted the opening of.
    pub(crate) fn open_now(
        &mut self,
        path: &Path,
        options: &FileOptions,
    ) -> Result<Opened, IoError> {
        self.submitted_name(OperationKind::Open);
        self.open(path, options)
    }

    pub(super) fn open(&mut self, path: &Path, options: &FileOptions) -> Result<Opened, IoError> {
        let opened = self.find_or_create(path, options.create);
        let alignment = match options.direct {
            Direct::Try => self.options.alignment,
            Direct::Never => Alignment::ONE,
        };
        let opened = opened.map(|(node, id)| Opened {
            node,
            id,
            alignment,
        });
        self.counted(OperationKind::Open, opened)
    }

    /// Finds or creates a file and gives it a description's number.
    fn find_or_create(&mut self, path: &Path, create: Create) -> Result<(NodeId, u64), IoError> {
        let context = || Context::new(OperationKind::Open, path);
        self.check_up(context)?;
        if self.faults.take(Turn::Open).is_some() {
            return Err(os_error(context(), libc::EIO));
        }
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
            // What has ended closes nothing itself: a lock goes with the last write in flight.
            if node.lock == Some(description) && !self.down {
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

    /// Makes names durable as they are.
    pub(crate) fn sync_dir_now(&mut self, dir: &Path) -> Result<(), IoError> {
        let before = self.submitted_name(OperationKind::SyncDir);
        self.sync_dir(dir, before)
    }

    /// Makes names durable as they were when so many changes had been made.
    pub(super) fn sync_dir(&mut self, dir: &Path, before: u64) -> Result<(), IoError> {
        let result = self.try_sync_dir(dir, before);
        self.counted(OperationKind::SyncDir, result)
    }

    fn try_sync_dir(&mut self, dir: &Path, before: u64) -> Result<(), IoError> {
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
        self.names.sync(dir, before);
        self.effect(context)
    }

    pub(crate) fn len(&mut self, file: &Description) -> Result<u64, IoError> {
        self.check_up(|| file.context(OperationKind::Facts))?;
        Ok(self.node(file).len())
    }

    pub(crate) fn first_hole(
        &mut self,
        file: &Description,
        offset: u64,
    ) -> Result<Option<Range<u64>>, IoError> {
        self.check_up(|| file.context(OperationKind::Facts).at(offset, 0))?;
        match self.options.allocated {
            Allocated::WrittenZeroes => Ok(None),
            Allocated::Reserved => Ok(self.node(file).seen().first_hole(offset)),
        }
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

    /// Takes space; how many bytes of the range are written zeroes.
    pub(super) fn allocate(
        &mut self,
        file: &Description,
        (offset, len_bytes): (u64, u64),
        how: Allocation,
        context: &Context,
    ) -> Result<usize, IoError> {
        if len_bytes == 0 {
            return Ok(0);
        }
        let is_full = self.faults.take(Turn::Allocate).is_some();
        if is_full || !self.has_space(file, offset + len_bytes) {
            return Err(os_error(context.clone(), libc::ENOSPC));
        }
        let number = self.next_landing();
        self.node(file).allocate(number, offset, len_bytes);
        self.effect(|| context.clone())?;
        let is_written = match how {
            Allocation::Quick => self.options.allocated == Allocated::WrittenZeroes,
            Allocation::Written => true,
            Allocation::Reserved => false,
        };
        Ok(if is_written { whole(len_bytes) } else { 0 })
    }

    pub(super) fn truncate(
        &mut self,
        file: &Description,
        len_bytes: u64,
        context: &Context,
    ) -> Result<usize, IoError> {
        let number = self.next_landing();
        self.node(file).truncate(number, len_bytes);
        self.effect(|| context.clone())?;
        Ok(0)
    }

    /// Writes zeroes over a range, as far as the file has it; how many that were.
    pub(super) fn punch_hole(
        &mut self,
        file: &Description,
        (offset, len_bytes): (u64, u64),
        context: &Context,
    ) -> Result<usize, IoError> {
        let held_bytes = self.node(file).len().saturating_sub(offset).min(len_bytes);
        if held_bytes == 0 {
            return Ok(0);
        }
        let number = self.next_landing();
        let zeroes = vec![0; whole(held_bytes)];
        self.node(file).write(number, offset, &zeroes, false);
        self.effect(|| context.clone())?;
        Ok(zeroes.len())
    }

    /// Whether a file can have space up to `end`.
    pub(super) fn has_space(&mut self, file: &Description, end: u64) -> bool {
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
}

/// The length of a range that a file in memory has.
fn whole(len_bytes: u64) -> usize {
    usize::try_from(len_bytes).unwrap_or(usize::MAX)
}
