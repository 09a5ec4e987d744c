//! `faults`: what the kernel may answer, and what a disk may do, while `esker` works.
//!
//! - *Calls* ([`calls`]): `strace` makes each system call of each command fail in turn, once, for a
//!   while or for good, with each error that fits it; or kills the process there.
//! - *Transfers*: a shim between the program and the C library makes reads and writes truly short;
//!   a limit on the size of files does the same to `io_uring`.
//! - *Disks* ([`disk`]): small file systems fill up, become read-only, are shut down or frozen in
//!   the middle of an append, or lie on a disk that fails a write or a flush.
//!
//! After each, the command has ended by itself, with success only if that is true; the store opens,
//! holds what was acknowledged and a prefix of what was appended, and takes more.

mod calls;
mod disk;
mod scenario;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::canary::{self, Canary, Catcher};
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::trial::{
    Failure, FileSystem, Mounted, Program, clock_seed, missing_tool, number_arg, path_arg,
    roomy_dir, run_tool, working_backends,
};
use crate::workspace::Workspace;
use scenario::{Harm, Scenario, Templates, scenarios};

pub(crate) const SUITE: Suite = Suite {
    name: "faults",
    proves: "Whatever a system call answers, wherever the process is killed, whatever a file system \
             or a disk does meanwhile: every command ends by itself and says what is true, and the \
             store holds what was acknowledged and takes more; with --canaries, that known bugs \
             are caught",
    needs: "strace, a C compiler, the right to mount loop devices, mkfs.ext4, mkfs.xfs, xfs_io, \
            fsfreeze, qemu-storage-daemon with FUSE",
    quick: "cargo xtask faults",
    long: "cargo xtask faults --seconds 7200; cargo xtask faults --canaries",
    args: |command| {
        command
            .arg(number_arg("seconds", "Begin no case after so many seconds").default_value("30"))
            .arg(number_arg(
                "seed",
                "What order to take the cases in; from the clock by default",
            ))
            .arg(
                Arg::new("only")
                    .long("only")
                    .value_name("TEXT")
                    .help("Take only the cases whose names contain this"),
            )
            .arg(path_arg("dir", "DIR", "Where to put the disks"))
            .arg(
                path_arg("esker", "FILE", "Take this binary instead of building one")
                    .conflicts_with("canaries"),
            )
            .arg(canary::arg(&[Catcher::Faults]))
    },
    verify: &[Part::Share {
        weight: 3,
        args: &[],
    }],
    run,
};

/// How long a command may take under a fault before it counts as hanging, in seconds.
const PATIENCE: &str = "60";

/// After so many failures the rest tells nothing new.
const MAX_FAILURES: u64 = 10;

/// What the shim is made of.
const SHIM: &str = include_str!("short.c");

struct Options {
    seed: u64,
    time: Duration,
    only: String,
    dir: PathBuf,
    max_failures: u64,
}

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    let get = |name: &str| matches.get_one::<u64>(name).copied();
    let only = matches.get_one::<String>("only");
    let mut options = Options {
        seed: get("seed").map_or_else(clock_seed, Ok)?,
        time: Duration::from_secs(get("seconds").unwrap_or(30)),
        only: only.cloned().unwrap_or_default(),
        dir: matches
            .get_one::<PathBuf>("dir")
            .cloned()
            .unwrap_or_else(roomy_dir),
        max_failures: MAX_FAILURES,
    };
    println!(
        "seed {}, disks below {}",
        options.seed,
        options.dir.display()
    );
    let mut tally = Tally::default();
    if let Some(canaries) = canary::chosen(matches, Catcher::Faults) {
        let esker = workspace.build_with_canaries("esker-cli")?;
        options.max_failures = 1;
        for Canary { name, by, .. } in canaries {
            by.clone_into(&mut options.only);
            // The same cases without it and with it.
            let sound = run_all(&options, &esker, &mut tally)?.failed == 0;
            let caught = run_all(&options, &esker.with(name), &mut Tally::default())?.failed > 0;
            let (verdict, is) = if caught {
                ("ok", "")
            } else {
                ("FAILED", " not")
            };
            println!("{verdict}: canary {name} is{is} caught");
            tally.count(sound);
            tally.count(caught);
        }
        return Ok(tally);
    }
    let esker = match matches.get_one::<PathBuf>("esker") {
        Some(file) => file.clone().into(),
        None => workspace.build_program("esker-cli")?,
    };
    let tested = run_all(&options, &esker, &mut tally)?;
    tally += tested;
    Ok(tally)
}

