//! [`Scenario`]: a command on a store that is known, run under a fault, and judged.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::suite::SuiteError;
use crate::trial::{
    End, Esker, Failure, Feed, Kill, Mix, Plan, Program, Records, Store, create_small, live,
};

const TAIL_LOCALISED: &str = "tail-localised";

/// A command, and the store that it works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    /// Records are appended to a store that is created, was closed, or was killed.
    Append {
        store: Before,
        threads: u64,
        backend: &'static str,
        durability: &'static str,
        ordering: &'static str,
    },
    /// A command that changes nothing.
    Look {
        command: &'static str,
        backend: &'static str,
    },
    /// Half of a store is trimmed.
    Trim { backend: &'static str },
}

/// What was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nothing,
    Closed,
    Killed,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append {
                store,
                threads,
                backend,
                durability,
                ordering,
            } => {
                let store = match store {
                    Before::Nothing => "new",
                    Before::Closed => "closed",
                    Before::Killed => "killed",
                };
                write!(f, "append-{store}-{threads}-{backend}-{durability}")?;
                // What is the default goes without saying.
                if *ordering == TAIL_LOCALISED {
                    return Ok(());
                }
                write!(f, "-{ordering}")
            }
            Self::Look { command, backend } => write!(f, "{command}-{backend}"),
            Self::Trim { backend } => write!(f, "trim-{backend}"),
        }
    }
}

impl Scenario {
    /// Whether success means that something is durable.
    pub(super) fn is_durable(&self) -> bool {
        matches!(self, Self::Append { durability, .. } if *durability == "durable")
    }
}

/// Every scenario with these backends.
pub(super) fn scenarios(backends: &[&'static str]) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for &backend in backends {
        let append = |store, threads, durability, ordering| Scenario::Append {
            store,
            threads,
            backend,
            durability,
            ordering,
        };
        scenarios.extend([
            append(Before::Closed, 1, "durable", TAIL_LOCALISED),
            append(Before::Closed, 4, "durable", TAIL_LOCALISED),
            append(Before::Closed, 1, "written", TAIL_LOCALISED),
            append(Before::Closed, 4, "durable", "serialised"),
            append(Before::Killed, 1, "durable", TAIL_LOCALISED),
            append(Before::Nothing, 1, "durable", TAIL_LOCALISED),
        ]);
        for command in ["cat", "get", "salvage", "verify", "info"] {
            scenarios.push(Scenario::Look { command, backend });
        }
        scenarios.push(Scenario::Trim { backend });
    }
    scenarios
}

/// Stores to begin with, made once.
pub(super) struct Templates {
    dir: PathBuf,
    program: Program,
    closed: Store,
    killed: Store,
}

impl Templates {
    /// Makes them in `dir`.
    pub(super) fn new(dir: &Path, program: &Program) -> Result<Self, SuiteError> {
        let make = |name: &str, kill| {
            let mut store = Store::new(esker(dir, program, name));
            create_small(&store.esker.store, 256 << 10)?;
            for key in 1..3 {
                live_before(&mut store, key, kill)?;
            }
            Ok::<_, SuiteError>(store)
        };
        Ok(Self {
            dir: dir.into(),
            program: program.clone(),
            closed: make("closed", Kill::Never)?,
            killed: make("killed", Kill::Printed(60, std::time::Duration::ZERO))?,
        })
    }

    /// A copy of what a scenario begins with.
    fn copy(&self, before: Before) -> Result<Store, SuiteError> {
        let esker = esker(&self.dir, &self.program, "tried");
        match std::fs::remove_dir_all(&esker.store) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut store = Store::new(esker);
        let template = match before {
            Before::Nothing => return Ok(store),
            Before::Closed => &self.closed,
            Before::Killed => &self.killed,
        };
        std::fs::create_dir(&store.esker.store)?;
        for entry in std::fs::read_dir(&template.esker.store)? {
            let entry = entry?;
            std::fs::copy(entry.path(), store.esker.store.join(entry.file_name()))?;
        }
        store.lives.clone_from(&template.lives);
        store.survivors.clone_from(&template.survivors);
        Ok(store)
    }
}

