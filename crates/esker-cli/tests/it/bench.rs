//! `esker bench`: that it measures everything, says so in every form, and leaves nothing behind.

use serde_json::Value;

use super::support::Place;

#[test]
fn a_short_run_fills_every_line_and_leaves_nothing_behind() {
    let place = Place::new();
    std::fs::create_dir(place.store()).expect("a directory");
    let picture = place.file("picture.svg", b"");
    let name = picture.to_str().expect("a path in UTF-8");
    let text = place
        .run("bench", &["--seconds", "1", "--json", "--svg", name])
        .text();
    let found: Value = serde_json::from_str(&text).expect("one JSON object");
    let lines = found["lines"].as_array().expect("lines");
    assert!(lines.len() >= 8, "{text}");
    for line in lines {
        for key in ["disk", "store", "share"] {
            let figure = line[key].as_f64().expect("a number");
            assert!(figure > 0.0, "{key} of {line}");
        }
    }
    let drawn = std::fs::read_to_string(&picture).expect("the picture");
    assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"));
    for line in lines {
        let label = line["what"].as_str().expect("a label");
        assert!(drawn.contains(label), "{label} is not in the picture");
    }
    let left: Vec<_> = place.store().read_dir().expect("the directory").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn it_says_where_it_cannot_measure() {
    let place = Place::new();
    place.run("bench", &[]).fails(&["cannot use the directory"]);
}
