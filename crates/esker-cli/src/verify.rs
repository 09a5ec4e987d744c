//! `esker verify`: reads everything, checks everything, changes nothing.

use std::io::IsTerminal;

use esker_io::AnyBackend;
use esker_lss::{Corruption, OpenError, Tail, VerifyProgress, VerifyReport};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use serde_json::{Value, json};

use crate::args::Verify;
use crate::failure::{Failure, explain};
use crate::info::{bytes, tail_json, tail_text};
use crate::output::{Output, say};
use crate::store;

/// Runs the command.
pub(crate) fn run(args: &Verify) -> Result<(), Failure> {
    let backend = store::backend(args.backend)?;
    let bar = progress_bar();
    let found =
        esker_lss::verify::<AnyBackend>(&args.store, backend, |progress: VerifyProgress| {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
        });
    bar.finish_and_clear();
    let report = match found {
        Ok(report) => report,
        Err(OpenError::Corrupt(damage)) => return tell(args, &damaged(&damage), &damage),
        Err(error) => {
            if args.json {
                let why = explain("", &error);
                print(&json!({ "intact": false, "error": why }).to_string())?;
            }
            return Err(store::refused(&args.store, &error));
        }
    };
    match &report.damage {
        Some(damage) => tell(args, &as_json(&report), damage),
        None => {
            if args.json {
                print(&as_json(&report).to_string())?;
            } else {
                print(&as_text(&report))?;
            }
            if report.superblock_copies != [true, true] {
                say(&format!(
                    "esker: one copy of the superblock of {} is damaged, the other is intact; the \
                     next writer that opens the store writes both again",
                    args.store.display()
                ));
            }
            Ok(())
        }
    }
}

/// Reports damage: on standard output as JSON if that was asked for, and as a message.
fn tell(args: &Verify, report: &Value, damage: &Corruption) -> Result<(), Failure> {
    if args.json {
        print(&report.to_string())?;
    }
    Err(Failure::Because(format!(
        "{} is damaged: {}; `esker salvage` gives back what is whole",
        args.store.display(),
        explain("", damage)
    )))
}

fn print(text: &str) -> Result<(), Failure> {
    let mut output = Output::new()?;
    output.line(text)?;
    output.flush()
}

fn as_text(report: &VerifyReport) -> String {
    let mut text = format!(
        "intact: LSN {} to {}: {} records with {} in {} slots",
        report.first,
        report.end,
        report.records,
        bytes(report.payload_bytes),
        report.slots
    );
    if let Tail::Torn { .. } = report.tail {
        text += &format!("\ntail {}", tail_text(report.tail));
    }
    if report.writer_alive {
        text += "\nopen for writing meanwhile: what was written during the check is not covered";
    }
    text
}

fn as_json(report: &VerifyReport) -> Value {
    json!({
        "intact": report.damage.is_none(),
        "damage": report.damage.as_ref().map(damage_json),
        "torn_tail": tail_json(report.tail),
        "superblock_copies_intact": report.superblock_copies,
        "store_id": format!("{:016x}", report.store_id),
        "epoch": report.epoch,
        "closed": report.closed,
        "writer_alive": report.writer_alive,
        "first": report.first.get(),
        "end": report.end.get(),
        "durable": report.durable.get(),
        "slots": report.slots,
        "extents": report.extents,
        "records": report.records,
        "payload_bytes": report.payload_bytes,
        "voids": report.voids,
        "void_bytes": report.void_bytes,
        "log_bytes": report.bytes,
        "padding_bytes": report.padding_bytes,
    })
}

/// The report on a store whose log could not even be entered.
fn damaged(damage: &Corruption) -> Value {
    json!({ "intact": false, "damage": damage_json(damage) })
}

fn damage_json(damage: &Corruption) -> Value {
    json!({
        "lsn": damage.lsn.get(),
        "slot": damage.slot.map(esker_lss::Lsn::get),
        "file": damage.file.to_string_lossy(),
        "offset": damage.offset,
        "what": damage.damage.to_string(),
    })
}

/// Progress, shown on a terminal only.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(0)
        .with_style(style.unwrap_or_else(|_plain_shows_the_same| ProgressStyle::default_bar()))
        .with_finish(ProgressFinish::AndClear)
}
