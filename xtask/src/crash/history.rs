//! [`History`]: what had been acknowledged when, and what a store may hold after a crash at a point
//! of the device's log. Pure: it sees what the commands printed.

use std::collections::BTreeMap;
use std::fmt;

use super::log::Mark;
use crate::trial::Records;

/// A record that a store holds: its LSN, and which record of which life it is, if it is one.
pub(super) type Found = (u64, Option<(usize, u64)>);

/// One life of the store.
#[derive(Clone, Debug)]
pub(super) struct Past {
    pub(super) records: Records,
    /// Record `i` was appended by thread `i mod threads`.
    pub(super) threads: u64,
    /// How many records the process may have seen.
    pub(super) fed: u64,
    /// What it printed, in that order: the number of a record and its LSN.
    pub(super) printed: Vec<(u64, u64)>,
    /// What was read after it had ended, and so what the next life went on from: LSN and number.
    pub(super) left: Option<Vec<(u64, u64)>>,
}

/// All lives of a store, the last one last.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) lives: Vec<Past>,
    /// How many of them had been read from the device's first state.
    pub(super) settled: usize,
    /// Below this address it may have been trimmed before.
    pub(super) trimmed: u64,
}

/// What the marks of a log's beginning add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// How many lives had been started.
    started: usize,
    /// How many LSNs each life had printed.
    acknowledged: Vec<usize>,
    /// Below this address it may have been trimmed.
    trimmed: u64,
}

/// What is wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// Acknowledged, or built upon by something acknowledged, and not there.
    Lost { life: usize, index: u64, lsn: u64 },
    /// Never appended.
    Invented { lsn: u64, what: &'static str },
    /// A record is there at another address than its own, twice, or out of order.
    Misplaced { life: usize, index: u64, lsn: u64 },
    /// A record is there without one that its thread had appended before.
    Gap { life: usize, index: u64, lsn: u64 },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { life, index, lsn } => write!(
                f,
                "record {index} of life {life} was acknowledged at LSN {lsn} and is not there"
            ),
            Self::Invented { lsn, what } => write!(f, "what is at LSN {lsn} is {what}"),
            Self::Misplaced { life, index, lsn } => {
                write!(
                    f,
                    "record {index} of life {life} is at LSN {lsn}, not its own place"
                )
            }
            Self::Gap { life, index, lsn } => write!(
                f,
                "record {index} of life {life} is at LSN {lsn} without the one before it"
            ),
        }
    }
}

impl History {
    /// What was known when the log began.
    pub(super) fn start(&self) -> Known {
        Known {
            started: self.settled,
            acknowledged: vec![0; self.lives.len()],
            trimmed: self.trimmed,
        }
    }

    /// Notes what the lives have left by what the store holds now. What lies below that has been
    /// trimmed since it was noted, and crashes from before then still have it. A killed process's
    /// last writes may land after the first look at what it left, so a later look counts.
    pub(super) fn settle(&mut self, found: &[Found]) {
        let first = found.first().map_or(u64::MAX, |(lsn, _)| *lsn);
        for (number, life) in self.lives.iter_mut().enumerate() {
            let mut left = life.left.take().unwrap_or_default();
            left.retain(|(lsn, _)| *lsn < first);
            left.extend(found.iter().filter_map(|&(lsn, record)| {
                let (life, index) = record?;
                (life == number).then_some((lsn, index))
            }));
            life.left = Some(left);
        }
    }

    /// Which record of which life this is.
    pub(super) fn identify(&self, payload: &[u8]) -> Option<(usize, u64)> {
        self.lives.iter().enumerate().find_map(|(life, past)| {
            let index = past.records.index_of(payload)?;
            let mut expected = Vec::new();
            past.records.write(index, &mut expected);
            (index < past.fed && expected == payload).then_some((life, index))
        })
    }

    /// Judges what a store holds: `(lsn, life and number)` in its order.
    pub(super) fn judge(&self, known: &Known, found: &[Found]) -> Result<(), Wrong> {
        let mut by_life: Vec<Vec<(u64, u64)>> = vec![Vec::new(); self.lives.len()];
        let (mut last_lsn, mut last_life) = (None, 0);
        for &(lsn, record) in found {
            let Some((life, index)) = record else {
                let what = "no record that was ever appended";
                return Err(Wrong::Invented { lsn, what });
            };
            if life >= known.started {
                let what = "a record that was appended later";
                return Err(Wrong::Invented { lsn, what });
            }
            if last_lsn >= Some(lsn) || life < last_life {
                return Err(Wrong::Misplaced { life, index, lsn });
            }
            (last_lsn, last_life) = (Some(lsn), life);
            by_life[life].push((lsn, index));
        }
        // A later life has opened the store when it acknowledges, or leaves, anything; what it
        // opened is what the one before had left.
        let opened_until = (0..self.lives.len())
            .rev()
            .find(|&life| !by_life[life].is_empty() || known.acknowledged[life] > 0);
        for (life, found) in by_life.iter().enumerate() {
            let past = &self.lives[life];
            let fixed = life < self.settled || opened_until.is_some_and(|until| life < until);
            match &past.left {
                Some(left) if fixed => self.judge_fixed(known, life, left, found)?,
                _ => self.judge_open(known, life, found)?,
            }
        }
        Ok(())
    }

