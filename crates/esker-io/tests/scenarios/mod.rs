//! How waiting threads pass the driving on, over the real code of `waiters.rs`, and how a pool's
//! threads find their jobs ([`pool`]) and an issuer what others have for it ([`handover`]), written once:
//! `tests/loom.rs` runs each scenario under every interleaving that loom reaches,
//! `tests/shuttle.rs` under schedules drawn from seeds, with more threads. A lost wake-up shows as a
//! deadlock.

#[cfg(esker_loom)]
use loom as checker;
#[cfg(esker_shuttle)]
use shuttle as checker;

pub(crate) mod handover;
pub(crate) mod pool;

use std::time::Duration;

use checker::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use checker::sync::{Arc, Condvar, Mutex};
use checker::thread;

use crate::waiters::{Condition, Driver, Wait, Waiters};

/// Every scenario, by name.
pub(crate) const ALL: &[(&str, fn(How))] = &[
    ("a_wake_is_not_lost", a_wake_is_not_lost),
    (
        "a_wake_ends_the_wait_of_a_blocked_leader",
        a_wake_ends_the_wait_of_a_blocked_leader,
    ),
    (
        "a_leader_that_leaves_hands_over",
        a_leader_that_leaves_hands_over,
    ),
    (
        "a_submission_finds_a_driver_among_the_parked",
        a_submission_finds_a_driver_among_the_parked,
    ),
    (
        "a_leader_whose_time_is_over_hands_over",
        a_leader_whose_time_is_over_hands_over,
    ),
    (
        "a_thread_called_to_lead_that_leaves_passes_it_on",
        a_thread_called_to_lead_that_leaves_passes_it_on,
    ),
    ("polling_meets_a_waiter", polling_meets_a_waiter),
    (
        "a_condition_of_two_parts_is_met",
        a_condition_of_two_parts_is_met,
    ),
];

/// How a thread asks its condition.
#[derive(Clone, Copy)]
pub(crate) enum How {
    Private,
    Shared,
}

impl How {
    pub(crate) const ALL: [Self; 2] = [Self::Private, Self::Shared];
}

/// How many threads wait for the same: what loom enumerates has to be short.
const CROWD: usize = if cfg!(esker_loom) { 1 } else { 3 };

/// A device with operations that are numbered, each of which sets a flag when it is delivered.
struct Device {
    waiters: Waiters,
    accepted: AtomicUsize,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Relaxed throughout: what orders them is for the waiters to provide.
    flags: [AtomicBool; 3],
}

#[derive(Default)]
struct Queue {
    completed: Vec<usize>,
    kicked: bool,
}

impl Driver for Device {
    fn has_work(&self) -> bool {
        self.accepted.load(SeqCst) > 0
    }

    /// Delivers one operation a round.
    fn drive(&self, wait: Wait) -> usize {
        let delivered = {
            let mut queue = self.queue.lock().expect("no panic");
            loop {
                if let Some(operation) = queue.completed.pop() {
                    break operation;
                }
                // A wait with a bound may be over at any moment.
                if core::mem::take(&mut queue.kicked) || wait != Wait::Unbounded {
                    return 0;
                }
                queue = self.changed.wait(queue).expect("no panic");
            }
        };
        self.flags[delivered].store(true, Relaxed);
        self.accepted.fetch_sub(1, SeqCst);
        1
    }

    fn kick(&self) {
        self.queue.lock().expect("no panic").kicked = true;
        self.changed.notify_one();
    }
}

impl Device {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            waiters: Waiters::default(),
            accepted: AtomicUsize::new(0),
            queue: Mutex::default(),
            changed: Condvar::new(),
            flags: Default::default(),
        })
    }

    /// Accepts an operation that does not complete yet.
    fn submit(&self) {
        self.accepted.fetch_add(1, SeqCst);
        self.waiters.recruit(self);
    }

    /// Completes an operation.
    fn complete(&self, operation: usize) {
        self.queue
            .lock()
            .expect("no panic")
            .completed
            .push(operation);
        self.changed.notify_one();
    }

    fn set(&self, flag: usize) {
        self.flags[flag].store(true, Relaxed);
        self.waiters.wake(self);
    }

    fn is_set(&self, flag: usize) -> bool {
        self.flags[flag].load(Relaxed)
    }

    fn wait(&self, how: How, flag: usize, timeout: Option<Duration>) -> bool {
        let mut private = || self.is_set(flag);
        let shared = || self.is_set(flag);
        let condition = match how {
            How::Private => Condition::Private(&mut private),
            How::Shared => Condition::Shared(&shared),
        };
        self.waiters.wait(self, condition, timeout)
    }
}