/// One thing that is tried.
struct Case {
    name: String,
    what: What,
}

enum What {
    /// A command, started by something that harms it.
    Command(Scenario, Vec<OsString>, Harm),
    /// Something that happens to a file system.
    Disk(disk::Trouble),
}

fn run_all(options: &Options, program: &Program, skips: &mut Tally) -> Result<Tally, SuiteError> {
    let deadline = Instant::now() + options.time;
    let dir = tempfile::Builder::new()
        .prefix("esker-faults-")
        .tempdir_in(&options.dir)?;
    // A file system of its own, so that direct I/O is what it is elsewhere.
    let image = dir.path().join("image");
    let mounted = FileSystem::Xfs
        .make(&image, FileSystem::Xfs.least_bytes())
        .and_then(|()| Mounted::new(FileSystem::Xfs, &image, &dir.path().join("point"), ""));
    let place = match &mounted {
        Ok(mounted) => mounted.point().to_path_buf(),
        Err(error) => {
            skips.skip(
                "an XFS for the stores",
                &format!("{error}; they lie below {}", options.dir.display()),
            );
            dir.path().join("stores")
        }
    };
    std::fs::create_dir_all(&place)?;
    let backends = working_backends(program, &place, skips)?;
    let templates = Templates::new(&place, program)?;
    let mut cases = Vec::new();
    if let Some(missing) = missing_tool(&["strace", "timeout"]) {
        skips.skip(
            "faults of system calls",
            &format!("{missing} is not installed"),
        );
    } else {
        let named = options.only.split(", ").next().unwrap_or_default();
        let wanted = |scenario: &Scenario| {
            !options.only.contains(", ") || scenario.to_string().contains(named)
        };
        for scenario in scenarios(&backends).into_iter().filter(wanted) {
            cases.extend(call_cases(&templates, scenario, dir.path())?);
        }
    }
    match shim(dir.path()) {
        Ok(shim) => cases.extend(short_cases(&shim)),
        Err(error) => skips.skip("short transfers by a shim", &error.to_string()),
    }
    if let Some(missing) = missing_tool(&["prlimit", "timeout"]) {
        skips.skip(
            "limits of files' size",
            &format!("{missing} is not installed"),
        );
    } else {
        cases.extend(limit_cases(&backends));
    }
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    cases.shuffle(&mut random);
    // What takes a file system of its own is rarer, and comes first; half of the time is its.
    let mut troubles: Vec<Case> = disk::troubles(&backends, skips)
        .into_iter()
        .map(|trouble| Case {
            name: trouble.to_string(),
            what: What::Disk(trouble),
        })
        .collect();
    troubles.shuffle(&mut random);
    let count = cases.len() + troubles.len();
    let mut tally = Tally::default();
    let left = deadline.saturating_duration_since(Instant::now());
    let middle = match options.only.starts_with("disk-") {
        true => deadline,
        false => Instant::now() + left / 2,
    };
    let disks = troubles.into_iter().map(|case| (middle, case));
    for (limit, case) in disks.chain(cases.into_iter().map(|case| (deadline, case))) {
        if !case.name.contains(&options.only) || Instant::now() >= limit {
            continue;
        }
        if tally.failed >= options.max_failures {
            println!("stopped after {} failures", options.max_failures);
            break;
        }
        let start = Instant::now();
        let result = match &case.what {
            What::Command(scenario, wrapper, harm) => {
                let result = templates.run(*scenario, wrapper, *harm)?;
                let claims = matches!(result, Ok(true)) && scenario.is_durable();
                if claims && harm.undurable && calls::struck_log(&dir.path().join("notes"))? {
                    let lie = "it succeeds though a data sync has failed".to_owned();
                    Err(Failure::Command(lie))
                } else {
                    result
                }
            }
            What::Disk(trouble) => trouble.run(program, dir.path())?,
        };
        let hung = start.elapsed() > Duration::from_secs(PATIENCE.parse()?);
        let result = match result {
            Ok(_) if hung => Err(Failure::Command("it takes too long".into())),
            result => result,
        };
        tally.count(result.is_ok());
        if let Err(failure) = result {
            println!("FAILED: {}: {failure}", case.name);
            println!("    replay: cargo xtask faults --only '{}'", case.name);
        }
    }
    println!("{} of {count} cases tried", tally.passed + tally.failed);
    Ok(tally)
}

