//! Unit tests of the state word's transitions.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const HEADER: u32 = 8;

fn word(offset: u32, writers: u32, flags: u64) -> StateWord {
    StateWord {
        bits: ContendedU64::new(
            u64::from(offset) << OFFSET_SHIFT | u64::from(writers) << WRITERS_SHIFT | flags,
        ),
    }
}

fn parts(word: &StateWord) -> (u32, u32, bool, bool) {
    let seen = word.load();
    (
        seen.offset(),
        seen.writers(),
        seen.is_flushing(),
        seen.is_sealed(),
    )
}

#[test]
fn an_exact_fill_takes_and_the_next_arrival_crosses() {
    let word = word(40, 0, 0);
    assert_eq!(
        word.reserve(word.look(), 24, 1, 64),
        Reserve::Taken {
            offset: 40,
            len: 24
        }
    );
    assert_eq!(parts(&word), (64, 1, false, false));
    assert_eq!(
        word.reserve(word.look(), 1, 1, 64),
        Reserve::Crossed { end: 64 }
    );
    assert_eq!(parts(&word), (64, 2, false, true));
    assert_eq!(word.reserve(word.look(), 1, 1, 64), Reserve::Sealed);
}

#[test]
fn only_the_last_one_out_of_a_sealed_buffer_claims_and_only_once() {
    let word = word(40, 2, SEALED);
    assert_eq!(word.leave(), Leave::Left);
    assert_eq!(word.leave(), Leave::LastOut);
    assert_eq!(parts(&word), (40, 0, true, true));
    assert_eq!(
        word.claim(Snapshot(40 << OFFSET_SHIFT | SEALED)),
        Leave::Left
    );
}

#[test]
fn leaving_an_open_buffer_claims_nothing() {
    let word = word(40, 1, 0);
    assert_eq!(word.leave(), Leave::Left);
    assert_eq!(parts(&word), (40, 0, false, false));
}

#[test]
fn a_late_leaver_of_a_recycled_slot_claims_nothing() {
    let word = word(40, 1, SEALED | FLUSHING);
    assert_eq!(word.leave(), Leave::Left);
}

#[test]
fn an_empty_or_sealed_buffer_is_not_sealed() {
    assert_eq!(word(HEADER, 0, 0).seal(HEADER), Seal::Empty);
    assert!(matches!(
        word(40, 1, SEALED).seal(HEADER),
        Seal::AlreadySealed(_)
    ));
    assert_eq!(word(40, 1, 0).seal(HEADER), Seal::Sealed { end: 40 });
}

#[test]
fn an_extent_takes_over_only_an_open_empty_buffer() {
    assert_eq!(word(HEADER, 0, 0).seal_empty(HEADER), SealEmpty::Taken);
    assert_eq!(word(40, 0, 0).seal_empty(HEADER), SealEmpty::NotEmpty);
    assert_eq!(
        word(HEADER, 1, SEALED).seal_empty(HEADER),
        SealEmpty::AlreadySealed
    );
}

#[test]
fn a_pin_needs_an_open_buffer_without_writers() {
    assert_eq!(word(40, 0, 0).pin(HEADER), PinStep::Pinned { end: 40 });
    assert_eq!(word(40, 1, 0).pin(HEADER), PinStep::Busy);
    assert_eq!(word(HEADER, 0, 0).pin(HEADER), PinStep::NotOpen);
    assert_eq!(word(40, 0, SEALED).pin(HEADER), PinStep::NotOpen);
}

#[test]
fn opening_keeps_a_transient_count() {
    let open = word(40, 3, SEALED | FLUSHING);
    open.open(HEADER);
    assert_eq!(parts(&open), (HEADER, 3, false, false));
    let sealed = word(40, 3, SEALED | FLUSHING);
    sealed.open_sealed(HEADER);
    assert_eq!(parts(&sealed), (HEADER, 4, false, true));
}

#[test]
fn the_count_leaves_room_for_the_sealer() {
    let full = word(16, MAX_WRITERS, 0);
    assert_eq!(full.reserve(full.look(), 8, 1, 64), Reserve::Crowded);
    assert_eq!(full.seal(HEADER), Seal::Sealed { end: 16 });
    assert_eq!(parts(&full), (16, MAX_WRITERS + 1, false, true));
}

/// One step of a random life of a word.
#[derive(Clone, Copy, Debug)]
enum Step {
    Reserve(u32),
    Seal,
    Pin,
    Leave,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u32..40).prop_map(Step::Reserve),
        1 => Just(Step::Seal),
        1 => Just(Step::Pin),
        4 => Just(Step::Leave),
    ]
}

