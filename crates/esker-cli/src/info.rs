//! `esker info`: what a store is and what it holds.

use esker_lss::{ReaderInfo, Tail};
use serde_json::{Value, json};

use crate::args::Info;
use crate::failure::Failure;
use crate::output::Output;
use crate::{statistics, store};

/// Runs the command.
pub(crate) fn run(args: &Info) -> Result<(), Failure> {
    let reader = store::open_to_read(&args.store, args.backend)?;
    let info = reader.info().map_err(|error| {
        Failure::new(format!("cannot look into {}", args.store.display()), &error)
    })?;
    let mut output = Output::new()?;
    if args.json {
        let mut object = as_json(&info);
        // What it took to find all this out.
        object["io"] = statistics::as_json(reader.backend());
        output.line(&object.to_string())?;
    } else {
        for (name, value) in as_text(&info) {
            output.line(&format!("{name:<14} {value}"))?;
        }
    }
    output.flush()
}

fn as_text(info: &ReaderInfo) -> Vec<(&'static str, String)> {
    let state = match (info.writer_alive, info.closed) {
        (true, _) => "open for writing",
        (false, true) => "closed",
        (false, false) => "not closed: the next writer recovers it",
    };
    let access = if info.direct {
        "direct"
    } else {
        "through the page cache"
    };
    vec![
        ("format", info.format_version.to_string()),
        ("id", id(info)),
        ("epoch", info.epoch.to_string()),
        ("state", state.into()),
        ("first", info.first.to_string()),
        ("written", info.end.to_string()),
        ("durable", info.durable.to_string()),
        ("tail", tail_text(info.tail)),
        (
            "log",
            bytes(info.end.get().saturating_sub(info.first.get())),
        ),
        (
            "segments",
            format!("{} of {}", info.segments, bytes(info.segment_bytes)),
        ),
        ("spares", info.spares.to_string()),
        ("space", bytes(info.space_bytes)),
        ("largest record", bytes(info.max_record_bytes)),
        (
            "window",
            format!(
                "{} buffers, {}",
                info.window_slots,
                bytes(info.window_bytes)
            ),
        ),
        ("block", bytes(info.block_bytes.into())),
        ("alignment", format!("{}, {access}", info.alignment)),
        ("backend", info.backend.to_string()),
    ]
}

fn as_json(info: &ReaderInfo) -> Value {
    json!({
        "format_version": info.format_version,
        "store_id": id(info),
        "epoch": info.epoch,
        "closed": info.closed,
        "writer_alive": info.writer_alive,
        "first": info.first.get(),
        "written": info.end.get(),
        "durable": info.durable.get(),
        "torn_tail": tail_json(info.tail),
        "segments": info.segments,
        "segment_bytes": info.segment_bytes,
        "spares": info.spares,
        "space_bytes": info.space_bytes,
        "max_record_bytes": info.max_record_bytes,
        "window_slots": info.window_slots,
        "window_bytes": info.window_bytes,
        "block_bytes": info.block_bytes,
        "alignment_bytes": info.alignment.bytes(),
        "direct": info.direct,
        "backend": { "kind": info.backend.kind, "reason": info.backend.reason },
    })
}

/// A store's identity: opaque, so it is not printed as a number that JSON readers would round.
fn id(info: &ReaderInfo) -> String {
    format!("{:016x}", info.store_id)
}

/// What lies behind the end of a log, in words.
pub(crate) fn tail_text(tail: Tail) -> String {
    match tail {
        Tail::Torn { slots, bytes: len } => format!(
            "torn: {slots} unfinished writes within {} past the end, which the next writer drops",
            bytes(len)
        ),
        Tail::Clean => "clean".into(),
    }
}

/// The same for JSON: an object if it is torn, else null.
pub(crate) fn tail_json(tail: Tail) -> Value {
    match tail {
        Tail::Torn { slots, bytes } => json!({ "slots": slots, "bytes": bytes }),
        Tail::Clean => Value::Null,
    }
}

/// A number of bytes, and roughly how much that is.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => {
            let tenths = bytes.saturating_mul(10) >> shift;
            match (tenths / 10, tenths % 10) {
                (whole, 0) => format!("{bytes} bytes ({whole} {unit})"),
                (whole, tenth) => format!("{bytes} bytes ({whole}.{tenth} {unit})"),
            }
        }
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_and_readable() {
        for (size, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (4096, "4096 bytes (4 KiB)"),
            (64 << 20, "67108864 bytes (64 MiB)"),
            ((3 << 30) / 2, "1610612736 bytes (1.5 GiB)"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }
}
