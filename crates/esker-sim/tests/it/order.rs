//! In which order buffers are written that are handed over out of order.

use esker_io::{Backend, Ordering};
use esker_lss::{Lsn, Store};
use esker_sim::{Sim, SimOptions};

use crate::model::{dir, log_writes, small, try_scan};

/// The addresses of the log's writes that have begun and are not durable.
fn begun(sim: &Sim) -> Vec<u64> {
    log_writes(sim).into_iter().map(|(from, _)| from).collect()
}

/// A record that is not finished holds its buffer back. The ones behind it, which are full meanwhile,
/// are handed over before it.
fn overtaken(ordering: Ordering, seed: u64) {
    let options = small(ordering).sync_every_bytes(1 << 30);
    let sim = Sim::with(SimOptions::new(seed).alone(true));
    let store = Store::open(dir(), sim.clone(), options).expect("opens");
    let mut appended: Vec<(Lsn, Vec<u8>)> = Vec::new();
    let first = store.append_with(1000, |room| {
        room.fill(0);
        // To the end of this buffer, and of the next.
        for fill in 1..9 {
            let record = vec![fill; 1000];
            appended.push((store.append(&record).expect("appends"), record));
        }
        let behind = begun(&sim);
        match ordering {
            Ordering::Serialised => assert_eq!(behind, [], "the first is not written yet"),
            Ordering::TailLocalised => assert_eq!(behind.len(), 1, "it waits for nobody"),
        }
    });
    appended.insert(0, (first.expect("appends"), vec![0; 1000]));
    if ordering == Ordering::Serialised {
        let mut last = 0;
        while sim.in_flight() > 0 {
            let written = store.written().get();
            let now = begun(&sim);
            assert!(
                now.iter().all(|from| *from <= written),
                "{now:?} and {written}"
            );
            let most = now.iter().copied().max().unwrap_or(last);
            assert!(most >= last, "{most} after {last}");
            last = most;
            sim.poll();
        }
        assert!(last > 0, "the second was written behind the first");
    }
    let (last, _) = appended[appended.len() - 1];
    store.wait_durable(last).expect("durable");
    assert!(try_scan(&store).expect("whole") == appended, "{ordering:?}");
}

#[test]
fn a_buffer_that_is_held_back_is_overtaken_only_where_that_is_allowed() {
    for seed in 0..8 {
        for ordering in [Ordering::Serialised, Ordering::TailLocalised] {
            overtaken(ordering, seed);
        }
    }
}
