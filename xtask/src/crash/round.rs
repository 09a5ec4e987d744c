//! [`Round`]: a record of what happens to a disk, and the crashes that are made of it.

use std::path::Path;
use std::time::Instant;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

use super::cuts::Cuts;
use super::device::disk_bytes;
use super::history::{History, Known};
use super::image::{Image, Loss};
use super::log::Event;
use super::recorder::Recorder;
use super::store::look;
use super::{Options, Programs, Tested, scratch};
use crate::suite::SuiteError;
use crate::trial::{Failure, FileSystem, Mounted};

/// A disk, what lived on it before, and how often it has crashed.
pub(super) struct Disk {
    pub(super) kind: FileSystem,
    pub(super) image: Image,
    pub(super) history: History,
    pub(super) crashes: usize,
}

impl Disk {
    /// One that nothing has lived on.
    pub(super) fn new(kind: FileSystem, options: &Options) -> Result<Self, SuiteError> {
        let dir = scratch(options, "new")?;
        let file = dir.path().join("disk");
        kind.make(&file, disk_bytes(kind))?;
        Ok(Self {
            kind,
            image: Image::read(&file)?,
            history: History::default(),
            crashes: 0,
        })
    }

    /// What it was after a crash, for the next record to begin with.
    fn going_on(self, image: Image, known: &Known) -> Self {
        let mut history = self.history;
        history.trimmed = known.trimmed();
        Self {
            image,
            history,
            crashes: self.crashes + 1,
            ..self
        }
    }

    /// What it is after a crash behind the first `cut` events, and what was known then.
    fn crashed(
        &self,
        events: &[Event],
        cut: usize,
        loss: Loss,
        random: &mut impl Rng,
    ) -> (Image, Known) {
        let mut image = self.image.clone();
        let mut known = self.history.start();
        let events = &events[..cut];
        for event in events {
            if let Event::Mark(mark) = event {
                known.take(*mark);
            }
        }
        let flush = events.iter().rposition(|event| *event == Event::Flush);
        let (covered, rest) = events.split_at(flush.map_or(0, |flush| flush + 1));
        covered.iter().for_each(|event| image.apply(event));
        loss.apply(&mut image, rest, random);
        (image, known)
    }
}

/// One record, and the crashes made of it.
pub(super) struct Round<'t> {
    pub(super) options: &'t Options,
    pub(super) programs: &'t Programs,
    pub(super) backends: &'t [&'static str],
    pub(super) number: u64,
    pub(super) quiet: bool,
    pub(super) deadline: Instant,
    pub(super) random: &'t mut ChaCha8Rng,
    pub(super) tested: &'t mut Tested,
}

impl Round<'_> {
    /// Records what happens to a disk, crashes it in many ways, and gives one of the crashed disks
    /// to go on with.
    pub(super) fn run(&mut self, disk: Disk) -> Result<Option<Disk>, SuiteError> {
        let dir = scratch(self.options, &format!("{}-{}", self.number, disk.crashes))?;
        let mut history = disk.history.clone();
        self.tested.records += 1;
        let events = match self.recorder().record(&disk, &mut history, dir.path())? {
            Ok(events) => events,
            Err(failure) => {
                self.tested.tally.count(false);
                if !self.quiet {
                    println!("FAILED: round {}: on {}: {failure}", self.number, disk.kind);
                    println!("    replay: {}", self.replay());
                }
                return Ok(None);
            }
        };
        let base = Disk { history, ..disk };
        let mut next = None;
        let cuts = Cuts::of(&events);
        for number in 0..self.options.images {
            if Instant::now() >= self.deadline {
                break;
            }
            let (cut, loss) = cuts.draw(number, self.random);
            let (image, known) = base.crashed(&events, cut, loss, self.random);
            let file = dir.path().join("crashed");
            image.store(&file)?;
            let go_on = self.random.random_bool(0.3);
            self.tested.images += 1;
            self.tested.acknowledged += known.acknowledged() as u64;
            let judged = self.judge(&base, &known, &file, dir.path(), go_on)?;
            let Err(failure) = judged else {
                self.tested.tally.count(true);
                next = Some((image, known));
                continue;
            };
            self.tested.tally.count(false);
            if self.quiet {
                return Ok(None);
            }
            let kept = self.options.dir.join(format!(
                "esker-crash-{}-{}-{number}.{}",
                self.options.seed, self.number, base.kind
            ));
            image.store(&kept)?;
            println!(
                "FAILED: round {}: {} crashed at event {cut} of {}, unflushed writes lost: \
                 {loss:?}: {failure}",
                self.number,
                base.kind,
                events.len()
            );
            println!("    the disk is kept in {}", kept.display());
            println!(
                "    look: mount -o loop {} DIR; esker verify DIR/store",
                kept.display()
            );
            println!("    replay: {}", self.replay());
            return Ok(None);
        }
        Ok(next.map(|(image, known)| base.going_on(image, &known)))
    }

    fn recorder(&mut self) -> Recorder<'_> {
        Recorder {
            programs: self.programs,
            backends: self.backends,
            random: &mut *self.random,
        }
    }

    fn replay(&self) -> String {
        format!(
            "cargo xtask crash --seed {} --first-round {} (what is drawn repeats, when it happens \
             does not)",
            self.options.seed, self.number
        )
    }

    /// Mounts a crashed disk and looks at the store on it.
    fn judge(
        &mut self,
        disk: &Disk,
        known: &Known,
        file: &Path,
        dir: &Path,
        go_on: bool,
    ) -> Result<Result<(), Failure>, SuiteError> {
        let mounted = match Mounted::new(disk.kind, file, &dir.join("mounted"), "") {
            Ok(mounted) => mounted,
            Err(error) => {
                // That is the file system's affair, unless it happens often.
                println!("a crashed {} is not mounted: {error}", disk.kind);
                self.tested.unmountable += 1;
                return Ok(Ok(()));
            }
        };
        let esker = self.programs.esker(mounted.point(), dir);
        let result = if known.store_exists() || esker.store.join("superblock").exists() {
            look(&esker, &disk.history, known, go_on)
        } else {
            Ok(())
        };
        mounted.unmount()?;
        Ok(result)
    }
}