/// What strace can do to a command: it is run once to see which calls it makes.
fn call_cases(
    templates: &Templates,
    scenario: Scenario,
    dir: &Path,
) -> Result<Vec<Case>, SuiteError> {
    let trace = dir.join("trace");
    let dry = templates.run(scenario, &calls::recorder(&trace), Harm::default())?;
    if let Err(failure) = dry {
        return Err(format!("{scenario} under strace without a fault: {failure}").into());
    }
    let counts = calls::count(&trace)?;
    let cases = calls::faults(&counts).into_iter().map(|fault| Case {
        name: format!("{scenario}, {}:{}", fault.call, fault.what),
        what: What::Command(
            scenario,
            fault.wrapper(&dir.join("notes")),
            Harm {
                killed: fault.kills(),
                starved: fault.call == "mmap",
                deceived: fault.lies(),
                muted: fault.call == "write",
                undurable: fault.fails_sync(),
            },
        ),
    });
    Ok(cases.collect())
}

/// Builds the shim.
fn shim(dir: &Path) -> Result<PathBuf, SuiteError> {
    let (source, shim) = (dir.join("short.c"), dir.join("short.so"));
    std::fs::write(&source, SHIM)?;
    let flags = ["-shared", "-fPIC", "-O1", "-o"].map(OsString::from);
    let files = [shim.clone().into(), source.into()];
    run_tool("cc", flags.into_iter().chain(files))?;
    Ok(shim)
}

/// Short reads and writes of the blocking backend: each one, and all of them.
fn short_cases(shim: &Path) -> Vec<Case> {
    let mut cases = Vec::new();
    for scenario in scenarios(&["blocking"]) {
        for at in 0..40 {
            let mut preload = OsString::from("LD_PRELOAD=");
            preload.push(shim);
            let wrapper = ["timeout", "-s", "KILL", PATIENCE, "env"].map(OsString::from);
            let short = OsString::from(format!("ESKER_SHORT={at}"));
            cases.push(Case {
                name: format!("{scenario}, short:{at}"),
                what: What::Command(
                    scenario,
                    wrapper.into_iter().chain([preload, short]).collect(),
                    Harm::default(),
                ),
            });
        }
    }
    cases
}

/// Files that may not grow beyond a size: writes are cut off there, and then fail.
fn limit_cases(backends: &[&'static str]) -> Vec<Case> {
    const SEGMENT: u64 = 256 << 10;
    let limits = [
        0,
        512,
        4096,
        65536,
        69632,
        100_000,
        SEGMENT - 512,
        SEGMENT - 4096,
        SEGMENT / 2,
        SEGMENT,
        1 << 20,
        64 << 20,
    ];
    let mut cases = Vec::new();
    for scenario in scenarios(backends) {
        if matches!(scenario, Scenario::Look { .. }) {
            continue;
        }
        for limit in limits {
            let fsize = format!("--fsize={limit}");
            let wrapper = [
                "timeout",
                "-s",
                "KILL",
                PATIENCE,
                "sh",
                "-c",
                "trap '' XFSZ; exec \"$@\"",
                "sh",
                "prlimit",
                &fsize,
            ];
            cases.push(Case {
                name: format!("{scenario}, limit:{limit}"),
                what: What::Command(
                    scenario,
                    wrapper.iter().map(OsString::from).collect(),
                    Harm {
                        muted: true,
                        ..Harm::default()
                    },
                ),
            });
        }
    }
    cases
}
