//! A store that many threads use, on a disk that stops at some moment. Not repeatable, and as many
//! schedules as there are runs.

use std::sync::Mutex;
use std::thread;

use esker_io::Ordering;
use esker_lss::{Lsn, Store};
use esker_sim::{Dice, Sim, Survival};

use crate::model::{dir, small};

const THREADS: u64 = 4;

fn life(sim: &Sim, ordering: Ordering, round: u64) -> Vec<(Lsn, Vec<u8>)> {
    let options = small(ordering).buffers(4).window_slots(6);
    let store = Store::open(dir(), sim.clone(), options).expect("opens");
    sim.crash_after(sim.effects() + 20 + round * 7 % 200);
    let acknowledged = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (store, acknowledged) = (&store, &acknowledged);
            scope.spawn(move || {
                let mut dice = Dice::new(round * THREADS + number);
                let mut appender = store.appender();
                for count in 0_u64.. {
                    assert!(count < 100_000, "the machine stops before");
                    let mut payload = format!("{round}.{number}.{count}.").into_bytes();
                    let longest = if dice.chance(1, 2) { 3000 } else { 50 };
                    payload.resize(payload.len() + dice.index(longest), b'x');
                    let durable = |lsn| store.wait_durable(lsn).map(|()| Some(lsn)).map_err(|_| ());
                    let appended = match dice.below(12) {
                        0..3 => store.append(&payload).map(|_| None).map_err(|_| ()),
                        3..6 => store.append_durable(&payload).map(Some).map_err(|_| ()),
                        6 => appender.append(&payload).map_err(|_| ()).and_then(durable),
                        _ => appender.append(&payload).map(|_| None).map_err(|_| ()),
                    };
                    match appended {
                        Ok(Some(lsn)) => {
                            acknowledged.lock().expect("whole").push((lsn, payload));
                        }
                        Ok(None) => {}
                        Err(()) => break,
                    }
                }
            });
        }
    });
    drop(store);
    acknowledged.into_inner().expect("whole")
}

#[test]
fn what_any_thread_was_told_survives() {
    for ordering in [Ordering::TailLocalised, Ordering::Serialised] {
        let mut sim = Sim::new(1);
        let mut acknowledged = Vec::new();
        for round in 0..25 {
            acknowledged.extend(life(&sim, ordering, round));
            let mut dice = Dice::new(round);
            sim = sim.crash(&mut |_| Survival::drawn(&mut dice));
            let options = small(ordering).buffers(4).window_slots(6);
            let store = Store::open(dir(), sim.clone(), options).expect("opens");
            for (lsn, payload) in &acknowledged {
                assert!(
                    store.read(*lsn).expect("it is durable") == *payload,
                    "{lsn}"
                );
            }
            drop(store);
        }
        assert!(acknowledged.len() > 100, "{} records", acknowledged.len());
    }
}
