//! [`Issuer`]: the thread of a ring that only one thread may enter.
//!
//! `SINGLE_ISSUER` and `DEFER_TASKRUN` bind a ring to the thread that makes it. So that any thread
//! submits all the same, what it has goes through a [`Handover`] to the issuer, which sends it,
//! takes the completions and calls the sinks; whoever waits only sleeps. These hold:
//!
//! - I1. No other thread enters the ring, touches its queues or registers anything with it, until
//!   it is closed.
//! - I2. Before the issuer sleeps in the kernel, an entry is in the ring that completes when the
//!   alarm is rung; and whoever puts something into the handover while it sleeps, or is about to,
//!   rings that.
//! - I3. It ends when its backend has been dropped and every operation is over, and is joined by the
//!   drop, unless that is done by a sink, which the issuer itself has called.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use io_uring::opcode;
use io_uring::types::Fd;

use super::completion::Finished;
use super::config::{UringConfig, UringError};
use super::table::Token;
use super::{Accepted, Ring};
use crate::handover::{Handover, Next, Put};
use crate::served::Served;
use crate::sync::{Arc, JoinHandle, channel, thread};
use crate::waiters::Driver;

/// How long it sleeps at most: what ends a sleep reaches the kernel by itself.
const UNTIL_RUNG: Duration = Duration::from_secs(3600);

/// The same where a ring that is broken has not taken the entry that waits for the alarm.
const BROKEN: Duration = Duration::from_millis(10);

/// What other threads have for the issuer.
enum Task {
    /// To be sent.
    Operations(Vec<Accepted>),
    /// To be done where the ring may be entered.
    Call(Call),
}

type Call = Box<dyn FnOnce(&Ring) + Send>;

pub(super) struct Issuer {
    thread: thread::ThreadId,
    handover: Handover<Task>,
    alarm: Alarm,
    pub(super) served: Served,
}

/// What ends the sleep of the issuer.
struct Alarm {
    /// An eventfd.
    fd: OwnedFd,
}

impl Alarm {
    fn new() -> io::Result<Self> {
        // SAFETY: the call touches no memory.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just opened and has no other owner.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    fn ring(&self) {
        // It fails only if it has been rung 2^64 times and not silenced.
        // SAFETY: the call touches no memory of this process.
        unsafe { libc::eventfd_write(self.fd.as_raw_fd(), 1) };
    }

    fn silence(&self) {
        let mut count = 0;
        // It fails only if it has not been rung.
        // SAFETY: `count` is good for writing one integer.
        unsafe { libc::eventfd_read(self.fd.as_raw_fd(), &raw mut count) };
    }
}

impl Issuer {
    /// For the ring that this thread makes.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            thread: thread::current().id(),
            handover: Handover::default(),
            alarm: Alarm::new()?,
            served: Served::default(),
        })
    }

    /// Whether this is its thread.
    fn is_here(&self) -> bool {
        thread::current().id() == self.thread
    }

    /// Puts something into the handover; gives it back if nobody takes it any more.
    fn put(&self, ring: &Ring, task: Task) -> Result<(), Vec<Task>> {
        self.wake_if_asked(ring, self.handover.put(vec![task]))
    }

    fn wake_if_asked(&self, ring: &Ring, put: Put<Task>) -> Result<(), Vec<Task>> {
        match put {
            Put::Done => Ok(()),
            Put::Wake => {
                ring.calls.counters.system_call();
                self.alarm.ring();
                Ok(())
            }
            Put::Ended(tasks) => Err(tasks),
        }
    }

    /// Has operations sent; those that can't be are added to `finished`.
    pub(super) fn submit(
        &self,
        ring: &Ring,
        operations: Vec<Accepted>,
        finished: &mut Vec<Finished>,
    ) {
        let Err(tasks) = self.put(ring, Task::Operations(operations)) else {
            return;
        };
        for task in tasks {
            if let Task::Operations(operations) = task {
                ring.state.lock().backlog.extend(operations);
                ring.give_back(&[], &io::Error::from_raw_os_error(libc::ENXIO), finished);
            }
        }
    }

    /// Lets the thread end when everything is over, and waits for that, unless this is it.
    pub(super) fn end(&self, ring: &Ring, thread: Option<JoinHandle<()>>) {
        // Nothing was put that could be given back.
        let _ = self.wake_if_asked(ring, self.handover.close());
        if let Some(thread) = thread
            && !self.is_here()
        {
            // It is an error only if the thread has panicked, which it does not.
            let _ = thread.join();
        }
    }

    /// Whether a drop of the backend can wait for its operations here: not in one of their sinks.
    pub(super) fn lets_wait(&self) -> bool {
        !self.is_here()
    }
}

