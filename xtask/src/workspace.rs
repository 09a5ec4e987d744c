//! [`Workspace`]: where the sources are, and cargo run in it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use cargo_metadata::{Message, Metadata, MetadataCommand};

use crate::canary;
use crate::suite::{SuiteError, Tally};
use crate::trial::Program;

/// The workspace that this binary was built from.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) metadata: Metadata,
}

impl Workspace {
    /// Asks cargo about it.
    pub(crate) fn find() -> Result<Self, SuiteError> {
        let metadata = MetadataCommand::new()
            .cargo_path(cargo_path())
            .manifest_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
            .exec()?;
        Ok(Self {
            root: metadata.workspace_root.clone().into(),
            metadata,
        })
    }

    /// A directory below cargo's target directory.
    pub(crate) fn target_dir(&self, name: &str) -> PathBuf {
        self.metadata.target_directory.join(name).into()
    }

    /// A cargo command to be run at the root.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let mut command = Command::new(cargo_path());
        command.args(args).current_dir(&self.root);
        command
    }

    /// A command of the nightly toolchain, as rustup finds it, to be run at the root: the cargo that
    /// runs this is of another.
    pub(crate) fn nightly(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .arg("+nightly")
            .args(args)
            .current_dir(&self.root)
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO");
        command
    }

    /// Builds the program of a package in release.
    pub(crate) fn build_program(&self, package: &str) -> Result<Program, SuiteError> {
        self.built(package, self.cargo(&["build", "--release"]))
    }

    /// The same with the known bugs, none of which is on.
    pub(crate) fn build_with_canaries(&self, package: &str) -> Result<Program, SuiteError> {
        let mut command = self.cargo(&["build", "--release", "--target-dir"]);
        command.arg(self.target_dir("canary"));
        canary::compile_in(&mut command);
        self.built(package, command)
    }

    fn built(&self, package: &str, mut command: Command) -> Result<Program, SuiteError> {
        command.args(["--package", package]);
        let file = build(command)?.pop();
        let file = file.ok_or_else(|| format!("the program of {package} does not build"))?;
        Ok(file.into())
    }
}

/// Runs a cargo command that builds executables, and says where they are; none when they do not
/// build.
pub(crate) fn build(mut command: Command) -> Result<Vec<PathBuf>, SuiteError> {
    announce(&command);
    command.arg("--message-format=json-render-diagnostics");
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut binaries = Vec::new();
    for message in Message::parse_stream(output) {
        if let Message::CompilerArtifact(artifact) = message? {
            binaries.extend(artifact.executable.map(PathBuf::from));
        }
    }
    if !child.wait()?.success() {
        binaries.clear();
    }
    Ok(binaries)
}

fn cargo_path() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Prints a command before it is run, the way a shell would take it.
pub(crate) fn announce(command: &Command) {
    let mut line = String::from("$");
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            line += &format!(" {}='{}'", name.display(), value.display());
        }
    }
    line += " cargo";
    for arg in command.get_args() {
        line += &format!(" {}", arg.display());
    }
    println!("{line}");
}

/// Runs a `cargo test`, lets its output through, and adds up its result lines.
pub(crate) fn run_tests(command: Command) -> Result<(ExitStatus, Tally), SuiteError> {
    run_tests_and_look(command, |_| ())
}

/// The same, and shows each line to `look`.
pub(crate) fn run_tests_and_look(
    mut command: Command,
    mut look: impl FnMut(&str),
) -> Result<(ExitStatus, Tally), SuiteError> {
    announce(&command);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut tally = Tally::default();
    let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    for line in output.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        look(&line);
        if let Some(one) = result_line(&line) {
            tally += one;
        }
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        // It did not build, or a test binary died before it could say so.
        tally.failed = 1;
    }
    Ok((status, tally))
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
pub(crate) fn result_line(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut tally = Tally::default();
    for count in counts.split("; ") {
        let (number, what) = count.split_once(' ')?;
        let slot = match what {
            "passed" => &mut tally.passed,
            "failed" => &mut tally.failed,
            "ignored" => &mut tally.skipped,
            _ => continue,
        };
        *slot = number.parse().ok()?;
    }
    Some(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_of_cargo_test_are_added_up() {
        let line = "test result: FAILED. 12 passed; 3 failed; 2 ignored; 0 measured; 7 filtered \
                    out; finished in 0.01s";
        let expected = Tally {
            passed: 12,
            failed: 3,
            skipped: 2,
        };
        assert_eq!(result_line(line), Some(expected));
        assert_eq!(result_line("test it::works ... ok"), None);
    }
}
