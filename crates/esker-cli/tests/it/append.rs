//! What goes in comes out, and LSNs mean what they promise.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use super::support::{PATIENCE, Place, Running, arg, backends, frames};

/// Records of every awkward kind, without a newline in any.
fn odd_records() -> Vec<Vec<u8>> {
    let noise = |len: usize| -> Vec<u8> {
        let bytes = (0..len).map(|i| (i * 31 + i / 251) as u8);
        bytes
            .map(|byte| if byte == b'\n' { b'N' } else { byte })
            .collect()
    };
    vec![
        vec![],
        b"x".to_vec(),
        noise(1 << 20),
        vec![],
        b"\0".to_vec(),
        b"\xff\xfe\x80 no UTF-8".to_vec(),
        noise(20 << 20),
        b"\r".to_vec(),
        b"last".to_vec(),
    ]
}

fn lines(records: &[Vec<u8>]) -> Vec<u8> {
    records
        .iter()
        .flat_map(|record| [record, &b"\n"[..]].concat())
        .collect()
}

#[test]
fn odd_records_come_back_unchanged_in_either_framing_and_by_every_way_of_writing() {
    let records = odd_records();
    let (lines, frames) = (lines(&records), frames(&records));
    for (backend, _) in backends() {
        for ordering in ["tail-localised", "serialised"] {
            let place = Place::new();
            let how = ["--backend", backend, "--ordering", ordering];
            let without_last_newline = &lines[..lines.len() - 1];
            place.append(&how, without_last_newline).ok();
            let framed = [&how[..], &["--framing", "length"]].concat();
            place.append(&framed, &frames).ok();
            let both = [&lines[..], &lines].concat();
            assert!(place.run("cat", &["--backend", backend]).ok() == both);
            let both = [&frames[..], &frames].concat();
            assert!(place.run("cat", &["--framing", "length"]).ok() == both);
        }
    }
}

#[test]
fn a_record_may_hold_newlines_in_length_framing() {
    let place = Place::new();
    let records = [b"a\nb\n".to_vec(), vec![], b"\n".to_vec()];
    place
        .append(&["--framing", "length"], &frames(&records))
        .ok();
    assert_eq!(
        place.run("cat", &["--framing", "length"]).ok(),
        frames(&records)
    );
}

#[test]
fn each_threads_records_are_all_there_in_their_order() {
    for threads in [1usize, 4, 8] {
        let place = Place::new();
        let input: String = (0..30_000)
            .map(|i| format!("{i} {}\n", "x".repeat(i % 97)))
            .collect();
        place
            .append(&["--threads", &threads.to_string()], input.as_bytes())
            .ok();
        let found = String::from_utf8(place.cat()).unwrap();
        let mut next: Vec<usize> = (0..threads).collect();
        for line in found.lines() {
            let (i, rest) = line.split_once(' ').unwrap();
            let i: usize = i.parse().unwrap();
            assert_eq!(rest.len(), i % 97);
            assert_eq!(i, next[i % threads], "{threads} threads");
            next[i % threads] += threads;
        }
        assert!(next.iter().all(|&next| next >= 30_000));
    }
}

#[test]
fn the_kth_lsn_is_that_of_the_kth_record() {
    for (threads, durability) in [("1", "durable"), ("4", "written"), ("8", "none")] {
        let place = Place::new();
        let input: String = (0..5000).map(|i| format!("record {i}\n")).collect();
        let args = ["--lsns", "--threads", threads, "--durability", durability];
        let lsns = place.append(&args, input.as_bytes()).lsns();
        assert_eq!(lsns.len(), 5000);
        let texts: Vec<String> = lsns.iter().map(u64::to_string).collect();
        let args: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(place.run("get", &args).text(), input);
    }
}

#[test]
fn files_are_read_in_order_and_standard_input_among_them() {
    let place = Place::new();
    let one = place.file("one", b"1\nno newline at the end");
    let two = place.file("two", b"2\n");
    let empty = place.file("empty", b"");
    place
        .append(&[arg(&one), "-", arg(&empty), arg(&two)], b"in between\n")
        .ok();
    assert_eq!(place.cat(), b"1\nno newline at the end\nin between\n2\n");
}

#[test]
fn a_missing_file_is_found_before_anything_is_done() {
    let place = Place::new();
    let one = place.file("one", b"1\n");
    place
        .append(&[arg(&one), "/nowhere/to/be/found"], b"")
        .fails(&["/nowhere/to/be/found"]);
    let dir = tempfile::tempdir().unwrap();
    place
        .append(&[arg(dir.path())], b"")
        .fails(&["is a directory"]);
    assert!(!place.store().exists());
}

