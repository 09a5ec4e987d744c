//! In which order the command asks the kernel for things, as strace sees it.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::support::{Place, Running, arg};

/// What the command asks for, in the order in which that matters: what prints counts from when it is
/// asked for, all else from when it has been done.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// Bytes of a segment were written; whether they are durable with that.
    Wrote {
        offset: u64,
        len: u64,
        durable: bool,
    },
    /// What had been written to the segments is durable.
    Synced,
    MadeDir(String),
    SyncedDir(String),
    Printed(u64),
}

/// The events of a trace.
fn events(trace: &str) -> Vec<Event> {
    let mut begun: Vec<(&str, String)> = Vec::new();
    let mut events = Vec::new();
    for line in trace.lines() {
        let Some((process, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        if let Some(beginning) = call.strip_suffix(" <unfinished ...>") {
            events.extend(printed(beginning));
            begun.push((process, beginning.to_owned()));
        } else if let Some((_, end)) = call
            .strip_prefix("<... ")
            .and_then(|call| call.split_once(" resumed>"))
        {
            let index = begun.iter().position(|(other, _)| *other == process);
            let (_, beginning) = begun.swap_remove(index.expect("what is resumed was begun"));
            if printed(&beginning).is_empty() {
                events.extend(done(&(beginning + end)));
            }
        } else {
            events.extend(printed(call));
            events.extend(done(call));
        }
    }
    events
}

/// The LSNs that a call prints: `write(5<pipe:[123]>, "64\n80\n", 6`. Whole lines of digits go nowhere
/// but to standard output.
fn printed(call: &str) -> Vec<Event> {
    let text = call
        .strip_prefix("write(")
        .and_then(|call| call.split_once("]>, \""))
        .and_then(|(file, text)| file.contains("<pipe:[").then_some(text))
        .and_then(|text| text.split('"').next()?.strip_suffix("\\n"));
    let lines = text.map(|text| text.split("\\n").map(str::parse).collect());
    let lsns: Vec<u64> = lines.and_then(Result::ok).unwrap_or_default();
    lsns.into_iter().map(Event::Printed).collect()
}

/// What a call that has returned has done.
fn done(call: &str) -> Option<Event> {
    let (asked, result) = call.rsplit_once(" = ")?;
    let result: u64 = result.trim().parse().ok()?;
    let asked = asked.trim_end();
    let named = || Some(asked.split_once('<')?.1.split_once('>')?.0.to_owned());
    let of_segment = asked.contains(".seg>");
    if asked.starts_with("pwritev2(") && of_segment {
        let mut arguments = asked.rsplit(", ");
        let flags = arguments.next()?;
        return Some(Event::Wrote {
            offset: arguments.next()?.parse().ok()?,
            len: result,
            durable: flags.contains("RWF_DSYNC"),
        });
    }
    if asked.starts_with("pwrite64(") && of_segment {
        let offset = asked.strip_suffix(')')?.rsplit(", ").next()?;
        return Some(Event::Wrote {
            offset: offset.parse().ok()?,
            len: result,
            durable: false,
        });
    }
    if asked.starts_with("fdatasync(") && of_segment {
        return Some(Event::Synced);
    }
    if asked.starts_with("mkdir(") {
        return Some(Event::MadeDir(asked.split('"').nth(1)?.to_owned()));
    }
    asked
        .starts_with("fsync(")
        .then(|| named().map(Event::SyncedDir))
        .flatten()
}

/// Appends records one by one to a store at `store`, each when the LSN of the one before it has been
/// printed, and gives the LSNs and the trace; nothing where there is no tracing.
fn traced(place: &Place, store: &Path, count: usize) -> Option<(Vec<u64>, Vec<Event>)> {
    let probe = Command::new("strace").args(["-qq", "true"]).output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        println!("skipped: there is no strace, or tracing is forbidden here");
        return None;
    }
    let trace = place.file("trace", b"");
    let mut command = Command::new("strace");
    command
        .args(["-f", "-y", "-s", "200", "-o", arg(&trace), "-e"])
        .arg("trace=write,pwritev2,pwrite64,fdatasync,fsync,mkdir")
        .arg(env!("CARGO_BIN_EXE_esker"))
        .args(["append", arg(store), "--backend", "blocking"])
        .args(["--durability", "durable", "--lsns"]);
    let (mut running, mut stdin, lines) = Running::start(command);
    let mut lsns = Vec::new();
    for index in 0..count {
        writeln!(stdin, "record {index}").expect("it reads");
        lsns.push(lines.next().parse().expect("an LSN"));
    }
    drop(stdin);
    assert!(lines.ended());
    assert_eq!(running.wait(), Some(0));
    let trace = std::fs::read_to_string(trace).expect("a trace");
    Some((lsns, events(&trace)))
}

#[test]
fn no_lsn_is_printed_before_what_covers_it_is_durable() {
    let place = Place::new();
    let Some((lsns, events)) = traced(&place, &place.store(), 30) else {
        return;
    };
    let (mut written, mut durable, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for event in &events {
        match event {
            Event::Wrote {
                offset,
                len,
                durable: at_once,
            } => {
                let range = *offset..offset + len;
                if *at_once { &mut durable } else { &mut written }.push(range);
            }
            Event::Synced => durable.append(&mut written),
            Event::Printed(lsn) => {
                assert!(
                    durable.iter().any(|range| range.contains(lsn)),
                    "{lsn} was printed when {durable:?} was durable"
                );
                seen.push(*lsn);
            }
            Event::MadeDir(_) | Event::SyncedDir(_) => {}
        }
    }
    assert_eq!(seen, lsns, "the trace has all that was printed");
}

#[test]
fn the_names_above_a_new_store_are_synced_before_anything_is_acknowledged() {
    let place = Place::new();
    let above = place.file("file", b"").with_file_name("one");
    let store = above.join("two").join("store");
    let Some((_, events)) = traced(&place, &store, 1) else {
        return;
    };
    let first = events
        .iter()
        .position(|event| matches!(event, Event::Printed(_)))
        .expect("an LSN was printed");
    for dir in [&above, &above.join("two"), &store] {
        let at = |wanted: Event| events[..first].iter().position(|event| *event == wanted);
        let made = at(Event::MadeDir(arg(dir).to_owned())).expect("it was made");
        let parent = dir.parent().expect("a temporary directory");
        let synced = events[made..first]
            .iter()
            .any(|event| *event == Event::SyncedDir(arg(parent).to_owned()));
        assert!(
            synced,
            "the name of {} was not synced: {events:?}",
            dir.display()
        );
    }
    // And so is the directory that has the names of the store's own files.
    assert!(events[..first].contains(&Event::SyncedDir(arg(&store).to_owned())));
}
