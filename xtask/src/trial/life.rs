//! One life of a store: a process that appends, is fed, and is ended as planned.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::check::{Failure, Life};
use super::esker::{Esker, PATIENCE, Process, broken, number};
use super::plan::{Feed, Kill, Plan};

/// How a life ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Killed,
    /// With success.
    ByItself,
    /// With another status; how, and what it said.
    Failed {
        status: ExitStatus,
        said: String,
    },
}

impl End {
    /// The end of a life in which nothing was to fail; whether it was killed.
    pub(crate) fn was_killed(self) -> Result<bool, Failure> {
        match self {
            Self::Killed => Ok(true),
            Self::ByItself => Ok(false),
            Self::Failed { status, said } => Err(Failure::Command(format!(
                "an append failed: {status}: {said}"
            ))),
        }
    }
}

/// What the threads that talk to a process tell the one that waits for the moment to kill it.
pub(super) enum Event {
    Printed(usize),
    /// So many records are all that there will be.
    Fed(u64),
    Closed,
}

/// One life: starts an append, feeds it, and ends it as planned.
///
/// The process is started by `wrapper`, if that is not empty. `printed` is told how many LSNs have been printed, each time all that there are have been read.
pub(crate) fn live(
    esker: &Esker,
    plan: &Plan,
    wrapper: &[OsString],
    printed: impl FnMut(usize) + Send,
) -> Result<(Life, End), Failure> {
    let mut command = esker.command_under(wrapper, "append");
    command.args(&esker.append_args);
    command.args(["--lsns", "--threads", &plan.threads.to_string()]);
    command.args(["--ordering", plan.ordering, "--backend", plan.backend]);
    command
        .args(["--framing", plan.framing])
        .stdin(Stdio::piped());
    let mut process = esker.spawn(&mut command)?;
    let stdin = process.0.stdin.take().expect("stdin is piped");
    let stdout = process.0.stdout.take().expect("stdout is piped");
    let (events, received) = mpsc::channel();
    thread::scope(|scope| {
        let fed_events = events.clone();
        let feeder = scope.spawn(move || feed(stdin, plan, &fed_events));
        let reader = scope.spawn(move || read_printed(stdout, &events, printed));
        let end = bring_to_end(esker, &mut process, plan.kill, &received);
        let (fed, _stdin) = feeder.join().expect("the feeder does not panic");
        let printed = reader.join().expect("the reader does not panic")?;
        let end = end?;
        if end == End::ByItself && printed.len() as u64 != fed {
            return Err(Failure::Command(format!(
                "esker append ended well and printed {} LSNs for {fed} records",
                printed.len()
            )));
        }
        let records = plan.records.clone();
        Ok((
            Life {
                records,
                threads: plan.threads,
                fed,
                printed,
            },
            end,
        ))
    })
}

/// Kills the process when its moment has come, or waits for its end; how it ended.
pub(super) fn bring_to_end(
    esker: &Esker,
    process: &mut Process,
    kill: Kill,
    events: &mpsc::Receiver<Event>,
) -> Result<End, Failure> {
    let timely = await_moment(kill, events);
    let ended = match kill {
        Kill::Never if timely.is_ok() => process.wait("a process that appends").map(drop),
        _ => Ok(()),
    };
    // It may have ended by itself a moment ago; the status tells.
    let _gone = process.0.kill();
    let status = process.wait("a process that was killed")?;
    timely?;
    ended?;
    Ok(match status.signal() {
        Some(9) => End::Killed,
        _ if status.success() => End::ByItself,
        _ => End::Failed {
            status,
            said: esker.said(),
        },
    })
}

