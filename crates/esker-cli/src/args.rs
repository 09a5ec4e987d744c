//! The command line.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use esker_io::Ordering;
use esker_lss::Lsn;

/// Works on a log-structured store: a directory that records are appended to.
///
/// Data goes to standard output, everything else to standard error. The exit status is 0 for
/// success, 1 for failure, 2 for wrong usage.
#[derive(Debug, Parser)]
#[command(name = "esker", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Append each line of the files, or of standard input, as a record.
    Append(Append),
    /// Print records in log order.
    Cat(Cat),
    /// Print single records.
    Get(Get),
    /// Say what the store is and what it holds.
    Info(Info),
    /// Read everything, check everything, change nothing.
    Verify(Verify),
    /// Give back what is whole of a damaged store, and list what is not.
    Salvage(Salvage),
    /// Free the segments that lie wholly below an LSN.
    Trim(Trim),
    /// Measure what this disk can do and what the store does on it.
    Bench(Bench),
}

/// Appends records.
///
/// With several threads, record i (counted from 0 over all files) is appended by thread i mod N:
/// records of one thread keep their order in the log, records of different threads interleave.
#[derive(Debug, Args)]
#[command(long_about)]
pub(crate) struct Append {
    /// The store's directory; a store is created if there is none.
    pub(crate) store: PathBuf,
    /// What to read; `-` is standard input, and so is no file at all.
    pub(crate) files: Vec<PathBuf>,
    /// How many threads append.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
    /// What has to hold for a record before its LSN is printed, and for all before success is
    /// reported.
    #[arg(long, value_enum, default_value_t = DurabilityArg::Durable)]
    pub(crate) durability: DurabilityArg,
    /// In which order the log's buffers are written.
    #[arg(long, default_value = "tail-localised", value_parser = ordering_parser())]
    pub(crate) ordering: Ordering,
    /// Print each record's LSN on a line, in the order of the input.
    #[arg(long)]
    pub(crate) lsns: bool,
    /// Say at the end what the I/O layer has done: operations, times, system calls.
    #[arg(long)]
    pub(crate) stats: bool,
    /// How the input is cut into records.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) framing: Framing,
    /// How the store does its I/O.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) backend: BackendArg,
}

/// Prints records in log order.
///
/// With --follow it prints what is durable and then waits for more, beside a process that appends
/// or before there is one, until it is interrupted, its output is closed, or the limit is reached.
#[derive(Debug, Args)]
#[command(long_about)]
pub(crate) struct Cat {
    /// The store's directory.
    pub(crate) store: PathBuf,
    /// Start with the record at this LSN.
    #[arg(long, value_name = "LSN")]
    pub(crate) from: Option<Lsn>,
    /// Print so many records at most.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Print a record's LSN and a tab before it.
    #[arg(long)]
    pub(crate) lsns: bool,
    /// Go on with what becomes durable later.
    #[arg(long)]
    pub(crate) follow: bool,
    /// How records are told apart.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) framing: Framing,
    /// How the store does its I/O.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) backend: BackendArg,
}

/// Prints single records.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The store's directory.
    pub(crate) store: PathBuf,
    /// Where the records are: what `append --lsns` and `cat --lsns` print.
    #[arg(required = true, value_name = "LSN")]
    pub(crate) lsns: Vec<Lsn>,
    /// How records are told apart.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) framing: Framing,
    /// How the store does its I/O.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) backend: BackendArg,
}

/// Says what the store is and what it holds.
#[derive(Debug, Args)]
pub(crate) struct Info {
    /// The store's directory.
    pub(crate) store: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// How the store does its I/O.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) backend: BackendArg,
}

/// Reads everything, checks everything, and changes nothing.
///
/// Damage ends it with status 1 and the first damaged LSN, the file and the offset. A torn tail,
/// which a crash may leave, is reported and is no damage.
#[derive(Debug, Args)]
#[command(long_about)]
pub(crate) struct Verify {
    /// The store's directory.
    pub(crate) store: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// How the store does its I/O.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) backend: BackendArg,
}

