//! `info`, `verify` and `trim` of stores that are well.

use serde_json::Value;

use super::support::{Place, backends};

fn json(text: &str) -> Value {
    assert_eq!(text.lines().count(), 1, "one object on one line");
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn info_says_the_same_in_text_and_as_json() {
    let place = Place::new();
    let lsns = place.append(&["--lsns"], b"a\nb\n").lsns();
    let info = json(&place.run("info", &["--json"]).text());
    assert_eq!(info["first"], 0);
    assert_eq!(info["closed"], true);
    assert_eq!(info["writer_alive"], false);
    assert_eq!(info["torn_tail"], Value::Null);
    assert_eq!(info["written"], info["durable"]);
    assert!(info["durable"].as_u64() > lsns.last().copied());
    assert!(info["space_bytes"].as_u64() >= info["segment_bytes"].as_u64());
    let text = place.run("info", &[]).text();
    for (name, key) in [
        ("format", "format_version"),
        ("id", "store_id"),
        ("epoch", "epoch"),
        ("durable", "durable"),
        ("alignment", "alignment_bytes"),
    ] {
        let value = info[key].to_string();
        let value = value.trim_matches('"');
        let found = text
            .lines()
            .any(|line| line.starts_with(name) && line.contains(value));
        assert!(found, "{name} {value} is not in {text}");
    }
}

#[test]
fn the_backend_is_the_one_asked_for() {
    let place = Place::new();
    place.append(&[], b"a\n").ok();
    for (backend, kind) in backends() {
        let info = json(&place.run("info", &["--json", "--backend", backend]).text());
        assert_eq!(info["backend"]["kind"], kind);
    }
}

#[test]
fn info_and_append_say_what_their_io_was() {
    for (backend, kind) in backends() {
        let place = Place::new();
        let how = ["--stats", "--backend", backend];
        let said = place.append(&how, &b"a line\n".repeat(1000)).stderr;
        let line = |name: &str| {
            let found = said.lines().find(|line| line.starts_with(name));
            found.unwrap_or_else(|| panic!("no {name} in {said}"))
        };
        assert!(line("backend").contains(kind));
        assert!(line("writes").contains(" bytes (") && line("writes").contains("p99"));
        assert!(line("calls").contains("operations and "));
        let slots = line("slots");
        assert!(slots.contains("padding ") && slots.contains("; zeroes ahead "));
        assert!(line("trouble").contains(" 0 failed, 0 continued"), "{said}");
        let info = json(&place.run("info", &["--json", "--backend", backend]).text());
        let io = &info["io"];
        assert!(io["reads"]["completed"].as_u64() >= Some(1), "{io}");
        assert_eq!(io["reads"]["completed"], io["reads"]["submitted"]);
        assert!(io["reads"]["bytes"].as_u64() >= Some(4096), "{io}");
        assert!(
            io["reads"]["latency_us"]["max"].as_f64() > Some(0.0),
            "{io}"
        );
        assert!(io["system_calls"].as_u64() >= Some(1), "{io}");
        assert_eq!(
            (&io["writes"]["bytes"], &io["in_flight"]),
            (&0.into(), &0.into())
        );
        assert!(
            io["operations_per_system_call"].as_f64() > Some(0.0),
            "{io}"
        );
    }
    let place = Place::new();
    let said = place.append(&[], b"a\n").stderr;
    assert_eq!(said.lines().count(), 1, "only who asks is told: {said}");
}

#[test]
fn verify_counts_what_is_there_and_changes_nothing() {
    let place = Place::new();
    place.append(&[], b"a\nbc\n").ok();
    let before: Vec<_> = place
        .files()
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect();
    let report = json(&place.run("verify", &["--json"]).text());
    assert_eq!(report["intact"], true);
    assert_eq!(report["damage"], Value::Null);
    assert_eq!(report["records"], 2);
    assert_eq!(report["payload_bytes"], 3);
    assert!(place.run("verify", &[]).text().starts_with("intact: "));
    let after: Vec<_> = place
        .files()
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect();
    assert!(before == after);
}

#[test]
fn trim_frees_whole_segments_and_keeps_the_rest() {
    let place = Place::new();
    let record = vec![b'x'; 20 << 20];
    let input: Vec<u8> = (0..10)
        .flat_map(|_| [&record[..], b"\n"].concat())
        .collect();
    let lsns = place.append(&["--lsns"], &input).lsns();
    let before = json(&place.run("info", &["--json"]).text());
    let said = place
        .run("trim", &["--before", &lsns[8].to_string()])
        .text();
    let after = json(&place.run("info", &["--json"]).text());
    let first = after["first"].as_u64().unwrap();
    assert!(first > 0 && first <= lsns[8]);
    assert!(said.contains(&first.to_string()), "{said}");
    assert!(after["segments"].as_u64() < before["segments"].as_u64());
    assert!(after["space_bytes"].as_u64() < before["space_bytes"].as_u64());
    place
        .run("get", &[&lsns[0].to_string()])
        .fails(&["has been trimmed", "esker info"]);
    let kept = place
        .run("get", &[&lsns[8].to_string(), &lsns[9].to_string()])
        .ok();
    assert!(kept.len() == 2 * (record.len() + 1));
    let left = lsns.iter().filter(|&&lsn| lsn >= first).count();
    assert!(place.cat().len() == left * (record.len() + 1));
    place.run("verify", &[]).ok();
    place.append(&[], b"and on\n").ok();
    assert!(place.cat().ends_with(b"x\nand on\n"));
}

#[test]
fn trim_of_nothing_frees_nothing_and_more_than_there_is_is_refused() {
    let place = Place::new();
    let lsns = place.append(&["--lsns"], b"a\nb\n").lsns();
    place.run("trim", &["--before", &lsns[1].to_string()]).ok();
    assert_eq!(place.cat(), b"a\nb\n");
    place
        .run("trim", &["--before", "99999999999"])
        .fails(&["99999999999"]);
    assert_eq!(place.cat(), b"a\nb\n");
}
