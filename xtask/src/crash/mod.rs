//! `crash`: power cuts of a real file system's disk, made from a record of its writes and flushes.
//!
//! A store lives on ext4 or XFS on a disk whose every write and flush is recorded in order
//! ([`device`]); `esker append`, or a process that uses the library in every way it has of waiting for
//! durability, fills it, is killed or ends, is started again, and trims. Whenever
//! LSNs have been printed, a mark is written to the same disk, so that the record itself says what
//! had been acknowledged at each of its points. Then crashes are made: at any point, everything that
//! a flush had covered, and of the rest what survives by chance, whole or torn at 512 bytes. The file
//! system is mounted from each, its journal replayed, and the store read: what had been acknowledged
//! is there, nothing is invented, nothing is damaged, and appending goes on. Some of the crashed
//! disks are what the next record begins with, so that recovery is crashed too.

mod device;
mod history;
mod image;
mod log;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::canary;
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::trial::{
    Esker, Failure, Feed, FileSystem, Kill, Mix, Mounted, Plan, Records, Told, Worker, clock_seed,
    create_small, live, missing_tool, number_arg, path_arg, roomy_dir, working_backends,
};
use crate::workspace::Workspace;
use device::{Device, TOOLS, disk_bytes};
use history::{Found, History, Known, Past};
use image::{Image, Loss};
use log::{Event, Mark};

pub(crate) const SUITE: Suite = Suite {
    name: "crash",
    proves: "Whatever a power cut leaves of the writes that no flush had covered, on ext4 and XFS, \
             every record that the esker command or the library had called durable is there, \
             nothing is invented, and nothing is taken for damage; with --canaries, that known \
             bugs are caught",
    needs: "the right to mount loop devices, qemu-storage-daemon with FUSE, mkfs.ext4, mkfs.xfs",
    quick: "cargo xtask crash",
    long: "cargo xtask crash --seconds 3600; cargo xtask crash --canaries",
    args: |command| {
        command
            .arg(number_arg("seconds", "Make no crash after so many seconds").default_value("25"))
            .arg(number_arg(
                "seed",
                "What to draw from; from the clock by default",
            ))
            .arg(number_arg("first-round", "Number of the record to start with").default_value("0"))
            .arg(
                number_arg("images", "How many crashes to make of each record").default_value("40"),
            )
            .arg(path_arg("dir", "DIR", "Where to put the disks"))
            .arg(
                path_arg("esker", "FILE", "Take this binary instead of building one")
                    .conflicts_with("canaries"),
            )
            .arg(
                path_arg(
                    "worker",
                    "FILE",
                    "Take this esker-worker instead of building one",
                )
                .conflicts_with("canaries"),
            )
            .arg(
                Arg::new("canaries")
                    .long("canaries")
                    .action(ArgAction::SetTrue)
                    .help(
                        "Switch known bugs on, one after the other, and demand that each is caught",
                    ),
            )
    },
    verify: &[Part::Share {
        weight: 3,
        args: &[],
    }],
    run,
};

/// After so many failures the rest tells nothing new.
const MAX_FAILURES: u64 = 3;

/// How long a known bug may stay hidden at least, and how many crashes are made of each record then.
const CANARY_TIME: Duration = Duration::from_secs(600);
const CANARY_IMAGES: u64 = 120;

/// How many records may go on from one another's crashes.
const MAX_CHAIN: usize = 3;

struct Options {
    seed: u64,
    time: Duration,
    first_round: u64,
    images: u64,
    dir: PathBuf,
}

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    let get = |name: &str| matches.get_one::<u64>(name).copied();
    let mut tally = Tally::default();
    let options = Options {
        seed: get("seed").map_or_else(clock_seed, Ok)?,
        time: Duration::from_secs(get("seconds").unwrap_or(25)),
        first_round: get("first-round").unwrap_or(0),
        images: get("images").unwrap_or(40).max(1),
        dir: matches
            .get_one::<PathBuf>("dir")
            .cloned()
            .unwrap_or_else(roomy_dir),
    };
    let kinds = file_systems(&options, &mut tally)?;
    if kinds.is_empty() {
        return Ok(tally);
    }
    println!(
        "seed {}, disks below {}",
        options.seed,
        options.dir.display()
    );
    if matches.get_flag("canaries") {
        return run_canaries(workspace, &options, &kinds);
    }
    let given = |name: &str, package| match matches.get_one::<PathBuf>(name) {
        Some(binary) => Ok(binary.clone()),
        None => workspace.build_binary(package, None),
    };
    let binary = given("esker", "esker-cli")?;
    let backends = working_backends(&binary, &options.dir, &mut tally)?;
    let programs = Programs {
        writers: vec![
            Writer::Command(binary.clone()),
            Writer::Library(Worker {
                binary: given("worker", "esker-worker")?,
            }),
        ],
        binary,
    };
    tally += run_rounds(&options, &programs, &kinds, &backends, false)?.tally;
    Ok(tally)
}

