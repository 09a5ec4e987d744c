//! Checks of sinks, waiting and waking, with several threads.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::task::Wake;
use std::time::{Duration, Instant};

use super::{Bench, PATIENCE, Ran, checks, pattern, read, write};
use crate::action::{Completion, Durability};
use crate::backend::Backend;
use crate::driver::DriverThread;
use crate::ext::BackendExt;
use crate::operation::Operation;
use crate::sync::{Arc, AtomicBool, AtomicUsize, Mutex, SeqCst, sleep, thread};

checks!(
    more_operations_than_the_queue_holds_all_complete,
    completions_reach_the_thread_that_submitted,
    sinks_may_submit_without_end,
    a_batch_of_sinks_may_submit_batches,
    every_waiter_is_released,
    shared_conditions_are_met,
    a_waiter_takes_over_when_the_leader_leaves,
    a_parked_waiter_drives_what_another_thread_submits,
    waking_needs_no_completion,
    a_wait_times_out,
    polling_drives,
    futures_are_woken_once_somebody_drives,
    a_panicking_sink_harms_no_other,
    dropped_handles_and_backends_lose_nothing,
);

/// What the many-thread checks do in each thread.
const THREADS: usize = 8;

fn more_operations_than_the_queue_holds_all_complete<B: Backend>(bench: &Bench<B>) -> Ran {
    const EACH: usize = 500;
    let file = bench.file("many");
    let called = Arc::new(AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (file, called) = (&file, &called);
            scope.spawn(move || {
                let base = number * EACH;
                // Batches of all sizes, to past the end of any small queue.
                let mut next = 0;
                for size in (1..).step_by(7) {
                    let end = EACH.min(next + size);
                    let batch = (next..end)
                        .map(|index| {
                            let at = (base + index) as u64;
                            let called = Arc::clone(called);
                            let action = write(at * 16, pattern(at, 16));
                            Operation::new(file.clone(), action, move |done: Completion| {
                                assert_eq!(done.result.expect("it succeeds"), 16);
                                assert!(done.memory.bytes() == pattern(at, 16));
                                called.fetch_add(1, SeqCst);
                            })
                        })
                        .collect();
                    bench.backend.submit(batch);
                    next = end;
                    if next == EACH {
                        break;
                    }
                }
            });
        }
    });
    bench.wait("the end of all writes", || bench.backend.in_flight() == 0);
    assert_eq!(called.load(SeqCst), THREADS * EACH);
    let done = bench.backend.execute(&file, read(0, THREADS * EACH * 16));
    let bytes = done.memory.bytes();
    for at in 0..THREADS * EACH {
        let written = &bytes[at * 16..(at + 1) * 16];
        assert!(written == pattern(at as u64, 16), "write {at}");
    }
    Ran::Done
}

fn completions_reach_the_thread_that_submitted<B: Backend>(bench: &Bench<B>) -> Ran {
    const EACH: usize = 60;
    let file = bench.file("threads");
    thread::scope(|scope| {
        for number in 0..THREADS {
            let file = &file;
            scope.spawn(move || {
                for round in 0..EACH {
                    let at = (number * EACH + round) as u64;
                    let pending = bench.backend.start_write(
                        file,
                        at * 512,
                        pattern(at, 512),
                        Durability::Written,
                    );
                    let buf = bench.finish(pending).expect("it succeeds");
                    assert!(buf == pattern(at, 512));
                    let pending = bench.backend.start_read(file, at * 512, buf);
                    let (count, buf) = bench.finish(pending).expect("it succeeds");
                    assert_eq!(count, 512);
                    assert!(buf == pattern(at, 512));
                }
            });
        }
    });
    bench.wait("the last sink's return", || bench.backend.in_flight() == 0);
    Ran::Done
}

/// Submits a write whose sink submits the next, `left` times.
fn chain<B: Backend>(backend: &Arc<B>, file: &B::File, left: usize, ended: Arc<AtomicUsize>) {
    let (again, next) = (Arc::clone(backend), file.clone());
    let operation = Operation::new(
        file.clone(),
        write(
            0,
            if left.is_multiple_of(2) {
                vec![1]
            } else {
                Vec::new()
            },
        ),
        move |done: Completion| {
            done.result.expect("it succeeds");
            ended.fetch_add(1, SeqCst);
            if left > 0 {
                chain(&again, &next, left - 1, ended);
            }
        },
    );
    backend.submit(vec![operation]);
}

fn sinks_may_submit_without_end<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("chain");
    let ended = Arc::new(AtomicUsize::new(0));
    // Deep enough to overflow the stack if each were to run within the one before.
    chain(&bench.backend, &file, 5000, Arc::clone(&ended));
    bench.wait_for_chain(&ended, 5001);
    Ran::Done
}