/// Waits until the moment to kill, or until the process closes its output.
fn await_moment(kill: Kill, events: &mpsc::Receiver<Event>) -> Result<(), Failure> {
    let start = Instant::now();
    let limit = match kill {
        Kill::After(delay) => delay,
        Kill::Printed(..) | Kill::Fed(_) | Kill::Never => PATIENCE,
    };
    let mut printed = 0;
    let mut all = u64::MAX;
    loop {
        match (
            events.recv_timeout(limit.saturating_sub(start.elapsed())),
            kill,
        ) {
            (Ok(event @ (Event::Printed(_) | Event::Fed(_))), Kill::Printed(wanted, delay)) => {
                match event {
                    Event::Printed(count) => printed = count as u64,
                    Event::Fed(count) => all = count,
                    Event::Closed => {}
                }
                if printed >= all.min(wanted) {
                    thread::sleep(delay);
                    return Ok(());
                }
            }
            (Ok(Event::Fed(_)), Kill::Fed(delay)) => {
                thread::sleep(delay);
                return Ok(());
            }
            (Ok(Event::Closed) | Err(RecvTimeoutError::Disconnected), _) => {
                // It is about to end, well or not; that is its own doing.
                thread::sleep(Duration::from_millis(50));
                return Ok(());
            }
            (Ok(_), _) => {}
            (Err(RecvTimeoutError::Timeout), Kill::After(_)) => return Ok(()),
            (Err(RecvTimeoutError::Timeout), _) => {
                return Err(Failure::Command("a process that appends hangs".into()));
            }
        }
    }
}

/// Writes the input, and says how many records the process may have seen. Its input does not end
/// before it is killed, unless it is to end by itself.
fn feed(mut stdin: ChildStdin, plan: &Plan, events: &Sender<Event>) -> (u64, Option<ChildStdin>) {
    const CHUNK_BYTES: usize = 64 << 10;
    let mut chunk = Vec::new();
    let mut bytes = 0;
    let mut fed = 0;
    while fed < plan.max_records && bytes < plan.max_bytes {
        let start = chunk.len();
        if plan.records.binary {
            chunk.extend_from_slice(&[0; 4]);
            plan.records.write(fed, &mut chunk);
            let len = u32::try_from(chunk.len() - start - 4).expect("records are small");
            chunk[start..start + 4].copy_from_slice(&len.to_le_bytes());
        } else {
            plan.records.write(fed, &mut chunk);
            chunk.push(b'\n');
        }
        fed += 1;
        bytes += chunk.len() - start;
        let pause = match plan.feed {
            Feed::Bursts(records, pause) if fed.is_multiple_of(records) => Some(pause),
            _ => None,
        };
        if pause.is_some() || chunk.len() >= CHUNK_BYTES {
            if stdin.write_all(&chunk).is_err() {
                return (fed, None);
            }
            chunk.clear();
        }
        pause.into_iter().for_each(thread::sleep);
    }
    if stdin.write_all(&chunk).is_ok() {
        // Nobody listens any more if the process was killed first.
        let _unheard = events.send(Event::Fed(fed));
    }
    (fed, (!matches!(plan.kill, Kill::Never)).then_some(stdin))
}

/// Reads the LSNs whose lines are complete.
fn read_printed(
    stdout: ChildStdout,
    events: &Sender<Event>,
    mut tell: impl FnMut(usize),
) -> Result<Vec<u64>, Failure> {
    let mut stdout = BufReader::new(stdout);
    let mut printed = Vec::new();
    let mut line = Vec::new();
    let result = loop {
        line.clear();
        match stdout.read_until(b'\n', &mut line) {
            Ok(_) if line.pop() == Some(b'\n') => match number(&line) {
                Some(lsn) => printed.push(lsn),
                None => {
                    let line = String::from_utf8_lossy(&line);
                    break Err(Failure::Command(format!("esker append prints {line:?}")));
                }
            },
            Ok(_) => break Ok(()),
            Err(error) => break Err(broken("reading LSNs", &error)),
        }
        if stdout.buffer().is_empty() {
            tell(printed.len());
        }
        // Nobody listens any more once it is to be killed.
        let _unheard = events.send(Event::Printed(printed.len()));
    };
    tell(printed.len());
    let _unheard = events.send(Event::Closed);
    result.map(|()| printed)
}