/// Switches known bugs on in the programs that write. What looks at the crashed disks has none.
fn run_canaries(
    workspace: &Workspace,
    options: &Options,
    kinds: &[FileSystem],
) -> Result<Tally, SuiteError> {
    let mut tally = Tally::default();
    let binary = workspace.build_binary("esker-cli", None)?;
    // What shows in one crash of some hundred takes as many; what shows at once ends it at once.
    let options = &Options {
        time: options.time.max(CANARY_TIME),
        images: options.images.max(CANARY_IMAGES),
        dir: options.dir.clone(),
        ..*options
    };
    for &name in canary::CRASH {
        let writer = if name == canary::CLI_ACK_BEFORE_DURABLE {
            Writer::Command(workspace.build_binary("esker-cli", Some(name))?)
        } else {
            Writer::Library(Worker {
                binary: workspace.build_binary("esker-worker", Some(name))?,
            })
        };
        let programs = Programs {
            writers: vec![writer],
            binary: binary.clone(),
        };
        let start = Instant::now();
        let tested = run_rounds(options, &programs, kinds, &["uring", "blocking"], true)?;
        let caught = tested.tally.failed > 0;
        println!(
            "{}: canary {name} is {} ({} crashes, {} s)",
            if caught { "ok" } else { "FAILED" },
            if caught { "caught" } else { "not caught" },
            tested.images,
            start.elapsed().as_secs()
        );
        tally.count(caught);
    }
    Ok(tally)
}

/// What is run.
struct Programs {
    /// What lives on the recorded disk, by turns.
    writers: Vec<Writer>,
    /// The command that makes the small changes and looks at what is there.
    binary: PathBuf,
}

/// What appends.
#[derive(Clone)]
enum Writer {
    Command(PathBuf),
    Library(Worker),
}

/// The file systems that can be made, recorded and mounted here.
fn file_systems(options: &Options, tally: &mut Tally) -> Result<Vec<FileSystem>, SuiteError> {
    if let Some(missing) = missing_tool(TOOLS) {
        tally.skip("crash", &format!("{missing} is not installed"));
        return Ok(Vec::new());
    }
    let mut kinds = Vec::new();
    for kind in FileSystem::ALL {
        if let Some(missing) = missing_tool(&[kind.maker()]) {
            tally.skip(&kind.to_string(), &format!("{missing} is not installed"));
            continue;
        }
        let dir = scratch(options, "probe")?;
        let disk = dir.path().join("disk");
        let made = kind
            .make(&disk, disk_bytes(kind))
            .and_then(|()| Device::start(kind, &disk, dir.path()))
            .and_then(Device::stop);
        match made {
            Ok(events) if events.contains(&Event::Flush) => kinds.push(kind),
            Ok(_) => tally.skip(
                &kind.to_string(),
                "the record of a mount has no flush in it",
            ),
            Err(error) => tally.skip(&kind.to_string(), &error.to_string()),
        }
    }
    Ok(kinds)
}

fn scratch(options: &Options, name: &str) -> Result<tempfile::TempDir, SuiteError> {
    Ok(tempfile::Builder::new()
        .prefix(&format!("esker-crash-{name}-"))
        .tempdir_in(&options.dir)?)
}

/// What came out of all rounds.
#[derive(Default)]
struct Tested {
    tally: Tally,
    records: u64,
    images: u64,
    unmountable: u64,
    acknowledged: u64,
}

/// A disk, what lived on it before, and how often it has crashed.
struct Disk {
    kind: FileSystem,
    image: Image,
    history: History,
    crashes: usize,
}

