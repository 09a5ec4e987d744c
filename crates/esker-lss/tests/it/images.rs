//! Stores of each version of the format, frozen: what a version has written, every later one reads.
//!
//! An image is a text: for each file its name and length, and the 16-byte rows that are not zero, in
//! hexadecimal with their offset. `written` makes a store of today's version again; it was what made
//! the frozen one:
//! `cargo test -p esker-lss --test it images::freeze -- --ignored`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use esker_io::AnyBackend;
use esker_lss::{Lsn, Options, Reader, Salvaged, Store, Tail, salvage, verify};

use crate::support::{all_beside, open_with, sector_dir, small};

fn images() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images")
}

fn options() -> Options {
    small()
        .block_bytes(512)
        .buffer_bytes(4 << 10)
        .store_id(0x4573_6B65_7221)
}

/// The payloads of each life.
fn payloads(life: u8) -> Vec<Vec<u8>> {
    [0, 1, 7, 8, 100, 600, 5000, 33]
        .into_iter()
        .map(|len| vec![life * 16 + u8::try_from(len % 13).expect("small"); len])
        .collect()
}

/// Two lives with small records, an extent and voids; closed or not in the end.
fn written(dir: &Path, close: bool) -> Vec<(Lsn, Vec<u8>)> {
    let mut records = Vec::new();
    for life in 1..=2 {
        let store = open_with(dir, options());
        for (number, payload) in payloads(life).into_iter().enumerate() {
            let lsn = store.append(&payload).expect("appends");
            records.push((lsn, payload));
            if number % 3 == 0 {
                store.wait_durable(lsn).expect("durable");
            }
        }
        store.flush().expect("flushes");
        for _ in 0..3 {
            store.maintain().expect("maintains");
        }
        if life == 1 || close {
            store.close().expect("closes");
        }
    }
    records
}

fn to_text(dir: &Path) -> String {
    let mut text = String::new();
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    names.sort();
    for path in names {
        let bytes = fs::read(&path).expect("a file");
        let name = path.file_name().and_then(|name| name.to_str());
        writeln!(text, "{} {}", name.expect("text"), bytes.len()).expect("a string");
        for (row, bytes) in bytes.chunks(16).enumerate() {
            if bytes.iter().all(|&byte| byte == 0) {
                continue;
            }
            write!(text, " {:x} ", row * 16).expect("a string");
            for byte in bytes {
                write!(text, "{byte:02x}").expect("a string");
            }
            text.push('\n');
        }
    }
    text
}

fn from_text(text: &str, dir: &Path) {
    let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let mut current = "";
    for line in text.lines() {
        let (one, other) = line.trim_start().split_once(' ').expect("two words");
        if line.starts_with(' ') {
            let at = usize::from_str_radix(one, 16).expect("an offset");
            let file = files.get_mut(current).expect("a file");
            for (index, digits) in other.as_bytes().chunks(2).enumerate() {
                let digits = std::str::from_utf8(digits).expect("text");
                file[at + index] = u8::from_str_radix(digits, 16).expect("hexadecimal");
            }
        } else {
            current = one;
            files.insert(one, vec![0; other.parse().expect("a length")]);
        }
    }
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).expect("written");
    }
}

/// The frozen store, in a directory of its own.
fn thawed(name: &str) -> tempfile::TempDir {
    let dir = sector_dir();
    let text = fs::read_to_string(images().join(name)).expect("an image");
    from_text(&text, dir.path());
    dir
}

/// The addresses are part of the format: a store of today has them too, as long as its version is 1.
fn expected() -> Vec<(Lsn, Vec<u8>)> {
    const LSNS: &str = include_str!("../images/v1-lsns.txt");
    let lsns = LSNS
        .split_whitespace()
        .map(|lsn| lsn.parse().expect("an LSN"));
    let payloads = payloads(1).into_iter().chain(payloads(2));
    lsns.zip(payloads).collect()
}

#[test]
fn version_1_is_read_verified_and_salvaged() {
    let expected = expected();
    assert_eq!(expected.len(), 16);
    for (name, closed) in [("v1-closed.txt", true), ("v1-open.txt", false)] {
        let dir = thawed(name);
        assert!(all_beside(dir.path()) == expected, "{name}");
        let reader = Reader::open(dir.path(), AnyBackend::auto()).expect("opens");
        for (lsn, payload) in &expected {
            assert!(
                reader.read(*lsn).expect("there") == *payload,
                "{name}: {lsn}"
            );
        }
        let info = reader.info().expect("info");
        assert_eq!((info.format_version, info.epoch), (1, 2), "{name}");
        assert_eq!(info.store_id, 0x4573_6B65_7221, "{name}");

        let report = verify(dir.path(), AnyBackend::auto(), |_| {}).expect("verified");
        assert!(report.is_intact() && report.closed == closed, "{report:?}");
        assert_eq!((report.records, report.extents, report.epochs), (16, 2, 2));
        assert!(report.voids > 0 && report.tail == Tail::Clean, "{report:?}");

        let mut salvaged = Vec::new();
        let report = salvage(dir.path(), AnyBackend::auto(), |found| {
            if let Salvaged::Record { record, .. } = found {
                salvaged.push((record.lsn, record.payload));
            }
            ControlFlow::Continue(())
        });
        assert!(report.expect("a report").is_whole() && salvaged == expected);
    }
}

#[test]
fn version_1_is_opened_and_appended_to() {
    for name in ["v1-closed.txt", "v1-open.txt"] {
        let dir = thawed(name);
        let store: Store<AnyBackend> = open_with(dir.path(), options());
        let lsn = store
            .append_durable(b"of a later version")
            .expect("appends");
        assert_eq!(store.read(lsn).expect("there"), b"of a later version");
        store.close().expect("closes");
        assert_eq!(all_beside(dir.path()).len(), 17, "{name}");
    }
}

/// A change of the format that keeps its number shows here.
#[test]
fn what_is_written_today_is_laid_out_like_the_frozen_store() {
    let dir = sector_dir();
    assert_eq!(written(dir.path(), true), expected());
}

/// Writes the images anew, which is right only while nobody has a store of this version.
#[test]
#[ignore = "changes the frozen images"]
fn freeze() {
    fs::create_dir_all(images()).expect("a directory");
    for (name, close) in [("v1-closed.txt", true), ("v1-open.txt", false)] {
        let dir = sector_dir();
        let records = written(dir.path(), close);
        fs::write(images().join(name), to_text(dir.path())).expect("written");
        let lsns: String = records.iter().map(|(lsn, _)| format!("{lsn}\n")).collect();
        fs::write(images().join("v1-lsns.txt"), lsns).expect("written");
    }
}
