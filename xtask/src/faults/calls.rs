//! Faults of system calls: which calls there are, and what each may answer.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use crate::suite::SuiteError;

/// Errors that a call may give once and work the next time.
const PASSING: &[&str] = &["EINTR", "EAGAIN"];

/// What each system call of the command may answer. The others are the runtime's own (signal
/// stacks, scheduling) or cannot fail in a way that strace can stand in for: a `futex` that is not
/// carried out loses a wake-up, which the kernel does not do.
const CALLS: &[(&str, &[&str])] = &[
    ("io_uring_setup", &["ENOSYS", "EPERM", "ENOMEM", "EMFILE"]),
    (
        "io_uring_enter",
        &["EINTR", "EAGAIN", "EBUSY", "ENOMEM", "EIO"],
    ),
    ("io_uring_register", &["EINVAL", "EPERM", "ENOMEM"]),
    (
        "pwrite64",
        &[
            "EINTR", "EAGAIN", "EIO", "ENOSPC", "EFBIG", "EDQUOT", "ENOMEM", "EPERM",
        ],
    ),
    (
        "pwritev2",
        &[
            "EINTR",
            "EAGAIN",
            "EIO",
            "ENOSPC",
            "EFBIG",
            "EDQUOT",
            "ENOMEM",
            "EOPNOTSUPP",
            "ENOSYS",
        ],
    ),
    ("pread64", &["EINTR", "EAGAIN", "EIO", "ENOMEM"]),
    ("preadv2", &["EINTR", "EAGAIN", "EIO", "ENOMEM"]),
    ("fdatasync", &["EINTR", "EIO", "ENOSPC", "EDQUOT"]),
    ("fsync", &["EINTR", "EIO", "ENOSPC", "EDQUOT"]),
    (
        "fallocate",
        &[
            "EINTR",
            "EIO",
            "ENOSPC",
            "EFBIG",
            "EOPNOTSUPP",
            "ENOSYS",
            "EPERM",
        ],
    ),
    ("ftruncate", &["EINTR", "EIO", "EFBIG", "EPERM"]),
    (
        "openat",
        &[
            "EINTR", "EMFILE", "ENFILE", "ENOMEM", "EACCES", "EIO", "ENOSPC",
        ],
    ),
    ("rename", &["EIO", "ENOSPC", "EACCES"]),
    ("unlink", &["EIO", "EPERM", "EBUSY"]),
    ("mkdir", &["EIO", "ENOSPC", "EACCES"]),
    ("statx", &["EIO", "ENOMEM", "ENOSYS"]),
    ("newfstatat", &["EIO", "ENOMEM"]),
    ("getdents64", &["EIO", "ENOMEM"]),
    ("fcntl", &["EAGAIN", "ENOLCK", "EIO"]),
    ("ioctl", &["EIO", "ENOTTY"]),
    ("lseek", &["EIO"]),
    ("read", &["EINTR", "EIO"]),
    ("write", &["EINTR", "EIO", "ENOSPC"]),
    ("poll", &["EINTR"]),
    ("mmap", &["ENOMEM"]),
    ("madvise", &["EINVAL", "ENOMEM"]),
    ("clone3", &["EAGAIN"]),
    ("close", &["EIO", "EINTR"]),
];

/// More calls of one kind than these are tried here and there only.
const EACH: usize = 6;

/// What a command calls.
#[derive(Default)]
pub(super) struct Counts {
    /// How often each of its threads makes each call at most.
    most: BTreeMap<String, usize>,
    /// How often memory was mapped before the program began: by the system's loader and the
    /// language's runtime, which die where that fails.
    mapped_to_load: usize,
}

/// One fault, as strace takes it: `pwritev2:error=EIO:when=3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) call: &'static str,
    pub(super) what: String,
}

impl Fault {
    /// Whether it ends the process.
    pub(super) fn kills(&self) -> bool {
        self.what.contains("SIGKILL")
    }

    /// Whether the kernel claims what it has not done.
    pub(super) fn lies(&self) -> bool {
        self.what.contains("retval=")
    }

    /// Whether data cannot be durable after it.
    pub(super) fn fails_sync(&self) -> bool {
        self.call == "fdatasync" && self.what.contains("error=") && !self.what.contains("EINTR")
    }

    /// The program that starts a command with this fault, and notes in a file what it does.
    pub(super) fn wrapper(&self, notes: &Path) -> Vec<OsString> {
        let trace = format!("trace={}", self.call);
        let inject = format!("inject={}:{}", self.call, self.what);
        let mut wrapper = strace(&["-y", "-e", &trace, "-e", &inject, "-o"]);
        wrapper.push(notes.into());
        wrapper
    }
}

/// Every fault that a command which makes these calls can meet.
pub(super) fn faults(counts: &Counts) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (call, errors) in CALLS {
        let count = counts.most.get(*call).copied().unwrap_or(0);
        let before = match *call {
            "mmap" => counts.mapped_to_load,
            _ => 0,
        };
        let mut push = |what: String| faults.push(Fault { call, what });
        for moment in moments(count.saturating_sub(before)) {
            let at = before + moment;
            push(format!("signal=SIGKILL:when={at}"));
            if *call == "pwrite64" || *call == "pwritev2" {
                push(format!("retval=512:when={at}"));
            }
            for error in *errors {
                push(format!("error={error}:when={at}"));
                if PASSING.contains(error) {
                    push(format!("error={error}:when={at}..{}", at + 9));
                } else if moment <= EACH {
                    push(format!("error={error}:when={at}+"));
                }
            }
        }
    }
    faults
}