/// Makes a ring in a thread of its own, which serves it from then on.
pub(super) fn start(config: UringConfig) -> Result<(Arc<Ring>, JoinHandle<()>), UringError> {
    let (tell, told) = channel();
    let thread = thread::Builder::new()
        .name("esker-io-issuer".to_owned())
        .spawn(move || {
            let made = Issuer::new()
                .map_err(UringError::setup)
                .and_then(|issuer| Ring::new(config, Some(issuer)));
            match made.map(Ring::share) {
                Ok(ring) => {
                    // Where nobody wants it any more it ends with this thread.
                    if tell.send(Ok(Arc::clone(&ring))).is_ok()
                        && let Some(issuer) = &ring.issuer
                    {
                        serve(&ring, issuer);
                    }
                }
                // As above.
                Err(error) => drop(tell.send(Err(error))),
            }
        })
        .map_err(|source| UringError::Thread { source })?;
    match told.recv() {
        Ok(made) => made.map(|ring| (ring, thread)),
        // It has told nothing: it has panicked.
        Err(_) => Err(UringError::Thread {
            source: io::Error::from_raw_os_error(libc::EIO),
        }),
    }
}

/// What the issuer does until the end.
fn serve(ring: &Ring, issuer: &Issuer) {
    let mut is_armed = false;
    loop {
        take(ring, issuer);
        let mut finished = Vec::new();
        if ring.reap(&mut finished) {
            issuer.alarm.silence();
            is_armed = false;
        }
        // Before the sinks: the device is to be busy while they run.
        ring.flush(&mut finished);
        if !finished.is_empty() {
            ring.deliver(finished);
            issuer.served.wake();
            continue;
        }
        if !is_armed {
            is_armed = ring.send_mark(&alarmed(&issuer.alarm));
        }
        match issuer.handover.next(!ring.has_work()) {
            Next::Take => {}
            // It looks again.
            Next::Sleep if ring.is_polling() => {}
            Next::Sleep if is_armed => ring.block(UNTIL_RUNG),
            Next::Sleep => ring.block(BROKEN),
            Next::End => return,
        }
    }
}

/// Takes in what other threads have.
fn take(ring: &Ring, issuer: &Issuer) {
    let mut called = false;
    for task in issuer.handover.take() {
        match task {
            Task::Operations(operations) => ring.state.lock().backlog.extend(operations),
            Task::Call(call) => {
                // What it lets go of may have a drop of its own.
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| call(ring))) {
                    issuer.served.keep(panic);
                }
                called = true;
            }
        }
    }
    if called {
        issuer.served.wake();
    }
}

/// The entry that completes when the alarm is rung (I2).
fn alarmed(alarm: &Alarm) -> io_uring::squeue::Entry {
    let events = libc::POLLIN as u32;
    opcode::PollAdd::new(Fd(alarm.fd.as_raw_fd()), events)
        .build()
        .user_data(Token::KICK)
}

impl Ring {
    /// Does something where the ring may be entered, and waits for that; `None` if it may be no more.
    pub(super) fn entering<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let Some(issuer) = self.issuer.as_ref().filter(|issuer| !issuer.is_here()) else {
            return Some(call(self));
        };
        let (tell, told) = channel();
        let call: Call = Box::new(move |ring| {
            // It is waited for.
            let _ = tell.send(call(ring));
        });
        // What is given back takes the sender with it.
        drop(issuer.put(self, Task::Call(call)));
        told.recv().ok()
    }

    /// Does something where the ring may be entered, now or soon; not, if it may be no more.
    pub(super) fn entering_soon(&self, call: impl FnOnce(&Self) + Send + 'static) {
        match &self.issuer {
            Some(issuer) if !issuer.is_here() => {
                drop(issuer.put(self, Task::Call(Box::new(call))));
            }
            _ => call(self),
        }
    }
}
