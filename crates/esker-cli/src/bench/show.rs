//! The figures as a table with bars, as JSON, and as a picture.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use serde_json::{Value, json};

use super::{Facts, Line, Unit};

/// How many characters the longest bar has.
const BAR: usize = 24;

/// A table with a bar for each of the store's shares, and what it was measured on.
pub(super) fn table(lines: &[Line], facts: &Facts) -> Vec<String> {
    let widest = lines
        .iter()
        .map(|line| line.label.chars().count())
        .max()
        .unwrap_or(0);
    let mut rows = vec![format!(
        "{:widest$}  {:>14}  {:>14}  {:>6}",
        "", "this disk", "the store", "share"
    )];
    for line in lines {
        rows.push(format!(
            "{:widest$}  {:>14}  {:>14}  {:>6.2}  {}",
            line.label,
            figure(line.raw(), line.unit),
            figure(line.store(), line.unit),
            line.share(),
            bar(line.share()),
        ));
    }
    rows.push(String::new());
    rows.push(
        "The disk: durable writes of 4 KiB by one thread; writes and reads of 1 MiB, 4 in flight; \
         reads of 4 KiB, as many in flight as the store has threads."
            .to_owned(),
    );
    rows.push(format!(
        "{}; {}; {}; {} s",
        facts.backend,
        facts.file_system,
        access(facts),
        facts.seconds
    ));
    rows
}

fn access(facts: &Facts) -> &'static str {
    if facts.direct {
        "direct I/O"
    } else {
        "through the page cache"
    }
}

/// `12.8 k/s`, `4600 MB/s`.
fn figure(value: f64, unit: Unit) -> String {
    match unit {
        Unit::RecordsPerSecond if value >= 10_000.0 => format!("{:.1} k/s", value / 1e3),
        Unit::RecordsPerSecond => format!("{value:.0} /s"),
        Unit::MegabytesPerSecond => format!("{value:.0} MB/s"),
    }
}

/// A bar on a scale where the disk's own figure is a tick in the middle, and twice that the end.
fn bar(share: f64) -> String {
    let middle = BAR / 2;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a few characters; a figure that is no number makes no bar"
    )]
    let full = (share * middle as f64).round().clamp(0.0, BAR as f64) as usize;
    (0..BAR)
        .map(|at| match at {
            at if at < full => '█',
            at if at == middle => '│',
            _ => '·',
        })
        .chain((share > 2.0).then_some('▶'))
        .collect()
}

/// One JSON object.
pub(super) fn json(lines: &[Line], facts: &Facts) -> Value {
    let lines: Vec<_> = lines
        .iter()
        .map(|line| {
            json!({
                "what": line.label,
                "unit": match line.unit {
                    Unit::RecordsPerSecond => "records/s",
                    Unit::MegabytesPerSecond => "MB/s",
                },
                "disk": line.raw(),
                "store": line.store(),
                "share": line.share(),
                "disk_rounds": line.raw_figures,
                "store_rounds": line.figures,
            })
        })
        .collect();
    json!({
        "backend": facts.backend,
        "file_system": facts.file_system,
        "direct": facts.direct,
        "seconds": facts.seconds,
        "lines": lines,
    })
}

/// Draws the shares into a file.
pub(super) fn svg(
    lines: &[Line],
    facts: &Facts,
    path: &Path,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    const LEFT: i32 = 250;
    const ROW: i32 = 30;
    const TOP: i32 = 56;
    const UNIT: f64 = 180.0;
    let count = i32::try_from(lines.len())?;
    let (width, height): (i32, i32) = (900, TOP + ROW * count + 40);
    // Beyond this a bar ends with an arrow.
    let most = 3.0;
    let root =
        SVGBackend::new(path, (width.unsigned_abs(), height.unsigned_abs())).into_drawing_area();
    let failed = |error: DrawingAreaErrorKind<_>| format!("{error}");
    let text = |words: &str, at: (i32, i32), size: i32| {
        root.draw(&Text::new(words.to_owned(), at, ("sans-serif", size)))
            .map_err(failed)
    };
    root.fill(&WHITE).map_err(failed)?;
    text("The store, as a share of what this disk does", (16, 14), 20)?;
    #[expect(clippy::cast_possible_truncation, reason = "pixels")]
    let one = LEFT + UNIT as i32;
    let bottom = TOP + ROW * count;
    root.draw(&PathElement::new(
        vec![(one, TOP - 8), (one, bottom)],
        BLACK.mix(0.35).stroke_width(1),
    ))
    .map_err(failed)?;
    let colour = RGBColor(46, 111, 149);
    for (row, line) in (0..).zip(lines) {
        let y = TOP + ROW * row;
        let share = line.share().clamp(0.0, most);
        #[expect(clippy::cast_possible_truncation, reason = "pixels")]
        let end = LEFT + (share * UNIT) as i32;
        text(&line.label, (16, y + 4), 15)?;
        let bar = Rectangle::new([(LEFT, y), (end, y + ROW - 10)], colour.filled());
        root.draw(&bar).map_err(failed)?;
        let more = if line.share() > most { "▶ " } else { "" };
        let words = format!(
            "{more}{:.2}  ({})",
            line.share(),
            figure(line.store(), line.unit)
        );
        text(&words, (end + 8, y + 4), 14)?;
    }
    text("the disk itself", (one - 42, TOP - 24), 13)?;
    let on = format!(
        "{}; {}; {}",
        facts.backend,
        facts.file_system,
        access(facts)
    );
    text(&on, (16, bottom + 12), 13)?;
    root.present().map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_the_share_and_the_disk() {
        assert_eq!(bar(0.0), "············│···········");
        assert_eq!(bar(0.5), "██████······│···········");
        assert_eq!(bar(1.0), "████████████│···········");
        assert_eq!(bar(5.0).chars().last(), Some('▶'));
        assert_eq!(bar(f64::NAN), bar(0.0));
    }

    #[test]
    fn figures_keep_about_three_digits() {
        assert_eq!(figure(12_840.0, Unit::RecordsPerSecond), "12.8 k/s");
        assert_eq!(figure(980.4, Unit::RecordsPerSecond), "980 /s");
        assert_eq!(figure(4612.3, Unit::MegabytesPerSecond), "4612 MB/s");
    }
}
