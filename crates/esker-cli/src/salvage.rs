//! `esker salvage`: gives back what is whole of a damaged store, and lists what is not.

use std::ops::ControlFlow;

use esker_io::AnyBackend;
use esker_lss::{Lost, SalvageReport, Salvaged, SuperblockState};
use serde_json::{Value, json};

use crate::args::Salvage;
use crate::failure::Failure;
use crate::info::{bytes, tail_json, tail_text};
use crate::output::{Output, say};
use crate::store;

/// Runs the command.
pub(crate) fn run(args: &Salvage) -> Result<(), Failure> {
    let backend = store::backend(args.backend)?;
    let mut output = Output::new()?;
    let (mut failure, mut losses) = (None, Vec::new());
    let report = esker_lss::salvage::<AnyBackend>(&args.store, backend, |found| match found {
        Salvaged::Record { record, .. } => {
            let lsn = args.lsns.then_some(record.lsn);
            match output.record(lsn, &record.payload, args.framing) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        }
        Salvaged::Lost(lost) => {
            if args.json {
                losses.push(lost_json(&lost));
            } else {
                say(&format!("esker: {}", lost_text(&lost)));
            }
            ControlFlow::Continue(())
        }
    })
    .map_err(|error| store::refused(&args.store, &error))?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    output.flush()?;
    if args.json {
        say(&as_json(&report, &losses).to_string());
    } else {
        say(&format!("esker: {}", as_text(&report)));
    }
    if report.is_whole() {
        return Ok(());
    }
    Err(Failure::Because(format!(
        "{} is damaged; append what was salvaged to a new store, and keep this one until it is known \
         what is missing",
        args.store.display()
    )))
}

fn lost_text(lost: &Lost) -> String {
    format!(
        "not whole: LSN {} to {}, {} at offset {}: {}",
        lost.from,
        lost.to,
        lost.file.display(),
        lost.offset,
        lost.damage
    )
}

fn lost_json(lost: &Lost) -> Value {
    json!({
        "from": lost.from.get(),
        "to": lost.to.get(),
        "file": lost.file.to_string_lossy(),
        "offset": lost.offset,
        "what": lost.damage.to_string(),
    })
}

fn superblock_text(state: SuperblockState) -> &'static str {
    match state {
        SuperblockState::Intact => "intact",
        SuperblockState::OneCopy => "one copy intact",
        SuperblockState::Lost => "lost: sizes and identity are those of the slots",
    }
}

fn as_text(report: &SalvageReport) -> String {
    let mut text = format!(
        "LSN {} to {}: {} records with {} given back, {} of them out of damaged slots; {} ranges with \
         {} not whole; superblock {}",
        report.first,
        report.end,
        report.records,
        bytes(report.payload_bytes),
        report.records_of_damaged_slots,
        report.lost,
        bytes(report.lost_bytes),
        superblock_text(report.superblock),
    );
    if report.is_refused {
        text += "; recovery refuses the store";
    }
    if tail_json(report.tail) != Value::Null {
        text += &format!("; tail {}", tail_text(report.tail));
    }
    text
}

fn as_json(report: &SalvageReport, losses: &[Value]) -> Value {
    json!({
        "whole": report.is_whole(),
        "refused": report.is_refused,
        "lost": losses,
        "lost_bytes": report.lost_bytes,
        "records": report.records,
        "records_of_damaged_slots": report.records_of_damaged_slots,
        "payload_bytes": report.payload_bytes,
        "first": report.first.get(),
        "end": report.end.get(),
        "store_id": format!("{:016x}", report.store_id),
        "superblock": superblock_text(report.superblock),
        "torn_tail": tail_json(report.tail),
    })
}
