//! The pictures.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::Palette;

use crate::grid::Group;
use crate::log::Outcome;
use crate::run::Results;

const SIZE: (u32, u32) = (900, 480);

/// Draws a group's pictures into `dir`, one for each size of record, and returns their file names.
pub(crate) fn draw(results: &Results, group: Group, dir: &Path) -> Outcome<Vec<String>> {
    let mut records: Vec<_> = results
        .lines_of(group)
        .map(|(_, line)| line.record)
        .collect();
    records.sort_unstable();
    records.dedup();
    let mut names = Vec::new();
    for record in records {
        let name = format!("{}-{record}.svg", format!("{group:?}").to_lowercase());
        draw_one(results, group, record, &dir.join(&name))?;
        names.push(name);
    }
    Ok(names)
}

/// Bars of each store, by count of threads.
fn draw_one(results: &Results, group: Group, record: usize, path: &Path) -> Outcome<()> {
    let lines: Vec<_> = results
        .lines_of(group)
        .filter(|(_, line)| line.record == record)
        .collect();
    let rate = |line: usize, store: usize| {
        let cell = results.cells.get(&(line, store))?;
        cell.medians(group).map(|it| it.rate)
    };
    let most = lines
        .iter()
        .flat_map(|(line, _)| (0..results.stores.len()).filter_map(move |it| rate(*line, it)))
        .fold(1.0, f64::max);
    let unit = if group.counts_records() {
        "records/s"
    } else {
        "MB/s"
    };
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (few, many) = (lines.len(), results.stores.len());
    #[expect(clippy::cast_precision_loss, reason = "a few lines and stores")]
    let (lines_f, stores_f) = (few as f64, many as f64);
    let mut chart = ChartBuilder::on(&root)
        .caption(
            format!("{}, {record} B, {unit}", group.title()),
            ("sans-serif", 18),
        )
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..lines_f, (most / 3000.0..most * 1.3).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    for (store, name) in results.stores.iter().enumerate() {
        let colour = Palette99::pick(store).to_rgba();
        #[expect(clippy::cast_precision_loss, reason = "a few lines and stores")]
        let bars = lines.iter().enumerate().filter_map(|(at, (line, _))| {
            let left = at as f64 + 0.08 + 0.84 * store as f64 / stores_f;
            let right = left + 0.78 / stores_f;
            let rate = rate(*line, store)?;
            Some(Rectangle::new(
                [(left, most / 3000.0), (right, rate)],
                colour.filled(),
            ))
        });
        chart
            .draw_series(bars)?
            .label(*name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "pixels"
    )]
    for (at, (_, line)) in lines.iter().enumerate() {
        let width = f64::from(SIZE.0) - 24.0 - 76.0;
        let x = 12.0 + 76.0 + width * (at as f64 + 0.5) / lines_f;
        root.draw(&Text::new(
            line.label.clone(),
            (x as i32 - 36, SIZE.1 as i32 - 30),
            ("sans-serif", 13),
        ))?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}
