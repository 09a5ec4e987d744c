//! `kill`: processes that append are killed at any moment, and what they left is looked at.
//!
//! A store has several lives. In each, `esker append --lsns` is fed records that say themselves
//! which one they are, and is killed with SIGKILL; then the store is read as it lies, opened by a
//! writer, and read again. Every LSN that had been printed must give its record back, each thread's
//! records must be there in order and without gaps, nothing twice, nothing that was not appended,
//! and what an earlier life left must be there unchanged.
//!
//! A kill takes the process's memory and leaves the kernel's: this suite shows that nothing is
//! acknowledged that lies only in the process, and that recovery copes with an end at any moment.
//! What a power cut takes it cannot show.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::ArgMatches;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::canary::{self, Canary, Catcher};
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::trial::{
    Esker, Failure, Plan, Program, Store, clock_seed, live, number_arg, on_disk, path_arg,
    working_backends,
};
use crate::workspace::Workspace;

pub(crate) const SUITE: Suite = Suite {
    name: "kill",
    proves: "Whenever the esker process is killed, every LSN that it printed gives its record \
             back, and the store holds a gapless prefix of each thread's records, nothing twice \
             and nothing invented; with --canaries, that the suite catches LSNs printed too early",
    needs: "a temporary or target directory on a real disk",
    quick: "cargo xtask kill && cargo xtask kill --canaries",
    long: "cargo xtask kill --rounds 1000",
    args: |command| {
        command
            .arg(number_arg("rounds", "How many lives to end").default_value("60"))
            .arg(number_arg(
                "seed",
                "What to draw from; from the clock by default",
            ))
            .arg(number_arg("seconds", "Start no life after so many seconds").default_value("3600"))
            .arg(number_arg("first-store", "Number of the store to start with").default_value("0"))
            .arg(path_arg("dir", "DIR", "Where to put the stores"))
            .arg(
                path_arg("esker", "FILE", "Take this binary instead of building one")
                    .conflicts_with("canaries"),
            )
            .arg(canary::arg(&[Catcher::Kill]))
    },
    verify: &[
        Part::Whole(&["--canaries"]),
        Part::Share {
            weight: 2,
            args: &["--rounds", "1000000"],
        },
    ],
    run,
};

/// After so many failures the rest tells nothing new.
const MAX_FAILURES: u64 = 3;

/// How many lives show that a build with canaries is like any other while none is on.
const CONTROL_ROUNDS: u64 = 10;

struct Options {
    rounds: u64,
    seed: u64,
    deadline: Instant,
    first_store: u64,
    /// To end with the first failure, which is expected.
    is_canary: bool,
    dir: PathBuf,
}

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    let get = |name: &str| matches.get_one::<u64>(name).copied();
    let mut tally = Tally::default();
    let Some(dir) = directory(workspace, matches.get_one::<PathBuf>("dir"))? else {
        tally.skip("kill", "no directory on a disk: give one with --dir");
        return Ok(tally);
    };
    let canaries = canary::chosen(matches, Catcher::Kill);
    let program = match matches.get_one::<PathBuf>("esker") {
        Some(file) => file.clone().into(),
        None if canaries.is_some() => workspace.build_with_canaries("esker-cli")?,
        None => workspace.build_program("esker-cli")?,
    };
    let backends = working_backends(&program, &dir, &mut tally)?;
    let options = Options {
        rounds: get("rounds").unwrap_or(60),
        seed: get("seed").map_or_else(clock_seed, Ok)?,
        deadline: Instant::now() + Duration::from_secs(get("seconds").unwrap_or(3600)),
        first_store: get("first-store").unwrap_or(0),
        is_canary: false,
        dir,
    };
    println!(
        "seed {}, stores below {}",
        options.seed,
        options.dir.display()
    );
    tally += match canaries {
        None => run_stores(&options, &program, &backends)?.tally,
        Some(canaries) => catch(options, &program, &backends, &canaries)?,
    };
    Ok(tally)
}