fn a_batch_of_sinks_may_submit_batches<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("tree");
    let ended = Arc::new(AtomicUsize::new(0));
    let batch = (0..50)
        .map(|number| {
            let (backend, next) = (Arc::clone(&bench.backend), file.clone());
            let ended = Arc::clone(&ended);
            Operation::new(
                file.clone(),
                write(number, vec![1]),
                move |_: Completion| {
                    let second = (0..20)
                        .map(|inner| {
                            let ended = Arc::clone(&ended);
                            Operation::new(
                                next.clone(),
                                write(inner, vec![2]),
                                move |_: Completion| {
                                    ended.fetch_add(1, SeqCst);
                                },
                            )
                        })
                        .collect();
                    backend.submit(second);
                },
            )
        })
        .collect();
    bench.backend.submit(batch);
    bench.wait("the end of all", || ended.load(SeqCst) == 1000);
    bench.wait("the last sink's return", || bench.backend.in_flight() == 0);
    Ran::Done
}

fn every_waiter_is_released<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("waiters");
    for round in 0..20 {
        let ended = Arc::new(AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| bench.wait("the write", || ended.load(SeqCst)));
            }
            if round % 2 == 0 {
                sleep(Duration::from_millis(1));
            }
            let sink = Arc::clone(&ended);
            bench.backend.submit(vec![Operation::new(
                file.clone(),
                write(round, vec![1; 4096]),
                move |_: Completion| sink.store(true, SeqCst),
            )]);
        });
    }
    Ran::Done
}

fn shared_conditions_are_met<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("shared");
    for round in 0..20 {
        let ended = Arc::new(AtomicUsize::new(0));
        let woken = AtomicBool::new(false);
        thread::scope(|scope| {
            // Each waits for a number of completions, or for something that only a wake tells of.
            for number in 0..THREADS {
                let (ended, woken) = (&ended, &woken);
                scope.spawn(move || {
                    let met = if number % 4 == 3 {
                        bench.wait_for(&|| woken.load(SeqCst))
                    } else {
                        bench.wait_for(&|| ended.load(SeqCst) > number)
                    };
                    assert!(met, "thread {number}");
                });
            }
            if round % 2 == 0 {
                sleep(Duration::from_millis(1));
            }
            for _ in 0..THREADS {
                let ended = Arc::clone(&ended);
                let sink = move |_: Completion| {
                    ended.fetch_add(1, SeqCst);
                };
                let operation = Operation::new(file.clone(), write(0, vec![1; 100]), sink);
                bench.backend.submit(vec![operation]);
            }
            woken.store(true, SeqCst);
            bench.backend.wake();
        });
    }
    let timeout = Some(Duration::from_millis(20));
    assert!(!bench.backend.wait_for(&|| false, timeout));
    assert!(bench.backend.wait_for(&|| true, timeout));
    Ran::Done
}

fn a_waiter_takes_over_when_the_leader_leaves<B: Backend>(bench: &Bench<B>) -> Ran {
    // Each thread leaves as soon as its own write is done, in whatever order they come.
    let file = bench.file("leaders");
    thread::scope(|scope| {
        for number in 0..THREADS as u64 {
            let file = &file;
            scope.spawn(move || {
                for round in 0..100 {
                    let len = 512 << ((number + round) % 6);
                    let pending = bench.backend.start_write(
                        file,
                        number << 20,
                        vec![1; len],
                        Durability::Written,
                    );
                    bench.finish(pending).expect("it succeeds");
                }
            });
        }
    });
    Ran::Done
}

fn a_parked_waiter_drives_what_another_thread_submits<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("recruit");
    for round in 0..20 {
        let ended = Arc::new(AtomicUsize::new(0));
        thread::scope(|scope| {
            // The waiters park with nothing in flight; the submitter never waits.
            for _ in 0..2 {
                scope.spawn(|| bench.wait("all writes", || ended.load(SeqCst) == 5));
            }
            if round % 2 == 0 {
                sleep(Duration::from_millis(2));
            }
            for _ in 0..5 {
                let ended = Arc::clone(&ended);
                let sink = move |_: Completion| {
                    ended.fetch_add(1, SeqCst);
                };
                let operation = Operation::new(file.clone(), write(0, vec![1; 100]), sink);
                bench.backend.submit(vec![operation]);
            }
        });
    }
    Ran::Done
}

fn waking_needs_no_completion<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("wake");
    for with_work in [false, true] {
        for _ in 0..50 {
            let held = AtomicBool::new(false);
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| bench.wait("the condition", || held.load(SeqCst)));
                }
                if with_work {
                    bench.submit(&file, vec![write(0, vec![1; 10])]);
                }
                held.store(true, SeqCst);
                bench.backend.wake();
            });
        }
    }
    bench.wait("the writes", || bench.backend.in_flight() == 0);
    Ran::Done
}