/// Which of so many calls are tried: the first ones, and then ever fewer.
fn moments(count: usize) -> Vec<usize> {
    let mut at = 1;
    let mut moments = Vec::new();
    while at <= count {
        moments.push(at);
        at += 1 + at / EACH;
    }
    moments
}

/// The program that writes a command's calls to a file.
pub(super) fn recorder(output: &Path) -> Vec<OsString> {
    let mut wrapper = strace(&["-o"]);
    wrapper.push(output.into());
    wrapper
}

/// A command that hangs is ended with everything that it has started.
fn strace(args: &[&str]) -> Vec<OsString> {
    let start = [
        "timeout",
        "-s",
        "KILL",
        super::PATIENCE,
        "strace",
        "-f",
        "-qq",
    ];
    start.iter().chain(args).map(OsString::from).collect()
}

/// Whether a fault has struck a file that holds something of the log, as the notes say. One that is
/// only being made is given up.
pub(super) fn struck_log(notes: &Path) -> Result<bool, SuiteError> {
    let notes = std::fs::read_to_string(notes)?;
    let of_log = |line: &str| line.contains(".seg>") || line.contains("superblock>");
    Ok(notes
        .lines()
        .any(|line| line.contains("(INJECTED)") && of_log(line)))
}

/// Counts the calls in a recorder's file.
pub(super) fn count(output: &Path) -> Result<Counts, SuiteError> {
    let text = std::fs::read_to_string(output)?;
    let mut by_thread: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut first = None;
    let mut mapped_to_load = 0;
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((call, _)) = rest.trim_start().split_once('(') else {
            continue;
        };
        if !call.starts_with('<') {
            let first = *first.get_or_insert(thread);
            let so_far = |call| by_thread.get(&(first, call)).copied().unwrap_or(0);
            // The runtime's last step: it asks for the signal stack, maps one, and sets it.
            if call == "sigaltstack" && thread == first && so_far(call) < 2 {
                mapped_to_load = so_far("mmap");
            }
            *by_thread.entry((thread, call)).or_default() += 1;
        }
    }
    let mut counts = Counts {
        mapped_to_load,
        ..Counts::default()
    };
    for ((_, call), count) in by_thread {
        let most = counts.most.entry(call.to_owned()).or_default();
        *most = count.max(*most);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_for_the_thread_that_makes_most_of_them() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "7 openat(AT_FDCWD, \"x\") = 3\n7  pread64(3, ...) = 5\n8 pread64(3 <unfinished ...>\n\
                    8 <... pread64 resumed>) = 5\n8 pread64(3, \"\") = 0\n8 +++ exited with 0 +++\n";
        std::fs::write(file.path(), text).unwrap();
        let counts = count(file.path()).unwrap();
        assert_eq!(counts.most.get("pread64"), Some(&2));
        assert_eq!(counts.most.get("openat"), Some(&1));
        assert_eq!(counts.most.len(), 2);
    }

    fn injected(counts: &Counts) -> Vec<String> {
        let faults = faults(counts).into_iter();
        faults.map(|fault| fault.what).collect()
    }

    #[test]
    fn what_is_mapped_before_the_program_begins_is_left_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "7 mmap(NULL) = 1\n7 sigaltstack(NULL) = 0\n7 mmap(NULL) = 1\n\
                    7 sigaltstack({}) = 0\n7 mmap(NULL) = 1\n7 sigaltstack({}) = 0\n";
        std::fs::write(file.path(), text).unwrap();
        let mut counts = count(file.path()).unwrap();
        assert_eq!(counts.mapped_to_load, 2);
        counts.most.remove("sigaltstack");
        assert_eq!(
            injected(&counts),
            [
                "signal=SIGKILL:when=3",
                "error=ENOMEM:when=3",
                "error=ENOMEM:when=3+"
            ]
        );
    }

    #[test]
    fn only_what_strikes_a_file_of_the_log_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let struck = |name: &str, note: &str| {
            let line = format!("7 fdatasync(9</s/{name}>) = -1 EIO (Input/output error){note}\n");
            std::fs::write(file.path(), line).unwrap();
            struck_log(file.path()).unwrap()
        };
        assert!(struck("0000000000000001.seg", " (INJECTED)"));
        assert!(struck("superblock", " (INJECTED)"));
        assert!(!struck("0000000000000001.new-seg", " (INJECTED)"));
        assert!(!struck("0000000000000001.seg", ""));
    }

    #[test]
    fn what_is_called_once_fails_once_in_each_way() {
        let counts = Counts {
            most: BTreeMap::from([("poll".to_owned(), 1)]),
            ..Counts::default()
        };
        assert_eq!(
            injected(&counts),
            [
                "signal=SIGKILL:when=1",
                "error=EINTR:when=1",
                "error=EINTR:when=1..10"
            ]
        );
    }

    #[test]
    fn the_first_calls_are_all_tried() {
        let moments = moments(100);
        assert_eq!(moments[..EACH], (1..=EACH).collect::<Vec<_>>());
        assert!(moments.len() < 50 && moments.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
