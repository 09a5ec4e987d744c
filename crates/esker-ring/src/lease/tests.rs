//! Unit tests of the lease's word.

use super::*;

const SEQ: u64 = 0x0123_4567_89AB_CDEF;

/// An entry with a lease of 100 bytes at 40, with a record of 10 under way.
fn active() -> (Lease, Idle) {
    let (lease, idle) = (Lease::new(Fences::Symmetric), Idle::new(SEQ, 50));
    assert!(lease.is_vacant());
    lease.install(idle, SEQ, 140, || false);
    (lease, idle)
}

fn idle() -> (Lease, Idle) {
    let (lease, idle) = active();
    assert_eq!(lease.commit(), Commit::Idle);
    (lease, idle)
}

const PLACE: Closing = Closing {
    seq: SEQ,
    used: 50,
    end: 140,
};

#[test]
fn records_follow_each_other() {
    let (lease, idle) = idle();
    assert!(lease.begin(idle, 20));
    assert_eq!(lease.commit(), Commit::Idle);
    assert_eq!(idle.after(20).used(), 70);
    assert!(!lease.begin(idle, 20), "the word has moved on");
    assert!(lease.begin(idle.after(20), 20));
    lease.commit_last();
    assert!(lease.is_vacant());
}

#[test]
fn an_idle_lease_falls_to_its_revoker_and_an_active_one_to_its_owner() {
    let (lease, known) = idle();
    assert_eq!(lease.revoke(SEQ), Revoke::Close(PLACE));
    assert!(lease.is_vacant());
    assert!(!lease.begin(known, 20));
    assert_eq!(lease.retire(known), Retire::Gone);

    let (lease, _) = active();
    assert_eq!(lease.revoke(SEQ), Revoke::UnderWay);
    lease.notify();
    assert_eq!(lease.commit(), Commit::Close(PLACE));
    assert!(lease.is_vacant());
}

#[test]
fn a_notice_is_for_one_lease() {
    let (lease, _) = active();
    lease.notify();
    lease.commit_last();
    lease.install(Idle::new(SEQ + 1, 50), SEQ + 1, 140, || false);
    assert_eq!(lease.commit(), Commit::Idle);
}

#[test]
fn an_owner_that_heeds_a_notice_too_late_closes_nothing() {
    let (lease, idle) = idle();
    assert!(lease.begin(idle, 20));
    lease.notify();
    // What a revoker does between the owner's store and its look at the notice.
    lease.word.store(idle.after(20).0, Ordering::Relaxed);
    assert!(matches!(lease.revoke(SEQ), Revoke::Close(_)));
    assert_eq!(lease.heed(idle.after(20)), Commit::Idle);
}

#[test]
fn a_lease_is_retired_once_and_not_while_a_record_is_under_way() {
    let (lease, known) = idle();
    assert_eq!(lease.retire(known), Retire::Close(PLACE));
    assert_eq!(lease.retire(known), Retire::Gone);
    assert_eq!(lease.revoke(SEQ), Revoke::Gone);
    let (lease, known) = active();
    assert_eq!(lease.retire(known), Retire::Forgotten);
}

#[test]
fn a_lease_of_another_tenancy_is_not_revoked() {
    let (lease, known) = idle();
    assert_eq!(lease.revoke(SEQ + 1), Revoke::Gone);
    assert!(lease.begin(known, 20));
    assert_eq!(
        lease.revoke(SEQ + 1),
        Revoke::Gone,
        "also with a record under way"
    );
}

#[test]
fn a_lease_in_a_sealed_buffer_ends_with_its_first_record() {
    let lease = Lease::new(Fences::Symmetric);
    lease.install(Idle::new(SEQ, 50), SEQ, 140, || true);
    assert_eq!(lease.commit(), Commit::Close(PLACE));
}

#[test]
fn closing_keeps_everybody_off() {
    let (lease, known) = idle();
    lease.word.fetch_or(CLOSING, Ordering::Relaxed);
    assert!(!lease.is_vacant());
    assert!(!lease.begin(known, 20));
    assert_eq!(lease.retire(known), Retire::Gone);
    assert_eq!(lease.revoke(SEQ), Revoke::Gone);
}

#[test]
fn entries_are_lent_once() {
    let leases = Leases::new(Fences::Symmetric);
    let lent: Vec<_> = (0..ENTRIES).map(|_| leases.lend()).collect();
    assert!((0..ENTRIES).all(|entry| lent[entry] == Some(entry)));
    assert_eq!(leases.lend(), None);
    leases.take_back(17);
    assert_eq!(leases.lend(), Some(17));
}

#[test]
fn revoking_finds_the_leases_that_are_lent() {
    let leases = Leases::new(Fences::Symmetric);
    for entry in 0..3 {
        assert_eq!(leases.lend(), Some(entry));
    }
    for entry in [0, 2] {
        let lease = leases.get(entry);
        lease.install(Idle::new(SEQ, 50), SEQ, 140, || false);
        assert_eq!(lease.commit(), Commit::Idle);
    }
    let mut closed = 0;
    leases.revoke(SEQ, |closing| {
        assert_eq!(closing, PLACE);
        closed += 1;
        true
    });
    assert_eq!(closed, 2);
}

/// A record under way is left to its owner, whichever the fences: this goes through the looks and
/// the barrier of a revoker that can't wait for it.
#[test]
fn revoking_tells_owners_that_are_busy() {
    for fences in [Fences::Symmetric, Fences::cheapest()] {
        let leases = Leases::new(fences);
        assert_eq!(leases.lend(), Some(0));
        let (lease, idle) = (leases.get(0), Idle::new(SEQ, 50));
        lease.install(idle, SEQ, 140, || false);
        leases.revoke(SEQ, |closing| panic!("not idle, and yet {closing:?}"));
        assert_eq!(lease.commit(), Commit::Close(PLACE));
    }
}

#[test]
fn revoking_stops_when_it_is_told_to() {
    let leases = Leases::new(Fences::Symmetric);
    for entry in 0..2 {
        assert_eq!(leases.lend(), Some(entry));
        let lease = leases.get(entry);
        lease.install(Idle::new(SEQ, 50), SEQ, 140, || false);
        assert_eq!(lease.commit(), Commit::Idle);
    }
    leases.revoke(SEQ, |_| false);
    assert!(leases.get(0).is_vacant());
    assert!(!leases.get(1).is_vacant());
}

#[test]
fn the_layout_is_the_one_in_the_protocol_document() {
    let doc = include_str!("../../../../docs/protocol.md");
    for (field, shift, bits) in [
        ("used offset", USED_SHIFT, USED_BITS),
        ("tag", TAG_SHIFT, TAG_BITS),
        ("spare", SPARE_SHIFT, SPARE_BITS),
        ("closing", CLOSING_BIT, 1),
        ("active", ACTIVE_BIT, 1),
        ("live", LIVE_BIT, 1),
    ] {
        let row = format!("| {field} | {shift} | {bits} |");
        assert!(doc.contains(&row), "no row {row}");
    }
    let row = format!("a fixed array of {ENTRIES}");
    assert!(doc.contains(&row), "no {row}");
}
