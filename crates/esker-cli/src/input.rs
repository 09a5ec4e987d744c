//! [`Input`]: the files that records are read from, one after the other.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::args::Framing;
use crate::failure::Failure;
use crate::split::{Chunk, READ_BYTES, Source, SourceError, SplitError, Splitter};
use crate::system::{Stop, wait};

/// Files, and standard input among them, cut into records.
pub(crate) struct Input {
    /// What comes after the current file, the next one last.
    later: Vec<PathBuf>,
    current: Option<Splitter<OpenFile>>,
    framing: Framing,
    max_record_bytes: u64,
    stop: &'static Stop,
    records: u64,
    /// The files opened so far, each with the number of its first record.
    opened: Vec<(u64, PathBuf)>,
}

/// Why the input ends early.
pub(crate) enum InputError {
    /// It was asked for.
    Stopped,
    /// To be said.
    Failed(String),
}

impl Input {
    /// The files in order; standard input if there are none. Only checks that they can be there, so
    /// that a mistyped name is found before anything is appended.
    pub(crate) fn new(
        files: &[PathBuf],
        framing: Framing,
        stop: &'static Stop,
    ) -> Result<Self, Failure> {
        for file in files.iter().filter(|file| !is_stdin(file)) {
            let metadata = fs::metadata(file)
                .map_err(|error| Failure::new(format!("cannot read {}", file.display()), &error))?;
            if metadata.is_dir() {
                let name = file.display();
                return Err(Failure::Because(format!(
                    "cannot read {name}: it is a directory"
                )));
            }
        }
        let mut later = files.to_vec();
        if later.is_empty() {
            later.push("-".into());
        }
        later.reverse();
        Ok(Self {
            later,
            current: None,
            framing,
            max_record_bytes: u64::MAX,
            stop,
            records: 0,
            opened: Vec::new(),
        })
    }

    /// Longer records end the input with an error.
    pub(crate) fn limit(&mut self, max_record_bytes: u64) {
        self.max_record_bytes = max_record_bytes;
    }

    /// The length of all files together, if that is known beforehand.
    pub(crate) fn len_bytes(&self) -> Option<u64> {
        let lens = self.later.iter().map(|file| {
            let metadata = (!is_stdin(file)).then(|| fs::metadata(file).ok())??;
            metadata.is_file().then_some(metadata.len())
        });
        lens.sum()
    }

    /// Fills `chunk` with the next records, or says that there are no more. All of them are of one
    /// file.
    pub(crate) fn fill(&mut self, chunk: &mut Chunk) -> Result<bool, InputError> {
        loop {
            if self.current.is_none() {
                let Some(file) = self.later.pop() else {
                    return Ok(false);
                };
                let source = OpenFile::open(&file, self.stop).map_err(|error| {
                    InputError::Failed(format!("cannot read {}: {error}", name(&file)))
                })?;
                self.opened.push((self.records, file));
                self.current = Some(Splitter::new(
                    source,
                    self.framing,
                    self.max_record_bytes,
                    READ_BYTES,
                ));
            }
            let filled = self
                .current
                .as_mut()
                .map_or(Ok(false), |splitter| splitter.fill(chunk));
            match filled {
                Ok(true) => {
                    self.records += chunk.len() as u64;
                    return Ok(true);
                }
                Ok(false) => self.current = None,
                Err(error) => return Err(self.describe(error)),
            }
        }
    }

    /// Whether reading on would have to wait.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.current
            .as_mut()
            .is_some_and(|splitter| splitter.source().is_idle())
    }

    fn describe(&self, error: SplitError) -> InputError {
        let name = self
            .opened
            .last()
            .map_or_else(String::new, |(_, file)| name(file));
        let max = self.max_record_bytes;
        InputError::Failed(match error {
            SplitError::Source(SourceError::Stopped) => return InputError::Stopped,
            SplitError::Source(SourceError::Io(error)) => format!("cannot read {name}: {error}"),
            SplitError::LongLine { line } => format!(
                "line {line} of {name} is longer than {max} bytes, the largest record that this \
                 store takes; nothing of it was written"
            ),
            SplitError::LongFrame { offset, len_bytes } => format!(
                "the frame at byte {offset} of {name} is {len_bytes} bytes long, and the largest \
                 record that this store takes has {max}; nothing of it was written"
            ),
            SplitError::TruncatedFrame {
                offset,
                available_bytes,
                len_bytes: None,
            } => format!(
                "{name} ends within the frame at byte {offset}: its length needs 4 bytes, and \
                 {available_bytes} are there; nothing of it was written"
            ),
            SplitError::TruncatedFrame {
                offset,
                available_bytes,
                len_bytes: Some(len),
            } => {
                format!(
                    "{name} ends within the frame at byte {offset}: its record has {len} bytes, \
                     and {} are there; nothing of it was written",
                    available_bytes.saturating_sub(4)
                )
            }
        })
    }

    /// Names a record by its file and its place there.
    pub(crate) fn name_of(&self, record: u64) -> String {
        let at = self.opened.partition_point(|(first, _)| *first <= record);
        let Some((first, file)) = at.checked_sub(1).and_then(|at| self.opened.get(at)) else {
            return format!("record {}", record + 1);
        };
        let number = record - first + 1;
        match self.framing {
            Framing::Lines => format!("line {number} of {}", name(file)),
            Framing::Length => format!("frame {number} of {}", name(file)),
        }
    }
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn name(file: &Path) -> String {
    if is_stdin(file) {
        "standard input".into()
    } else {
        file.display().to_string()
    }
}

/// A file, or standard input.
struct OpenFile {
    file: File,
    stop: &'static Stop,
}

impl OpenFile {
    fn open(path: &Path, stop: &'static Stop) -> io::Result<Self> {
        let file = if is_stdin(path) {
            File::from(io::stdin().as_fd().try_clone_to_owned()?)
        } else {
            File::open(path)?
        };
        Ok(Self { file, stop })
    }

    fn is_idle(&self) -> bool {
        wait([self.file.as_fd()], Some(Duration::ZERO)).is_ok_and(|[file]| !file.readable)
    }
}

impl Source for OpenFile {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, SourceError> {
        loop {
            let [file, stop] =
                wait([self.file.as_fd(), self.stop.as_fd()], None).map_err(SourceError::Io)?;
            if stop.readable {
                return Err(SourceError::Stopped);
            }
            if !file.readable {
                continue;
            }
            match self.file.read(into) {
                Err(error) if is_temporary(&error) => {}
                other => return other.map_err(SourceError::Io),
            }
        }
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}
