//! The work that nobody waits for.
//!
//! - Commits by time, if the options ask for them.
//! - Space: holes in the log's segments are filled with zeroes, and the next segment is made, before the
//!   log gets there, a little at a time, once something has been appended: a store that was opened to be
//!   read leaves the device to those who read.
//! - Checkpoint: recovery starts no further back than about a segment behind the durable end.
//! - Stability: when the store falls idle, one more slot says that what was written before it is
//!   durable, so that damage to the last commits can be told from a torn tail.
//!
//! All of it is one function, [`Core::maintain`], which a thread of the store's own calls at a
//! steady beat while there is activity, and which a caller may call instead.

use std::sync::Arc;
use std::time::Duration;

use esker_io::Backend;
use esker_ring::TryReserve;

use crate::Lsn;
use crate::core::Core;
use crate::dispatch::By;
use crate::error::SpaceError;
use crate::format::record;
use crate::segments::{Goal, Pace, Spare};
use crate::sync::{
    AtomicBool, AtomicU64, Instant, JoinHandle, Mutex, Ordering, Parker, Unparker, fence, spawn,
};
use crate::write_error::MaintainError;

/// The beat while there is activity and no idle time is configured.
const DEFAULT_BEAT: Duration = Duration::from_millis(10);

/// The beat is never shorter, whatever is asked for.
const SHORTEST_BEAT: Duration = Duration::from_millis(1);

/// What the maintenance thread and those who give it work share.
#[derive(Default)]
pub(crate) struct Maintainer {
    /// Buffers handed over in this life. Raised by whoever hands one over; a change since the last
    /// look is what counts as activity.
    handed_over: AtomicU64,
    /// The thread has nothing to do and sleeps until there is activity. Set by the thread, taken
    /// back by whoever wakes it.
    parked: AtomicBool,
    stop: AtomicBool,
    thread: Mutex<Option<(Unparker, JoinHandle<()>)>>,
    progress: Mutex<Progress>,
}

/// What `maintain` remembers from one call to the next.
#[derive(Default)]
struct Progress {
    /// `handed_over` at the last call.
    seen: u64,
    /// The tail at the last call.
    tail: Option<u64>,
    /// The tail when the spare that is being made was begun.
    spare_from: u64,
    /// The durable prefix ended here when the last stability slot was durable.
    stable_seq: u64,
    /// When the last commit by time began.
    committed: Option<Instant>,
}

/// What is left to do after a call of `maintain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing before the next activity.
    Nothing,
    /// Another look after the idle time.
    Later,
}

impl Maintainer {
    /// A buffer was handed over. Costs an addition, a fence and a load while the thread is awake.
    pub(crate) fn activity(&self) {
        // Relaxed: ordered by the fence.
        self.handed_over.fetch_add(1, Ordering::Relaxed);
        // SeqCst fence: pairs with the one in `run`. Either the thread sees the activity before it
        // parks, or it is seen parked here.
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    fn wake(&self) {
        // Relaxed: only one of those who see it parked need wake it.
        if self.parked.swap(false, Ordering::Relaxed)
            && let Some((unparker, _)) = &*self.thread.lock()
        {
            unparker.unpark();
        }
    }

    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system has no thread to give.
    pub(crate) fn start<B: Backend>(core: &Arc<Core<B>>) -> std::io::Result<()> {
        let parker = Parker::new();
        let unparker = parker.unparker().clone();
        let shared = Arc::clone(core);
        let handle = spawn("esker-maintain", move || shared.run_maintenance(&parker))?;
        *core.maintenance.thread.lock() = Some((unparker, handle));
        Ok(())
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&self) {
        // Release: pairs with the acquire in `run_maintenance`.
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.lock().take();
        if let Some((unparker, handle)) = thread {
            unparker.unpark();
            // A panic of the thread has been reported by the panic hook and ends only it.
            let _panicked = handle.join();
        }
    }
}

impl<B: Backend> Core<B> {
    fn run_maintenance(self: &Arc<Self>, parker: &Parker) {
        let maintainer = &self.maintenance;
        let beat = self.options.idle.unwrap_or(DEFAULT_BEAT);
        // An append into an open buffer wakes nobody: whoever commits by time has to look.
        let (beat, always) = match self.options.commit_every {
            Some(every) => (beat.min(every).max(SHORTEST_BEAT), true),
            None => (beat, false),
        };
        // Acquire: pairs with the release in `stop`.
        while !maintainer.stop.load(Ordering::Acquire) {
            let before = maintainer.handed_over.load(Ordering::Relaxed);
            // A failure shows in every append and commit; here there is nobody to tell.
            let left = self.look_after(before > 0).unwrap_or(Left::Later);
            if (left == Left::Later || always) && self.poison.get().is_none() {
                parker.park_timeout(beat);
                continue;
            }
            // Relaxed: ordered by the fence.
            maintainer.parked.store(true, Ordering::Relaxed);
            // SeqCst fence: pairs with the one in `activity`.
            fence(Ordering::SeqCst);
            let after = maintainer.handed_over.load(Ordering::Relaxed);
            if after == before && !maintainer.stop.load(Ordering::Acquire) {
                parker.park();
            }
            maintainer.parked.store(false, Ordering::Relaxed);
        }
        self.discard_making();
    }