fn esker(dir: &Path, program: &Program, name: &str) -> Esker {
    Esker {
        program: program.clone(),
        store: dir.join(name),
        log: dir.join(format!("{name}.said")),
        append_args: Vec::new(),
    }
}

/// A small store in a file system of its own, with one life behind it.
pub(super) fn small_store(
    point: &Path,
    program: &Program,
    dir: &Path,
    kill: Kill,
) -> Result<Store, SuiteError> {
    let mut esker = esker(point, program, "store");
    // What it says is said elsewhere than where there is trouble.
    esker.log = dir.join("said");
    let mut store = Store::new(esker);
    create_small(&store.esker.store, 256 << 10)?;
    live_before(&mut store, 1, kill)?;
    Ok(store)
}

/// A life that nothing happens to; the store is left as it ended.
fn live_before(store: &mut Store, key: u64, kill: Kill) -> Result<(), SuiteError> {
    let (life, end) = live(&store.esker, &plan(key, 1, "blocking", kill), &[], |_| {})?;
    let _killed = end.was_killed()?;
    let found = store.look_after(life)?;
    store.survivors.extend(found);
    Ok(())
}

pub(super) fn plan(key: u64, threads: u64, backend: &'static str, kill: Kill) -> Plan {
    Plan {
        records: Records {
            key,
            mix: Mix::Mixed,
            binary: true,
        },
        threads,
        ordering: TAIL_LOCALISED,
        backend,
        framing: "length",
        feed: Feed::Bursts(30, std::time::Duration::from_millis(2)),
        kill,
        max_records: 150,
        max_bytes: 3 << 19,
    }
}

/// What may have been done to a command.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Harm {
    /// It was killed.
    pub(super) killed: bool,
    /// Memory was refused, which ends a program where it stands.
    pub(super) starved: bool,
    /// It was told that something had been written that had not.
    pub(super) deceived: bool,
    /// It may not be able to say what is wrong.
    pub(super) muted: bool,
    /// A sync of its data failed.
    pub(super) undurable: bool,
}

impl Templates {
    /// Runs a scenario under a wrapper and judges what came of it. Whether the command succeeded.
    pub(super) fn run(
        &self,
        scenario: Scenario,
        wrapper: &[OsString],
        harm: Harm,
    ) -> Result<Result<bool, Failure>, SuiteError> {
        match scenario {
            Scenario::Append {
                store,
                threads,
                backend,
                durability,
                ordering,
            } => {
                let mut store = self.copy(store)?;
                let mut plan = plan(3, threads, backend, Kill::Never);
                plan.ordering = ordering;
                Ok(append(&mut store, &plan, durability, wrapper, harm))
            }
            Scenario::Look { command, backend } => {
                let store = self.copy(Before::Closed)?;
                Ok(look(&store, command, backend, wrapper, harm))
            }
            Scenario::Trim { backend } => {
                let mut store = self.copy(Before::Closed)?;
                Ok(trim(&mut store, backend, wrapper, harm))
            }
        }
    }
}

/// Appends under a wrapper, looks at the store, and appends more without one.
fn append(
    store: &mut Store,
    plan: &Plan,
    durability: &str,
    wrapper: &[OsString],
    harm: Harm,
) -> Result<bool, Failure> {
    store.esker.append_args = vec!["--durability".into(), durability.into()];
    let lived = live(&store.esker, plan, wrapper, |_| {});
    store.esker.append_args.clear();
    let (life, end) = lived?;
    let succeeded = end == End::ByItself;
    check_end(&end, harm)?;
    if harm.deceived {
        return after_a_lie(store, life.printed.len());
    }
    let _kept = store.settle(life, 0)?;
    store.append_more()?;
    Ok(succeeded)
}

/// What the kernel said was written is not there: what matters is that nothing wrong is read.
fn after_a_lie(store: &Store, acknowledged: usize) -> Result<bool, Failure> {
    match store.esker.run("verify") {
        // It was in what nobody had been told of, or was written again.
        Ok(()) => store.esker.cat(|_, _| Ok(())).map(|()| acknowledged > 0),
        Err(Failure::Command(said)) if said.contains("exit status: 1") && !is_panic(&said) => {
            Ok(false)
        }
        Err(other) => Err(other),
    }
}

