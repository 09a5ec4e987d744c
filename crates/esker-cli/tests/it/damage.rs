//! Stores that are damaged, torn, or none at all.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::{Place, arg};

/// Every command that opens a store, with arguments that suit any.
const COMMANDS: &[(&str, &[&str])] = &[
    ("cat", &[]),
    ("cat", &["--from", "64"]),
    ("get", &["64", "0", "4160"]),
    ("info", &[]),
    ("info", &["--json"]),
    ("verify", &[]),
    ("verify", &["--json"]),
    ("salvage", &["--json"]),
    ("trim", &["--before", "64"]),
    ("append", &[]),
];

/// Where `what` is, in which of the files.
fn find(place: &Place, what: &[u8]) -> (PathBuf, u64) {
    for file in place.files() {
        let bytes = fs::read(&file).unwrap();
        if let Some(at) = bytes.windows(what.len()).position(|window| window == what) {
            return (file, at as u64);
        }
    }
    panic!("it is in no file");
}

fn flip(file: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}

#[test]
fn damage_is_named_by_lsn_file_and_offset() {
    let place = Place::new();
    // In slots of their own, so that those before the damage are not in the damaged one.
    place.append(&[], b"before\n").ok();
    let lsn = place
        .append(&["--lsns"], b"a record to be damaged\n")
        .lsns()[0];
    place.append(&[], b"after\n").ok();
    let (file, offset) = find(&place, b"a record to be damaged");
    flip(&file, offset);

    let report = place.run("verify", &["--json"]);
    let report: Value = serde_json::from_slice(&report.fails(&[])).unwrap();
    assert_eq!(report["intact"], false);
    let damage = &report["damage"];
    assert_eq!(damage["file"], arg(&file));
    let named = damage["lsn"].as_u64().unwrap();
    let at = damage["offset"].as_u64().unwrap();
    assert!(
        named <= lsn && lsn - named < 4096,
        "LSN {named} for the record at {lsn}"
    );
    assert!(
        at <= offset && offset - at < 4096,
        "offset {at} for the damage at {offset}"
    );

    let (named, at) = (format!("LSN {named}"), format!("offset {at}"));
    place.run("verify", &[]).fails(&[&named, arg(&file), &at]);
    place.run("get", &[&lsn.to_string()]).fails(&[arg(&file)]);
}

#[test]
fn what_is_whole_of_a_damaged_store_is_salvaged() {
    let place = Place::new();
    place.append(&[], b"one\n").ok();
    let lsn = place
        .append(&["--lsns"], b"a record to be damaged\nits neighbour\n")
        .lsns()[0];
    place.append(&[], b"last\n").ok();
    let all = place.run("cat", &[]).ok().to_vec();
    assert_eq!(place.run("salvage", &[]).ok(), all);
    let told = place.run("salvage", &["--json"]).stderr;
    let told: Value = serde_json::from_str(told.lines().next().unwrap_or_default()).unwrap();
    assert_eq!(
        (&told["whole"], &told["refused"]),
        (&true.into(), &false.into())
    );
    let (file, offset) = find(&place, b"a record to be damaged");
    flip(&file, offset);
    assert_ne!(place.run("cat", &[]).code, Some(0));

    let report = place.run("salvage", &[]);
    let (named, at) = (format!("LSN {lsn}"), format!("offset {}", offset - 8));
    assert_eq!(report.code, Some(1));
    assert_eq!(report.stdout, b"one\nits neighbour\nlast\n");
    for said in [arg(&file), "offset"] {
        assert!(report.stderr.contains(said), "{}", report.stderr);
    }
    let json = place.run("salvage", &["--json", "--lsns"]);
    let first = json.stderr.lines().next().unwrap_or_default();
    let told: Value = serde_json::from_str(first).unwrap();
    assert_eq!(
        (&told["whole"], &told["records"]),
        (&false.into(), &3.into())
    );
    // Opening does not look at what lies before the checkpoint.
    let refuses = "recovery refuses the store";
    assert_eq!(told["refused"], false);
    assert!(!report.stderr.contains(refuses), "{}", report.stderr);
    let covers =
        |lost: &Value| lost["from"].as_u64().unwrap() <= lsn && lost["to"].as_u64().unwrap() > lsn;
    let lost = told["lost"].as_array().unwrap();
    assert!(lost.iter().any(covers), "{named}, {at}: {told}");

    fs::remove_file(place.store().join("superblock")).unwrap();
    let report = place.run("salvage", &[]);
    assert_eq!(report.stdout, b"one\nits neighbour\nlast\n");
    assert_eq!(report.code, Some(1));
    assert!(report.stderr.contains(refuses), "{}", report.stderr);
    let told = place.run("salvage", &["--json"]).stderr;
    let told: Value = serde_json::from_str(told.lines().next().unwrap_or_default()).unwrap();
    assert_eq!(told["refused"], true);
}