    /// Gives up the spare that is being made, before the store is closed.
    pub(crate) fn discard_making(&self) {
        // Opening the store removes what is left.
        let _left_over = self.segments.discard_making();
    }

    /// Does what there is to do. A buffer that was handed over since the last call counts as
    /// activity; without any the store is idle.
    pub(crate) fn maintain(self: &Arc<Self>) -> Result<Left, MaintainError> {
        self.look_after(true)
    }

    /// The same; writes zeroes and makes spare segments only if `spares` says so.
    fn look_after(self: &Arc<Self>, spares: bool) -> Result<Left, MaintainError> {
        self.check_alive()?;
        let mut progress = self.maintenance.progress.lock();
        self.commit_by_time(&mut progress);
        self.move_checkpoint()?;
        self.prepare_space()?;
        let tail = self.ring.tail();
        let written_since = tail - progress.tail.replace(tail).unwrap_or(tail);
        // Where the log writes this fast, it is left the device.
        let is_calm = written_since <= self.geometry.segment_bytes() / 16;
        let more_to_make = spares
            && is_calm
            && (self.zero_ahead(written_since, &mut progress)?
                || self.prepare_spare(written_since, &mut progress)?);
        // Relaxed: a beat more or less makes no difference.
        let handed_over = self.maintenance.handed_over.load(Ordering::Relaxed);
        let active = handed_over != progress.seen;
        progress.seen = handed_over;
        if active || more_to_make {
            return Ok(Left::Later);
        }
        if self.options.idle.is_some() {
            self.leave_stability_slot(&mut progress);
            progress.seen = self.maintenance.handed_over.load(Ordering::Relaxed);
        }
        Ok(Left::Nothing)
    }

    /// Commits everything that has been appended, if it is time.
    fn commit_by_time(self: &Arc<Self>, progress: &mut Progress) {
        let Some(every) = self.options.commit_every else {
            return;
        };
        if progress.committed.is_none_or(|at| at.elapsed() >= every) {
            progress.committed = Some(Instant::now());
            // A failure poisons the store, which every append and commit says.
            let _poisoned = self.wait_durable_to(self.end_of_appended());
        }
    }

    /// Records where recovery may start, once the durable end has entered another segment.
    fn move_checkpoint(self: &Arc<Self>) -> Result<(), MaintainError> {
        let position = self.durable_position();
        let segment_bytes = self.geometry.segment_bytes();
        let mut superblock = self.superblock.lock();
        let checkpoint = superblock.current().checkpoint;
        if position.lsn.get() / segment_bytes > checkpoint.lsn.get() / segment_bytes {
            let updated =
                self.update_superblock(&mut superblock, |next| next.checkpoint = position);
            drop(superblock);
            updated.map_err(MaintainError::Superblock)?;
            // Everything below is durable, so nothing is written or synced there any more.
            let below = if canary!("lss-checkpoint-closes-the-written") {
                self.written.lsn()
            } else {
                position.lsn.get()
            };
            self.segments.close_below(Lsn::new(below));
        }
        Ok(())
    }

