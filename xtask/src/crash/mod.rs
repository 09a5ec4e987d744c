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

mod cuts;
mod device;
mod history;
mod image;
mod log;
mod recorder;
mod round;
mod store;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ArgMatches;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::canary::{self, Canary, Catcher};
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::trial::{
    Esker, FileSystem, Program, Worker, clock_seed, missing_tool, number_arg, path_arg, roomy_dir,
    working_backends,
};
use crate::workspace::Workspace;
use device::{Device, TOOLS, disk_bytes};
use log::Event;
use round::{Disk, Round};

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
            .arg(canary::arg(&[Catcher::Crash]))
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

/// How long a build with canaries is tried while none is on.
const CONTROL_TIME: Duration = Duration::from_secs(20);

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
    if let Some(canaries) = canary::chosen(matches, Catcher::Crash) {
        return catch(workspace, &options, &kinds, &canaries);
    }
    let given = |name: &str, package| match matches.get_one::<PathBuf>(name) {
        Some(file) => Ok(file.clone().into()),
        None => workspace.build_program(package),
    };
    let esker: Program = given("esker", "esker-cli")?;
    let backends = working_backends(&esker, &options.dir, &mut tally)?;
    let programs = Programs {
        writers: vec![
            Writer::Command(esker.clone()),
            Writer::Library(Worker {
                program: given("worker", "esker-worker")?,
            }),
        ],
        esker,
    };
    tally += run_rounds(&options, &programs, &kinds, &backends, false)?.tally;
    Ok(tally)
}

/// Switches known bugs on in the programs that write. What looks at the crashed disks has none.
fn catch(
    workspace: &Workspace,
    options: &Options,
    kinds: &[FileSystem],
    canaries: &[Canary],
) -> Result<Tally, SuiteError> {
    let mut tally = Tally::default();
    let esker = workspace.build_with_canaries("esker-cli")?;
    let worker = workspace.build_with_canaries("esker-worker")?;
    let command = |program| Writer::Command(program);
    let library = |program| Writer::Library(Worker { program });
    let tried = |options: &Options, writers, ends_early| {
        let programs = Programs {
            writers,
            esker: esker.clone(),
        };
        let backends = &["uring", "blocking"];
        run_rounds(options, &programs, kinds, backends, ends_early)
    };
    let with = |time, images| Options {
        time,
        images,
        dir: options.dir.clone(),
        ..*options
    };
    // With none on, nothing is lost.
    let writers = vec![command(esker.clone()), library(worker.clone())];
    tally.count(
        tried(&with(CONTROL_TIME, options.images), writers, false)?
            .tally
            .failed
            == 0,
    );
    // What shows in one crash of some hundred takes as many; what shows at once ends it at once.
    let patient = with(
        options.time.max(CANARY_TIME),
        options.images.max(CANARY_IMAGES),
    );
    for Canary { name, tests, .. } in canaries {
        let writer = match *tests {
            "esker-cli" => command(esker.with(name)),
            _ => library(worker.with(name)),
        };
        let start = Instant::now();
        let tested = tried(&patient, vec![writer], true)?;
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
    esker: Program,
}

impl Programs {
    /// The command, for the store on what is mounted at `point`.
    fn esker(&self, point: &Path, dir: &Path) -> Esker {
        Esker {
            program: self.esker.clone(),
            store: point.join("store"),
            log: dir.join("said"),
            append_args: Vec::new(),
        }
    }
}

/// What appends.
#[derive(Clone)]
enum Writer {
    Command(Program),
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

fn run_rounds(
    options: &Options,
    programs: &Programs,
    kinds: &[FileSystem],
    backends: &[&'static str],
    first_failure_only: bool,
) -> Result<Tested, SuiteError> {
    let deadline = Instant::now() + options.time;
    let mut tested = Tested::default();
    let mut number = options.first_round;
    let max_failures = if first_failure_only { 1 } else { MAX_FAILURES };
    while Instant::now() < deadline && tested.tally.failed < max_failures {
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        random.set_stream(number);
        let kind = kinds[(number % kinds.len() as u64) as usize];
        let mut disk = Some(Disk::new(kind, options)?);
        while let Some(base) = disk {
            let mut round = Round {
                options,
                programs,
                backends,
                number,
                quiet: first_failure_only,
                deadline,
                random: &mut random,
                tested: &mut tested,
            };
            disk = round.run(base)?.filter(|disk| disk.crashes < MAX_CHAIN);
            if Instant::now() >= deadline || tested.tally.failed >= max_failures {
                break;
            }
        }
        number += 1;
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
