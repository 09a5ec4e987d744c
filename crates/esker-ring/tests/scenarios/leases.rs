//! Appenders, and whoever revokes their leases.

use esker_ring::{PinCommitted, TryReserve};

use super::steps::*;

/// Leases: a seal meets an appender at its lease's installation and at its records.
pub(crate) fn a_lease_meets_a_seal() {
    let (ring, sink) = (leasing(2, 4, u64::MAX, 3), Sink::new());
    let writer = spawn(&ring, &sink, |ring, sink| {
        let mut appender = ring.appender();
        let written = [1, 2].map(|mark| append_some_leased(&mut appender, sink, mark));
        (written.concat(), appender)
    });
    seal(&ring, &sink);
    // The appender is idle from here on, and its lease must not keep anything back.
    let (written, appender) = join(writer);
    finish(&ring, &sink, &written);
    drop(appender);
}

/// Leases: two in one buffer, which is sealed meanwhile.
pub(crate) fn two_leases_and_a_seal() {
    let (ring, sink) = (leasing(2, 4, u64::MAX, 2), Sink::new());
    let writers = [1, 2].map(|mark| {
        spawn(&ring, &sink, move |ring, sink| {
            let mut appender = ring.appender();
            (append_some_leased(&mut appender, sink, mark), appender)
        })
    });
    seal(&ring, &sink);
    let (written, appenders): (Vec<_>, Vec<_>) = writers.map(join).into_iter().unzip();
    finish(&ring, &sink, &written.concat());
    drop(appenders);
}

/// Leases: whoever crosses closes the idle ones, and their owners go on elsewhere.
pub(crate) fn crossing_revokes_an_idle_lease() {
    let (ring, sink) = (leasing(2, 3, u64::MAX, 2), Sink::new());
    let mut appender = ring.appender();
    let one = append_leased(&mut appender, &sink, 1);
    let other = spawn(&ring, &sink, |ring, sink| {
        [2, 3].map(|mark| append_some(ring, sink, mark)).concat()
    });
    let mut written = append_some_leased(&mut appender, &sink, 4);
    written.push(one);
    written.extend(join(other));
    finish(&ring, &sink, &written);
}

/// Leases: the owner gives its lease up while it is revoked, by being dropped.
pub(crate) fn dropping_an_appender_races_a_seal() {
    let (ring, sink) = (leasing(2, 3, u64::MAX, 3), Sink::new());
    let mut appender = ring.appender();
    let one = append_leased(&mut appender, &sink, 1);
    let sealer = spawn(&ring, &sink, seal);
    drop(appender);
    // The entry of the registry goes to the next appender at once.
    let mut written = vec![one];
    for _ in 0..REPEATS {
        let mut next = ring.appender();
        written.push(append_leased(&mut next, &sink, 2));
    }
    join(sealer);
    finish(&ring, &sink, &written);
}

/// Leases, L3: an appender gives its lease up, and with it the entry, which another lends at once.
pub(crate) fn an_entry_goes_from_one_appender_to_another() {
    let (ring, sink) = (leasing(2, 6, u64::MAX, 3), Sink::new());
    let mut appender = ring.appender();
    let one = append_leased(&mut appender, &sink, 1);
    let other = spawn(&ring, &sink, |ring, sink| {
        let mut appender = ring.appender();
        append_some_leased(&mut appender, sink, 2)
    });
    drop(appender);
    let mut written = join(other);
    written.push(one);
    finish(&ring, &sink, &written);
}

/// Leases: a seal and a reader revoke the same one, and its owner uses it.
pub(crate) fn two_revokers_close_a_lease_once() {
    let (ring, sink) = (leasing(2, 3, u64::MAX, 3), Sink::new());
    let mut appender = ring.appender();
    let one = append_leased(&mut appender, &sink, 1);
    let sealer = spawn(&ring, &sink, seal);
    let reader = spawn(&ring, &sink, |ring, sink| {
        for _ in 0..REPEATS {
            if let Some(buffer) = ring.revoke_leases() {
                sink.take(buffer);
            }
        }
    });
    let mut written = append_some_leased(&mut appender, &sink, 2);
    written.push(one);
    join(sealer);
    join(reader);
    finish(&ring, &sink, &written);
}

