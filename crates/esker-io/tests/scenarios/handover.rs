//! How any thread gives things to one that sleeps while there are none, over the real code of
//! `handover.rs`, written once as those of the waiters are. A lost alarm shows as a deadlock.

use super::checker::sync::{Arc, Condvar, Mutex};
use super::checker::thread;

use crate::handover::{Handover, Next, Put};

/// Every scenario, by name.
pub(crate) const ALL: &[(&str, fn())] = &[
    (
        "what_two_threads_hand_over_is_taken_once",
        what_two_threads_hand_over_is_taken_once,
    ),
    (
        "a_taker_ends_after_what_is_in_flight",
        a_taker_ends_after_what_is_in_flight,
    ),
    (
        "what_comes_after_the_end_is_given_back",
        what_comes_after_the_end_is_given_back,
    ),
];

/// How many things a thread puts, one after the other: what loom enumerates has to be short.
const CROWD: usize = if cfg!(esker_loom) { 1 } else { 5 };

/// A taker that is asleep in the kernel, in which operations complete.
struct Device {
    handover: Handover<usize>,
    kernel: Mutex<Kernel>,
    changed: Condvar,
}

#[derive(Default)]
struct Kernel {
    rung: bool,
    /// Completions that the taker has not seen; some may come before what they complete.
    completed: usize,
}

impl Device {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            handover: Handover::default(),
            kernel: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    fn ring(&self) {
        self.kernel.lock().expect("no panic").rung = true;
        self.changed.notify_one();
    }

    fn complete(&self) {
        self.kernel.lock().expect("no panic").completed += 1;
        self.changed.notify_one();
    }

    /// Whether they were taken in.
    fn put(&self, things: Vec<usize>) -> bool {
        match self.handover.put(things) {
            Put::Done => true,
            Put::Wake => {
                self.ring();
                true
            }
            Put::Ended(_) => false,
        }
    }

    fn close(&self) {
        if let Put::Wake = self.handover.close() {
            self.ring();
        }
    }

    /// Takes until the end; each thing is in flight for as long as `is_slow`, until it is completed.
    fn serve(&self, is_slow: bool) -> Vec<usize> {
        let (mut taken, mut in_flight) = (Vec::new(), 0);
        loop {
            let things = self.handover.take();
            if is_slow {
                in_flight += things.len();
            }
            taken.extend(things);
            {
                let mut kernel = self.kernel.lock().expect("no panic");
                let over = kernel.completed.min(in_flight);
                kernel.completed -= over;
                in_flight -= over;
            }
            match self.handover.next(in_flight == 0) {
                Next::Take => {}
                Next::End => {
                    assert_eq!(in_flight, 0);
                    return taken;
                }
                Next::Sleep => {
                    let mut kernel = self.kernel.lock().expect("no panic");
                    // What the model completes before it is in flight is over when it is.
                    while !core::mem::take(&mut kernel.rung)
                        && (kernel.completed == 0 || in_flight == 0)
                    {
                        kernel = self.changed.wait(kernel).expect("no panic");
                    }
                }
            }
        }
    }
}

/// The thread that takes.
fn taker(device: &Arc<Device>, is_slow: bool) -> thread::JoinHandle<Vec<usize>> {
    let device = Arc::clone(device);
    thread::spawn(move || device.serve(is_slow))
}

/// H1, H2: two threads put things while the taker comes and goes.
pub(crate) fn what_two_threads_hand_over_is_taken_once() {
    let device = Device::new();
    let taker = taker(&device, false);
    let put = |device: &Device, first: usize| {
        for thing in first..first + CROWD {
            assert!(device.put(vec![thing]), "it has not been closed");
        }
    };
    let other = {
        let device = Arc::clone(&device);
        thread::spawn(move || put(&device, CROWD))
    };
    put(&device, 0);
    other.join().expect("no panic");
    device.close();
    let taken = taker.join().expect("no panic");
    let of = |range: core::ops::Range<usize>| -> Vec<_> {
        let within = |thing: &usize| range.contains(thing);
        taken.iter().copied().filter(within).collect()
    };
    let in_order = |range: core::ops::Range<usize>| range.collect::<Vec<_>>();
    assert_eq!(of(0..CROWD), in_order(0..CROWD));
    assert_eq!(of(CROWD..2 * CROWD), in_order(CROWD..2 * CROWD));
    assert_eq!(taken.len(), 2 * CROWD);
}

/// H3: it is closed while what was put is in flight, which completes at some time.
pub(crate) fn a_taker_ends_after_what_is_in_flight() {
    let device = Device::new();
    let taker = taker(&device, true);
    assert!(device.put((0..CROWD).collect()), "it has not been closed");
    let kernel = {
        let device = Arc::clone(&device);
        thread::spawn(move || {
            for _ in 0..CROWD {
                device.complete();
            }
        })
    };
    device.close();
    kernel.join().expect("no panic");
    let taken = taker.join().expect("no panic");
    assert_eq!(taken, (0..CROWD).collect::<Vec<_>>());
}

/// H1, H3: a thread puts something while another closes it.
pub(crate) fn what_comes_after_the_end_is_given_back() {
    let device = Device::new();
    let taker = taker(&device, false);
    let other = {
        let device = Arc::clone(&device);
        thread::spawn(move || {
            (0..CROWD)
                .take_while(|&thing| device.put(vec![thing]))
                .count()
        })
    };
    device.close();
    let put = other.join().expect("no panic");
    let taken = taker.join().expect("no panic");
    assert_eq!(taken, (0..put).collect::<Vec<_>>());
}
