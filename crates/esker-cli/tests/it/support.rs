//! Running the command, with a bound on how long it may take.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit status; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    /// Demands success, and gives what it printed.
    #[track_caller]
    pub(crate) fn ok(self) -> Vec<u8> {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// The same as text.
    #[track_caller]
    pub(crate) fn text(self) -> String {
        String::from_utf8(self.ok()).expect("it prints text")
    }

    /// The LSNs that it printed.
    #[track_caller]
    pub(crate) fn lsns(self) -> Vec<u64> {
        self.text()
            .lines()
            .map(|line| line.parse().expect("an LSN a line"))
            .collect()
    }

    /// Demands failure with one line that contains all of `parts`, and gives what it printed.
    #[track_caller]
    pub(crate) fn fails(self, parts: &[&str]) -> Vec<u8> {
        assert_eq!(self.code, Some(1), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "{part:?} is not in {:?}",
                self.stderr
            );
        }
        self.stdout
    }
}

/// A place for a store, which is removed at the end.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    /// The store's directory, which does not exist at first.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// A file with that content.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).expect("a file is written");
        path
    }

    /// The command, its store named, not yet run.
    pub(crate) fn command(&self, subcommand: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_esker"));
        command.arg(subcommand).arg(self.store()).args(args);
        command
    }

    /// Runs the command on the store.
    pub(crate) fn run(&self, subcommand: &str, args: &[&str]) -> Ran {
        finish(self.command(subcommand, args), b"")
    }

    /// Appends what is in `input`.
    pub(crate) fn append(&self, args: &[&str], input: &[u8]) -> Ran {
        finish(self.command("append", args), input)
    }

    /// Everything that the store has, in lines.
    pub(crate) fn cat(&self) -> Vec<u8> {
        self.run("cat", &[]).ok()
    }

    /// The segment files, in the order of their names.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut dirs = vec![self.store()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).expect("the directory is there") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    dirs.push(path)
                } else {
                    files.push(path)
                }
            }
        }
        files.sort();
        files
    }
}

/// Runs a command to its end.
pub(crate) fn finish(mut command: Command, input: &[u8]) -> Ran {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = Running(command.spawn().expect("it starts"));
    let mut stdin = running.0.stdin.take().expect("stdin is piped");
    let mut stdout = running.0.stdout.take().expect("stdout is piped");
    let stderr = running.0.stderr.take().expect("stderr is piped");
    thread::scope(|scope| {
        scope.spawn(move || {
            // It may end before it has read everything.
            let _closed = stdin.write_all(input);
        });
        let stderr = scope.spawn(move || std::io::read_to_string(stderr).expect("text"));
        let stdout = scope.spawn(move || {
            let mut bytes = Vec::new();
            stdout
                .read_to_end(&mut bytes)
                .map(|_| bytes)
                .expect("its output can be read")
        });
        let code = running.wait();
        let stdout = stdout.join().expect("the output was read");
        Ran {
            code,
            stdout,
            stderr: stderr.join().expect("the messages were read"),
        }
    })
}

/// A process that does not outlive its test.
pub(crate) struct Running(Child);

impl Running {
    /// Starts a command that is talked to while it runs.
    pub(crate) fn start(mut command: Command) -> (Self, ChildStdin, Lines) {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let stdin = child.stdin.take().expect("stdin is piped");
        let lines = Lines::new(child.stdout.take().expect("stdout is piped"));
        (Self(child), stdin, lines)
    }

    /// Starts a command as it is.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().expect("it starts"))
    }

    /// Its exit status, once it has ended.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().expect("its status can be asked for") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(2));
        }
        panic!("it does not end");
    }

    /// What it said on standard error, once it has ended.
    #[track_caller]
    pub(crate) fn messages(&mut self) -> String {
        self.wait();
        let stderr = self.0.stderr.take().expect("stderr is piped");
        std::io::read_to_string(stderr).expect("text")
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("it runs");
        self.wait();
    }

    /// Interrupts it as Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        let status = Command::new("sh")
            .args(["-c", &format!("kill -INT {}", self.0.id())])
            .status();
        assert!(status.expect("a shell").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has been waited for already.
        let _gone = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// The lines that a running process prints, each waited for with a bound.
pub(crate) struct Lines {
    lines: mpsc::Receiver<String>,
}

impl Lines {
    fn new(stdout: ChildStdout) -> Self {
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { lines }
    }

    /// The next line.
    #[track_caller]
    pub(crate) fn next(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line in time")
    }

    /// Whether there are no more lines.
    #[track_caller]
    pub(crate) fn ended(&self) -> bool {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(_) => false,
            Err(mpsc::RecvTimeoutError::Disconnected) => true,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("its output does not end"),
        }
    }
}

/// The backends that this system has; says which one is left out and why.
pub(crate) fn backends() -> Vec<(&'static str, &'static str)> {
    let all = [("uring", "io_uring"), ("blocking", "blocking")];
    let works = |(backend, _): &(&str, &str)| {
        let place = Place::new();
        let ran = place.append(&["--backend", backend], b"");
        if ran.code != Some(0) {
            println!("skipped: --backend {backend}: {}", ran.stderr.trim_end());
        }
        *backend == "blocking" || ran.code == Some(0)
    };
    all.into_iter().filter(works).collect()
}

/// Records in length framing.
pub(crate) fn frames(records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for record in records {
        let len = u32::try_from(record.len()).expect("records are small");
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(record);
    }
    bytes
}

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().expect("paths are text here")
}
