//! Unit tests of the lease's word.

use std::collections::BTreeSet;

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

/// An entry whose last lease lies as [`active`] has it, and whose word is this one.
fn of(bits: u64) -> Lease {
    let (lease, _) = active();
    lease.word.store(bits, Ordering::Relaxed);
    lease
}

/// The lease as its owner knows it; where it is over, as it was.
fn known(bits: u64) -> Idle {
    match bits {
        VACANT => Idle::new(SEQ, 50),
        _ => Idle(bits & !(ACTIVE | CLOSING)),
    }
}

/// Every word that transitions lead to, of leases with room for two more records.
fn reachable() -> BTreeSet<u64> {
    let mut seen = BTreeSet::from([VACANT]);
    let mut next = vec![VACANT];
    while let Some(bits) = next.pop() {
        let known = known(bits);
        let then = |act: &dyn Fn(&Lease)| {
            let lease = of(bits);
            act(&lease);
            lease.word.load(Ordering::Relaxed)
        };
        let mut after = vec![
            then(&|lease| {
                let _ = lease.retire(known);
            }),
            then(&|lease| {
                let _ = lease.revoke(SEQ);
            }),
        ];
        if bits == VACANT {
            let idle = Idle::new(SEQ, 50);
            after.push(then(&|lease| lease.install(idle, SEQ, 140, || false)));
        }
        if known.used() < 140 {
            after.push(then(&|lease| {
                let _ = lease.begin(known, 30);
            }));
        }
        if bits & ACTIVE != 0 {
            after.push(then(&|lease| {
                let _ = lease.commit();
            }));
            after.push(then(&|lease| lease.commit_last()));
            after.push(then(&|lease| {
                lease.notify();
                let _ = lease.commit();
            }));
        }
        if bits & (LIVE | ACTIVE | CLOSING) == LIVE {
            // What others see between the two halves of a revocation.
            after.push(bits | CLOSING);
        }
        for word in after {
            if seen.insert(word) {
                next.push(word);
            }
        }
    }
    seen
}

/// What a transition of the table makes of a word, in the table's words; `None` where it is none.
fn outcome(column: &str, bits: u64) -> Option<&'static str> {
    let (lease, known) = (of(bits), known(bits));
    Some(match column {
        "begin" if lease.begin(known, 30) => "begun",
        "begin" => "refused",
        "commit" if bits & ACTIVE != 0 => match lease.commit() {
            Commit::Idle => "idle",
            Commit::Close(_) => "closed",
        },
        "retire" => match lease.retire(known) {
            Retire::Close(_) => "closed",
            Retire::Gone => "gone",
            Retire::Forgotten => "forgotten",
        },
        "revoke" => match lease.revoke(SEQ) {
            Revoke::Close(_) => "closed",
            Revoke::UnderWay => "under way",
            Revoke::Gone => "passed by",
        },
        _ => return None,
    })
}

#[test]
fn the_table_of_states_is_that_of_every_reachable_word() {
    let doc = include_str!("../../../../docs/protocol.md");
    let cells = |row: &'static str| -> Vec<&str> {
        let row = row.trim_start_matches('|').strip_suffix('|');
        row.expect("a row").split('|').map(str::trim).collect()
    };
    let at = doc.find("| closing | active | live | state |");
    let mut lines = doc[at.expect("a table of states")..].lines();
    let columns = cells(lines.next().expect("its head"));
    let rows: Vec<_> = lines
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(cells)
        .collect();
    let flags = [CLOSING, ACTIVE, LIVE];
    let is_row_of = |row: &[&str], bits: u64| {
        flags
            .iter()
            .zip(row)
            .all(|(flag, cell)| *cell == "any" || *cell == u8::from(bits & flag != 0).to_string())
    };
    for bits in 0..1 << flags.len() {
        let rows = rows.iter().filter(|row| is_row_of(row, bits));
        assert_eq!(rows.count(), 1, "rows of {bits:#b}");
    }
    for row in &rows {
        let mut words = reachable();
        words.retain(|&bits| is_row_of(row, bits));
        assert_eq!(words.is_empty(), row[3] == "never", "{row:?}");
        for (column, said) in columns.iter().zip(row).skip(4) {
            let outcomes: BTreeSet<_> = words
                .iter()
                .filter_map(|&bits| outcome(column, bits))
                .collect();
            let said = Some(*said).filter(|said| !matches!(*said, "-" | ""));
            assert_eq!(outcomes, said.into_iter().collect(), "{column} of {row:?}");
        }
    }
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
