//! Known bugs, each switched on by its name, and which suite has to catch each.
//!
//! A suite that cannot fail proves nothing. `tidy` demands that this table and the sources name the
//! same canaries.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::suite::{SuiteError, Tally};
use crate::workspace::{Workspace, build};

/// What catches a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Catcher {
    /// `cargo xtask loom --canaries`: the package's models.
    Loom,
    /// `cargo xtask shuttle --canaries`: long schedules of the same scenarios.
    Shuttle,
    /// `cargo xtask test --canaries`: the package's tests.
    Test,
    /// `cargo xtask sim --canaries`: the tests over the simulated disk, in release.
    Sim,
    /// `cargo xtask sanitize address --canaries`: the package's tests.
    AddressSanitizer,
    /// `cargo xtask sanitize thread --canaries`: the package's tests.
    ThreadSanitizer,
    /// `cargo xtask kill --canary`.
    Kill,
}

impl Catcher {
    /// How it shows that it has caught a bug.
    fn sign(self) -> Sign {
        match self {
            Self::AddressSanitizer => Sign::Report("ERROR: AddressSanitizer: "),
            Self::ThreadSanitizer => Sign::Report("WARNING: ThreadSanitizer: data race"),
            Self::Loom | Self::Shuttle | Self::Test | Self::Sim | Self::Kill => Sign::Failure,
        }
    }
}

