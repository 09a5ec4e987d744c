//! `bench`: figures for people. It proves nothing and asserts no time, so it is no suite.

use clap::{Arg, ArgMatches, Command};

use crate::suite::SuiteError;
use crate::workspace::Workspace;

/// Its name among the subcommands.
pub(crate) const NAME: &str = "bench";

/// The subcommand.
pub(crate) fn command() -> Command {
    let arguments = Arg::new("arguments")
        .num_args(0..)
        .trailing_var_arg(true)
        .allow_hyphen_values(true)
        .help("Passed on; `-- --help` lists them");
    Command::new(NAME)
        .about("Measures: prints figures, checks nothing")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("compare")
                .about("Compares this store with the bare device and with other stores, in one run")
                .after_help(
                    "The other stores are fetched from crates.io and built at the first run. \
                     RocksDB only with --rocksdb: its C++ takes a quarter of an hour and libclang.",
                )
                .arg(
                    Arg::new("rocksdb")
                        .long("rocksdb")
                        .action(clap::ArgAction::SetTrue)
                        .help("Builds RocksDB and compares with it too"),
                )
                .arg(arguments),
        )
}

/// Runs the measurement that is asked for.
pub(crate) fn run(workspace: &Workspace, matches: &ArgMatches) -> Result<(), SuiteError> {
    let Some(("compare", matches)) = matches.subcommand() else {
        return Err("there is one measurement: compare".into());
    };
    let mut command = workspace.cargo(&["run", "--release", "--manifest-path"]);
    command.arg(workspace.root.join("benches/compare/Cargo.toml"));
    command
        .arg("--target-dir")
        .arg(workspace.target_dir("compare"));
    if matches.get_flag("rocksdb") {
        command.args(["--features", "rocksdb"]);
    }
    command.arg("--");
    command.args(
        matches
            .get_many::<String>("arguments")
            .into_iter()
            .flatten(),
    );
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the comparison ended with {status}").into())
    }
}