    /// A life that the store has gone on from: exactly what it left, but for what was trimmed.
    fn judge_fixed(
        &self,
        known: &Known,
        life: usize,
        left: &[(u64, u64)],
        found: &[(u64, u64)],
    ) -> Result<(), Wrong> {
        // A trim of which the process was not told that it was done may be undone.
        let first_left = left.first().map_or(u64::MAX, |(lsn, _)| *lsn);
        let undone = |lsn: &u64| *lsn < known.trimmed.min(first_left);
        let found = &found[found.iter().take_while(|(lsn, _)| undone(lsn)).count()..];
        // Trimming takes a beginning away, and nothing from its limit on.
        let mut rest = left.iter().peekable();
        if let Some(first) = found.first() {
            while let Some(&&(lsn, _)) = rest.peek()
                && lsn < known.trimmed
                && lsn < first.0
            {
                rest.next();
            }
        } else {
            while rest.next_if(|(lsn, _)| *lsn < known.trimmed).is_some() {}
        }
        let mut found = found.iter();
        for &(lsn, index) in rest {
            match found.next() {
                Some(&pair) if pair == (lsn, index) => {}
                Some(&(lsn, index)) => return Err(Wrong::Misplaced { life, index, lsn }),
                None => return Err(Wrong::Lost { life, index, lsn }),
            }
        }
        match found.next() {
            Some(&(lsn, index)) => Err(Wrong::Misplaced { life, index, lsn }),
            None => Ok(()),
        }
    }

    /// The life in which the crash came, or one that left nothing yet to go on from: a prefix of
    /// each thread's records with all that was acknowledged.
    fn judge_open(&self, known: &Known, life: usize, found: &[(u64, u64)]) -> Result<(), Wrong> {
        let past = &self.lives[life];
        let printed: BTreeMap<u64, u64> = past.printed.iter().copied().collect();
        let trimmed = |index| printed.get(&index).is_some_and(|&lsn| lsn < known.trimmed);
        let mut next: Vec<u64> = (0..past.threads).collect();
        for &(lsn, index) in found {
            let next = &mut next[(index % past.threads) as usize];
            while *next < index && trimmed(*next) {
                *next += past.threads;
            }
            if *next < index {
                return Err(Wrong::Gap { life, index, lsn });
            }
            if *next > index || printed.get(&index).is_some_and(|&printed| printed != lsn) {
                return Err(Wrong::Misplaced { life, index, lsn });
            }
            *next += past.threads;
        }
        for &(index, lsn) in &past.printed[..known.acknowledged[life]] {
            if index >= next[(index % past.threads) as usize] && lsn >= known.trimmed {
                return Err(Wrong::Lost { life, index, lsn });
            }
        }
        Ok(())
    }
}

impl Known {
    /// Takes the next mark of the log.
    pub(super) fn take(&mut self, mark: Mark) {
        match mark {
            Mark::Started { life } => self.started = self.started.max(life + 1),
            Mark::Acknowledged { life, count } => {
                let known = &mut self.acknowledged[life];
                *known = count.max(*known);
            }
            Mark::Trimming { before } => self.trimmed = self.trimmed.max(before),
        }
    }

    /// Below this address it may have been trimmed.
    pub(super) fn trimmed(&self) -> u64 {
        self.trimmed
    }

    /// Whether the store had been created.
    pub(super) fn store_exists(&self) -> bool {
        self.started > 0
    }

    /// How many records are known to be durable by what the processes printed.
    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial::Mix;

    fn life(key: u64, threads: u64, printed: &[u64], left: Option<&[(u64, u64)]>) -> Past {
        Past {
            records: Records {
                key,
                mix: Mix::Small,
                binary: true,
            },
            threads,
            fed: 20,
            printed: (0..).zip(printed.iter().copied()).collect(),
            left: left.map(<[_]>::to_vec),
        }
    }

    /// Two lives: the first left records 0 and 1, the second printed 0, 1 and 2.
    fn history() -> History {
        History {
            lives: vec![
                life(1, 1, &[10], Some(&[(10, 0), (20, 1)])),
                life(2, 2, &[30, 40, 50], None),
            ],
            settled: 0,
            trimmed: 0,
        }
    }

    fn known(marks: &[Mark]) -> Known {
        let mut known = history().start();
        marks.iter().for_each(|mark| known.take(*mark));
        known
    }