/// What a test binary that catches a bug does.
#[derive(Clone, Copy)]
enum Sign {
    /// A test of it fails, or it dies.
    Failure,
    /// It prints this to its standard error; that a test fails is not enough.
    Report(&'static str),
}

/// A known bug.
pub(crate) struct Canary {
    pub(crate) name: &'static str,
    /// The package whose code has it.
    pub(crate) package: &'static str,
    /// The package whose tests have to catch it.
    pub(crate) tests: &'static str,
    pub(crate) catcher: Catcher,
}

const fn canary(catcher: Catcher, package: &'static str, name: &'static str) -> Canary {
    Canary {
        name,
        package,
        tests: package,
        catcher,
    }
}

/// A bug of the store that shows when the machine goes down, a disk fails, or files are damaged: the
/// tests over the simulated disk have to catch it.
const fn crash(name: &'static str) -> Canary {
    Canary {
        name,
        package: "esker-lss",
        tests: "esker-sim",
        catcher: Catcher::Sim,
    }
}

/// A bug of the store that shows when threads share it: long schedules of a whole store over the
/// simulated disk have to catch it.
const fn shared(name: &'static str) -> Canary {
    Canary {
        name,
        package: "esker-lss",
        tests: "esker-sim",
        catcher: Catcher::Shuttle,
    }
}

/// The one that `kill` catches.
pub(crate) const CLI_ACK_BEFORE_DURABLE: &str = "cli-ack-before-durable";

/// The ones that `cargo xtask crash --canaries` has to catch, besides whoever is named for each.
pub(crate) const CRASH: &[&str] = &[CLI_ACK_BEFORE_DURABLE, "lss-written-is-durable"];

/// The ones that `cargo xtask faults --canaries` has to catch, besides whoever is named for each.
/// With the cases that meet them.
pub(crate) const FAULTS: &[(&str, &str)] = &[(
    "io-short-write-succeeds",
    "append-closed-1-blocking-durable, short:",
)];

/// Every canary there is.
pub(crate) const CANARIES: &[Canary] = &[
    canary(Catcher::Loom, "esker-ring", "commit-relaxed"),
    canary(Catcher::Loom, "esker-ring", "flush-claim-with-writers"),
    canary(Catcher::Loom, "esker-ring", "recycle-store"),
    canary(Catcher::Loom, "esker-ring", "open-without-fence"),
    canary(Catcher::Loom, "esker-ring", "stale-identity"),
    canary(Catcher::Loom, "esker-ring", "closed-before-base"),
    canary(Catcher::Loom, "esker-ring", "leave-before-close"),
    canary(Catcher::Loom, "esker-ring", "reserve-relaxed"),
    canary(Catcher::Loom, "esker-ring", "claim-by-store"),
    canary(Catcher::Loom, "esker-ring", "wake-before-open"),
    canary(Catcher::Loom, "esker-ring", "park-without-recheck"),
    canary(Catcher::Loom, "esker-ring", "pin-relaxed"),
    canary(Catcher::Loom, "esker-ring", "close-wakes-nobody"),
    canary(Catcher::Loom, "esker-ring", "notify-without-fence"),
    canary(Catcher::Loom, "esker-ring", "lease-without-fence"),
    canary(Catcher::Loom, "esker-ring", "lease-survives-seal"),
    canary(Catcher::Loom, "esker-ring", "lease-revokes-active"),
    canary(Catcher::Loom, "esker-ring", "lease-begin-by-store"),
    canary(Catcher::Loom, "esker-ring", "lease-commit-ignores-notice"),
    canary(Catcher::Loom, "esker-ring", "lease-commit-without-fence"),
    canary(Catcher::Loom, "esker-ring", "lease-look-without-fence"),
    canary(Catcher::Loom, "esker-ring", "lease-commit-relaxed"),
    canary(Catcher::Loom, "esker-ring", "lease-rest-not-void"),
    canary(Catcher::Loom, "esker-ring", "lease-install-not-vacant"),
    canary(Catcher::Loom, "esker-ring", "position-without-recheck"),
    canary(Catcher::Loom, "esker-ring", "position-without-age"),
    canary(Catcher::Loom, "esker-ring", "position-of-the-sealed"),
    canary(Catcher::Loom, "esker-ring", "base-relaxed"),
    canary(Catcher::Loom, "esker-ring", "next-base-relaxed"),
    canary(Catcher::Loom, "esker-ring", "freed-relaxed"),
    canary(Catcher::Loom, "esker-ring", "extent-claim-relaxed"),
    canary(Catcher::Loom, "esker-ring", "extent-trusts-its-look"),
    canary(Catcher::Loom, "esker-lss", "frontier-no-fence"),
    canary(Catcher::Loom, "esker-lss", "frontier-store"),
    canary(Catcher::Loom, "esker-lss", "turns-late-rider-uncounted"),
    canary(Catcher::Loom, "esker-lss", "turns-no-heir"),
    canary(Catcher::Loom, "esker-lss", "durable-not-held"),
    canary(Catcher::Loom, "esker-lss", "lss-sync-does-not-look-again"),
    canary(Catcher::Loom, "esker-lss", "fresh-kept-for-nobody"),
    canary(Catcher::Loom, "esker-lss", "lss-fresh-whatever-its-address"),
    canary(Catcher::Loom, "esker-lss", "tasks-enter-without-fence"),
    canary(Catcher::Loom, "esker-lss", "tasks-let-the-committer-sleep"),
    canary(Catcher::Shuttle, "esker-ring", "recycle-store"),
    canary(Catcher::Shuttle, "esker-ring", "lease-survives-seal"),
    canary(Catcher::Shuttle, "esker-lss", "turns-late-rider-uncounted"),
    canary(
        Catcher::Shuttle,
        "esker-lss",
        "lss-sync-does-not-look-again",
    ),
    shared("durable-not-held"),
    shared("lss-sync-by-the-lagging-address"),
    shared("lss-sync-covers-later-writes"),
    shared("lss-written-is-durable"),
    shared("lss-failed-sync-made-good"),
    canary(
        Catcher::AddressSanitizer,
        "esker-ring",
        "extent-freed-at-hand-over",
    ),
    canary(Catcher::ThreadSanitizer, "esker-ring", "commit-relaxed"),
    canary(Catcher::Test, "esker-io", "io-place-stays-filled"),
    canary(Catcher::Test, "esker-io", "io-fork-goes-unnoticed"),
    canary(Catcher::Test, "esker-io", "io-short-write-succeeds"),
    canary(Catcher::Test, "esker-io", "io-sink-swapped"),
    canary(Catcher::Test, "esker-io", "io-lane-goes-on"),
    canary(Catcher::Test, "esker-lss", "lss-fork-goes-unnoticed"),
    // With the right to mount an XFS.
    canary(Catcher::Test, "esker-io", "io-sync-unconfirmed"),
    canary(Catcher::Test, "esker-lss", "lss-zeroes-meet-the-log"),
    canary(Catcher::Test, "esker-lss", "lss-zeroes-over-the-log"),
    canary(Catcher::Loom, "esker-io", "io-calls-relaxed"),
    canary(Catcher::Loom, "esker-io", "io-issuer-is-not-woken"),
    canary(
        Catcher::Loom,
        "esker-io",
        "io-issuer-sleeps-without-looking",
    ),
    canary(Catcher::Loom, "esker-io", "io-leader-leaves-silently"),
    canary(Catcher::Loom, "esker-io", "io-parks-without-looking"),
    canary(Catcher::Loom, "esker-io", "io-pool-leaves-jobs"),
    canary(Catcher::Loom, "esker-io", "io-pool-wakes-nobody"),
    canary(Catcher::Loom, "esker-io", "io-wakes-no-leader"),
    canary(Catcher::Loom, "esker-io", "io-wakes-without-fence"),
    crash("lss-batch-in-parts"),
    crash("lss-checkpoint-closes-the-written"),
    crash("lss-checksum-without-address"),
    crash("lss-epoch-stays"),
    crash("lss-failed-sync-made-good"),
    crash("lss-follows-what-is-written"),
    crash("lss-fresh-whatever-its-address"),
    crash("lss-header-claims-its-base"),
    crash("lss-header-names-the-confirmed"),
    crash("lss-header-without-durable"),
    crash("lss-length-before-checksum"),
    crash("lss-lock-not-waited-for"),
    crash("lss-recovery-stops-at-window"),
    crash("lss-recovery-without-names"),
    crash("lss-recovery-without-rewrite"),
    crash("lss-recovery-without-sync"),
    crash("lss-segment-name-unsynced"),
    crash("lss-serialised-out-of-turn"),
    crash("lss-space-syncs-unwatched"),
    crash("lss-superblock-first-copy-first"),
    crash("lss-superblock-one-copy"),
    crash("lss-sync-covers-later-writes"),
    crash("lss-sync-of-the-last-segment"),
    crash("lss-trim-frees-one-more"),
    crash("lss-trim-removes-first"),
    crash("lss-trim-says-so-first"),
    crash("lss-window-of-one-more"),
    crash("lss-window-without-bytes"),
    crash("lss-written-is-durable"),
    canary(Catcher::Kill, "esker-cli", CLI_ACK_BEFORE_DURABLE),
];

/// The variable of the environment that names the bug that is on.
const ON: &str = "ESKER_CANARY";

/// How long the tests may take with one canary before it counts as not caught.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Switches each canary of a catcher on, one after the other, and demands that a test fails.
///
/// `command` makes the cargo command that builds and runs a package's tests.
pub(crate) fn run(
    workspace: &Workspace,
    catcher: Catcher,
    command: impl Fn(&str) -> Command,
) -> Result<Tally, SuiteError> {
    let mut tally = Tally::default();
    for canary in CANARIES.iter().filter(|canary| canary.catcher == catcher) {
        let Canary { name, tests, .. } = canary;
        let mut build_command = command(tests);
        compile_in(&mut build_command);
        build_command.arg("--no-run");
        let settings = build_command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        let on = (OsString::from(ON), OsString::from(name));
        let settings: Vec<_> = settings.chain([on]).collect();
        let binaries = build(build_command)?;
        if binaries.is_empty() {
            println!("FAILED: {tests} does not build with canaries");
            tally.count(false);
            continue;
        }
        let dir = workspace.root.join("crates").join(tests);
        let caught = is_caught(catcher.sign(), &binaries, &dir, &settings)?;
        match caught {
            Ok(()) => println!("ok: canary {name} is caught by {tests}"),
            Err(why) => println!("FAILED: canary {name}, which {tests} should catch, {why}"),
        }
        tally.count(caught.is_ok());
    }
    Ok(tally)
}

/// Has cargo compile all known bugs in, none of which is on until [`ON`] names it.
pub(crate) fn compile_in(command: &mut Command) {
    let flags = command
        .get_envs()
        .find_map(|(name, value)| (name == "RUSTFLAGS").then_some(value?.to_str()?));
    let flags = format!("{} --cfg esker_canary", flags.unwrap_or_default());
    command.env("RUSTFLAGS", flags.trim_start());
}

/// Switches one of the bugs that are compiled in on, and the others off.
pub(crate) fn switch_on(command: &mut Command, canary: Option<&str>) {
    match canary {
        Some(name) => command.env(ON, name),
        None => command.env_remove(ON),
    };
}

/// Runs test binaries until one shows the sign. What they print is the report of a bug that is meant
/// to be there, so it is not shown.
fn is_caught(
    sign: Sign,
    binaries: &[PathBuf],
    dir: &Path,
    settings: &[(OsString, OsString)],
) -> Result<Result<(), &'static str>, SuiteError> {
    let deadline = Instant::now() + TIMEOUT;
    for binary in binaries {
        let mut test = Command::new(binary);
        test.current_dir(dir).envs(settings.iter().cloned());
        match shows(sign, test, deadline)? {
            Some(false) => {}
            Some(true) => return Ok(Ok(())),
            None => return Ok(Err("is neither caught nor survives within the time limit")),
        }
    }
    Ok(Err(match sign {
        Sign::Failure => "survives: no test fails",
        Sign::Report(_) => "survives: nothing is reported",
    }))
}

