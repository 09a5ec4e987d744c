//! [`Worker`]: a life of a store in a process that uses the library, not the command.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::thread;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::check::Failure;
use super::esker::{Esker, broken, number};
use super::life::{End, Event, bring_to_end};
use super::plan::{Feed, Kill, Plan};
use super::program::Program;

/// What `esker-worker` takes in place of a record's length.
const TRIM: u32 = u32::MAX;
const REOPEN: u32 = u32::MAX - 1;

/// The program `esker-worker`.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) program: Program,
}

/// What is told of a life while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// So many records are known to be durable.
    Durable(usize),
    /// What lies below this LSN is about to be trimmed.
    Trimming(u64),
}

/// What came of a life.
pub(crate) struct Done {
    pub(crate) fed: u64,
    /// The numbers and LSNs of the records that became durable, in the order in which that was said.
    pub(crate) durable: Vec<(u64, u64)>,
    pub(crate) end: End,
}

impl Worker {
    /// One life: starts the worker on the store of `esker`, feeds it, has it trim and open the store
    /// again now and then, and ends it as planned.
    pub(crate) fn live(
        &self,
        esker: &Esker,
        plan: &Plan,
        tell: impl Fn(Told) + Sync,
    ) -> Result<Done, Failure> {
        let mut process = esker.spawn(&mut self.command(&esker.store, plan))?;
        let stdin = process.0.stdin.take().expect("stdin is piped");
        let stdout = process.0.stdout.take().expect("stdout is piped");
        let (events, received) = mpsc::channel();
        let life = Life {
            plan,
            durable: Mutex::default(),
            tell,
        };
        thread::scope(|scope| {
            let fed_events = events.clone();
            let feeder = scope.spawn(|| life.feed(stdin, fed_events));
            let reader = scope.spawn(|| life.read(stdout, events));
            let end = bring_to_end(esker, &mut process, plan.kill, &received);
            let (fed, _stdin) = feeder.join().expect("the feeder does not panic");
            let durable = reader.join().expect("the reader does not panic")?;
            let end = end?;
            if end == End::ByItself && durable.len() as u64 != fed {
                return Err(Failure::Command(format!(
                    "the worker ended well and said that {} of {fed} records are durable",
                    durable.len()
                )));
            }
            Ok(Done { fed, durable, end })
        })
    }

    fn command(&self, store: &Path, plan: &Plan) -> Command {
        let mut command = self.program.command();
        command
            .arg(store)
            .args([plan.backend, plan.ordering, &plan.threads.to_string()])
            .arg(plan.records.key.to_string())
            .stdin(Stdio::piped());
        command
    }
}

struct Life<'p, T> {
    plan: &'p Plan,
    /// The LSNs of the records that are known to be durable.
    durable: Mutex<BTreeMap<u64, u64>>,
    tell: T,
}