    const STARTED: [Mark; 2] = [Mark::Started { life: 0 }, Mark::Started { life: 1 }];
    const FIRST: Found = (10, Some((0, 0)));
    const SECOND: Found = (20, Some((0, 1)));

    #[test]
    fn what_was_acknowledged_before_the_crash_must_be_there() {
        let history = history();
        let mut known = known(&STARTED[..1]);
        assert_eq!(history.judge(&known, &[]), Ok(()));
        assert_eq!(history.judge(&known, &[FIRST, SECOND]), Ok(()));
        known.take(Mark::Acknowledged { life: 0, count: 1 });
        assert_eq!(known.acknowledged(), 1);
        let lost = Wrong::Lost {
            life: 0,
            index: 0,
            lsn: 10,
        };
        assert_eq!(history.judge(&known, &[]), Err(lost));
        assert_eq!(history.judge(&known, &[FIRST]), Ok(()));
    }

    #[test]
    fn what_a_later_life_went_on_from_must_be_there() {
        let history = history();
        let mut known = known(&STARTED);
        assert_eq!(history.judge(&known, &[FIRST]), Ok(()));
        let third = (30, Some((1, 0)));
        let lost = Wrong::Lost {
            life: 0,
            index: 1,
            lsn: 20,
        };
        assert_eq!(history.judge(&known, &[FIRST, third]), Err(lost.clone()));
        assert_eq!(history.judge(&known, &[FIRST, SECOND, third]), Ok(()));
        known.take(Mark::Acknowledged { life: 1, count: 1 });
        assert_eq!(history.judge(&known, &[FIRST]), Err(lost));
    }

    #[test]
    fn only_what_lies_below_a_trim_that_has_begun_may_be_missing() {
        let history = history();
        let mut known = known(&STARTED);
        known.take(Mark::Acknowledged { life: 1, count: 2 });
        known.take(Mark::Trimming { before: 35 });
        let both = [(40, Some((1, 1)))];
        assert_eq!(history.judge(&known, &both), Ok(()));
        assert_eq!(
            history.judge(&known, &[SECOND, (30, Some((1, 0))), both[0]]),
            Ok(())
        );
        let lost = Wrong::Lost {
            life: 1,
            index: 1,
            lsn: 40,
        };
        assert_eq!(history.judge(&known, &[]), Err(lost));
        // A hole is no trim.
        let hole = [FIRST, (30, Some((1, 0))), both[0]];
        assert!(history.judge(&known, &hole).is_err());
    }

    #[test]
    fn inventions_gaps_and_other_places_are_found() {
        let history = history();
        let first_only = known(&STARTED[..1]);
        let both = known(&STARTED);
        let invented = |found: &[_]| {
            let result = history.judge(&first_only, found);
            matches!(result, Err(Wrong::Invented { .. }))
        };
        assert!(invented(&[(10, None)]));
        assert!(invented(&[FIRST, SECOND, (30, Some((1, 0)))]));
        let misplaced = |found: &[_]| {
            let result = history.judge(&both, found);
            matches!(result, Err(Wrong::Misplaced { .. }))
        };
        assert!(misplaced(&[FIRST, FIRST]));
        assert!(misplaced(&[(11, Some((0, 0)))]));
        assert!(misplaced(&[(30, Some((1, 0))), (40, Some((0, 0)))]));
        let gap = history.judge(&both, &[FIRST, SECOND, (60, Some((1, 2)))]);
        assert_eq!(
            gap,
            Err(Wrong::Gap {
                life: 1,
                index: 2,
                lsn: 60
            })
        );
    }

    #[test]
    fn what_was_trimmed_since_is_still_known_to_have_been_left() {
        let mut history = history();
        let third = (30, Some((1, 0)));
        history.settle(&[SECOND, third]);
        assert_eq!(history.lives[0].left, Some(vec![(10, 0), (20, 1)]));
        assert_eq!(history.lives[1].left, Some(vec![(30, 0)]));
        // Everything is trimmed.
        history.settle(&[]);
        assert_eq!(history.lives[0].left, Some(vec![(10, 0), (20, 1)]));
        // Landed later than the first look.
        history.settle(&[SECOND, third, (40, Some((1, 1)))]);
        assert_eq!(history.lives[1].left, Some(vec![(30, 0), (40, 1)]));
    }

    #[test]
    fn a_record_is_known_by_all_of_its_bytes() {
        let history = history();
        let mut payload = Vec::new();
        history.lives[1].records.write(3, &mut payload);
        assert_eq!(history.identify(&payload), Some((1, 3)));
        payload.push(0);
        assert_eq!(history.identify(&payload), None);
        payload.clear();
        history.lives[1].records.write(20, &mut payload);
        assert_eq!(history.identify(&payload), None);
    }
}
