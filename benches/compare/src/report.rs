//! Medians, as tables for people and as files.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use comfy_table::presets::{ASCII_MARKDOWN, UTF8_BORDERS_ONLY};
use comfy_table::{CellAlignment, Table, TableStyle};
use esker_benches::median;

use crate::cell::Figures;
use crate::grid::{Group, Line};
use crate::log::Outcome;
use crate::peers;
use crate::plot;
use crate::run::{Cell, Results};

/// Medians of one cell's rounds.
pub(crate) struct Medians {
    /// Records per second, or MB/s.
    pub(crate) rate: f64,
    /// Reads per second beside it.
    reads: Option<f64>,
    cpu_per_gigabyte: f64,
    cpu_per_record_us: f64,
    latencies: Option<[f64; 3]>,
}

impl Cell {
    /// `None` without figures.
    pub(crate) fn medians(&self, group: Group) -> Option<Medians> {
        if self.figures.is_empty() {
            return None;
        }
        let of = |figure: &dyn Fn(&Figures) -> f64| {
            median(&self.figures.iter().map(figure).collect::<Vec<_>>())
        };
        let rate = if group.counts_records() {
            of(&Figures::records_per_second)
        } else {
            of(&Figures::megabytes_per_second)
        };
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let (gigabytes, records) = (
            |it: &Figures| it.bytes.max(1) as f64 / 1e9,
            |it: &Figures| it.records.max(1) as f64,
        );
        let latencies = self.figures.iter().all(|it| it.p50_us.is_some()).then(|| {
            [
                of(&|it| it.p50_us.unwrap_or(f64::NAN)),
                of(&|it| it.p99_us.unwrap_or(f64::NAN)),
                of(&|it| it.p999_us.unwrap_or(f64::NAN)),
            ]
        });
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let reads = self
            .figures
            .iter()
            .all(|it| it.reads.is_some())
            .then(|| of(&|it| it.reads.unwrap_or(0) as f64 / it.seconds));
        Some(Medians {
            rate,
            reads,
            cpu_per_gigabyte: of(&|it| it.cpu_seconds / gigabytes(it)),
            cpu_per_record_us: of(&|it| it.cpu_seconds * 1e6 / records(it)),
            latencies,
        })
    }
}

impl Results {
    /// The lines of a group, with their index.
    pub(crate) fn lines_of(&self, group: Group) -> impl Iterator<Item = (usize, &Line)> {
        let lines = self.lines.iter().enumerate();
        lines.filter(move |(_, line)| line.group == group)
    }

    fn groups(&self) -> impl Iterator<Item = Group> {
        let there = |group: &Group| self.lines_of(*group).next().is_some();
        Group::ALL.into_iter().filter(there)
    }

    /// One row a line, one column a store.
    fn rates(&self, group: Group, style: TableStyle) -> Table {
        let mut table = table(style);
        let unit = match group {
            Group::Mixed => "appends/s + reads/s",
            _ if group.counts_records() => "records/s",
            _ => "MB/s",
        };
        table.set_header(std::iter::once(unit).chain(self.stores.iter().copied()));
        for (line_at, line) in self.lines_of(group) {
            let row = (0..self.stores.len()).map(|store| {
                let cell = self.cells.get(&(line_at, store));
                let medians = cell.and_then(|cell| cell.medians(group));
                medians.map_or("-".to_owned(), |it| match it.reads {
                    Some(reads) => format!("{:.0} + {reads:.0}", it.rate),
                    None => format!("{:.0}", it.rate),
                })
            });
            table.add_row(std::iter::once(line.label.clone()).chain(row));
        }
        aligned(table, self.stores.len())
    }

