//! How much of the log may be written and not durable: what a crash may leave behind the first slot
//! that is missing lies within the window, in slots and in bytes.

use esker_io::Ordering;
use esker_lss::Store;
use esker_sim::{Sim, SimOptions, Survival};

use crate::model::{End, Model, SEGMENT_BYTES, goes_on, log_writes, range_of, recover, small};

/// What this life has written, or what is on its way, and is not durable is as little as the store's
/// window says.
pub(crate) fn check(model: &Model, store: &Store<Sim>) {
    let Ok(info) = store.info() else {
        return;
    };
    let durable = store.durable().get();
    let mut writes = log_writes(store.backend());
    // What a life before has left behind the end comes before what this one has written there.
    for left in model.left_behind() {
        if let Some(at) = writes.iter().position(|write| write == left) {
            writes.remove(at);
        }
    }
    // What begins a file may be the rest of a slot that begins in the one before.
    let (mut slots, mut end) = (0, durable);
    for &(from, to) in writes.iter().filter(|(from, _)| *from >= durable) {
        let is_rest = from % SEGMENT_BYTES == 0 && writes.iter().any(|(_, to)| *to == from);
        slots += u32::from(!is_rest);
        end = end.max(to);
    }
    assert!(slots <= info.window_slots, "{slots} slots are not durable");
    let most = durable + info.window_bytes;
    assert!(end <= most, "{end} is written, and {durable} durable");
}

/// Records that are larger than a buffer, and that nobody waits for, take no more memory than the window
/// has room for, and one of them: what lies behind could not be written yet.
#[test]
fn large_records_take_no_more_memory_than_the_window() {
    let options = small(Ordering::TailLocalised)
        .buffers(16)
        .window_slots(64)
        .max_record_bytes(4 * SEGMENT_BYTES);
    for seed in 0..2 {
        let sim = Sim::with(SimOptions::new(seed).alone(true));
        let mut model = Model::default();
        let store = recover(&sim, &options, &mut model, End::Power).expect("opens");
        let window = store.info().expect("info").window_bytes;
        let mut most = 0;
        while store.tail().get() < 3 * window {
            let payload = model.payload(200_000);
            let lsn = store.append(&payload).expect("appends");
            model.appended(lsn, payload);
            most = most.max(store.tail().get() - store.written().get());
        }
        assert!(most <= window + 4 * SEGMENT_BYTES, "{most} of {window}");
        assert!(
            most + 4 * SEGMENT_BYTES > window,
            "it is full at times: {most}"
        );
        goes_on(&sim, &options, store, &mut model, &[700]);
    }
}

/// Of records that nobody waits to be durable, so large that the window is full of bytes long before
/// it is full of slots, a crash takes the first and leaves the last.
#[test]
fn large_records_stay_within_the_window() {
    let options = small(Ordering::TailLocalised)
        .max_record_bytes(SEGMENT_BYTES)
        .window_slots(64)
        .sync_every_bytes(1 << 30);
    for seed in 0..4 {
        let sim = Sim::with(SimOptions::new(seed).alone(true));
        let mut model = Model::default();
        let store = recover(&sim, &options, &mut model, End::Power).expect("opens");
        let window = store.info().expect("info").window_bytes;
        let mut fullest = 0;
        while store.tail().get() < 3 * window {
            let payload = model.payload(60_000);
            let lsn = store.append(&payload).expect("appends");
            model.appended(lsn, payload);
            store.wait_written(lsn).expect("written");
            model.look(&store);
            check(&model, &store);
            fullest = fullest.max(store.written().get() - store.durable().get());
        }
        assert!(
            fullest + SEGMENT_BYTES > window,
            "it is full at times: {fullest}"
        );
        sim.stop();
        drop(store);
        let end = model.durable_end();
        let next = sim.crash(&mut |item| match range_of(item) {
            Some((from, _)) if from < end + SEGMENT_BYTES => Survival::Lost,
            _ => Survival::Kept,
        });
        let store = recover(&next, &options, &mut model, End::Power).expect("a torn tail");
        goes_on(&next, &options, store, &mut model, &[700]);
    }
}