#[test]
fn a_torn_tail_is_reported_and_is_no_damage() {
    let place = Place::new();
    place.append(&[], b"kept\n").ok();
    // As a crash would leave it: another store's life is cut off by killing it.
    let (mut append, mut stdin, lsns) =
        super::support::Running::start(place.command("append", &["--lsns"]));
    std::io::Write::write_all(&mut stdin, b"torn\n").unwrap();
    lsns.next();
    append.kill();
    let (file, offset) = find(&place, b"torn");
    let before = place.run("verify", &["--json"]).text();
    let before: Value = serde_json::from_str(&before).unwrap();
    assert_eq!(
        (&before["intact"], &before["records"]),
        (&true.into(), &2.into())
    );
    flip(&file, offset);
    let after = place.run("verify", &["--json"]);
    // Whether something on the disk tells that it was acknowledged depends on how far the store
    // came in leaving that behind: both answers are right, a third is not.
    let report: Value = serde_json::from_slice(&after.stdout).unwrap();
    match after.code {
        Some(0) => {
            assert_eq!(report["records"], 1);
            assert!(report["torn_tail"].is_object(), "{report}");
            assert!(place.run("verify", &[]).text().contains("torn"));
            assert_eq!(place.cat(), b"kept\n");
        }
        Some(1) => assert_eq!(report["damage"]["file"], arg(&file)),
        other => panic!("status {other:?}: {}", after.stderr),
    }
}

/// Runs every command, and demands that each ends with a status of its own.
fn all_commands_end(place: &Place, what: &str) {
    for (command, args) in COMMANDS {
        let ran = place.run(command, args);
        assert!(
            matches!(ran.code, Some(0 | 1)),
            "{what}: {command}: {ran:?}"
        );
        assert!(
            !ran.stderr.contains("panicked"),
            "{what}: {command}: {}",
            ran.stderr
        );
        // A salvage lists what is not whole.
        if ran.code == Some(1) && *command != "salvage" {
            assert_eq!(
                ran.stderr.lines().count(),
                1,
                "{what}: {command}: {}",
                ran.stderr
            );
        }
    }
}

/// Does something to a file.
type Damage = fn(&Path);

#[test]
fn no_foreign_empty_or_truncated_file_makes_a_command_panic() {
    let ways: &[(&str, Damage)] = &[
        ("emptied", |file| fs::write(file, b"").unwrap()),
        ("foreign", |file| {
            fs::write(file, b"#!/bin/sh\necho this is no store\n").unwrap()
        }),
        ("noise", |file| {
            let noise: Vec<u8> = (0..100_000u32)
                .map(|i| (i.wrapping_mul(0x9e37) >> 7) as u8)
                .collect();
            fs::write(file, noise).unwrap();
        }),
        ("cut off", |file| {
            let file = File::options().write(true).open(file).unwrap();
            file.set_len(file.metadata().unwrap().len().min(8192) / 2 + 100)
                .unwrap();
        }),
        ("zeroed", |file| {
            let len = fs::metadata(file).unwrap().len().min(1 << 20);
            let file = File::options().write(true).open(file).unwrap();
            file.write_all_at(&vec![0; len as usize], 0).unwrap();
        }),
        ("all ones", |file| {
            let file = File::options().write(true).open(file).unwrap();
            file.write_all_at(&[0xff; 4096], 0).unwrap();
        }),
        ("removed", |file| fs::remove_file(file).unwrap()),
        ("a directory", |file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
    ];
    let input: String = (0..2000).map(|i| format!("record {i}\n")).collect();
    for (name, damage) in ways {
        let files = {
            let place = Place::new();
            place.append(&[], input.as_bytes()).ok();
            place.files().len()
        };
        for number in 0..files {
            let place = Place::new();
            place.append(&[], input.as_bytes()).ok();
            if let Some(file) = place.files().get(number) {
                damage(file);
                all_commands_end(&place, &format!("{} {name}", file.display()));
            }
        }
    }
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let place = Place::new();
    fs::create_dir(place.store()).unwrap();
    let other = place.store().join("letter.txt");
    fs::write(&other, b"dear reader").unwrap();
    all_commands_end(&place, "a directory of something else");
    assert_eq!(fs::read(&other).unwrap(), b"dear reader");
}

#[test]
fn a_file_in_the_stores_place_is_left_alone() {
    let place = Place::new();
    place.file("store", b"this is a file");
    all_commands_end(&place, "a file");
    assert_eq!(fs::read(place.store()).unwrap(), b"this is a file");
}
