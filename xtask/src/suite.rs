//! [`Suite`]: an entry of the table, and [`Tally`]: what came out of running one.

use std::error::Error;
use std::fmt;
use std::ops::AddAssign;

use clap::{ArgMatches, Command};

use crate::workspace::Workspace;

/// What kept a suite from running to its end. A check that fails is no error but part of the tally.
pub(crate) type SuiteError = Box<dyn Error + Send + Sync>;

/// One suite of the table.
pub(crate) struct Suite {
    /// Its subcommand.
    pub(crate) name: &'static str,
    /// What is known when it has passed.
    pub(crate) proves: &'static str,
    /// What has to be there.
    pub(crate) needs: &'static str,
    /// The form for every change.
    pub(crate) quick: &'static str,
    /// The form for a night.
    pub(crate) long: &'static str,
    /// Adds its options.
    pub(crate) args: fn(Command) -> Command,
    /// What `cargo xtask verify` runs of it.
    pub(crate) verify: &'static [Part],
    /// Runs it.
    pub(crate) run: fn(&Workspace, &ArgMatches) -> Result<Tally, SuiteError>,
}

impl Suite {
    /// Its command line.
    pub(crate) fn command(&self) -> Command {
        let help = format!("Needs: {}", self.needs);
        (self.args)(Command::new(self.name).about(self.proves).after_help(help))
    }

    /// The arguments of one part of it, for so many seconds.
    pub(crate) fn parse(&self, part: Part, seconds: Option<u64>) -> Result<ArgMatches, SuiteError> {
        let (Part::Whole(args) | Part::Share { args, .. }) = part;
        let mut line: Vec<String> = vec![self.name.to_owned()];
        line.extend(args.iter().map(ToString::to_string));
        if let Some(seconds) = seconds {
            line.extend(["--seconds".to_owned(), seconds.to_string()]);
        }
        Ok(self.command().try_get_matches_from(line)?)
    }
}

/// One run of a suite within `cargo xtask verify`, with its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// Takes as long as it takes, and runs before what has a share.
    Whole(&'static [&'static str]),
    /// Goes on for as long as it is told with `--seconds`: its share of the time that is left.
    Share {
        weight: u32,
        args: &'static [&'static str],
    },
}

/// How many checks passed, failed and could not be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// Counts one check.
    pub(crate) fn count(&mut self, passed: bool) {
        if passed {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }

    /// Counts a check that could not be made, and says why.
    pub(crate) fn skip(&mut self, what: &str, why: &str) {
        println!("skipped: {what}: {why}");
        self.skipped += 1;
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_reads_as_one_plain_line() {
        let mut tally = Tally::default();
        tally.count(true);
        tally.count(false);
        tally.skip("a check", "its tool is not installed");
        tally += Tally {
            passed: 2,
            failed: 0,
            skipped: 1,
        };
        assert_eq!(tally.to_string(), "3 passed, 1 failed, 2 skipped");
    }
}