/// Leases, L3: the owner goes on while a revoker reads where its lease lies, and leases anew only
/// when that has been read.
pub(crate) fn an_owner_meets_the_revoker_of_its_lease() {
    let (ring, sink) = (leasing(2, 5, u64::MAX, 3), Sink::new());
    let mut appender = ring.appender();
    // As many of the three as it takes to lease again.
    let mut written = [1, 2]
        .map(|mark| append_leased(&mut appender, &sink, mark))
        .to_vec();
    let reader = spawn(&ring, &sink, |ring, sink| {
        for _ in 0..REPEATS {
            if let Some(buffer) = ring.revoke_leases() {
                sink.take(buffer);
            }
        }
    });
    written.extend(append_some_leased(&mut appender, &sink, 3));
    join(reader);
    finish(&ring, &sink, &written);
}

/// Leases: after a revocation a pin shows what was committed under the lease, and nothing else is
/// written there.
pub(crate) fn a_pin_sees_the_records_of_a_revoked_lease() {
    let (ring, sink) = (leasing(2, 4, u64::MAX, 3), Sink::new());
    let writer = spawn(&ring, &sink, |ring, sink| {
        let mut appender = ring.appender();
        [5, 6].map(|mark| append_leased(&mut appender, sink, mark))
    });
    if let Some(buffer) = ring.revoke_leases() {
        sink.take(buffer);
    }
    if let PinCommitted::Pinned(pin) = ring.pin_committed(BASE + HEADER as u64) {
        assert_eq!(pin[HEADER..HEADER + RECORD], [5; RECORD]);
        for record in pin[HEADER + RECORD..].chunks(RECORD) {
            assert!(record == [6; RECORD] || record == [VOID; RECORD]);
        }
        if let Some(buffer) = pin.release() {
            sink.take(buffer);
        }
    }
    let written = join(writer);
    while let Some(buffer) = ring.take_orphan() {
        sink.take(buffer);
    }
    finish(&ring, &sink, &written);
}

/// Leases, R7: a record under a lease is dropped while the lease is revoked.
pub(crate) fn a_leased_record_is_dropped() {
    let (ring, sink) = (leasing(2, 3, u64::MAX, 3), Sink::new());
    let mut appender = ring.appender();
    let one = append_leased(&mut appender, &sink, 1);
    let dropper = spawn(&ring, &sink, move |_, sink| {
        match appender.try_reserve(RECORD).expect("it fits") {
            TryReserve::Reserved(mut record) => {
                record.fill(7);
                drop(record);
            }
            TryReserve::Sealed(buffer) => sink.take(buffer),
            TryReserve::Full(_) | TryReserve::Limit { .. } => {}
        }
    });
    seal(&ring, &sink);
    let two = append(&ring, &sink, 2);
    join(dropper);
    finish(&ring, &sink, &[one, two]);
}

/// Leases: an extent seals the buffer, which an idle lease in it does not hold up.
pub(crate) fn an_extent_revokes_a_lease() {
    let (ring, sink) = (leasing(3, 3, u64::MAX, 3), Sink::new());
    let mut appender = ring.appender();
    let one = append_leased(&mut appender, &sink, 1);
    let inserter = spawn(&ring, &sink, |ring, sink| append_extents(ring, sink, 2));
    let three = append_some_leased(&mut appender, &sink, 3);
    let written = [vec![one], three, join(inserter)].concat();
    finish(&ring, &sink, &written);
    drop(appender);
}

/// Leases, R5: the ring goes round while the owner of an idle lease looks elsewhere.
pub(crate) fn a_lease_of_a_past_tenancy_is_not_used() {
    let (ring, sink) = (leasing(2, 3, u64::MAX, 3), Sink::new());
    let mut appender = ring.appender();
    let one = append_leased(&mut appender, &sink, 1);
    let mover = spawn(&ring, &sink, |ring, sink| {
        seal(ring, sink);
        let two = append_some(ring, sink, 2);
        seal(ring, sink);
        two
    });
    let three = append_some_leased(&mut appender, &sink, 3);
    let written = [vec![one], join(mover), three].concat();
    finish(&ring, &sink, &written);
}

/// Leases, R6: an appender waits in a full ring, and leases in the buffer that is opened.
pub(crate) fn a_full_ring_wakes_its_appender() {
    let (ring, sink) = (leasing(2, 2, u64::MAX, 2), Sink::new());
    let (first, one) = take_sealed(&ring, 1);
    let (second, two) = take_sealed(&ring, 2);
    let waiter = spawn(&ring, &sink, |ring, sink| {
        let mut appender = ring.appender();
        [3, 4]
            .map(|mark| append_some_leased(&mut appender, sink, mark))
            .concat()
    });
    sink.take(first);
    sink.take(second);
    let mut written = vec![one, two];
    written.extend(join(waiter));
    finish(&ring, &sink, &written);
}
