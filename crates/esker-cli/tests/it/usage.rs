//! Exit statuses and messages.

use std::process::Command;

use super::support::{Place, arg, finish};

fn esker(args: &[&str]) -> super::support::Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_esker"));
    command.args(args);
    finish(command, b"")
}

#[test]
fn wrong_usage_is_status_2_and_says_so_on_standard_error() {
    for args in [
        &[][..],
        &["unknown"],
        &["append"],
        &["append", "s", "--threads", "0"],
        &["append", "s", "--durability", "perhaps"],
        &["get", "s"],
        &["get", "s", "x"],
        &["trim", "s"],
        &["cat", "s", "--framing", "words"],
    ] {
        let ran = esker(args);
        assert_eq!(ran.code, Some(2), "{args:?}");
        assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn help_and_version_are_asked_for_and_so_are_success() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["append", "--help"],
        &["help", "cat"],
    ] {
        let ran = esker(args);
        assert_eq!(ran.code, Some(0), "{args:?}");
        assert!(!ran.stdout.is_empty() && ran.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_store_that_is_not_there_is_created_by_append_only() {
    let place = Place::new();
    for (command, args) in [
        ("cat", &[][..]),
        ("get", &["0"]),
        ("info", &[]),
        ("verify", &[]),
        ("trim", &["--before", "0"]),
    ] {
        place
            .run(command, args)
            .fails(&["there is no store", arg(&place.store()), "esker append"]);
        assert!(!place.store().exists(), "{command}");
    }
}
