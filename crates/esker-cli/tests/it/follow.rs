//! `cat --follow`: beside a writer, before there is one, and until there is a reason to end.

use std::io::Write;
use std::process::Stdio;

use super::support::{Place, Running};

#[test]
fn records_come_as_they_become_durable_until_the_limit() {
    let place = Place::new();
    place.append(&[], b"before\n").ok();
    let args = ["--follow", "--limit", "5"];
    let (mut follow, _, lines) = Running::start(place.command("cat", &args));
    assert_eq!(lines.next(), "before");
    let (_append, mut stdin, _) = Running::start(place.command("append", &[]));
    for word in ["one", "two", "three"] {
        writeln!(stdin, "{word}").unwrap();
        assert_eq!(lines.next(), word);
    }
    stdin.write_all(b"four\nfive\n").unwrap();
    assert_eq!(lines.next(), "four");
    assert!(lines.ended());
    assert_eq!(follow.wait(), Some(0));
    assert_eq!(follow.messages(), "");
}

#[test]
fn it_waits_for_a_store_that_is_not_there_yet_and_goes_on_with_the_next_writer() {
    let place = Place::new();
    let (_follow, _, lines) = Running::start(place.command("cat", &["--follow", "--lsns"]));
    for word in ["one", "two", "three"] {
        let lsns = place
            .append(&["--lsns"], format!("{word}\n").as_bytes())
            .lsns();
        assert_eq!(lines.next(), format!("{}\t{word}", lsns[0]));
    }
}

#[test]
fn many_records_come_in_order_and_once() {
    let place = Place::new();
    let args = ["--follow", "--limit", "50000"];
    let (mut follow, _, lines) = Running::start(place.command("cat", &args));
    let input: String = (0..50_000).map(|i| format!("{i}\n")).collect();
    let (_append, mut stdin, _) = Running::start(place.command("append", &[]));
    for part in input.as_bytes().chunks(9973) {
        stdin.write_all(part).unwrap();
    }
    for i in 0..50_000 {
        assert_eq!(lines.next(), i.to_string());
    }
    assert_eq!(follow.wait(), Some(0));
}

#[test]
fn it_starts_where_it_is_told_to() {
    let place = Place::new();
    let lsns = place.append(&["--lsns"], b"a\nb\n").lsns();
    let from = lsns[1].to_string();
    let args = ["--follow", "--from", &from];
    let (_follow, _, lines) = Running::start(place.command("cat", &args));
    assert_eq!(lines.next(), "b");
    place.append(&[], b"c\n").ok();
    assert_eq!(lines.next(), "c");
}

#[test]
fn an_interrupt_ends_it_quietly() {
    let place = Place::new();
    place.append(&[], b"a\n").ok();
    let (mut follow, _, lines) = Running::start(place.command("cat", &["--follow"]));
    assert_eq!(lines.next(), "a");
    follow.interrupt();
    assert_eq!(follow.wait(), Some(0));
    assert_eq!(follow.messages(), "");
}

#[test]
fn it_notices_that_nobody_reads_any_more_while_nothing_comes() {
    let place = Place::new();
    place.append(&[], b"a\n").ok();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = place.command("cat", &["--follow"]);
    command.stdout(writer).stderr(Stdio::piped());
    let (mut follow, mut reader) = (Running::spawn(&mut command), reader);
    // The command's copy of the writing end has to be the only one.
    drop(command);
    let mut first = [0; 2];
    std::io::Read::read_exact(&mut reader, &mut first).unwrap();
    assert_eq!(&first, b"a\n");
    drop(reader);
    assert_eq!(follow.wait(), Some(0));
    assert_eq!(follow.messages(), "");
}