#[test]
fn a_record_that_is_too_long_is_named_and_those_before_it_are_kept() {
    let place = Place::new();
    let mut input = b"first\nsecond\n".to_vec();
    input.resize(input.len() + (64 << 20) + 1, b'x');
    place
        .append(&[], &input)
        .fails(&["line 3 of standard input", "67108864 bytes", "2 records"]);
    assert_eq!(place.cat(), b"first\nsecond\n");

    let mut input = frames(&[b"third".to_vec()]);
    input.extend_from_slice(&u32::MAX.to_le_bytes());
    let args = ["--framing", "length"];
    place
        .append(&args, &input)
        .fails(&["frame at byte 9", "4294967295 bytes"]);
    assert_eq!(place.cat(), b"first\nsecond\nthird\n");
}

#[test]
fn the_longest_record_there_may_be_is_taken() {
    let place = Place::new();
    let input = vec![b'x'; 64 << 20];
    place.append(&[], &input).ok();
    let found = place.cat();
    assert!(found.len() == input.len() + 1 && found.starts_with(&input));
}

#[test]
fn a_frame_that_is_cut_off_is_named_by_its_offset_and_those_before_it_are_kept() {
    for (cut, offset) in [(1, "byte 6"), (3, "byte 6"), (7, "byte 6")] {
        let place = Place::new();
        let input = frames(&[b"ab".to_vec(), b"cdef".to_vec()]);
        let args = ["--framing", "length"];
        place
            .append(&args, &input[..6 + cut])
            .fails(&[offset, "standard input"]);
        assert_eq!(place.cat(), b"ab\n");
    }
}

#[test]
fn what_was_read_is_acknowledged_when_the_input_pauses() {
    let place = Place::new();
    let (mut append, mut stdin, lsns) = Running::start(place.command("append", &["--lsns"]));
    let mut previous = None;
    for word in ["one\n", "two\nthr", "ee\n"] {
        stdin.write_all(word.as_bytes()).unwrap();
        let lsn: u64 = lsns.next().parse().unwrap();
        assert!(previous.replace(lsn) < Some(lsn));
    }
    drop(stdin);
    assert!(lsns.ended());
    assert!(append.messages().starts_with("3 records, 11 bytes, "));
    assert_eq!(place.cat(), b"one\ntwo\nthree\n");
}

#[test]
fn what_was_read_is_durable_for_others_when_the_input_pauses() {
    let place = Place::new();
    let (_append, mut stdin, _) = Running::start(place.command("append", &["--threads", "4"]));
    stdin.write_all(b"one\n").unwrap();
    let deadline = Instant::now() + PATIENCE;
    while place.run("cat", &[]).stdout != b"one\n" {
        assert!(Instant::now() < deadline, "it does not come");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_interrupt_keeps_what_was_read_and_says_so() {
    let place = Place::new();
    let (mut append, mut stdin, lsns) = Running::start(place.command("append", &["--lsns"]));
    stdin.write_all(b"one\ntwo\nhalf a line").unwrap();
    lsns.next();
    lsns.next();
    append.interrupt();
    assert_eq!(append.wait(), Some(1));
    let said = append.messages();
    assert!(
        said.starts_with("esker: interrupted; 2 records were appended"),
        "{said}"
    );
    assert_eq!(place.cat(), b"one\ntwo\n");
    assert!(place.run("info", &[]).text().contains("closed"));
}

#[test]
fn a_summary_ends_on_standard_error() {
    let place = Place::new();
    let ran = place.append(&[], b"a\nbc\n");
    assert!(ran.stdout.is_empty());
    assert!(
        ran.stderr.starts_with("2 records, 3 bytes, "),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.trim_end().ends_with(" MB/s"), "{}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1);
}

#[test]
fn a_second_writer_is_refused_and_readers_are_not() {
    let place = Place::new();
    let (_append, mut stdin, lsns) = Running::start(place.command("append", &["--lsns"]));
    stdin.write_all(b"one\n").unwrap();
    lsns.next();
    place
        .append(&[], b"two\n")
        .fails(&["in use by another writer", arg(&place.store())]);
    place
        .run("trim", &["--before", "0"])
        .fails(&["in use by another writer"]);
    assert_eq!(place.cat(), b"one\n");
    assert!(place.run("info", &[]).text().contains("open for writing"));
    assert!(place.run("verify", &[]).text().contains("open for writing"));
}

/// A message that nobody can hear is no reason to end in another way.
#[test]
fn what_cannot_be_said_changes_nothing() {
    let place = Place::new();
    for (input, code) in [("/dev/null", 0), ("/nonexistent/file", 1)] {
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .expect("there is a device that is always full");
        let status = std::process::Command::new(env!("CARGO_BIN_EXE_esker"))
            .arg("append")
            .args([place.store(), std::path::PathBuf::from(input)])
            .stderr(full)
            .status()
            .expect("it starts");
        assert_eq!(status.code(), Some(code), "{input}");
    }
}