/// Gives back what is whole of a damaged store, and lists what is not.
///
/// For a store that does not open: with acknowledged data damaged, segments missing, or its superblock
/// lost. Records whose checksums match go to standard output in log order; ranges of LSNs that are
/// not whole, with file and offset, to standard error. Changes nothing. The exit status is 1 if
/// anything is not whole.
#[derive(Debug, Args)]
#[command(long_about)]
pub(crate) struct Salvage {
    /// The store's directory.
    pub(crate) store: PathBuf,
    /// Print a record's LSN and a tab before it.
    #[arg(long)]
    pub(crate) lsns: bool,
    /// Print what is not whole, and the sum, as one JSON object on standard error.
    #[arg(long)]
    pub(crate) json: bool,
    /// How records are told apart.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) framing: Framing,
    /// How the store does its I/O.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) backend: BackendArg,
}

/// Frees the segments that lie wholly below an LSN.
#[derive(Debug, Args)]
pub(crate) struct Trim {
    /// The store's directory.
    pub(crate) store: PathBuf,
    /// What is to stay: records below may go, as far as whole segments can be freed.
    #[arg(long, value_name = "LSN")]
    pub(crate) before: Lsn,
    /// How the store does its I/O.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) backend: BackendArg,
}

/// Measures what this disk can do and what the store does on it, side by side.
///
/// Makes files of up to about 2 GiB in a new directory below DIR and removes them at the end. The
/// figures are medians of three interleaved rounds; records are counted by their payload.
#[derive(Debug, Args)]
#[command(long_about)]
pub(crate) struct Bench {
    /// A directory on the disk that is asked about; the current one by default.
    pub(crate) dir: Option<PathBuf>,
    /// About how long to measure.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw the figures into this file too, as SVG.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// How the store, and the disk, are worked on.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) backend: BackendArg,
}

/// How records are told apart in a stream of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Framing {
    /// Each record is a line; the newline is not part of it.
    #[default]
    Lines,
    /// Each record comes after its length in bytes, a little-endian u32.
    Length,
}

/// What has to hold for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DurabilityArg {
    /// Nothing: it is in memory.
    None,
    /// It has been written, and survives the end of this process.
    Written,
    /// The device has confirmed it, and it survives a power cut.
    Durable,
}

/// How the store does its I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendArg {
    /// `io_uring` where the kernel has it, else blocking calls.
    #[default]
    Auto,
    /// `io_uring`, or an error that says why not.
    Uring,
    /// Blocking system calls.
    Blocking,
}

fn ordering_parser() -> impl TypedValueParser<Value = Ordering> {
    PossibleValuesParser::new(["tail-localised", "serialised"]).map(|name| match &*name {
        "serialised" => Ordering::Serialised,
        _ => Ordering::TailLocalised,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn names_of_the_design_are_understood() {
        for line in [
            "esker append s a - --threads 8 --durability none --ordering serialised --lsns --stats",
            "esker append s --durability written --backend uring --framing length",
            "esker append s --durability durable --backend auto --ordering tail-localised",
            "esker cat s --from 10 --limit 0 --lsns --follow --framing lines",
            "esker get s 0 18446744073709551615 --backend blocking",
            "esker info s --json",
            "esker verify s --json",
            "esker salvage s --lsns --json --framing length",
            "esker trim s --before 4096",
            "esker bench",
            "esker bench d --seconds 5 --json --svg f.svg --backend uring",
        ] {
            Cli::try_parse_from(line.split(' ')).expect(line);
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "esker",
            "esker append",
            "esker append s --threads 0",
            "esker append s --durability maybe",
            "esker append s --ordering random",
            "esker get s",
            "esker get s -1",
            "esker get s 18446744073709551616",
            "esker cat s --from x",
            "esker trim s",
            "esker bench --seconds 0",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
