//! This store, the bare device and other stores, side by side in one interleaved run.
//!
//! Every cell (one workload on one store) is a process of its own on a fresh directory. The cells
//! are run in rounds, one after the other, so that a slow spell of the machine strikes all; each
//! figure is the median of its rounds. What each store really does for durability is counted from
//! outside, by its system calls and by the flushes that the block device completes.

mod cell;
mod durability;
mod grid;
mod log;
mod machine;
mod peers;
mod plot;
mod report;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::log::Outcome;

/// Compares this store with the bare device and with other stores.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Hidden>,
    #[command(flatten)]
    run: run::Arguments,
}

#[derive(Subcommand)]
enum Hidden {
    /// Runs one cell and prints its figures as JSON.
    #[command(hide = true)]
    Cell {
        store: String,
        workload: String,
        dir: PathBuf,
    },
    /// Appends some records durably, for the durability check.
    #[command(hide = true)]
    Appends {
        store: String,
        records: u64,
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(Hidden::Cell {
            store,
            workload,
            dir,
        }) => run_cell(&store, &workload, &dir),
        Some(Hidden::Appends {
            store,
            records,
            dir,
        }) => durability::append(&store, records, &dir),
        None => run::run(&arguments.run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run_cell(store: &str, workload: &str, dir: &std::path::Path) -> Outcome<()> {
    let figures = cell::run(store, serde_json::from_str(workload)?, dir)?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}