proptest! {
    #[test]
    fn fields_never_touch_each_other(offset: u32, writers in 0u32..1 << 24, flags in 0u64..4) {
        let word = word(offset, writers, flags);
        prop_assert_eq!(parts(&word), (offset, writers, flags & FLUSHING != 0, flags & SEALED != 0));
    }

    #[test]
    fn any_life_of_a_word_is_that_of_a_plain_model(steps in prop::collection::vec(step(), 1..60)) {
        const CAPACITY: u32 = 100;
        let word = word(HEADER, 0, 0);
        let (mut end, mut inside, mut sealed, mut claimed) = (HEADER, 0u32, false, 0);
        for step in steps {
            match step {
                Step::Reserve(len) => match word.reserve(word.look(), len, 1, CAPACITY) {
                    Reserve::Taken { offset, len: taken } => {
                        prop_assert!(!sealed && offset == end && taken == len);
                        end += len;
                        inside += 1;
                        prop_assert!(end <= CAPACITY);
                    }
                    Reserve::Crossed { end: at } => {
                        prop_assert!(!sealed && at == end && end + len > CAPACITY);
                        sealed = true;
                        inside += 1;
                    }
                    Reserve::Sealed => prop_assert!(sealed),
                    Reserve::Crowded => prop_assert!(false),
                },
                Step::Seal => match word.seal(HEADER) {
                    Seal::Sealed { end: at } => {
                        prop_assert!(!sealed && at == end && end > HEADER);
                        sealed = true;
                        inside += 1;
                    }
                    Seal::Empty => prop_assert!(!sealed && end == HEADER),
                    Seal::AlreadySealed(_) => prop_assert!(sealed),
                },
                Step::Pin => match word.pin(HEADER) {
                    PinStep::Pinned { end: at } => {
                        prop_assert!(!sealed && inside == 0 && at == end && end > HEADER);
                        inside += 1;
                    }
                    PinStep::Busy => prop_assert!(inside > 0 && !sealed),
                    PinStep::NotOpen => prop_assert!(sealed || end == HEADER),
                },
                Step::Leave if inside > 0 => {
                    inside -= 1;
                    let last = word.leave() == Leave::LastOut;
                    prop_assert_eq!(last, sealed && inside == 0);
                    claimed += u32::from(last);
                }
                Step::Leave => {}
            }
            prop_assert_eq!(parts(&word), (end, inside, claimed == 1, sealed));
            prop_assert!(claimed <= 1);
        }
    }
}

#[test]
fn the_layout_is_the_one_in_the_protocol_document() {
    let doc = include_str!("../../../../docs/protocol.md");
    for (field, shift, bits) in [
        ("write offset", OFFSET_SHIFT, OFFSET_BITS),
        ("active writers", WRITERS_SHIFT, WRITERS_BITS),
        ("reserved", RESERVED_SHIFT, RESERVED_BITS),
        ("flush in progress", FLUSH_BIT, 1),
        ("sealed", SEALED_BIT, 1),
    ] {
        let row = format!("| {field} | {shift} | {bits} |");
        assert!(doc.contains(&row), "no row {row}");
    }
}

/// Every word that transitions lead to from a retired one, in a buffer with room for three bytes.
fn reachable() -> BTreeSet<u64> {
    let mut seen = BTreeSet::from([Snapshot::RETIRED.0]);
    let mut next: Vec<u64> = seen.iter().copied().collect();
    while let Some(bits) = next.pop() {
        let word = Snapshot(bits);
        let then = |act: &dyn Fn(&StateWord)| {
            let word = of(bits);
            act(&word);
            word.load()
        };
        let mut after = vec![
            then(&|word| {
                let _ = word.seal(HEADER);
            }),
            then(&|word| {
                let _ = word.seal_empty(HEADER);
            }),
            then(&|word| {
                let _ = word.pin(HEADER);
            }),
        ];
        for (len, most) in [(1, 1), (1, 3), (2, 1), (3, 1)] {
            after.push(then(&|word| {
                let _ = word.reserve(word.look(), len, most, ROOM_TO);
            }));
        }
        if word.writers() > 0 {
            after.push(then(&|word| {
                let _ = word.leave();
            }));
            // What others see between the two halves of a leave that claims.
            after.push(Snapshot(bits - ONE_WRITER));
        }
        if word.is_flushing() {
            after.push(then(&|word| word.open(HEADER)));
            after.push(then(&|word| word.open_sealed(HEADER)));
        }
        for word in after {
            if seen.insert(word.0) {
                next.push(word.0);
            }
        }
    }
    seen
}

/// Where a buffer with the words of [`reachable`] ends.
const ROOM_TO: u32 = HEADER + 3;

fn of(bits: u64) -> StateWord {
    StateWord {
        bits: ContendedU64::new(bits),
    }
}

