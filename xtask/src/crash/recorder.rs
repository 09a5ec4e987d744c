//! [`Recorder`]: what lives on a disk while it is recorded.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use super::device::Device;
use super::history::{History, Past};
use super::log::{Event, Mark};
use super::round::Disk;
use super::store::settle;
use super::{Programs, Writer};
use crate::suite::SuiteError;
use crate::trial::{Esker, Failure, Feed, Kill, Mix, Plan, Records, Told, create_small, live};

/// Draws what a store's lives are like, and records what they write.
pub(super) struct Recorder<'t> {
    pub(super) programs: &'t Programs,
    pub(super) backends: &'t [&'static str],
    pub(super) random: &'t mut ChaCha8Rng,
}

impl Recorder<'_> {
    /// Lets a store live on a recorded disk.
    pub(super) fn record(
        &mut self,
        disk: &Disk,
        history: &mut History,
        dir: &Path,
    ) -> Result<Result<Vec<Event>, Failure>, SuiteError> {
        let file = dir.join("disk");
        disk.image.store(&file)?;
        let device = Device::start(disk.kind, &file, dir)?;
        let esker = self.programs.esker(device.point(), dir);
        let result = self.live_on(&device, &esker, history);
        let events = device.stop()?;
        Ok(match result {
            Ok(()) => Ok(events),
            Err(Broken::Store(failure)) => Err(failure),
            Err(Broken::Suite(error)) => return Err(error),
        })
    }

    fn live_on(
        &mut self,
        device: &Device,
        esker: &Esker,
        history: &mut History,
    ) -> Result<(), Broken> {
        if esker.store.join("superblock").exists() {
            // What was left before the disk crashed is not what is there.
            history.lives.iter_mut().for_each(|life| life.left = None);
            settle(esker, history)?;
            history.settled = history.lives.len();
        } else {
            *history = History::default();
            let segment_bytes = 1 << self.random.random_range(18..22);
            create_small(&esker.store, segment_bytes)?;
        }
        for _ in 0..self.random.random_range(1..4) {
            let plan = self.plan();
            let number = history.lives.len();
            device.mark(Mark::Started { life: number })?;
            let past = self.append(device, esker, &plan, number)?;
            history.lives.push(past);
            let found = settle(esker, history)?;
            if self.random.random_bool(0.3) && !found.is_empty() {
                let before = found[self.random.random_range(0..found.len())];
                device.mark(Mark::Trimming { before })?;
                esker.run_with("trim", &["--before", &before.to_string()])?;
            }
        }
        Ok(())
    }

    /// Lets a process append, and marks what it says while it says it.
    fn append(
        &mut self,
        device: &Device,
        esker: &Esker,
        plan: &Plan,
        life: usize,
    ) -> Result<Past, Broken> {
        let failed = Mutex::new(None);
        let mark = |told| {
            let marked = device.mark(match told {
                Told::Durable(count) => Mark::Acknowledged { life, count },
                Told::Trimming(before) => Mark::Trimming { before },
            });
            if let Err(error) = marked {
                failed.lock().expect("nobody panics").get_or_insert(error);
            }
        };
        let writers = &self.programs.writers;
        let (fed, printed, end) = match &writers[self.random.random_range(0..writers.len())] {
            Writer::Command(program) => {
                let esker = Esker {
                    program: program.clone(),
                    store: esker.store.clone(),
                    log: esker.log.clone(),
                    append_args: Vec::new(),
                };
                let (life, end) = live(&esker, plan, &[], |count| mark(Told::Durable(count)))?;
                (life.fed, (0..).zip(life.printed).collect(), end)
            }
            Writer::Library(worker) => {
                let done = worker.live(esker, plan, mark)?;
                (done.fed, done.durable, done.end)
            }
        };
        let failed = failed.into_inner().expect("nobody panics");
        failed.map_or(Ok(()), Err)?;
        let _killed = end.was_killed()?;
        Ok(Past {
            records: plan.records.clone(),
            threads: plan.threads,
            fed,
            printed,
            left: None,
        })
    }

    fn plan(&mut self) -> Plan {
        let random = &mut *self.random;
        let binary = random.random_bool(0.5);
        let records = Records {
            key: random.next_u64(),
            mix: pick(random, &[Mix::Small, Mix::Small, Mix::Mixed, Mix::Oversize]),
            binary,
        };
        let micros =
            |random: &mut ChaCha8Rng, below| Duration::from_micros(random.random_range(0..below));
        let burst = Feed::Bursts(random.random_range(1..40), micros(random, 2000));
        let printed = Kill::Printed(1 << random.random_range(0..10), micros(random, 20_000));
        let fed = Kill::Fed(micros(random, 30_000));
        Plan {
            records,
            threads: pick(random, &[1, 1, 2, 4]),
            ordering: pick(random, &["tail-localised", "serialised"]),
            backend: pick(random, self.backends),
            framing: if binary { "length" } else { "lines" },
            feed: pick(random, &[burst, burst, Feed::FlatOut]),
            kill: pick(random, &[printed, printed, fed, Kill::Never]),
            max_records: 1 << random.random_range(3..11),
            max_bytes: 3 << 20,
        }
    }
}

/// What broke: what is tried, or what tries it.
enum Broken {
    Store(Failure),
    Suite(SuiteError),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Store(failure)
    }
}

impl From<SuiteError> for Broken {
    fn from(error: SuiteError) -> Self {
        Self::Suite(error)
    }
}

fn pick<T: Copy>(random: &mut impl Rng, of: &[T]) -> T {
    of[random.random_range(0..of.len())]
}
