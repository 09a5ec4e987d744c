//! Checks of the orderings.

use super::{Bench, Ran, checks, pattern, read, write};
use crate::action::{Action, Completion};
use crate::backend::{Backend, FileOptions};
use crate::error::{Fate, IoError};
use crate::lane::{Lane, Ordering};
use crate::operation::Operation;
use crate::sync::{Arc, AtomicUsize, Mutex, SeqCst, thread};

checks!(
    a_serialised_write_is_never_overtaken,
    a_failure_stops_a_serialised_lane,
    a_serialised_lane_may_grow_from_its_sinks,
    executing_waits_its_turn,
    a_tail_localised_lane_completes_everything,
);

fn a_serialised_write_is_never_overtaken<B: Backend>(bench: &Bench<B>) -> Ran {
    const COUNT: usize = 400;
    let file = bench.file("serial");
    let lane = Lane::new(Arc::clone(&bench.backend), Ordering::Serialised);
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut next = 0;
    for size in (1..).step_by(5) {
        let end = COUNT.min(next + size);
        let batch = (next..end)
            .map(|number| {
                let order = Arc::clone(&order);
                // All to one place, of all sizes: the last one must win.
                let action = write(0, pattern(number as u64, 64 + (COUNT - number) * 16));
                Operation::new(file.clone(), action, move |done: Completion| {
                    done.result.expect("it succeeds");
                    order.lock().push(number);
                })
            })
            .collect();
        lane.submit(batch);
        next = end;
        if next == COUNT {
            break;
        }
    }
    bench.wait("the end of all", || lane.in_flight() == 0);
    assert_eq!(*order.lock(), (0..COUNT).collect::<Vec<_>>());
    let done = bench.backend.execute(&file, read(0, 80));
    let bytes = done.memory.bytes();
    assert!(
        bytes == pattern(COUNT as u64 - 1, 80),
        "the last write wins"
    );
    Ran::Done
}

fn a_failure_stops_a_serialised_lane<B: Backend>(bench: &Bench<B>) -> Ran {
    let good = bench.file("stopped");
    let path = bench.path("stopped");
    let bad = bench
        .backend
        .open(&path, &FileOptions::read())
        .expect("it exists");
    let lane = Lane::new(Arc::clone(&bench.backend), Ordering::Serialised);
    let results = Arc::new(Mutex::new(Vec::new()));
    let operation = |file: &B::File, at| {
        let results = Arc::clone(&results);
        Operation::new(file.clone(), write(at, vec![1]), move |done: Completion| {
            results.lock().push(done.result);
        })
    };
    lane.submit(vec![
        operation(&good, 0),
        operation(&bad, 1),
        operation(&good, 2),
        operation(&good, 3),
    ]);
    bench.wait("the end of all", || lane.in_flight() == 0);
    lane.submit(vec![operation(&good, 4)]);
    bench.wait("the end of the late one", || lane.in_flight() == 0);
    let results = core::mem::take(&mut *results.lock());
    assert!(matches!(results[0], Ok(1)));
    assert!(matches!(results[1], Err(IoError::NotWritable { .. })));
    for (result, offset) in results[2..].iter().zip(2..) {
        match result {
            Err(error @ IoError::NotStarted { context, .. }) => {
                assert_eq!(error.fate(), Fate::Determinate);
                assert_eq!((context.offset, &*context.path), (offset, &*path));
            }
            other => panic!("a write after the failed one: {other:?}"),
        }
    }
    assert_eq!(results.len(), 5);
    let done = lane.execute(&good, write(9, vec![1]));
    assert!(matches!(done.result, Err(IoError::NotStarted { .. })));
    let facts = bench.backend.facts(&good).expect("facts");
    assert_eq!(facts.len_bytes, 1, "nothing later reached the file");
    assert!(lane.failure().is_some());
    // Reads pass.
    assert_eq!(lane.execute(&good, read(0, 5)).result.expect("a read"), 1);
    Ran::Done
}

/// Submits a write whose sink submits the next, `left` times.
fn chain<B: Backend>(lane: &Arc<Lane<B>>, file: &B::File, left: usize, ended: Arc<AtomicUsize>) {
    let (again, next) = (Arc::clone(lane), file.clone());
    let sink = move |_: Completion| {
        ended.fetch_add(1, SeqCst);
        if left > 0 {
            chain(&again, &next, left - 1, ended);
        }
    };
    // Refused writes fail the lane at once; what follows goes through its shortest way.
    let operation = Operation::new(file.clone(), write(0, vec![1]), sink);
    lane.submit(vec![operation]);
}

fn a_serialised_lane_may_grow_from_its_sinks<B: Backend>(bench: &Bench<B>) -> Ran {
    drop(bench.file("grow"));
    let path = bench.path("grow");
    for options in [FileOptions::read_write(), FileOptions::read()] {
        let file = bench.backend.open(&path, &options).expect("it exists");
        let lane = Arc::new(Lane::new(Arc::clone(&bench.backend), Ordering::Serialised));
        let ended = Arc::new(AtomicUsize::new(0));
        chain(&lane, &file, 5000, Arc::clone(&ended));
        bench.wait_for_chain(&ended, 5001);
    }
    Ran::Done
}

fn executing_waits_its_turn<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("turns");
    let lane = Lane::new(Arc::clone(&bench.backend), Ordering::Serialised);
    let order = Arc::new(Mutex::new(Vec::new()));
    let submit = |numbers: core::ops::Range<usize>| {
        let batch = numbers
            .map(|number| {
                let order = Arc::clone(&order);
                Operation::new(
                    file.clone(),
                    write(0, vec![1; 100]),
                    move |_: Completion| {
                        order.lock().push(number);
                    },
                )
            })
            .collect();
        lane.submit(batch);
    };
    submit(0..50);
    let done = lane.execute(&file, write(0, vec![2; 100]));
    assert_eq!(done.result.expect("it succeeds"), 100);
    assert_eq!(order.lock().len(), 50, "everything before it has ended");
    submit(50..60);
    let done = lane.execute(&file, Action::SyncData);
    done.result.expect("it succeeds");
    assert_eq!(order.lock().len(), 60);
    // From several threads at once, among submitted ones.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    submit(0..2);
                    let done = lane.execute(&file, write(0, vec![3; 10]));
                    assert_eq!(done.result.expect("it succeeds"), 10);
                }
            });
        }
    });
    bench.wait("the end of all", || lane.in_flight() == 0);
    assert_eq!(order.lock().len(), 60 + 160);
    Ran::Done
}

fn a_tail_localised_lane_completes_everything<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("tail");
    let lane = Lane::new(Arc::clone(&bench.backend), Ordering::TailLocalised);
    let batch = (0..200u64)
        .map(|at| {
            let action = write(at * 100, pattern(at, 100));
            Operation::new(file.clone(), action, |done: Completion| {
                assert_eq!(done.result.expect("it succeeds"), 100);
            })
        })
        .collect();
    lane.submit(batch);
    let done = lane.execute(&file, write(20_000, pattern(200, 100)));
    assert_eq!(done.result.expect("it succeeds"), 100);
    bench.wait("the end of all", || lane.in_flight() == 0);
    let done = bench.backend.execute(&file, read(0, 20_100));
    for (at, bytes) in done.memory.bytes().chunks(100).enumerate() {
        assert!(bytes == pattern(at as u64, 100), "write {at}");
    }
    Ran::Done
}