/// Lives with no known bug switched on lose nothing; with each of them they lose what had been
/// acknowledged.
fn catch(
    mut options: Options,
    program: &Program,
    backends: &[&'static str],
    canaries: &[Canary],
) -> Result<Tally, SuiteError> {
    let mut tally = Tally::default();
    let rounds = std::mem::replace(&mut options.rounds, CONTROL_ROUNDS);
    let control = run_stores(&options, program, backends)?;
    tally.count(control.tally.failed == 0);
    options.rounds = rounds;
    options.is_canary = true;
    for Canary { name, .. } in canaries {
        let tested = run_stores(&options, &program.with(name), backends)?;
        if tested.lost_acknowledged {
            let round = tested.tally.passed + 1;
            println!("ok: canary {name} is caught in round {round}");
        } else {
            println!(
                "FAILED: canary {name} is not caught (seed {})",
                options.seed
            );
        }
        tally.count(tested.lost_acknowledged);
    }
    Ok(tally)
}

/// What came out of all lives.
#[derive(Default)]
struct Tested {
    tally: Tally,
    killed: u64,
    records: u64,
    acknowledged: u64,
    lost_acknowledged: bool,
}

fn run_stores(
    options: &Options,
    program: &Program,
    backends: &[&'static str],
) -> Result<Tested, SuiteError> {
    let mut tested = Tested::default();
    let mut number = options.first_store;
    let mut rounds = 0;
    while rounds < options.rounds && Instant::now() < options.deadline {
        let dir = tempfile::Builder::new()
            .prefix(&format!("esker-kill-{number}-"))
            .tempdir_in(&options.dir)?;
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        random.set_stream(number);
        let mut store = Store::new(Esker {
            program: program.clone(),
            store: dir.path().join("store"),
            log: dir.path().join("log"),
            append_args: Vec::new(),
        });
        for _ in 0..random.random_range(1..8) {
            if rounds == options.rounds || Instant::now() >= options.deadline {
                break;
            }
            rounds += 1;
            let plan = Plan::draw(&mut random, backends);
            let result = live_and_look(&mut store, &plan, &mut random, &mut tested);
            tested.tally.count(result.is_ok());
            let Err(failure) = result else { continue };
            if options.is_canary {
                tested.lost_acknowledged = matches!(failure, Failure::LostAcknowledged { .. });
                println!("round {rounds}: {failure}");
                return Ok(tested);
            }
            let kept = dir.keep();
            println!("FAILED: round {rounds}: {failure}");
            println!("    life {} of store {number}: {plan:?}", store.lives.len());
            println!("    the store is kept in {}", kept.display());
            println!(
                "    replay: cargo xtask kill --seed {} --first-store {number} --rounds {}",
                options.seed,
                store.lives.len().max(1) + 1
            );
            break;
        }
        if tested.tally.failed >= MAX_FAILURES {
            println!("stopped after {MAX_FAILURES} failures");
            break;
        }
        number += 1;
    }
    let Tested {
        killed,
        records,
        acknowledged,
        ..
    } = tested;
    println!(
        "{rounds} lives, {killed} killed, {records} records kept, {acknowledged} acknowledged"
    );
    Ok(tested)
}

/// Lives one life and looks at what it left.
fn live_and_look(
    store: &mut Store,
    plan: &Plan,
    random: &mut impl Rng,
    tested: &mut Tested,
) -> Result<(), Failure> {
    // Drawn first, so that how the life goes does not change the next one.
    let pick = random.next_u64();
    let (life, end) = live(&store.esker, plan, &[], |_printed| {})?;
    tested.killed += u64::from(end.was_killed()?);
    tested.acknowledged += life.printed.len() as u64;
    tested.records += store.settle(life, pick)?;
    Ok(())
}

/// Where the stores go: what survives a process in memory only would prove nothing.
fn directory(
    workspace: &Workspace,
    wanted: Option<&PathBuf>,
) -> Result<Option<PathBuf>, SuiteError> {
    if let Some(dir) = wanted {
        return Ok(Some(dir.clone()));
    }
    let target = workspace.target_dir("kill");
    std::fs::create_dir_all(&target)?;
    Ok(on_disk([std::env::temp_dir(), target]))
}
