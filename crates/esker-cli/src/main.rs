//! The `esker` command: appends to a log-structured store, reads it, looks into it.
//!
//! It knows nothing of the store but its public interface. Data goes to standard output, everything
//! else to standard error; the exit status is 0 for success, 1 for failure, 2 for wrong usage. When
//! nobody reads its output any more it closes the store and ends quietly.

#[macro_use]
mod canary;

mod append;
mod args;
mod bench;
mod cat;
mod failure;
mod get;
mod info;
mod input;
mod output;
mod salvage;
mod split;
mod statistics;
mod store;
mod system;
mod trim;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Append(args) => append::run(&args),
        Command::Cat(args) => cat::run(&args),
        Command::Get(args) => get::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Salvage(args) => salvage::run(&args),
        Command::Trim(args) => trim::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(()) | Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(Failure::Because(why)) => {
            output::say(&format!("esker: {why}"));
            ExitCode::FAILURE
        }
    }
}