    /// CPU, and latencies where there are any.
    fn costs(&self, group: Group, style: TableStyle) -> Table {
        let mut table = table(style);
        let latency = group.counts_records();
        let what = if latency {
            "p50/p99/p99.9 us, CPU us a record"
        } else {
            "CPU s/GB"
        };
        table.set_header(std::iter::once(what).chain(self.stores.iter().copied()));
        for (line_at, line) in self.lines_of(group) {
            let row = (0..self.stores.len()).map(|store| {
                let medians = self
                    .cells
                    .get(&(line_at, store))
                    .and_then(|cell| cell.medians(group));
                medians.map_or("-".to_owned(), |it| match it.latencies {
                    Some([p50, p99, p999]) => {
                        format!("{p50:.0}/{p99:.0}/{p999:.0}, {:.1}", it.cpu_per_record_us)
                    }
                    None if latency => format!("{:.1}", it.cpu_per_record_us),
                    None => format!("{:.2}", it.cpu_per_gigabyte),
                })
            });
            table.add_row(std::iter::once(line.label.clone()).chain(row));
        }
        aligned(table, self.stores.len())
    }

    fn durability(&self, style: TableStyle) -> Table {
        let mut table = table(style);
        table.set_header([
            "store",
            "records",
            "sync calls",
            "DSYNC writes",
            "O_(D)SYNC files",
            "io_uring calls",
            "each durable?",
        ]);
        for it in &self.durability {
            table.add_row([
                it.store.to_owned(),
                it.records.to_string(),
                it.syncs.to_string(),
                it.durable_writes.to_string(),
                it.sync_opens.to_string(),
                it.uring_enters.to_string(),
                it.verdict().to_owned(),
            ]);
        }
        aligned(table, 5)
    }

    /// Why cells have no figures.
    fn refusals(&self) -> Vec<String> {
        let mut found = Vec::new();
        for ((line, store), cell) in &self.cells {
            if let Some(reason) = &cell.refused {
                let group = self.lines[*line].group;
                let text = format!("{}, {}: {reason}", self.stores[*store], group.title());
                if !found.contains(&text) {
                    found.push(text);
                }
            }
        }
        found
    }
}

fn table(style: TableStyle) -> Table {
    let mut table = Table::new();
    table.load_style(style);
    table
}

fn aligned(mut table: Table, columns: usize) -> Table {
    for column in 1..=columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Prints the tables.
pub(crate) fn print(results: &Results) {
    for group in results.groups() {
        println!("\n{}", group.title());
        println!("{}", results.rates(group, UTF8_BORDERS_ONLY));
        println!("{}", results.costs(group, UTF8_BORDERS_ONLY));
    }
    println!("\nWhat was counted during durable appends of one thread, opening included");
    println!("{}", results.durability(UTF8_BORDERS_ONLY));
    for refusal in results.refusals() {
        println!("{refusal}");
    }
}

/// Writes the report and its plots.
pub(crate) fn write(results: &Results, dir: &Path) -> Outcome<()> {
    let mut text = String::from("# Measured: this store and others\n\n");
    writeln!(text, "`{}`\n", results.command)?;
    for line in &results.machine {
        writeln!(text, "- {line}")?;
    }
    writeln!(
        text,
        "- medians of {} rounds; each cell a process of its own, the cells of a line one after the other\n",
        results.rounds
    )?;
    for group in results.groups() {
        writeln!(text, "## {}\n", group.title())?;
        for name in plot::draw(results, group, dir)? {
            writeln!(text, "![{}]({name})\n", group.title())?;
        }
        writeln!(text, "{}\n", results.rates(group, ASCII_MARKDOWN))?;
        writeln!(text, "{}\n", results.costs(group, ASCII_MARKDOWN))?;
    }
    writeln!(text, "## What each calls durable\n")?;
    writeln!(
        text,
        "Counted with strace, for one thread, opening included.\n\n{}\n",
        results.durability(ASCII_MARKDOWN)
    )?;
    writeln!(text, "## How each is used\n")?;
    for about in peers::all() {
        if results.stores.contains(&about.name) {
            writeln!(text, "- {}: {}", about.name, about.how)?;
        }
    }
    writeln!(text, "\n## Cells without figures\n")?;
    for refusal in results.refusals() {
        writeln!(text, "- {refusal}")?;
    }
    fs::write(dir.join("report.md"), text)?;
    Ok(())
}
