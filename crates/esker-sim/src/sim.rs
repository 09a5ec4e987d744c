//! [`Sim`]: a machine with a disk, as a backend.

use core::fmt;
use core::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use esker_io::{Backend, Context, Ended, IoError, Operation, OperationKind};

use crate::fault::Fault;
use crate::file::SimFile;
use crate::machine::{Done, Machine, Queued, os_error};
use crate::names::NodeId;
use crate::options::{Completions, SimOptions};
use crate::survival::{Loss, Survival, Undurable};
use crate::sync::{Arc, Condvar, Mutex, Weak, panicking};

/// One life of a simulated machine: from its start to the end of its power, or of the process that
/// uses it. Clones are the same machine.
///
/// See the [crate's documentation](crate) for what it does.
#[derive(Clone)]
pub struct Sim {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    /// Told whenever some condition may have come to hold or there is something to complete.
    pub(crate) changed: Condvar,
    pub(crate) options: SimOptions,
}

pub(crate) struct State {
    pub(crate) machine: Machine,
    /// Operations submitted whose sinks have not returned.
    pub(crate) in_flight: usize,
    /// Moves on whenever some condition may have come to hold, or there is something to complete.
    pub(crate) epoch: u64,
}

impl Sim {
    /// An empty disk of a seed, with the default options.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with(SimOptions::new(seed))
    }

    /// An empty disk.
    #[must_use]
    pub fn with(options: SimOptions) -> Self {
        Self::of(Machine::new(options))
    }

    fn of(machine: Machine) -> Self {
        Self {
            shared: Arc::new(Shared {
                options: machine.options,
                state: Mutex::new(State {
                    machine,
                    in_flight: 0,
                    epoch: 0,
                }),
                changed: Condvar::new(),
            }),
        }
    }

    /// Draws from another seed from here on.
    pub fn reseed(&self, seed: u64) {
        self.machine(|machine| machine.dice = crate::Dice::new(seed));
    }

    pub(crate) fn machine<T>(&self, f: impl FnOnce(&mut Machine) -> T) -> T {
        f(&mut self.shared.state.lock().machine)
    }

    /// How many effects there have been in this life: writes submitted, writes carried out, syncs,
    /// and changes of names, lengths and space. A crash can come after each.
    #[must_use]
    pub fn effects(&self) -> u64 {
        self.machine(|machine| machine.effects)
    }

    /// Stops the machine right after effect number `effect` of this life, counted from 1. Nothing
    /// lands from then on, and everything fails because of [`MachineDown`](crate::MachineDown).
    pub fn crash_after(&self, effect: u64) {
        self.machine(|machine| machine.stop_after = Some(effect));
    }

    /// Stops the machine now.
    pub fn stop(&self) {
        self.machine(Machine::stop);
        self.wake();
    }

    /// Whether the machine has stopped.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.machine(|machine| machine.is_down())
    }

    /// What a power failure may take, now or when the machine stopped: in the order in which
    /// [`crash`](Self::crash) asks for it.
    #[must_use]
    pub fn undurable(&self) -> Vec<Undurable> {
        self.machine(|machine| machine.undurable())
    }

    /// The power fails: this machine stops, and another starts with the disk as it is then.
    ///
    /// `choose` says what becomes of each thing that was not durable. What comes later of the same
    /// file lies on top of what came earlier. The new machine has no faults, locks or open files; a
    /// handle from before is good for nothing. One machine can be crashed many times, in different
    /// ways.
    #[must_use]
    pub fn crash(&self, choose: &mut dyn FnMut(&Undurable) -> Survival) -> Self {
        self.stop();
        let decisions = self.undurable().iter().map(choose).collect();
        Self::of(self.machine(|machine| machine.after_power_failure(decisions)))
    }

    /// The process is killed: this life ends, and another finds the disk, caches included, as it
    /// is then. Nothing has become durable by that.
    ///
    /// `choose` says what becomes of each write that was in flight.
    #[must_use]
    pub fn kill(&self, choose: &mut dyn FnMut(&Undurable) -> Survival) -> Self {
        self.stop();
        let list = self.machine(|machine| machine.in_flight_list());
        let decisions = list.iter().map(choose).collect();
        Self::of(self.machine(|machine| machine.after_kill(decisions)))
    }

    /// Another machine with the disk that a power failure would leave now if it took nothing that has
    /// completed, and nothing of what is in flight. This one goes on.
    #[must_use]
    pub fn fork(&self) -> Self {
        let keep = |item: &Undurable| match item.what {
            Loss::InFlight { .. } => Survival::Lost,
            Loss::Written { .. } | Loss::Length | Loss::Name => Survival::Kept,
        };
        let decisions = self.undurable().iter().map(keep).collect();
        Self::of(self.machine(|machine| machine.after_power_failure(decisions)))
    }

    /// How many writes of killed processes are still on their way.
    #[must_use]
    pub fn late_writes(&self) -> usize {
        self.machine(|machine| machine.late_writes())
    }

    /// After `skipped` more operations of its kind, the next one has this fault.
    pub fn inject(&self, fault: Fault, skipped: u64) {
        self.machine(|machine| machine.faults.add(fault, skipped));
    }

    /// How many faults were injected and have not come yet.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        self.machine(|machine| machine.faults.left())
    }

    /// Carries out one of the operations in flight and keeps the news for later: its sink is told when
    /// it would have been carried out. Whether there was one.
    ///
    /// So operations end in another order than those who wait for them hear of it.
    pub fn run_ahead(&self) -> bool {
        self.machine(Machine::run_ahead)
    }

    /// Turns a bit (0 to 7) of the byte at `offset`, wherever it is kept; whether there is such a
    /// file.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u32) -> bool {
        self.damage(path, |node| node.flip(offset, bit))
    }

    /// Puts bytes into a file behind everybody's back, durable; whether there is such a file.
    pub fn overwrite(&self, path: &Path, offset: u64, bytes: &[u8]) -> bool {
        self.damage(path, |node| node.overwrite(offset, bytes))
    }

    /// Makes reads of a range fail with EIO until it is written again; whether there is such a
    /// file.
    pub fn make_unreadable(&self, path: &Path, range: Range<u64>) -> bool {
        self.damage(path, |node| node.make_unreadable(range))
    }

    fn damage(&self, path: &Path, how: impl FnOnce(&mut crate::node::Node)) -> bool {
        self.machine(|machine| machine.named(path).map(how).is_some())
    }

    /// The files that there are, in order.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.machine(|machine| machine.file_paths())
    }

    /// What a read of a whole file would give; `None` if there is no such file.
    #[must_use]
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        self.machine(|machine| {
            let seen = machine.named(path)?.seen();
            let mut bytes = vec![0; usize::try_from(seen.len()).ok()?];
            seen.read(0, &mut bytes);
            Some(bytes)
        })
    }

    /// Changes how much space there is for files, in bytes; `None` for no bound.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.machine(|machine| machine.options.capacity_bytes = bytes);
    }

    /// How much space the files take, in bytes.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.machine(|machine| machine.used_bytes())
    }

    /// Refuses a handle of another life.
    pub(crate) fn check_life(&self, file: &SimFile, kind: OperationKind) -> Result<(), IoError> {
        let description = file.description();
        if description.life.as_ptr() == Arc::as_ptr(&self.shared) {
            Ok(())
        } else {
            Err(os_error(description.context(kind), libc::EBADF))
        }
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("options", &self.shared.options)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// A description of this life has ended.
    pub(crate) fn closed(&self, node: NodeId, description: u64) {
        self.state.lock().machine.close(node, description);
    }

    /// Carries out one operation of those submitted and tells its sink; whether there was one. A file
    /// that it opens is good for as long as `this` is.
    pub(crate) fn complete_one(&self, this: Option<&Arc<Self>>) -> bool {
        let (operation, result) = {
            let machine = &mut self.state.lock().machine;
            let in_order = self.options.completions == Completions::Immediate;
            let Some(queued) = machine.take_queued(in_order) else {
                return false;
            };
            let Queued {
                mut operation,
                before,
                ended,
                ..
            } = queued;
            let result = ended.unwrap_or_else(|| machine.carry(&mut operation, before));
            (operation, result)
        };
        let ended = match operation {
            Operation::OnFile { file, action, sink } => {
                drop(file);
                Ended::on_file(sink, action.complete(result.map(Done::bytes)))
            }
            Operation::Open {
                path,
                options,
                sink,
            } => {
                let context = Context::new(OperationKind::Open, Arc::clone(&path));
                let life = this.map_or_else(Weak::new, Arc::downgrade);
                let file = result.and_then(|done| match done {
                    Done::Opened(opened) => Ok(opened.into_file(life, path, &options)),
                    Done::Bytes(_) => Err(os_error(context, libc::EBADF)),
                });
                Ended::open(sink, file)
            }
            Operation::SyncDir { sink, .. } => Ended::sync_dir(sink, result.map(drop)),
        };
        let called = catch_unwind(AssertUnwindSafe(|| ended.tell()));
        {
            let mut state = self.state.lock();
            state.in_flight -= 1;
            state.epoch += 1;
        }
        self.changed.notify_all();
        if let Err(payload) = called {
            resume_unwind(payload);
        }
        true
    }
}

/// The last handle of a machine has gone: what is in flight completes.
impl Drop for Shared {
    fn drop(&mut self) {
        let mut panic = None;
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.complete_one(None))) {
                Ok(true) => {}
                Ok(false) => break,
                Err(payload) => {
                    panic.get_or_insert(payload);
                }
            }
        }
        if let Some(payload) = panic
            && !panicking()
        {
            resume_unwind(payload);
        }
    }
}
