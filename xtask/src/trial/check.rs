//! [`Checker`]: what a store may hold after its process was killed. Pure: it sees what the commands
//! printed, and no process.

use std::fmt;

use super::records::Records;

/// A record that was found in the store, and has to be there for as long as the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Survivor {
    pub(crate) lsn: u64,
    /// The number of the life that appended it.
    pub(crate) life: usize,
    /// Its number among the records of that life.
    pub(crate) index: u64,
}

/// One life, after its end.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) records: Records,
    /// Record `i` was appended by thread `i mod threads`.
    pub(crate) threads: u64,
    /// How many records the process may have seen.
    pub(crate) fed: u64,
    /// The LSNs that it printed: the k-th is that of record k, which thereby was acknowledged.
    pub(crate) printed: Vec<u64>,
}

/// What is wrong with a store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A record whose LSN had been printed is not there.
    LostAcknowledged { index: u64, lsn: u64 },
    /// A record of an earlier life, seen after that life, is gone or has become another.
    LostSurvivor { lsn: u64, life: usize, index: u64 },
    /// A record is there without one that its thread had appended before.
    Gap { lsn: u64, index: u64, missing: u64 },
    /// A record is there again, or after one that its thread appended later.
    Again { lsn: u64, index: u64 },
    /// What is at the LSN was never appended.
    Invented { lsn: u64, what: String },
    /// A record is at another LSN than the one printed for it.
    Moved { index: u64, printed: u64, lsn: u64 },
    /// LSNs do not ascend.
    Unordered { lsn: u64, after: u64 },
    /// A command failed, hung, or printed something else than it should.
    Command(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LostAcknowledged { index, lsn } => {
                write!(
                    f,
                    "record {index} was acknowledged at LSN {lsn} and is not there"
                )
            }
            Self::LostSurvivor { lsn, life, index } => write!(
                f,
                "record {index} of life {life} was at LSN {lsn} before and is not there any more"
            ),
            Self::Gap {
                lsn,
                index,
                missing,
            } => write!(
                f,
                "record {index} is at LSN {lsn}, but record {missing}, which the same thread \
                 appended before it, is not there"
            ),
            Self::Again { lsn, index } => {
                write!(
                    f,
                    "record {index} is at LSN {lsn}, though it or a later one came before"
                )
            }
            Self::Invented { lsn, what } => write!(f, "what is at LSN {lsn} is {what}"),
            Self::Moved {
                index,
                printed,
                lsn,
            } => {
                write!(
                    f,
                    "record {index} was acknowledged at LSN {printed} and is at {lsn}"
                )
            }
            Self::Unordered { lsn, after } => write!(f, "LSN {lsn} comes after {after}"),
            Self::Command(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Failure {}

/// Takes the records of a store in the order in which it gives them.
pub(crate) struct Checker<'s> {
    lives: &'s [Life],
    survivors: &'s [Survivor],
    seen: usize,
    last: Option<u64>,
    /// For each thread of the last life the number of its record that has to come next.
    next: Vec<u64>,
    found: Vec<Survivor>,
    expected: Vec<u8>,
}

impl<'s> Checker<'s> {
    /// `survivors` is what the store held before, in order; what is new has to come from the last
    /// of `lives`.
    pub(crate) fn new(lives: &'s [Life], survivors: &'s [Survivor]) -> Self {
        let threads = lives.last().map_or(0, |life| life.threads);
        Self {
            lives,
            survivors,
            seen: 0,
            last: None,
            next: (0..threads).collect(),
            found: Vec::new(),
            expected: Vec::new(),
        }
    }

    /// Takes the next record.
    pub(crate) fn take(&mut self, lsn: u64, payload: &[u8]) -> Result<(), Failure> {
        if let Some(after) = self.last.replace(lsn)
            && lsn <= after
        {
            return Err(Failure::Unordered { lsn, after });
        }
        if let Some(old) = self.survivors.get(self.seen) {
            let Survivor { life, index, .. } = *old;
            if lsn != old.lsn || !self.is(life, index, payload) {
                let lsn = old.lsn;
                return Err(Failure::LostSurvivor { lsn, life, index });
            }
        } else {
            let index = self.take_new(lsn, payload)?;
            let life = self.lives.len() - 1;
            self.found.push(Survivor { lsn, life, index });
        }
        self.seen += 1;
        Ok(())
    }

    fn take_new(&mut self, lsn: u64, payload: &[u8]) -> Result<u64, Failure> {
        let invented = |what: &str| {
            let what = format!("{what} ({} bytes)", payload.len());
            Err(Failure::Invented { lsn, what })
        };
        let Some((number, life)) = self.lives.iter().enumerate().next_back() else {
            return invented("of no life");
        };
        let Some(index) = life.records.index_of(payload) else {
            return invented("no record of this life");
        };
        if index >= life.fed {
            return invented("a record that was not appended yet");
        }
        if !self.is(number, index, payload) {
            return invented("not what its first bytes say");
        }
        let next = &mut self.next[(index % life.threads) as usize];
        let missing = *next;
        if index < missing {
            return Err(Failure::Again { lsn, index });
        }
        if index > missing {
            return Err(Failure::Gap {
                lsn,
                index,
                missing,
            });
        }
        *next += life.threads;
        match life.printed.get(index as usize) {
            Some(&printed) if printed != lsn => Err(Failure::Moved {
                index,
                printed,
                lsn,
            }),
            _ => Ok(index),
        }
    }

    fn is(&mut self, life: usize, index: u64, payload: &[u8]) -> bool {
        self.expected.clear();
        self.lives[life].records.write(index, &mut self.expected);
        self.expected == payload
    }

    /// Checks that nothing is missing at the end, and gives the records of the last life.
    pub(crate) fn finish(self) -> Result<Vec<Survivor>, Failure> {
        if let Some(&Survivor { lsn, life, index }) = self.survivors.get(self.seen) {
            return Err(Failure::LostSurvivor { lsn, life, index });
        }
        let printed = self.lives.last().map_or(&[][..], |life| &life.printed);
        // The first that a thread still misses is the first of that thread that is not there.
        if let Some(index) = self.next.into_iter().min()
            && let Some(&lsn) = printed.get(index as usize)
        {
            return Err(Failure::LostAcknowledged { index, lsn });
        }
        Ok(self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::Mix;
    use super::*;

    fn life(key: u64, threads: u64, fed: u64, printed: &[u64]) -> Life {
        Life {
            records: Records {
                key,
                mix: Mix::Small,
                binary: false,
            },
            threads,
            fed,
            printed: printed.to_vec(),
        }
    }

    /// Shows the checker records `(lsn, life, index)`.
    fn check(
        lives: &[Life],
        survivors: &[Survivor],
        store: &[(u64, usize, u64)],
    ) -> Result<Vec<Survivor>, Failure> {
        let mut checker = Checker::new(lives, survivors);
        for &(lsn, life, index) in store {
            let mut payload = Vec::new();
            lives[life].records.write(index, &mut payload);
            checker.take(lsn, &payload)?;
        }
        checker.finish()
    }

    const OLD: Survivor = Survivor {
        lsn: 10,
        life: 0,
        index: 0,
    };

    #[test]
    fn any_interleaving_of_prefixes_that_holds_what_was_acknowledged_passes() {
        let lives = [life(1, 1, 3, &[10]), life(2, 2, 9, &[20, 21])];
        let store = [
            (10, 0, 0),
            (20, 1, 0),
            (21, 1, 1),
            (22, 1, 3),
            (23, 1, 5),
            (24, 1, 2),
        ];
        let found = check(&lives, &[OLD], &store).unwrap();
        assert_eq!(
            found.iter().map(|s| s.index).collect::<Vec<_>>(),
            [0, 1, 3, 5, 2]
        );
    }

    #[test]
    fn a_lost_acknowledged_record_is_found() {
        let lives = [life(1, 2, 9, &[10, 11, 12])];
        let lost = Failure::LostAcknowledged { index: 2, lsn: 12 };
        assert_eq!(
            check(&lives, &[], &[(10, 0, 0), (11, 0, 1), (13, 0, 3)]),
            Err(lost)
        );
        let lost = Failure::LostAcknowledged { index: 0, lsn: 10 };
        assert_eq!(check(&lives, &[], &[]), Err(lost));
    }

    #[test]
    fn a_survivor_that_is_gone_or_moved_is_found() {
        let lives = [life(1, 1, 3, &[]), life(2, 1, 3, &[])];
        let lost = || {
            Err(Failure::LostSurvivor {
                lsn: 10,
                life: 0,
                index: 0,
            })
        };
        for store in [&[][..], &[(20, 1, 0)], &[(11, 0, 0)], &[(10, 0, 1)]] {
            assert_eq!(check(&lives, &[OLD], store), lost(), "{store:?}");
        }
    }

    #[test]
    fn gaps_and_repetitions_and_other_lsns_are_found() {
        let lives = [life(1, 2, 9, &[10, 11])];
        let gap = Failure::Gap {
            lsn: 12,
            index: 4,
            missing: 2,
        };
        assert_eq!(
            check(&lives, &[], &[(10, 0, 0), (11, 0, 1), (12, 0, 4)]),
            Err(gap)
        );
        let again = Failure::Again { lsn: 12, index: 1 };
        assert_eq!(
            check(&lives, &[], &[(10, 0, 0), (11, 0, 1), (12, 0, 1)]),
            Err(again)
        );
        let moved = Failure::Moved {
            index: 1,
            printed: 11,
            lsn: 12,
        };
        assert_eq!(check(&lives, &[], &[(10, 0, 0), (12, 0, 1)]), Err(moved));
        let unordered = Failure::Unordered { lsn: 10, after: 11 };
        assert_eq!(
            check(&lives, &[], &[(11, 0, 1), (10, 0, 0)]),
            Err(unordered)
        );
    }

    #[test]
    fn what_nobody_appended_is_found() {
        let lives = [life(1, 1, 3, &[]), life(2, 1, 3, &[])];
        // Of an earlier life, or of this one but not fed yet.
        for store in [(20, 0, 1), (20, 1, 3)] {
            let result = check(&lives, &[], &[store]);
            assert!(
                matches!(result, Err(Failure::Invented { lsn: 20, .. })),
                "{result:?}"
            );
        }
        let mut payload = Vec::new();
        lives[1].records.write(0, &mut payload);
        payload.push(0);
        for payload in [&b""[..], &payload] {
            let result = Checker::new(&lives, &[]).take(20, payload);
            assert!(
                matches!(result, Err(Failure::Invented { .. })),
                "{result:?}"
            );
        }
    }
}