fn a_wait_times_out<B: Backend>(bench: &Bench<B>) -> Ran {
    let timeout = Duration::from_millis(20);
    let began = Instant::now();
    assert!(!bench.backend.wait_until(&mut || false, Some(timeout)));
    assert!(began.elapsed() >= timeout, "it waits for all of the time");
    let file = bench.file("timeout");
    bench.submit(&file, vec![write(0, vec![1; 10])]);
    let began = Instant::now();
    loop {
        assert!(!bench.backend.wait_until(&mut || false, Some(timeout)));
        if bench.backend.in_flight() == 0 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "a wait drives, to the end");
    }
    assert!(bench.backend.wait_until(&mut || true, Some(Duration::ZERO)));
    assert!(
        !bench
            .backend
            .wait_until(&mut || false, Some(Duration::ZERO))
    );
    Ran::Done
}

fn polling_drives<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("poll");
    assert_eq!(bench.backend.poll(), 0);
    let outcomes = bench.submit(&file, (0..40).map(|at| write(at, vec![1])).collect());
    let began = Instant::now();
    while outcomes.lock().len() < 40 {
        bench.backend.poll();
        sleep(Duration::from_micros(100));
        assert!(began.elapsed() < PATIENCE, "polling does not drive");
    }
    bench.wait("the last sink's return", || bench.backend.in_flight() == 0);
    Ran::Done
}

/// Counts how often it is woken, and unparks a thread.
struct Unpark {
    thread: thread::Thread,
    woken: AtomicUsize,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, SeqCst);
        self.thread.unpark();
    }
}

fn futures_are_woken_once_somebody_drives<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("future");
    let driver = DriverThread::start(Arc::clone(&bench.backend)).expect("a thread");
    for number in 0..200 {
        let unpark = Arc::new(Unpark {
            thread: thread::current(),
            woken: AtomicUsize::new(0),
        });
        let waker = Waker::from(Arc::clone(&unpark));
        let mut context = Context::from_waker(&waker);
        let mut future =
            bench
                .backend
                .start_write(&file, number, pattern(number, 300), Durability::Written);
        let began = Instant::now();
        let mut polls = 0;
        let result = loop {
            polls += 1;
            match Pin::new(&mut future).poll(&mut context) {
                Poll::Ready(result) => break result,
                Poll::Pending => thread::park_timeout(PATIENCE),
            }
            assert!(began.elapsed() < PATIENCE, "it was not woken");
        };
        assert!(result.expect("it succeeds") == pattern(number, 300));
        let woken = unpark.woken.load(SeqCst);
        assert!(woken <= 1 && (polls == 1 || woken == 1), "{polls} {woken}");
    }
    // One that is dropped is done all the same.
    drop(
        bench
            .backend
            .start_write(&file, 5000, vec![1; 10], Durability::Written),
    );
    bench.wait("the dropped one", || bench.backend.in_flight() == 0);
    driver.stop().expect("no sink has panicked");
    assert_eq!(bench.backend.facts(&file).expect("facts").len_bytes, 5010);
    Ran::Done
}

fn a_panicking_sink_harms_no_other<B: Backend>(bench: &Bench<B>) -> Ran {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    let file = bench.file("panic");
    let ended = Arc::new(AtomicUsize::new(0));
    let batch = (0..10)
        .map(|number| {
            let ended = Arc::clone(&ended);
            Operation::new(file.clone(), write(0, vec![1]), move |_: Completion| {
                ended.fetch_add(1, SeqCst);
                if number == 3 {
                    resume_unwind(Box::new("on purpose"));
                }
            })
        })
        .collect();
    let mut panics = 0;
    let submitted = catch_unwind(AssertUnwindSafe(|| bench.backend.submit(batch)));
    panics += usize::from(submitted.is_err());
    while panics == 0 || bench.backend.in_flight() > 0 {
        let waited = catch_unwind(AssertUnwindSafe(|| {
            bench.wait("the end of all", || bench.backend.in_flight() == 0);
        }));
        panics += usize::from(waited.is_err());
        if waited.is_ok() {
            break;
        }
    }
    assert_eq!(panics, 1, "the panic goes on in the thread that drove");
    assert_eq!(ended.load(SeqCst), 10);
    let pending = bench
        .backend
        .start_write(&file, 0, vec![1; 10], Durability::Written);
    bench.finish(pending).expect("it still works");
    Ran::Done
}

fn dropped_handles_and_backends_lose_nothing<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("drop");
    let alive = Arc::new(Mutex::new(0));
    for number in 0..100 {
        let at = number * 4096;
        drop(
            bench
                .backend
                .start_write(&file, at, pattern(number, 4096), Durability::Written),
        );
        let counted = Arc::clone(&alive);
        bench.backend.submit(vec![Operation::new(
            file.clone(),
            read(at, 100),
            move |_: Completion| *counted.lock() += 1,
        )]);
    }
    bench.wait("the end of all", || bench.backend.in_flight() == 0);
    assert_eq!(*alive.lock(), 100);
    for number in 0..100 {
        let done = bench.backend.execute(&file, read(number * 4096, 4096));
        assert!(done.memory.bytes() == pattern(number, 4096));
    }
    Ran::Done
}