/// Whether a test binary shows the sign; `None` when the time is up. It is ended with its first
/// failure or report: the rest tells nothing new.
fn shows(sign: Sign, mut test: Command, deadline: Instant) -> Result<Option<bool>, SuiteError> {
    match sign {
        Sign::Failure => test.stdout(Stdio::piped()).stderr(Stdio::null()),
        Sign::Report(_) => test.stdout(Stdio::null()).stderr(Stdio::piped()),
    };
    let mut child = test.spawn()?;
    let output: Box<dyn Read + Send> = match (child.stdout.take(), child.stderr.take()) {
        (Some(stdout), _) => Box::new(stdout),
        (None, Some(stderr)) => Box::new(stderr),
        (None, None) => unreachable!("one of them is piped"),
    };
    let (report, reported) = mpsc::channel();
    let reader = thread::spawn(move || {
        // Not every line has to be text.
        let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
        let found = lines
            .map(|line| String::from_utf8_lossy(&line).into_owned())
            .any(|line| match sign {
                Sign::Failure => line.ends_with(" ... FAILED"),
                Sign::Report(text) => line.contains(text),
            });
        // Nobody listens any more when the time is up.
        let _unheard = report.send(found);
    });
    let found = reported.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    if found != Ok(false) {
        child.kill()?;
    }
    let status = child.wait()?;
    reader.join().expect("the reader does not panic");
    let died = matches!(sign, Sign::Failure) && !status.success();
    Ok(found.ok().map(|found| found || died))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_more_than_one_suite_catches_is_in_the_table() {
        let faults = FAULTS.iter().map(|(name, _)| name);
        for name in CRASH.iter().chain(faults) {
            assert!(CANARIES.iter().any(|canary| canary.name == *name), "{name}");
        }
    }
}
