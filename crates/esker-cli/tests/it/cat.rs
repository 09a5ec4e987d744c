//! Parts of a log, single records, and readers that go away.

use std::process::Stdio;

use super::support::{Place, Running};

#[test]
fn from_and_limit_choose_a_part() {
    let place = Place::new();
    let lsns = place.append(&["--lsns"], b"a\nb\nc\nd\n").lsns();
    let (b, end) = (lsns[1].to_string(), "99999999999");
    assert_eq!(place.run("cat", &["--from", &b]).ok(), b"b\nc\nd\n");
    assert_eq!(
        place.run("cat", &["--from", &b, "--limit", "2"]).ok(),
        b"b\nc\n"
    );
    assert_eq!(place.run("cat", &["--limit", "0"]).ok(), b"");
    assert_eq!(place.run("cat", &["--limit", "100"]).ok(), b"a\nb\nc\nd\n");
    place
        .run("cat", &["--from", end])
        .fails(&[end, "past the end"]);
    let between = (lsns[1] + 1).to_string();
    assert!(
        place
            .run("cat", &["--from", &between])
            .fails(&[&between])
            .is_empty()
    );
}

#[test]
fn lsns_come_with_a_tab_before_each_record() {
    let place = Place::new();
    let lsns = place.append(&["--lsns"], b"a\n\nc\n").lsns();
    let expected = format!("{}\ta\n{}\t\n{}\tc\n", lsns[0], lsns[1], lsns[2]);
    assert_eq!(place.run("cat", &["--lsns"]).text(), expected);
    let expected = format!("{}\t\x01\0\0\0a", lsns[0]);
    let args = ["--lsns", "--framing", "length", "--limit", "1"];
    assert_eq!(place.run("cat", &args).text(), expected);
}

#[test]
fn a_store_without_records_is_empty() {
    let place = Place::new();
    place.append(&[], b"").ok();
    assert_eq!(place.cat(), b"");
    assert_eq!(place.run("cat", &["--from", "0"]).ok(), b"");
}

#[test]
fn get_prints_records_in_the_order_asked_for() {
    let place = Place::new();
    let lsns = place.append(&["--lsns"], b"a\nb\n\n").lsns();
    let [a, b, empty] = [0, 1, 2].map(|i| lsns[i].to_string());
    assert_eq!(place.run("get", &[&b, &a, &b, &empty]).ok(), b"b\na\nb\n\n");
    assert_eq!(
        place.run("get", &[&b, "--framing", "length"]).ok(),
        b"\x01\0\0\0b"
    );
}

#[test]
fn get_names_an_lsn_that_is_none_after_those_before_it() {
    let place = Place::new();
    let lsns = place.append(&["--lsns"], b"a\nb\n").lsns();
    let [a, b] = [0, 1].map(|i| lsns[i].to_string());
    let none = (lsns[0] + 1).to_string();
    let printed = place
        .run("get", &[&a, &none, &b])
        .fails(&["cannot get LSN", &none, "--lsns"]);
    assert_eq!(printed, b"a\n");
    let max = u64::MAX.to_string();
    place.run("get", &[&max]).fails(&[&max, "past the end"]);
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let place = Place::new();
    let input: String = (0..200_000).map(|i| format!("record {i}\n")).collect();
    place.append(&[], input.as_bytes()).ok();
    let (mut cat, _, lines) = Running::start(place.command("cat", &["--lsns"]));
    lines.next();
    drop(lines);
    assert_eq!(cat.wait(), Some(0));
    assert_eq!(cat.messages(), "");

    // A pipe whose reader has gone before anything is written.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = place.command("cat", &[]);
    command.stdout(writer).stderr(Stdio::piped());
    let output = command.output().unwrap();
    assert_eq!(
        (output.status.code(), &output.stderr[..]),
        (Some(0), &b""[..])
    );
}

#[test]
fn an_append_whose_lsns_nobody_reads_ends_quietly_and_closes_the_store() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let input: String = (0..100_000).map(|i| format!("record {i}\n")).collect();
    let file = place.file("input", input.as_bytes());
    let mut command = place.command("append", &["--lsns", "--threads", "4"]);
    command
        .arg(file)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::piped());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    let info = place.run("info", &["--json"]).text();
    assert!(info.contains(r#""closed":true"#), "{info}");
    place.run("verify", &[]).ok();
}
