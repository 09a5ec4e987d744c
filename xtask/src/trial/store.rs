//! [`Store`]: a store, what is known to be in it, and looking at it through the command.

use std::path::Path;

use esker_lss::{AnyBackend, Options};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::check::{Checker, Failure, Life, Survivor};
use super::esker::Esker;
use super::life::live;
use super::plan::{Feed, Kill, Plan};
use super::records::{Mix, Records};
use crate::suite::SuiteError;

/// How many of the acknowledged records of a life are fetched one by one.
const FETCHED: usize = 64;

/// Creates a store with segments small enough that a few MiB of records fill several, and with room
/// for any record that is drawn. Its files are made by this program, not by the one that is tried.
pub(crate) fn create_small(dir: &Path, segment_bytes: u64) -> Result<(), SuiteError> {
    let options = Options::default()
        .segment_bytes(segment_bytes)
        .max_record_bytes(4 << 20)
        .buffers(2)
        .spare_segments(0)
        .idle(None);
    esker_lss::Store::open(dir, AnyBackend::blocking(), options)?.close()?;
    Ok(())
}

/// A store, and what is known to be in it.
pub(crate) struct Store {
    pub(crate) esker: Esker,
    pub(crate) lives: Vec<Life>,
    pub(crate) survivors: Vec<Survivor>,
}

impl Store {
    /// One that there is nothing in yet.
    pub(crate) fn new(esker: Esker) -> Self {
        Self {
            esker,
            lives: Vec::new(),
            survivors: Vec::new(),
        }
    }

    /// Looks at what a life left, before and after the store is opened for writing again, and says
    /// how many records of it are there.
    pub(crate) fn settle(&mut self, life: Life, pick: u64) -> Result<u64, Failure> {
        self.lives.push(life);
        let before = self.look(pick, "as it was left");
        let before = match before {
            // It ended while the store was being created: there may be none to read yet.
            Err(Failure::Command(_)) if self.is_empty() => Vec::new(),
            other => other?,
        };
        self.esker
            .run("append")
            .map_err(|failure| at("reopening", failure))?;
        let after = self.look(pick, "after reopening")?;
        if after.get(..before.len()) != Some(&before[..]) {
            return Err(Failure::Command(format!(
                "{} records of this life were read before reopening, and they are not the first of \
                 the {} after it",
                before.len(),
                after.len()
            )));
        }
        let count = after.len() as u64;
        self.survivors.extend(after);
        // What was acknowledged is among the survivors now.
        if let Some(life) = self.lives.last_mut() {
            life.printed = Vec::new();
        }
        Ok(count)
    }

    /// Looks at what a life left, without opening the store for writing, and gives its records.
    pub(crate) fn look_after(&mut self, life: Life) -> Result<Vec<Survivor>, Failure> {
        self.lives.push(life);
        let found = self.look(0, "as it was left")?;
        if let Some(life) = self.lives.last_mut() {
            life.printed = Vec::new();
        }
        Ok(found)
    }

    /// Lives one more life, a short one in which nothing goes wrong, and looks at it.
    pub(crate) fn append_more(&mut self) -> Result<(), Failure> {
        let plan = Plan {
            records: Records {
                key: 0x0e1a_5e50 + self.lives.len() as u64,
                mix: Mix::Small,
                binary: true,
            },
            threads: 1,
            ordering: "tail-localised",
            backend: "auto",
            framing: "length",
            feed: Feed::FlatOut,
            kill: Kill::Never,
            max_records: 5,
            max_bytes: 1 << 20,
        };
        let (life, end) = live(&self.esker, &plan, &[], |_| {})
            .map_err(|failure| at("appending more", failure))?;
        let _killed = end
            .was_killed()
            .map_err(|failure| at("appending more", failure))?;
        let found = self.look_after(life)?;
        self.survivors.extend(found);
        Ok(())
    }

    /// Forgets what has been trimmed, which may be what lies below `before` and nothing else.
    pub(crate) fn forget_trimmed(&mut self, before: u64) -> Result<(), Failure> {
        let first = self.esker.first()?;
        if first > before {
            return Err(Failure::Command(format!(
                "the log begins at LSN {first}, and only what lies below {before} was to go"
            )));
        }
        self.survivors.retain(|survivor| survivor.lsn >= first);
        Ok(())
    }

    /// Whether nobody was ever told that this store holds anything.
    fn is_empty(&self) -> bool {
        self.survivors.is_empty() && self.lives.iter().all(|life| life.printed.is_empty())
    }

    /// Reads everything in every way, and gives the records of the last life.
    pub(crate) fn look(&self, pick: u64, when: &str) -> Result<Vec<Survivor>, Failure> {
        let mut checker = Checker::new(&self.lives, &self.survivors);
        self.esker
            .cat(|lsn, payload| checker.take(lsn, payload))
            .and_then(|()| checker.finish())
            .and_then(|found| self.fetch(pick).map(|()| found))
            .and_then(|found| self.esker.run("verify").map(|()| found))
            .map_err(|failure| at(when, failure))
    }

    /// Fetches some of the records that the last life acknowledged by their LSNs.
    fn fetch(&self, pick: u64) -> Result<(), Failure> {
        let Some(life) = self.lives.last().filter(|life| !life.printed.is_empty()) else {
            return Ok(());
        };
        let count = life.printed.len();
        let mut random = ChaCha8Rng::seed_from_u64(pick);
        let mut chosen: Vec<usize> = (0..FETCHED)
            .map(|_| random.random_range(0..count))
            .collect();
        chosen.extend([0, count - 1]);
        let lsns: Vec<u64> = chosen.iter().map(|&index| life.printed[index]).collect();
        let mut chosen = chosen.into_iter();
        let mut expected = Vec::new();
        self.esker.get(&lsns, |lsn, payload| {
            let index = chosen.next().unwrap_or_default() as u64;
            expected.clear();
            life.records.write(index, &mut expected);
            if payload == expected {
                Ok(())
            } else {
                Err(Failure::LostAcknowledged { index, lsn })
            }
        })
    }
}

/// Says in a command's failure at which point it came; the others say what is wrong themselves.
fn at(when: &str, failure: Failure) -> Failure {
    match failure {
        Failure::Command(what) => Failure::Command(format!("{when}: {what}")),
        other => other,
    }
}