/// Threads that wait for the same.
fn waiters(
    device: &Arc<Device>,
    how: How,
    flag: usize,
    timeout: Option<Duration>,
) -> Vec<thread::JoinHandle<bool>> {
    let one = || {
        let device = Arc::clone(device);
        thread::spawn(move || device.wait(how, flag, timeout))
    };
    (0..CROWD).map(|_| one()).collect()
}

fn all_hold(waiters: Vec<thread::JoinHandle<bool>>) {
    for waiter in waiters {
        assert!(waiter.join().expect("no panic"), "it had no timeout");
    }
}

/// A wake meets a thread on its way to sleep.
pub(crate) fn a_wake_is_not_lost(how: How) {
    let device = Device::new();
    let one = waiters(&device, how, 0, None);
    device.set(0);
    all_hold(one);
}

/// A wake meets a leader on its way into the kernel; what it drives completes only later.
pub(crate) fn a_wake_ends_the_wait_of_a_blocked_leader(how: How) {
    let device = Device::new();
    device.submit();
    let one = waiters(&device, how, 1, None);
    device.set(1);
    all_hold(one);
    device.complete(0);
    assert!(device.wait(how, 0, None));
}

/// One leader leaves with work in flight that the other waits for.
pub(crate) fn a_leader_that_leaves_hands_over(how: How) {
    let device = Device::new();
    for operation in [1, 0] {
        device.submit();
        device.complete(operation);
    }
    let one = waiters(&device, how, 0, None);
    let two = waiters(&device, how, 1, None);
    all_hold(one);
    all_hold(two);
}

/// Nobody leads when work is submitted, and the submitter does not wait.
pub(crate) fn a_submission_finds_a_driver_among_the_parked(how: How) {
    let device = Device::new();
    let one = waiters(&device, how, 0, None);
    let two = waiters(&device, how, 1, None);
    for operation in [0, 1] {
        device.submit();
        device.complete(operation);
    }
    all_hold(one);
    all_hold(two);
}

/// The leader's time is over while the operation is in flight.
pub(crate) fn a_leader_whose_time_is_over_hands_over(how: How) {
    let device = Device::new();
    device.submit();
    let hasty = waiters(&device, how, 1, Some(Duration::from_nanos(3)));
    let patient = waiters(&device, how, 0, None);
    device.complete(0);
    all_hold(patient);
    for waiter in hasty {
        assert!(!waiter.join().expect("no panic"), "nobody sets its flag");
    }
}

/// The thread that is called to lead finds its own condition true and leaves.
pub(crate) fn a_thread_called_to_lead_that_leaves_passes_it_on(how: How) {
    let device = Device::new();
    let one = waiters(&device, how, 1, None);
    let two = waiters(&device, how, 0, None);
    device.submit();
    device.complete(0);
    device.set(1);
    all_hold(one);
    all_hold(two);
}

/// Polling, which leads without waiting, meets a waiter that drives.
pub(crate) fn polling_meets_a_waiter(how: How) {
    let device = Device::new();
    device.submit();
    let one = waiters(&device, how, 0, None);
    device.waiters.poll(&*device);
    device.complete(0);
    device.waiters.poll(&*device);
    all_hold(one);
}

/// Two threads make a condition true between them, and neither sees the other's part.
pub(crate) fn a_condition_of_two_parts_is_met(how: How) {
    let device = Device::new();
    let wait = move |both: &Device| {
        let mut private = || both.is_set(0) && both.is_set(1);
        let shared = || both.is_set(0) && both.is_set(1);
        let condition = match how {
            How::Private => Condition::Private(&mut private),
            How::Shared => Condition::Shared(&shared),
        };
        both.waiters.wait(both, condition, None)
    };
    let one = || {
        let both = Arc::clone(&device);
        thread::spawn(move || wait(&both))
    };
    let all = (0..CROWD).map(|_| one()).collect();
    let other = Arc::clone(&device);
    let setter = thread::spawn(move || other.set(1));
    device.set(0);
    setter.join().expect("no panic");
    all_hold(all);
}