fn run_rounds(
    options: &Options,
    programs: &Programs,
    kinds: &[FileSystem],
    backends: &[&'static str],
    first_failure_only: bool,
) -> Result<Tested, SuiteError> {
    let deadline = Instant::now() + options.time;
    let mut tested = Tested::default();
    let mut round = options.first_round;
    let max_failures = if first_failure_only { 1 } else { MAX_FAILURES };
    while Instant::now() < deadline && tested.tally.failed < max_failures {
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        random.set_stream(round);
        let kind = kinds[(round % kinds.len() as u64) as usize];
        let mut disk = new_disk(kind, options)?;
        while let Some(base) = disk {
            let mut trial = Trial {
                options,
                programs,
                backends,
                round,
                quiet: first_failure_only,
                deadline,
                random: &mut random,
                tested: &mut tested,
            };
            disk = trial.run(base)?.filter(|disk| disk.crashes < MAX_CHAIN);
            if Instant::now() >= deadline || tested.tally.failed >= max_failures {
                break;
            }
        }
        round += 1;
    }
    println!(
        "{} records, {} crashes, {} of which the file system could not be mounted, {} LSNs \
         acknowledged in them",
        tested.records, tested.images, tested.unmountable, tested.acknowledged
    );
    if tested.unmountable * 10 > tested.images {
        println!("FAILED: too few crashed file systems can be mounted");
        tested.tally.count(false);
    }
    Ok(tested)
}

fn new_disk(kind: FileSystem, options: &Options) -> Result<Option<Disk>, SuiteError> {
    let dir = scratch(options, "new")?;
    let file = dir.path().join("disk");
    kind.make(&file, disk_bytes(kind))?;
    Ok(Some(Disk {
        kind,
        image: Image::read(&file)?,
        history: History::default(),
        crashes: 0,
    }))
}

/// One record, and the crashes made of it.
struct Trial<'t> {
    options: &'t Options,
    programs: &'t Programs,
    backends: &'t [&'static str],
    round: u64,
    quiet: bool,
    deadline: Instant,
    random: &'t mut ChaCha8Rng,
    tested: &'t mut Tested,
}