    /// Makes the space that the first appends to a new log need. One that is opened again has what is
    /// left of its last segment: opening takes no longer for what may not be needed. A full disk is no
    /// reason not to open.
    pub(crate) fn prepare_start(self: &Arc<Self>) -> Result<(), SpaceError> {
        let tail = self.ring.tail();
        let fits = self.ensure_space(tail)?;
        if tail > 0 {
            self.ring.raise_limit(fits.get());
            return Ok(());
        }
        if self.segments.spares() == 0 {
            // Written with zeroes, so that the first commits are as fast as the later ones.
            match self.make_spare() {
                Ok(()) | Err(SpaceError::NoSpace(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.prepare_space()
    }

    /// Makes a spare at once.
    fn make_spare(self: &Arc<Self>) -> Result<(), SpaceError> {
        self.segments.begin_spare()?;
        while self.segments.continue_spare(Goal::Finished, self)? == Spare::Behind {}
        Ok(())
    }

    /// How far past the tail there should always be space: what the ring can hold, or half a
    /// segment, whichever is more.
    fn room_ahead(&self) -> u64 {
        let ring_bytes = (self.options.buffers * self.options.buffer_bytes) as u64;
        ring_bytes.max(self.geometry.segment_bytes() / 2)
    }

    /// Makes the next segment while the log is still in the one before it.
    fn prepare_space(self: &Arc<Self>) -> Result<(), SpaceError> {
        let wanted = self.ring.tail().saturating_add(self.room_ahead());
        match self.ensure_space(wanted) {
            Ok(limit) => {
                self.ring.raise_limit(limit.get());
                Ok(())
            }
            // Whoever needs the space is told; until then there may be some again.
            Err(SpaceError::NoSpace(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes zeroes where the log will soon be and its files have only been reserved: twice as fast as
    /// it goes on, from where it will be at the next beat; to the end while it stands still. Whether
    /// there may be more to do at the next beat.
    fn zero_ahead(
        self: &Arc<Self>,
        written_since: u64,
        progress: &mut Progress,
    ) -> Result<bool, SpaceError> {
        let tail = self.ring.tail();
        let (pace, mut left) = match written_since {
            0 => (Pace::Swift, u64::MAX),
            _ => (Pace::Gentle, written_since.saturating_mul(2)),
        };
        while left > 0 {
            match self.segments.zero_ahead(written_since, pace)? {
                // The log was faster.
                Some(0) => break,
                Some(bytes) => left = left.saturating_sub(bytes),
                None => return Ok(false),
            }
            if self.is_disturbed(pace, tail, progress) {
                break;
            }
        }
        Ok(true)
    }

    /// Makes spare segments, written with zeroes, as fast as the log goes on, or at once while it
    /// stands still. Whether there is more to do at the next beat.
    fn prepare_spare(
        self: &Arc<Self>,
        written_since: u64,
        progress: &mut Progress,
    ) -> Result<bool, SpaceError> {
        let segment_bytes = self.geometry.segment_bytes();
        let missing = self.missing_spares();
        if missing == 0 {
            // A trimmed segment has taken its place.
            self.discard_making();
            return Ok(false);
        }
        let tail = self.ring.tail();
        if !self.segments.is_making_spare() {
            match self.segments.begin_spare() {
                Ok(()) => progress.spare_from = tail,
                Err(SpaceError::NoSpace(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let goal = match written_since {
            0 => Goal::Finished,
            // There may be an idle moment in the first quarter of a segment; it is done, with all
            // others that are missing, when the log has gone on by three quarters.
            _ => {
                let since = (tail - progress.spare_from).saturating_sub(segment_bytes / 4);
                Goal::Bytes(since.saturating_mul(2 * missing))
            }
        };
        loop {
            match self.segments.continue_spare(goal, self) {
                Ok(Spare::Made | Spare::AsFarAsAsked) => return Ok(true),
                Ok(Spare::None) | Err(SpaceError::NoSpace(_)) => return Ok(false),
                Ok(Spare::Behind) => {}
                Err(error) => return Err(error),
            }
            if self.is_disturbed(goal.pace(), tail, progress) {
                return Ok(true);
            }
        }
    }

    /// Whether writing zeroes at this pace ends for now: the log goes on, or the store is closed.
    fn is_disturbed(self: &Arc<Self>, pace: Pace, tail: u64, progress: &mut Progress) -> bool {
        // It may take longer than the time between two commits.
        self.commit_by_time(progress);
        let goes_on = pace == Pace::Swift && self.ring.tail() != tail;
        // Acquire: pairs with the release in `Maintainer::stop`.
        goes_on || self.maintenance.stop.load(Ordering::Acquire)
    }

    /// How many spares are to be made.
    fn missing_spares(&self) -> u64 {
        let missing = self.options.spare_segments;
        missing.saturating_sub(self.segments.spares()) as u64
    }

    /// If everything that was sealed is durable, and no slot on disk says so yet: writes one that
    /// does, with a void record in it and whatever else the open buffer holds.
    fn leave_stability_slot(self: &Arc<Self>, progress: &mut Progress) {
        let durable = self.durable.next();
        let (open_seq, open_base) = self.ring.current();
        let all_durable = open_seq.get() == durable && self.durable.lsn() == open_base;
        let said = durable == self.start.seq || durable == progress.stable_seq;
        if !all_durable || said {
            return;
        }
        let reservation = match self.ring.try_reserve(record::HEADER_BYTES) {
            Ok(TryReserve::Reserved(reservation)) => reservation,
            // It was filled to its last byte, and has now been sealed by this thread.
            Ok(TryReserve::Sealed(sealed)) => return self.hand_over(sealed, By::Passing),
            // Somebody is appending, or there is no space: either way another slot comes first.
            Ok(TryReserve::Full(_) | TryReserve::Limit { .. }) | Err(_) => return,
        };
        let address = reservation.address();
        if let Some(sealed) = reservation.cancel() {
            self.hand_over(sealed, By::Committer);
        }
        if self.wait_durable_to(address + 1).is_ok() {
            progress.stable_seq = self.durable.next();
            // Relaxed: a counter.
            self.counters
                .stability_slots
                .fetch_add(1, Ordering::Relaxed);
        }
    }
}
