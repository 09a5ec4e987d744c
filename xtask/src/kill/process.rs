//! The `esker` processes: one that appends and is killed, and those that look at what it left.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::check::{Failure, Life};
use super::plan::{Feed, Kill, Plan};

/// How long any process may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(120);

/// The largest record that a command may claim to print.
const MAX_RECORD_BYTES: usize = 16 << 20;

/// The command, and the store that it works on.
pub(super) struct Esker {
    pub(super) binary: PathBuf,
    pub(super) store: PathBuf,
    /// Where it writes its messages.
    pub(super) log: PathBuf,
}

/// A process that does not outlive its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has been waited for already.
        let _gone = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Killed,
    ByItself,
}

enum Event {
    Printed(usize),
    /// So many records are all that there will be.
    Fed(u64),
    Closed,
}

impl Esker {
    fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg(subcommand)
            .arg(&self.store)
            .stdin(Stdio::null());
        command
    }

    fn spawn(&self, command: &mut Command) -> Result<Process, Failure> {
        let log = File::create(&self.log).map_err(|error| broken("the log", &error))?;
        let child = command.stdout(Stdio::piped()).stderr(log).spawn();
        child
            .map(Process)
            .map_err(|error| broken("starting esker", &error))
    }

    /// Waits for a process that was not killed and has closed its output.
    fn finish(&self, mut process: Process, what: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match process.0.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(self.failed(what, status)),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
                Ok(None) => return Err(Failure::Command(format!("{what} hangs"))),
                Err(error) => return Err(broken(what, &error)),
            }
        }
    }

    fn failed(&self, what: &str, status: ExitStatus) -> Failure {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        Failure::Command(format!("{what} failed: {status}: {}", log.trim_end()))
    }

    /// Runs a command whose output does not matter.
    pub(super) fn run(&self, subcommand: &str) -> Result<(), Failure> {
        let mut process = self.spawn(&mut self.command(subcommand))?;
        let mut output = process.0.stdout.take().expect("stdout is piped");
        let what = format!("esker {subcommand}");
        io::copy(&mut output, &mut io::sink()).map_err(|error| broken(&what, &error))?;
        self.finish(process, &what)
    }

    /// Gives every record of the store to `take`, in its order.
    pub(super) fn cat(
        &self,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut command = self.command("cat");
        let mut process = self.spawn(command.args(["--lsns", "--framing", "length"]))?;
        let mut output = frames(&mut process);
        let mut payload = Vec::new();
        while let Some(lsn) = read_lsn(&mut output)? {
            if !read_frame(&mut output, &mut payload)? {
                return Err(Failure::Command(
                    "esker cat prints an LSN and no record".into(),
                ));
            }
            take(lsn, &payload)?;
        }
        self.finish(process, "esker cat")
    }

    /// Gives the records at `lsns` to `take`, all fetched by one process.
    pub(super) fn get(
        &self,
        lsns: &[u64],
        mut take: impl FnMut(u64, &[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut command = self.command("get");
        command
            .args(["--framing", "length"])
            .args(lsns.iter().map(u64::to_string));
        let mut process = self.spawn(&mut command)?;
        let mut output = frames(&mut process);
        let mut payload = Vec::new();
        for &lsn in lsns {
            if !read_frame(&mut output, &mut payload)? {
                // Its status and its message say why.
                self.finish(process, &format!("esker get (at LSN {lsn})"))?;
                return Err(Failure::Command(format!(
                    "esker get prints nothing for LSN {lsn}"
                )));
            }
            take(lsn, &payload)?;
        }
        self.finish(process, "esker get")
    }

    /// One life: starts an append, feeds it, and ends it as planned.
    pub(super) fn live(&self, plan: &Plan) -> Result<(Life, End), Failure> {
        let mut command = self.command("append");
        command.args(["--lsns", "--threads", &plan.threads.to_string()]);
        command.args(["--ordering", plan.ordering, "--backend", plan.backend]);
        command
            .args(["--framing", plan.framing])
            .stdin(Stdio::piped());
        let mut process = self.spawn(&mut command)?;
        let stdin = process.0.stdin.take().expect("stdin is piped");
        let stdout = process.0.stdout.take().expect("stdout is piped");
        let (events, received) = mpsc::channel();
        thread::scope(|scope| {
            let fed_events = events.clone();
            let feeder = scope.spawn(move || feed(stdin, plan, &fed_events));
            let reader = scope.spawn(move || read_printed(stdout, &events));
            let timely = await_moment(plan.kill, &received);
            // It may have ended by itself a moment ago; the status tells.
            let _gone = process.0.kill();
            let status = process
                .0
                .wait()
                .map_err(|error| broken("esker append", &error))?;
            let (fed, _stdin) = feeder.join().expect("the feeder does not panic");
            let printed = reader.join().expect("the reader does not panic")?;
            timely?;
            let end = match status.signal() {
                Some(9) => End::Killed,
                _ if status.success() => End::ByItself,
                _ => return Err(self.failed("esker append", status)),
            };
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
                return Err(Failure::Command("esker append hangs".into()));
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
fn read_printed(stdout: ChildStdout, events: &Sender<Event>) -> Result<Vec<u64>, Failure> {
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
        // Nobody listens any more once it is to be killed.
        let _unheard = events.send(Event::Printed(printed.len()));
    };
    let _unheard = events.send(Event::Closed);
    result.map(|()| printed)
}

fn frames(process: &mut Process) -> BufReader<ChildStdout> {
    let stdout = process.0.stdout.take().expect("stdout is piped");
    BufReader::with_capacity(256 << 10, stdout)
}

/// Reads the LSN and the tab before a record; `None` at the end of the output.
fn read_lsn(output: &mut impl BufRead) -> Result<Option<u64>, Failure> {
    let mut text = Vec::new();
    output
        .take(24)
        .read_until(b'\t', &mut text)
        .map_err(|error| broken("reading an LSN", &error))?;
    match text.pop() {
        None => Ok(None),
        Some(b'\t') if let Some(lsn) = number(&text) => Ok(Some(lsn)),
        Some(_) => Err(Failure::Command(
            "esker cat prints a record without LSN".into(),
        )),
    }
}

/// Reads one record with its length before it; whether there was one.
fn read_frame(output: &mut impl Read, payload: &mut Vec<u8>) -> Result<bool, Failure> {
    let mut len = [0; 4];
    match output.read_exact(&mut len) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(broken("reading a record", &error)),
    }
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_RECORD_BYTES {
        return Err(Failure::Command(format!(
            "a record of {len} bytes is printed"
        )));
    }
    payload.resize(len, 0);
    output
        .read_exact(payload)
        .map_err(|error| broken("reading a record", &error))?;
    Ok(true)
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn broken(what: &str, error: &io::Error) -> Failure {
    Failure::Command(format!("{what}: {error}"))
}

/// The type of the file system that `path` lies on, as the mount table names it.
pub(super) fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let over = mounts.filter(|(point, _)| path.starts_with(point));
    // The last of the longest: a later mount hides an earlier one at the same place.
    over.max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind.to_owned())
}