impl Trial<'_> {
    /// Records what happens to a disk, crashes it in many ways, and gives one of the crashed disks
    /// to go on with.
    fn run(&mut self, disk: Disk) -> Result<Option<Disk>, SuiteError> {
        let dir = scratch(self.options, &format!("{}-{}", self.round, disk.crashes))?;
        let mut history = disk.history.clone();
        self.tested.records += 1;
        let events = match self.record(&disk, &mut history, dir.path())? {
            Ok(events) => events,
            Err(failure) => {
                self.tested.tally.count(false);
                if !self.quiet {
                    println!("FAILED: round {}: on {}: {failure}", self.round, disk.kind);
                    println!("    replay: {}", self.replay());
                }
                return Ok(None);
            }
        };
        let base = Disk { history, ..disk };
        let mut next = None;
        let cuts = cuts(&events);
        for number in 0..self.options.images {
            if Instant::now() >= self.deadline {
                break;
            }
            let (cut, loss) = self.draw(&events, &cuts, number);
            let (image, known) = crashed(&base, &events, cut, loss, self.random);
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
                self.options.seed, self.round, base.kind
            ));
            image.store(&kept)?;
            println!(
                "FAILED: round {}: {} crashed at event {cut} of {}, unflushed writes lost: \
                 {loss:?}: {failure}",
                self.round,
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
        Ok(next.map(|(image, known)| self.crashed_disk(base, image, &known)))
    }

    fn replay(&self) -> String {
        format!(
            "cargo xtask crash --seed {} --first-round {} (what is drawn repeats, when it happens \
             does not)",
            self.options.seed, self.round
        )
    }

    /// A crashed disk, for the next record to begin with.
    fn crashed_disk(&self, base: Disk, image: Image, known: &Known) -> Disk {
        let mut history = base.history;
        history.trimmed = known.trimmed();
        Disk {
            image,
            history,
            crashes: base.crashes + 1,
            ..base
        }
    }

    /// Draws where to crash and what to lose. The first ones are at what may matter most: right
    /// behind an acknowledgement, with everything lost that may be.
    fn draw(&mut self, events: &[Event], cuts: &Cuts, number: u64) -> (usize, Loss) {
        let pick = |random: &mut ChaCha8Rng, of: &[usize]| {
            let index = random.random_range(0..of.len().max(1));
            of.get(index).copied().unwrap_or_default()
        };
        let cut = match number % 4 {
            0 if number.is_multiple_of(8) && !cuts.uncovered.is_empty() => {
                pick(self.random, &cuts.uncovered)
            }
            0 => pick(self.random, &cuts.marks),
            1 => pick(self.random, &cuts.flushes),
            _ => self.random.random_range(0..=events.len()),
        };
        let loss = Loss::EVERY[self.random.random_range(0..Loss::EVERY.len())];
        (
            cut,
            if number.is_multiple_of(8) {
                Loss::All
            } else {
                loss
            },
        )
    }

    /// Lets a store live on a recorded disk.
    fn record(
        &mut self,
        disk: &Disk,
        history: &mut History,
        dir: &Path,
    ) -> Result<Result<Vec<Event>, Failure>, SuiteError> {
        let file = dir.join("disk");
        disk.image.store(&file)?;
        let device = Device::start(disk.kind, &file, dir)?;
        let esker = self.esker(device.point(), dir);
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
            Writer::Command(binary) => {
                let esker = Esker {
                    binary: binary.clone(),
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

    fn esker(&self, point: &Path, dir: &Path) -> Esker {
        Esker {
            binary: self.programs.binary.clone(),
            store: point.join("store"),
            log: dir.join("said"),
            append_args: Vec::new(),
        }
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
        let esker = self.esker(mounted.point(), dir);
        let result = if known.store_exists() || esker.store.join("superblock").exists() {
            look(&esker, &disk.history, known, go_on)
        } else {
            Ok(())
        };
        mounted.unmount()?;
        Ok(result)
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

/// Everything that is in a store.
fn read(esker: &Esker, history: &History) -> Result<Vec<Found>, Failure> {
    let mut found = Vec::new();
    esker.cat(|lsn, payload| {
        found.push((lsn, history.identify(payload)));
        Ok(())
    })?;
    Ok(found)
}

/// Notes what the lives have left, for the next one to go on from, and gives the LSNs.
fn settle(esker: &Esker, history: &mut History) -> Result<Vec<u64>, Failure> {
    let found = read(esker, history)?;
    history.settle(&found);
    Ok(found.into_iter().map(|(lsn, _)| lsn).collect())
}

/// Looks at the store of a crashed disk, and goes on with it if wanted.
fn look(esker: &Esker, history: &History, known: &Known, go_on: bool) -> Result<(), Failure> {
    let judge = |found: &[_]| {
        let judged = history.judge(known, found);
        judged.map_err(|wrong| Failure::Command(wrong.to_string()))
    };
    esker.run("verify")?;
    let found = read(esker, history)?;
    judge(&found)?;
    if !go_on {
        return Ok(());
    }
    esker.append(b"one more\n")?;
    esker.run("verify")?;
    let mut after = read(esker, history)?;
    let last = after.pop();
    if after != found || !matches!(last, Some((_, None))) {
        return Err(Failure::Command(format!(
            "{} records were read from the crashed disk, and they are not what precedes the record \
             that was appended then",
            found.len()
        )));
    }
    Ok(())
}

/// Where a crash is worth while.
struct Cuts {
    /// Right behind each acknowledgement.
    marks: Vec<usize>,
    /// Those of them before which something was written and not flushed: it may be what they are of.
    uncovered: Vec<usize>,
    /// Right before each flush.
    flushes: Vec<usize>,
}

fn cuts(events: &[Event]) -> Cuts {
    let numbered = || events.iter().enumerate();
    let mut is_covered = true;
    let (mut marks, mut uncovered) = (Vec::new(), Vec::new());
    for (number, event) in numbered() {
        match event {
            Event::Write { .. } | Event::Discard { .. } => is_covered = false,
            Event::Flush => is_covered = true,
            Event::Mark(Mark::Acknowledged { .. }) => {
                marks.push(number + 1);
                if !is_covered {
                    uncovered.push(number + 1);
                }
            }
            Event::Mark(_) => {}
        }
    }
    Cuts {
        marks,
        uncovered,
        flushes: numbered()
            .filter(|(_, event)| **event == Event::Flush)
            .map(|(number, _)| number)
            .collect(),
    }
}

/// The disk after a crash behind the first `cut` events, and what was known then.
fn crashed(
    base: &Disk,
    events: &[Event],
    cut: usize,
    loss: Loss,
    random: &mut impl Rng,
) -> (Image, Known) {
    let mut image = base.image.clone();
    let mut known = base.history.start();
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
