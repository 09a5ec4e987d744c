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

mod check;
mod plan;
mod process;
mod records;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use clap::{Arg, ArgAction, ArgMatches, value_parser};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::canary::CLI_ACK_BEFORE_DURABLE as CANARY;
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::workspace::Workspace;
use check::{Checker, Failure, Life, Survivor};
use plan::Plan;
use process::{End, Esker, file_system};

pub(crate) const SUITE: Suite = Suite {
    name: "kill",
    proves: "Whenever the esker process is killed, every LSN that it printed gives its record \
             back, and the store holds a gapless prefix of each thread's records, nothing twice \
             and nothing invented; with --canary, that the suite catches LSNs printed too early",
    needs: "a temporary or target directory on a real disk",
    quick: "cargo xtask kill && cargo xtask kill --canary",
    long: "cargo xtask kill --rounds 1000",
    args: |command| {
        command
            .arg(number("rounds", "How many lives to end").default_value("60"))
            .arg(number(
                "seed",
                "What to draw from; from the clock by default",
            ))
            .arg(number("seconds", "Start no life after so many seconds").default_value("3600"))
            .arg(number("first-store", "Number of the store to start with").default_value("0"))
            .arg(
                Arg::new("dir")
                    .long("dir")
                    .value_name("DIR")
                    .value_parser(value_parser!(PathBuf))
                    .help("Where to put the stores"),
            )
            .arg(
                Arg::new("esker")
                    .long("esker")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .conflicts_with("canary")
                    .help("Take this binary instead of building one"),
            )
            .arg(
                Arg::new("canary")
                    .long("canary")
                    .action(ArgAction::SetTrue)
                    .help(
                        "Demand that a build which prints LSNs before they are durable is caught",
                    ),
            )
    },
    verify: &[
        Part::Whole(&["--canary"]),
        Part::Share {
            weight: 2,
            args: &["--rounds", "1000000"],
        },
    ],
    run,
};

/// After so many failures the rest tells nothing new.
const MAX_FAILURES: u64 = 3;

/// How many of the acknowledged records of a life are fetched one by one.
const FETCHED: usize = 64;

fn number(name: &'static str, help: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).value_name("N").help(help);
    arg.value_parser(value_parser!(u64))
}

struct Options {
    rounds: u64,
    seed: u64,
    deadline: Instant,
    first_store: u64,
    canary: bool,
    dir: PathBuf,
}

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    let get = |name: &str| matches.get_one::<u64>(name).copied();
    let mut tally = Tally::default();
    let Some(dir) = directory(workspace, matches.get_one::<PathBuf>("dir"))? else {
        tally.skip("kill", "no directory on a disk: give one with --dir");
        return Ok(tally);
    };
    let canary = matches.get_flag("canary");
    let binary = match matches.get_one::<PathBuf>("esker") {
        Some(binary) => binary.clone(),
        None => workspace.build_esker(canary.then_some(CANARY))?,
    };
    let backends = backends(&binary, &dir, &mut tally)?;
    let options = Options {
        rounds: get("rounds").unwrap_or(60),
        seed: get("seed").map_or_else(clock_seed, Ok)?,
        deadline: Instant::now() + Duration::from_secs(get("seconds").unwrap_or(3600)),
        first_store: get("first-store").unwrap_or(0),
        canary,
        dir,
    };
    println!(
        "seed {}, stores below {}",
        options.seed,
        options.dir.display()
    );
    let mut tested = run_stores(&options, &binary, &backends)?;
    if canary {
        tested = judge_canary(&options, &tested);
    }
    tally += tested.tally;
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
    binary: &std::path::Path,
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
            binary: binary.into(),
            store: dir.path().join("store"),
            log: dir.path().join("log"),
        });
        for _ in 0..random.random_range(1..8) {
            if rounds == options.rounds || Instant::now() >= options.deadline {
                break;
            }
            rounds += 1;
            let plan = Plan::draw(&mut random, backends);
            let result = store.live(&plan, &mut random, &mut tested);
            tested.tally.count(result.is_ok());
            let Err(failure) = result else { continue };
            if options.canary {
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

/// A run over the build with the known bug counts as one check: that it was caught, as that bug.
fn judge_canary(options: &Options, tested: &Tested) -> Tested {
    let mut judged = Tested::default();
    if tested.lost_acknowledged {
        println!(
            "ok: canary {CANARY} is caught in round {}",
            tested.tally.passed + 1
        );
    } else {
        println!(
            "FAILED: canary {CANARY} is not caught (seed {})",
            options.seed
        );
    }
    judged.tally.count(tested.lost_acknowledged);
    judged
}

/// A store, and what is known to be in it.
struct Store {
    esker: Esker,
    lives: Vec<Life>,
    survivors: Vec<Survivor>,
}

impl Store {
    fn new(esker: Esker) -> Self {
        Self {
            esker,
            lives: Vec::new(),
            survivors: Vec::new(),
        }
    }

    /// Lives one life and looks at what it left.
    fn live(
        &mut self,
        plan: &Plan,
        random: &mut impl Rng,
        tested: &mut Tested,
    ) -> Result<(), Failure> {
        // Drawn first, so that how the life goes does not change the next one.
        let pick = random.next_u64();
        let (life, end) = self.esker.live(plan)?;
        tested.killed += u64::from(end == End::Killed);
        tested.acknowledged += life.printed.len() as u64;
        self.lives.push(life);
        let before = self.look(pick, "as it was left");
        let before = match before {
            // Killed while the store was being created: there may be none to read yet.
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
        tested.records += after.len() as u64;
        self.survivors.extend(after);
        // What was acknowledged is among the survivors now.
        if let Some(life) = self.lives.last_mut() {
            life.printed = Vec::new();
        }
        Ok(())
    }

    /// Whether nobody was ever told that this store holds anything.
    fn is_empty(&self) -> bool {
        self.survivors.is_empty() && self.lives.iter().all(|life| life.printed.is_empty())
    }

    /// Reads everything in every way, and gives the records of the last life.
    fn look(&self, pick: u64, when: &str) -> Result<Vec<Survivor>, Failure> {
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
    let in_memory = ["tmpfs", "ramfs"];
    Ok([std::env::temp_dir(), target]
        .into_iter()
        .find(|dir| file_system(dir).is_some_and(|kind| !in_memory.contains(&kind.as_str()))))
}

/// The backends that work here.
fn backends(
    binary: &std::path::Path,
    dir: &std::path::Path,
    tally: &mut Tally,
) -> Result<Vec<&'static str>, SuiteError> {
    let scratch = tempfile::Builder::new()
        .prefix("esker-kill-probe-")
        .tempdir_in(dir)?;
    let probe = std::process::Command::new(binary)
        .arg("append")
        .arg(scratch.path().join("store"))
        .args(["--backend", "uring"])
        .stdin(std::process::Stdio::null())
        .output()?;
    if probe.status.success() {
        return Ok(vec!["uring", "blocking"]);
    }
    let why = String::from_utf8_lossy(&probe.stderr);
    tally.skip("the io_uring backend", why.trim_end());
    Ok(vec!["blocking"])
}

fn clock_seed() -> Result<u64, SuiteError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::from(now.subsec_nanos()) ^ now.as_secs())
}