impl<T: Fn(Told) + Sync> Life<'_, T> {
    /// Writes the records and the orders, and says how many records the process may have seen. Its
    /// input does not end before it is killed, unless it is to end by itself.
    fn feed(&self, mut stdin: ChildStdin, events: Sender<Event>) -> (u64, Option<ChildStdin>) {
        let plan = self.plan;
        let mut random = ChaCha8Rng::seed_from_u64(plan.records.key);
        let mut frames = Vec::new();
        let mut bytes = 0;
        let mut fed = 0;
        while fed < plan.max_records && bytes < plan.max_bytes {
            let start = frames.len();
            frames.extend_from_slice(&[0; 4]);
            plan.records.write(fed, &mut frames);
            let len = u32::try_from(frames.len() - start - 4).expect("records are small");
            frames[start..start + 4].copy_from_slice(&len.to_le_bytes());
            bytes += frames.len() - start;
            fed += 1;
            let (burst, pause) = match plan.feed {
                Feed::Bursts(records, pause) => (records, Some(pause)),
                Feed::FlatOut => (64, None),
            };
            if !fed.is_multiple_of(burst) {
                continue;
            }
            self.order(&mut random, &mut frames);
            if stdin.write_all(&frames).is_err() {
                return (fed, None);
            }
            frames.clear();
            pause.into_iter().for_each(thread::sleep);
        }
        if stdin.write_all(&frames).is_ok() {
            // Nobody listens any more if the process was killed first.
            let _unheard = events.send(Event::Fed(fed));
        }
        (fed, (!matches!(plan.kill, Kill::Never)).then_some(stdin))
    }

    /// Adds an order, if one is drawn.
    fn order(&self, random: &mut impl Rng, frames: &mut Vec<u8>) {
        if random.random_bool(0.05) {
            frames.extend(REOPEN.to_le_bytes());
        }
        if random.random_bool(0.1)
            && let durable = self.durable.lock().expect("nobody panics").clone()
            && let Some(limit) = trimmable(&durable, self.plan.threads)
        {
            // Anything that is durable and lies below will do.
            let below: Vec<u64> = durable.into_values().filter(|lsn| *lsn <= limit).collect();
            let lsn = below[random.random_range(0..below.len())];
            (self.tell)(Told::Trimming(lsn));
            frames.extend(TRIM.to_le_bytes());
            frames.extend(lsn.to_le_bytes());
        }
    }

    /// Reads what is durable, line by line.
    fn read(&self, stdout: ChildStdout, events: Sender<Event>) -> Result<Vec<(u64, u64)>, Failure> {
        let mut stdout = BufReader::new(stdout);
        let mut said = Vec::new();
        let mut line = Vec::new();
        let result = loop {
            line.clear();
            match stdout.read_until(b'\n', &mut line) {
                Ok(_) if line.pop() == Some(b'\n') => {
                    let pair = pair(&line).filter(|&(index, lsn)| {
                        let mut durable = self.durable.lock().expect("nobody panics");
                        durable.insert(index, lsn).is_none()
                    });
                    let Some(pair) = pair else {
                        let line = String::from_utf8_lossy(&line);
                        break Err(Failure::Command(format!("the worker prints {line:?}")));
                    };
                    said.push(pair);
                }
                Ok(_) => break Ok(()),
                Err(error) => break Err(broken("reading what is durable", &error)),
            }
            if stdout.buffer().is_empty() {
                (self.tell)(Told::Durable(said.len()));
            }
            // Nobody listens any more once it is to be killed.
            let _unheard = events.send(Event::Printed(said.len()));
        };
        (self.tell)(Told::Durable(said.len()));
        let _unheard = events.send(Event::Closed);
        result.map(|()| said)
    }
}

fn pair(line: &[u8]) -> Option<(u64, u64)> {
    let blank = line.iter().position(|&byte| byte == b' ')?;
    Some((number(&line[..blank])?, number(&line[blank + 1..])?))
}

/// The largest LSN below which no record can be that is not known to be durable: each thread appends
/// in order, so that what it has not said yet lies behind what it has.
fn trimmable(durable: &BTreeMap<u64, u64>, threads: u64) -> Option<u64> {
    let last = |thread| {
        (thread..)
            .step_by(usize::try_from(threads).ok()?)
            .map_while(|index| durable.get(&index).copied())
            .last()
    };
    (0..threads).map(last).min().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_every_thread_has_gone_past_is_trimmed() {
        let durable = |pairs: &[(u64, u64)]| pairs.iter().copied().collect();
        assert_eq!(trimmable(&durable(&[(0, 10), (2, 20)]), 2), None);
        assert_eq!(
            trimmable(&durable(&[(0, 10), (1, 15), (2, 20)]), 2),
            Some(15)
        );
        // Record 1 is not known to be durable: it may lie at 11.
        assert_eq!(trimmable(&durable(&[(0, 10), (2, 20)]), 1), Some(10));
        assert_eq!(trimmable(&durable(&[]), 1), None);
    }

    #[test]
    fn a_line_names_a_record_and_its_address() {
        assert_eq!(pair(b"3 4096"), Some((3, 4096)));
        for bad in [&b""[..], b"3", b"3 ", b"a 1", b"1 2 3"] {
            assert_eq!(pair(bad), None);
        }
    }
}
