//! How operations get to the kernel: pushed under the `submission` mutex, entered at once (U1).

use std::io;
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, opcode, squeue};

use super::completion::Finished;
use super::entry::entry;
use super::regions::Region;
use super::table::{InFlight, Token, Vectors};
use super::{Accepted, Ring, State};
use crate::action::Action;
use crate::error::IoError;
use crate::file::FileHandle;
use crate::operation::Operation;
use crate::sync::{Arc, Relaxed, Release, SeqCst, fence, sleep, yield_now};

/// How often in a row the kernel may put a submission off before the ring is given up.
const MAX_POSTPONED: u32 = 2000;

/// What has been pushed and not handed in.
#[derive(Default)]
struct Sent {
    plain: Vec<Token>,
    /// What goes to the ring that is polled.
    polled: Vec<Token>,
}

impl Ring {
    /// Sends everything that the table has room for to the kernel. What could not be sent for
    /// good is added to `finished`.
    pub(super) fn flush(&self, finished: &mut Vec<Finished>) {
        let _submission = self.submission.lock();
        loop {
            let mut sent = Sent::default();
            let more = self.fill(&mut sent);
            // Relaxed: written under `submission`, which is held.
            if !self.broken.load(Relaxed) {
                if let Err((error, unsent)) = self.hand_in(sent) {
                    // Release: a leader that sees it also sees an unsent operation given back.
                    self.broken.store(true, Release);
                    self.give_back(&unsent, &error, finished);
                }
            } else {
                let error = io::Error::from_raw_os_error(libc::ENXIO);
                self.give_back(&[], &error, finished);
            }
            if !more {
                return;
            }
            // Relaxed: as above.
            if self.is_polled() && !self.broken.load(Relaxed) {
                self.wait_for_room();
            }
        }
    }

    /// Pushes entries until the queue or the table is full; whether there is more to push.
    fn fill(&self, sent: &mut Sent) -> bool {
        let mut state = self.state.lock();
        if state.again.is_empty() && state.backlog.is_empty() {
            return false;
        }
        // Relaxed: as in `flush`.
        if self.broken.load(Relaxed) {
            return false;
        }
        // SAFETY: U1: no other `SubmissionQueue` exists while `submission` is held.
        let mut queue = unsafe { self.uring.submission_shared() };
        let polled = self.polled.as_ref();
        // SAFETY: U1, and Q2 for this one.
        let mut polled_queue = polled.map(|polled| unsafe { polled.uring.submission_shared() });
        while !queue.is_full() {
            let token = match state.again.pop_front() {
                Some(token) => token,
                None if state.table.is_full() => return false,
                None => {
                    let Some(operation) = state.backlog.pop_front() else {
                        return false;
                    };
                    // The memory was registered with the other ring.
                    let region = match self.polled_for(&operation.operation) {
                        Some(_) => None,
                        None => region_of(&state.regions, &operation.operation),
                    };
                    let tenant = InFlight {
                        operation,
                        vectors: Vectors::default(),
                        region,
                    };
                    match state.table.insert(tenant) {
                        Ok(token) => token,
                        Err(tenant) => {
                            state.backlog.push_front(tenant.operation);
                            return false;
                        }
                    }
                }
            };
            let Some(tenant) = state.table.get_mut(token) else {
                continue;
            };
            let operation = &tenant.operation.operation;
            let (queue, sent) = match (self.polled_for(operation), &mut polled_queue) {
                (Some(_), Some(queue)) => (queue, &mut sent.polled),
                _ => (&mut queue, &mut sent.plain),
            };
            let entry = entry(self, tenant).user_data(token.user_data());
            // SAFETY: the memory and the file that the entry names belong to the table until its
            // completion has been taken (U4).
            if unsafe { queue.push(&entry) }.is_err() {
                state.again.push_front(token);
                return true;
            }
            sent.push(token);
        }
        !state.again.is_empty() || (!state.backlog.is_empty() && !state.table.is_full())
    }

    /// Hands the pushed entries to the kernel; the error that stopped it for good, and those that it
    /// had not taken by then.
    fn hand_in(&self, sent: Sent) -> Result<(), (io::Error, Vec<Token>)> {
        let Sent {
            mut plain,
            mut polled,
        } = sent;
        if !plain.is_empty()
            && let Err((error, left)) = self.enter(plain.len())
        {
            let unsent = plain.split_off(plain.len() - left);
            return Err((error, unsent.into_iter().chain(polled).collect()));
        }
        if let Some(ring) = &self.polled
            && !polled.is_empty()
        {
            ring.begin(polled.len());
            if let Err((error, left)) = self.enter_into(&ring.uring, polled.len()) {
                ring.end(left);
                return Err((error, polled.split_off(polled.len() - left)));
            }
        }
        Ok(())
    }

    /// Hands `count` entries to the kernel; the error that stopped it for good, and how many it had
    /// not taken by then.
    pub(super) fn enter(&self, count: usize) -> Result<(), (io::Error, usize)> {
        if self.is_polled() {
            return self.wake_poller();
        }
        self.enter_into(&self.uring, count)
    }

