//! [`Program`]: what a suite starts, with a known bug switched on or without.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::canary;

/// An executable of ours, and the known bug that is on in it.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    file: PathBuf,
    canary: Option<&'static str>,
}

impl From<PathBuf> for Program {
    fn from(file: PathBuf) -> Self {
        Self { file, canary: None }
    }
}

impl Program {
    /// The same, with a known bug. It has to be built with them.
    pub(crate) fn with(&self, canary: &'static str) -> Self {
        Self {
            file: self.file.clone(),
            canary: Some(canary),
        }
    }

    pub(crate) fn command(&self) -> Command {
        self.command_under(&[])
    }

    /// A command that has another program start it.
    pub(crate) fn command_under(&self, wrapper: &[OsString]) -> Command {
        let mut command = match wrapper.split_first() {
            None => Command::new(&self.file),
            Some((starter, args)) => {
                let mut command = Command::new(starter);
                command.args(args).arg(&self.file);
                command
            }
        };
        canary::switch_on(&mut command, self.canary);
        command
    }
}
