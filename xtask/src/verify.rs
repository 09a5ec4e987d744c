//! `verify`: every suite within a time given.
//!
//! What takes as long as it takes runs first, the cheapest before the others; the time that is left
//! is shared out by weight among the suites that go on for as long as they are told. A suite that
//! fails stops no other.

use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, value_parser};

use crate::SUITES;
use crate::suite::{Part, Suite, SuiteError, Tally};
use crate::workspace::Workspace;

pub(crate) const SUITE: Suite = Suite {
    name: "verify",
    proves: "What all the suites prove, as far as the time reaches",
    needs: "what they need; what one lacks it skips",
    quick: "cargo xtask verify --minutes 15",
    long: "cargo xtask verify --minutes 480",
    args: |command| {
        command.arg(
            Arg::new("minutes")
                .long("minutes")
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..))
                .default_value("15")
                .help("How long all may take; what cannot be shortened runs whatever it takes"),
        )
    },
    verify: &[],
    run,
};

/// No suite gets less, even when the time is up: each is to say something.
const LEAST: Duration = Duration::from_secs(15);

/// Every part of every suite.
pub(crate) fn parts(suites: &[Suite]) -> impl Iterator<Item = (&Suite, Part)> {
    suites
        .iter()
        .flat_map(|suite| suite.verify.iter().map(move |part| (suite, *part)))
}

fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<Tally, SuiteError> {
    let minutes = matches.get_one::<u64>("minutes").copied().unwrap_or(15);
    let deadline = Instant::now() + Duration::from_secs(minutes.saturating_mul(60));
    let mut lines = Vec::new();
    let mut total = Tally::default();
    let mut run = |suite: &Suite, part, seconds| {
        let start = Instant::now();
        println!("\n== {}", title(suite, part, seconds));
        let result = suite
            .parse(part, seconds)
            .and_then(|matches| (suite.run)(workspace, &matches));
        let tally = result.unwrap_or_else(|error| {
            println!("FAILED: {error}");
            Tally {
                failed: 1,
                ..Tally::default()
            }
        });
        println!("{tally}");
        total += tally;
        lines.push(format!(
            "{:>6} s  {tally}  {}",
            start.elapsed().as_secs(),
            title(suite, part, seconds)
        ));
    };
    for (suite, part) in parts(SUITES) {
        if let Part::Whole(_) = part {
            run(suite, part, None);
        }
    }
    let mut weights: u32 = parts(SUITES).map(|(_, part)| weight(part)).sum();
    for (suite, part) in parts(SUITES) {
        if let Part::Share { weight, .. } = part {
            // What one leaves of its share goes to those behind it.
            let left = deadline.saturating_duration_since(Instant::now());
            let seconds = share(left, weight, weights);
            weights -= weight;
            run(suite, part, Some(seconds));
        }
    }
    println!("\n== all of it");
    for line in lines {
        println!("{line}");
    }
    if Instant::now() > deadline {
        println!("it took longer than {minutes} minutes: what cannot be shortened takes its time");
    }
    Ok(total)
}

fn weight(part: Part) -> u32 {
    match part {
        Part::Whole(_) => 0,
        Part::Share { weight, .. } => weight,
    }
}

/// The seconds for a suite, out of what is left for all that have not run yet.
fn share(left: Duration, weight: u32, weights: u32) -> u64 {
    (left * weight / weights.max(1)).max(LEAST).as_secs()
}

fn title(suite: &Suite, part: Part, seconds: Option<u64>) -> String {
    let (Part::Whole(args) | Part::Share { args, .. }) = part;
    let mut title = format!("cargo xtask {}", suite.name);
    for arg in args {
        title += &format!(" {arg}");
    }
    if let Some(seconds) = seconds {
        title += &format!(" --seconds {seconds}");
    }
    title
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_shared_by_weight_and_none_gets_nothing() {
        let minute = Duration::from_secs(60);
        assert_eq!(share(minute * 10, 1, 4), 150);
        assert_eq!(share(minute * 10, 3, 3), 600);
        assert_eq!(share(Duration::ZERO, 1, 4), LEAST.as_secs());
    }

    #[test]
    fn every_suite_has_a_part() {
        for suite in SUITES.iter().filter(|suite| suite.name != SUITE.name) {
            assert!(!suite.verify.is_empty(), "{}", suite.name);
        }
    }
}