    fn enter_into(&self, uring: &IoUring, count: usize) -> Result<(), (io::Error, usize)> {
        let mut left = count;
        let mut postponed = 0;
        while left > 0 {
            self.calls.counters.system_call();
            match uring.submitter().submit() {
                Ok(0) => postponed += 1,
                Ok(taken) => {
                    left = left.saturating_sub(taken);
                    postponed = 0;
                    continue;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) if postponed < MAX_POSTPONED => {
                        postponed += 1;
                    }
                    _ => return Err((error, left)),
                },
            }
            if postponed >= MAX_POSTPONED {
                return Err((io::Error::from_raw_os_error(libc::EAGAIN), left));
            }
            self.calls.counters.retried();
            if postponed < 100 {
                yield_now();
            } else {
                sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Whether a thread of the kernel's takes the entries.
    fn is_polled(&self) -> bool {
        self.uring.params().is_setup_sqpoll()
    }

    /// Sees to it that the polling thread takes what has been pushed. It fails only when that
    /// thread is gone, with the number of entries that it has left.
    fn wake_poller(&self) -> Result<(), (io::Error, usize)> {
        // SeqCst: pairs with the kernel's between its flag and its last look at the queue; either
        // it sees the entries or its flag is seen here.
        fence(SeqCst);
        // SAFETY: U1.
        if !unsafe { self.uring.submission_shared() }.need_wakeup() {
            return Ok(());
        }
        self.calls.counters.system_call();
        // SAFETY: the call names no memory.
        let woken = unsafe {
            self.uring
                .submitter()
                .enter::<libc::sigset_t>(0, 0, EnterFlags::SQ_WAKEUP.bits(), None)
        };
        match woken {
            Err(error) if error.raw_os_error() == Some(libc::EOWNERDEAD) => {
                // SAFETY: U1.
                let left = unsafe { self.uring.submission_shared() }.len();
                Err((error, left))
            }
            // What the kernel does before it looks at anything else is to wake the thread.
            _ => Ok(()),
        }
    }

    /// Lets the polling thread make room in the queue.
    fn wait_for_room(&self) {
        self.calls.counters.system_call();
        if self.wake_poller().is_err() || self.uring.submitter().squeue_wait().is_err() {
            sleep(Duration::from_micros(100));
        }
    }

    /// Takes back what the kernel has not been told of: `unsent`, and all that was to follow.
    pub(super) fn give_back(
        &self,
        unsent: &[Token],
        error: &io::Error,
        finished: &mut Vec<Finished>,
    ) {
        let source = Arc::new(io::Error::from_raw_os_error(
            error.raw_os_error().unwrap_or(libc::EIO),
        ));
        // Of one that has begun nobody can say how far it came.
        let broken = Arc::new(io::Error::from_raw_os_error(libc::EIO));
        let mut state = self.state.lock();
        let State {
            table,
            again,
            backlog,
            ..
        } = &mut *state;
        let begun = unsent
            .iter()
            .copied()
            .chain(again.drain(..))
            .filter_map(|token| table.remove(token))
            .map(|tenant| (tenant.operation, tenant.region));
        let begun: Vec<_> = begun.collect();
        let queued = backlog.drain(..).map(|operation| (operation, None));
        for (accepted, region) in begun.into_iter().chain(queued) {
            let Accepted {
                operation,
                course,
                began,
            } = accepted;
            let done = course.done();
            let context = operation
                .context(FileHandle::shared_path)
                .after(done as u64);
            let error = if course.has_begun() {
                IoError::Os {
                    context,
                    source: Arc::clone(&broken),
                }
            } else {
                IoError::NotSubmitted {
                    context,
                    source: Arc::clone(&source),
                }
            };
            finished.push(self.refuse(operation, began, done, error, Some(region)));
        }
    }

    /// Sends an operation whose only effect is that it completes, unless one is on its way.
    pub(super) fn send_kick(&self) {
        // AcqRel (SeqCst): a kick that is on its way, or lies in the queue, ends this wait too.
        if self.kicked.swap(true, SeqCst) {
            return;
        }
        self.send_mark(&opcode::Nop::new().build().user_data(Token::KICK));
    }

    /// Sends an entry that names no memory and belongs to no operation. Whether the kernel has it.
    pub(super) fn send_mark(&self, entry: &squeue::Entry) -> bool {
        let _submission = self.submission.lock();
        // Relaxed: as in `flush`. Whoever drives a broken ring looks for itself.
        if self.broken.load(Relaxed) {
            return false;
        }
        loop {
            // SAFETY: U1; and the entry names no memory.
            let pushed = unsafe { self.uring.submission_shared().push(entry) };
            if pushed.is_ok() {
                break;
            }
            debug_assert!(self.is_polled(), "else the queue is empty between uses");
            self.wait_for_room();
        }
        let entered = self.enter(1);
        if entered.is_err() {
            // Release: as in `flush`.
            self.broken.store(true, Release);
        }
        entered.is_ok()
    }
}

/// The registered memory that all of an operation's lies in, if there is such.
pub(super) fn region_of(
    regions: &[Arc<Region>],
    operation: &Operation<FileHandle>,
) -> Option<Arc<Region>> {
    if regions.is_empty() {
        return None;
    }
    let Operation::OnFile { action, .. } = operation else {
        return None;
    };
    let start = match action {
        Action::Read { memory, .. } => memory.as_mut_ptr().cast_const(),
        Action::Write { memory, .. } => memory.as_ptr()?,
        _ => return None,
    };
    let len = action.len_bytes();
    regions
        .iter()
        .find(|region| region.holds(start, len))
        .cloned()
}