/// What the transition that a column of the truth table is about makes of a word, in the table's
/// words; `None` if the table need not say.
fn outcome(column: &str, bits: u64) -> Option<&'static str> {
    let (word, seen) = (of(bits), Snapshot(bits));
    let reserve = |len| match word.reserve(word.look(), len, 1, ROOM_TO) {
        Reserve::Taken { .. } => "taken",
        Reserve::Crossed { .. } => "sealed",
        Reserve::Sealed => "refused",
        Reserve::Crowded => "crowded",
    };
    let room = ROOM_TO - seen.offset();
    Some(match column {
        "reserve, fits" if room > 0 => reserve(room),
        "reserve, too long" if seen.offset() > HEADER => reserve(room + 1),
        "early seal" => match word.seal(HEADER) {
            Seal::Sealed { .. } => "sealed",
            Seal::Empty | Seal::AlreadySealed(_) => "refused",
        },
        "take over" => match word.seal_empty(HEADER) {
            SealEmpty::Taken => "sealed",
            SealEmpty::NotEmpty | SealEmpty::AlreadySealed => "refused",
        },
        "pin" => match word.pin(HEADER) {
            PinStep::Pinned { .. } => "taken",
            PinStep::Busy | PinStep::NotOpen => "refused",
        },
        "leave" if seen.writers() > 0 => match word.leave() {
            Leave::Left => "stays",
            Leave::LastOut => "last out",
        },
        _ => return None,
    })
}

#[test]
fn taking_is_reserving_where_it_fits_and_touches_nothing_elsewhere() {
    let crowded = u64::from(HEADER) << OFFSET_SHIFT | u64::from(MAX_WRITERS) << WRITERS_SHIFT;
    let mut taken = 0;
    for bits in reachable().into_iter().chain([crowded]) {
        for (len, most) in [(1, 1), (1, 2), (1, 9), (2, 1), (2, 9), (3, 1), (4, 1)] {
            let (quick, whole) = (of(bits), of(bits));
            match quick.take(len, most, ROOM_TO) {
                Ok((offset, len)) => {
                    let outcome = whole.reserve(whole.look(), len, 1, ROOM_TO);
                    assert_eq!(outcome, Reserve::Taken { offset, len });
                    assert_eq!(quick.load(), whole.load());
                    taken += 1;
                }
                Err(seen) => {
                    assert_eq!((seen, quick.load()), (Snapshot(bits), Snapshot(bits)));
                    let outcome = whole.reserve(seen, len, most, ROOM_TO);
                    assert!(!matches!(outcome, Reserve::Taken { .. }), "{outcome:?}");
                }
            }
        }
    }
    assert!(taken > 0);
}

#[test]
fn the_truth_table_is_that_of_every_reachable_word() {
    let doc = include_str!("../../../../docs/protocol.md");
    let cells = |row: &'static str| -> Vec<&str> {
        row.trim_matches('|').split('|').map(str::trim).collect()
    };
    let at = doc.find("| flush | sealed | writers | offset |");
    let mut lines = doc[at.expect("a truth table")..].lines();
    let columns = cells(lines.next().expect("its head"));
    let rows: Vec<_> = lines
        .skip(1)
        .take_while(|line| !line.is_empty())
        .map(cells)
        .collect();
    let is_row_of = |row: &[&str], word: Snapshot| {
        let writers = match row[2] {
            "> 0" => word.writers() > 0,
            "> 1" => word.writers() > 1,
            "any" => true,
            exact => exact.parse() == Ok(word.writers()),
        };
        let offset = match row[3] {
            "header" => word.offset() == HEADER,
            "above" => word.offset() > HEADER,
            other => other == "any",
        };
        row[0] == u8::from(word.is_flushing()).to_string()
            && row[1] == u8::from(word.is_sealed()).to_string()
            && writers
            && offset
    };
    let mut met = vec![false; rows.len()];
    // Which cells speak of something that can be tried.
    let mut tried = vec![vec![false; columns.len()]; rows.len()];
    for bits in reachable() {
        let word = Snapshot(bits);
        assert_eq!(bits >> RESERVED_SHIFT & ((1 << RESERVED_BITS) - 1), 0);
        // The word of a ring that has never been used yet has no offset at all.
        assert!(
            word.offset() <= ROOM_TO && (word.offset() >= HEADER || bits == Snapshot::RETIRED.0)
        );
        let of_word: Vec<_> = (0..rows.len())
            .filter(|&row| is_row_of(&rows[row], word))
            .collect();
        assert_eq!(of_word.len(), 1, "rows of {word:?}");
        let row = &rows[of_word[0]];
        met[of_word[0]] = true;
        for (at, (column, said)) in columns.iter().zip(row).enumerate().skip(5) {
            if let Some(outcome) = outcome(column, bits) {
                assert_eq!(*said, outcome, "{column} of {word:?}");
                tried[of_word[0]][at] = true;
            }
        }
    }
    for ((row, met), tried) in rows.iter().zip(met).zip(tried) {
        assert_eq!(met, !row[4].starts_with("never"), "{row:?}");
        for (said, tried) in row.iter().zip(tried).skip(5) {
            assert_eq!(tried, !matches!(*said, "-" | ""), "{said} in {row:?}");
        }
    }
}
