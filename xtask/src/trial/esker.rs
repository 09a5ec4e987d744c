//! [`Esker`]: the command as a process, and what it prints.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::check::Failure;
use super::program::Program;

/// How long any process may take before it counts as hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The largest record that a command may claim to print.
const MAX_RECORD_BYTES: usize = 16 << 20;

/// The command, and the store that it works on.
pub(crate) struct Esker {
    pub(crate) program: Program,
    pub(crate) store: PathBuf,
    /// Where it writes its messages.
    pub(crate) log: PathBuf,
    /// More arguments for lives.
    pub(crate) append_args: Vec<OsString>,
}

/// A process that does not outlive its owner.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Waits for its end, for as long as any may take.
    pub(crate) fn wait(&mut self, what: &str) -> Result<ExitStatus, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
                Ok(None) => return Err(Failure::Command(format!("{what} hangs"))),
                Err(error) => return Err(broken(what, &error)),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has been waited for already.
        let _gone = self.0.kill();
        let _waited = self.0.wait();
    }
}

impl Esker {
    /// A command that works on the store, without input.
    pub(crate) fn command(&self, subcommand: &str) -> Command {
        self.command_under(&[], subcommand)
    }

    /// The same, started by another program.
    pub(crate) fn command_under(&self, wrapper: &[OsString], subcommand: &str) -> Command {
        let mut command = self.program.command_under(wrapper);
        command
            .arg(subcommand)
            .arg(&self.store)
            .stdin(Stdio::null());
        command
    }

    /// What the last process has said.
    pub(crate) fn said(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).trim_end().to_owned()
    }

    /// Starts it; what it says goes to the log, what it prints to a pipe.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Process, Failure> {
        let log = File::create(&self.log).map_err(|error| broken("the log", &error))?;
        let child = command.stdout(Stdio::piped()).stderr(log).spawn();
        child
            .map(Process)
            .map_err(|error| broken("starting esker", &error))
    }

    /// Waits for a process that was not killed and has closed its output.
    fn finish(&self, mut process: Process, what: &str) -> Result<(), Failure> {
        let status = process.wait(what)?;
        if status.success() {
            Ok(())
        } else {
            Err(self.failed(what, status))
        }
    }

    /// What to say of a process that ended in this way.
    fn failed(&self, what: &str, status: ExitStatus) -> Failure {
        Failure::Command(format!("{what} failed: {status}: {}", self.said()))
    }

    /// Runs a command whose output does not matter.
    pub(crate) fn run(&self, subcommand: &str) -> Result<(), Failure> {
        self.run_with(subcommand, &[])
    }

    /// Runs a command with more arguments, whose output does not matter.
    pub(crate) fn run_with(&self, subcommand: &str, args: &[&str]) -> Result<(), Failure> {
        let mut process = self.spawn(self.command(subcommand).args(args))?;
        let mut output = process.0.stdout.take().expect("stdout is piped");
        let what = format!("esker {subcommand}");
        io::copy(&mut output, &mut io::sink()).map_err(|error| broken(&what, &error))?;
        self.finish(process, &what)
    }

    /// Where the log begins, as `esker info` says.
    pub(crate) fn first(&self) -> Result<u64, Failure> {
        let mut command = self.command("info");
        let mut process = self.spawn(command.arg("--json"))?;
        let mut text = String::new();
        let mut output = process.0.stdout.take().expect("stdout is piped");
        output
            .read_to_string(&mut text)
            .map_err(|error| broken("esker info", &error))?;
        self.finish(process, "esker info")?;
        let first = text.split_once("\"first\":").and_then(|(_, rest)| {
            let end = rest.find([',', '}'])?;
            number(rest[..end].trim().as_bytes())
        });
        first.ok_or_else(|| Failure::Command(format!("esker info says no first LSN: {text}")))
    }

    /// Appends a few lines.
    pub(crate) fn append(&self, lines: &[u8]) -> Result<(), Failure> {
        let mut process = self.spawn(self.command("append").stdin(Stdio::piped()))?;
        let mut input = process.0.stdin.take().expect("stdin is piped");
        // Should it not read them, it says why in its own way.
        let _unread = input.write_all(lines);
        drop(input);
        self.finish(process, "esker append")
    }

    /// Gives every record of the store to `take`, in its order.
    pub(crate) fn cat(
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
    pub(crate) fn get(
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

pub(crate) fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A failure to talk to a process.
pub(crate) fn broken(what: &str, error: &io::Error) -> Failure {
    Failure::Command(format!("{what}: {error}"))
}

/// The type of the file system that `path` lies on, as the mount table names it.
pub(crate) fn file_system(path: &Path) -> Option<String> {
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