/// Runs a command that changes nothing; if it succeeds, it says the same as without the fault.
fn look(
    store: &Store,
    command: &str,
    backend: &str,
    wrapper: &[OsString],
    harm: Harm,
) -> Result<bool, Failure> {
    let output = |wrapper: &[OsString]| {
        let mut process = store.esker.command_under(wrapper, command);
        process.args(["--backend", backend]);
        match command {
            "cat" | "salvage" => drop(process.args(["--lsns", "--framing", "length"])),
            "get" => {
                let lsns = store.survivors.iter().step_by(7);
                process.args(["--framing", "length"]);
                process.args(lsns.map(|survivor| survivor.lsn.to_string()));
            }
            _ => {}
        }
        output(&mut process)
    };
    let faulty = output(wrapper)?;
    check_output(&faulty, harm)?;
    let right = output(&[])?;
    if !right.status.success() {
        return Err(Failure::Command(format!(
            "esker {command} fails without a fault"
        )));
    }
    let prints_records = matches!(command, "cat" | "get" | "salvage");
    if faulty.status.success() && prints_records && faulty.stdout != right.stdout {
        return Err(Failure::Command(format!(
            "esker {command} succeeds and prints something else than without the fault"
        )));
    }
    Ok(faulty.status.success())
}

/// Trims half of the store, under a wrapper and again without.
fn trim(
    store: &mut Store,
    backend: &str,
    wrapper: &[OsString],
    harm: Harm,
) -> Result<bool, Failure> {
    let middle = store.survivors.len() / 2;
    let before = store.survivors[middle].lsn;
    let trim = |wrapper: &[OsString]| {
        let mut process = store.esker.command_under(wrapper, "trim");
        process.args(["--before", &before.to_string(), "--backend", backend]);
        output(&mut process)
    };
    let faulty = trim(wrapper)?;
    check_output(&faulty, harm)?;
    store.forget_trimmed(before)?;
    let _seen = store.look(0, "after trimming under a fault")?;
    let trim = |wrapper: &[OsString]| {
        let mut process = store.esker.command_under(wrapper, "trim");
        process.args(["--before", &before.to_string()]);
        output(&mut process)
    };
    let again = trim(&[])?;
    if !again.status.success() {
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        return Err(Failure::Command(format!("trimming again fails: {said}")));
    }
    store.forget_trimmed(before)?;
    store.append_more()?;
    Ok(faulty.status.success())
}

fn output(command: &mut Command) -> Result<Output, Failure> {
    command.stdin(Stdio::null());
    command
        .output()
        .map_err(|error| Failure::Command(format!("starting esker: {error}")))
}

fn check_output(output: &Output, harm: Harm) -> Result<(), Failure> {
    let end = if output.status.success() {
        End::ByItself
    } else if output.status.signal() == Some(9) {
        End::Killed
    } else {
        End::Failed {
            status: output.status,
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    };
    check_end(&end, harm)
}

/// A command under a fault ends by itself, well or with a message.
pub(super) fn check_end(end: &End, harm: Harm) -> Result<(), Failure> {
    /// What the dynamic loader ends with.
    const UNLOADABLE: i32 = 127;
    const ABORTED: i32 = 6;
    let (status, said) = match end {
        End::ByItself => return Ok(()),
        End::Killed if harm.killed => return Ok(()),
        End::Killed => return Err(Failure::Command("it hangs, and was killed".into())),
        End::Failed { status, said } => (status, said),
    };
    let fine = match (status.code(), status.signal()) {
        (Some(1), _) => !is_panic(said) && (harm.muted || !said.is_empty()),
        (Some(UNLOADABLE), _) => said.contains("shared librar"),
        (None, Some(ABORTED)) => harm.starved && said.contains("memory allocation"),
        _ => false,
    };
    if fine {
        Ok(())
    } else {
        Err(Failure::Command(format!("it ends badly: {status}: {said}")))
    }
}

fn is_panic(said: &str) -> bool {
    said.contains("panicked")
}
