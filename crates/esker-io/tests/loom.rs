//! Models of how waiting threads pass the driving on, over the real code of `waiters.rs`. Compiled
//! to nothing without `--cfg esker_loom`:
//!
//! ```text
//! RUSTFLAGS="--cfg esker_loom" cargo test --release -p esker-io --test loom
//! ```
//!
//! With `--cfg esker_canary="NAME"` besides, for a canary of the waiters, this has to fail. A lost
//! wake-up shows as a deadlock.
#![cfg(esker_loom)]
#![allow(
    dead_code,
    unused_imports,
    reason = "the modules are included as they are"
)]

#[path = "../src/sync.rs"]
mod sync;
#[path = "../src/waiters.rs"]
mod waiters;

use std::time::Duration;

use loom::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use waiters::{Condition, Driver, Wait, Waiters};

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

#[derive(Clone, Copy)]
enum How {
    Private,
    Shared,
}

/// Explores with at most `preemptions` unless `LOOM_MAX_PREEMPTIONS` says otherwise, for either
/// kind of condition.
fn model(name: &str, preemptions: usize, scenario: fn(How)) {
    use std::sync::atomic::AtomicUsize;

    for how in [How::Private, How::Shared] {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound.get_or_insert(preemptions);
        builder.max_branches = 20_000;
        let explored = std::sync::Arc::new(AtomicUsize::new(0));
        let count = std::sync::Arc::clone(&explored);
        builder.check(move || {
            count.fetch_add(1, Relaxed);
            scenario(how);
        });
        println!("{name}: {} interleavings", explored.load(Relaxed));
    }
}

macro_rules! models {
    ($($(#[$doc:meta])* fn $name:ident($how:ident, $preemptions:literal) $body:block)*) => {
        $(
            $(#[$doc])*
            #[test]
            fn $name() {
                fn scenario($how: How) $body
                model(stringify!($name), $preemptions, scenario);
            }
        )*
    };
}

fn waiter(
    device: &Arc<Device>,
    how: How,
    flag: usize,
    timeout: Option<Duration>,
) -> thread::JoinHandle<bool> {
    let device = Arc::clone(device);
    thread::spawn(move || device.wait(how, flag, timeout))
}

fn holds(waiter: thread::JoinHandle<bool>) {
    assert!(waiter.join().expect("no panic"), "it had no timeout");
}

models! {
    /// A wake meets a thread on its way to sleep.
    fn a_wake_is_not_lost(how, 4) {
        let device = Device::new();
        let one = waiter(&device, how, 0, None);
        device.set(0);
        holds(one);
    }

    /// A wake meets a leader on its way into the kernel; what it drives completes only later.
    fn a_wake_ends_the_wait_of_a_blocked_leader(how, 4) {
        let device = Device::new();
        device.submit();
        let one = waiter(&device, how, 1, None);
        device.set(1);
        holds(one);
        device.complete(0);
        assert!(device.wait(how, 0, None));
    }

    /// One leader leaves with work in flight that the other waits for.
    fn a_leader_that_leaves_hands_over(how, 3) {
        let device = Device::new();
        for operation in [1, 0] {
            device.submit();
            device.complete(operation);
        }
        let one = waiter(&device, how, 0, None);
        let two = waiter(&device, how, 1, None);
        holds(one);
        holds(two);
    }

    /// Nobody leads when work is submitted, and the submitter does not wait.
    fn a_submission_finds_a_driver_among_the_parked(how, 3) {
        let device = Device::new();
        let one = waiter(&device, how, 0, None);
        let two = waiter(&device, how, 1, None);
        for operation in [0, 1] {
            device.submit();
            device.complete(operation);
        }
        holds(one);
        holds(two);
    }

    /// The leader's time is over while the operation is in flight.
    fn a_leader_whose_time_is_over_hands_over(how, 3) {
        let device = Device::new();
        device.submit();
        let hasty = waiter(&device, how, 1, Some(Duration::from_nanos(3)));
        let patient = waiter(&device, how, 0, None);
        device.complete(0);
        holds(patient);
        assert!(!hasty.join().expect("no panic"), "nobody sets its flag");
    }

    /// The thread that is called to lead finds its own condition true and leaves.
    fn a_thread_called_to_lead_that_leaves_passes_it_on(how, 3) {
        let device = Device::new();
        let one = waiter(&device, how, 1, None);
        let two = waiter(&device, how, 0, None);
        device.submit();
        device.complete(0);
        device.set(1);
        holds(one);
        holds(two);
    }

    /// Polling, which leads without waiting, meets a waiter that drives.
    fn polling_meets_a_waiter(how, 3) {
        let device = Device::new();
        device.submit();
        let one = waiter(&device, how, 0, None);
        device.waiters.poll(&*device);
        device.complete(0);
        device.waiters.poll(&*device);
        holds(one);
    }

    /// Two threads make a condition true between them, and neither sees the other's part.
    fn a_condition_of_two_parts_is_met(how, 3) {
        let device = Device::new();
        let both = Arc::clone(&device);
        let one = thread::spawn(move || {
            let mut private = || both.is_set(0) && both.is_set(1);
            let shared = || both.is_set(0) && both.is_set(1);
            let condition = match how {
                How::Private => Condition::Private(&mut private),
                How::Shared => Condition::Shared(&shared),
            };
            both.waiters.wait(&*both, condition, None)
        });
        let other = Arc::clone(&device);
        let setter = thread::spawn(move || other.set(1));
        device.set(0);
        setter.join().expect("no panic");
        holds(one);
    }
}
