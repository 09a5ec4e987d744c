//! What a backend has done, for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use esker_io::{Backend, KindStatistics, Latency};
use esker_lss::StoreInfo;
use serde_json::{Value, json};

use crate::info::bytes;

/// The kinds of operations by name.
fn kinds<B: Backend>(backend: &B) -> [(&'static str, KindStatistics, Latency); 3] {
    let (counts, times) = (backend.statistics(), backend.latencies());
    [
        ("reads", counts.reads, times.reads),
        ("writes", counts.writes, times.writes),
        ("syncs", counts.syncs, times.syncs),
    ]
}

/// In a line: what a store has written in this life, and how much of that is not records.
pub(crate) fn of_store(info: &StoreInfo) -> String {
    format!(
        "slots    {}, {}, of which padding {}; zeroes ahead {}; {} syncs\n",
        info.slots_written,
        bytes(info.slot_bytes_written),
        bytes(info.padding_bytes_written),
        bytes(info.zero_bytes_written),
        info.syncs,
    )
}

/// In lines: which backend, how many operations of each kind with their times, and how well they
/// shared system calls.
pub(crate) fn as_text<B: Backend>(backend: &B) -> String {
    let mut text = format!("backend  {}\n", backend.description());
    for (name, count, time) in kinds(backend) {
        let quantile = |part| micros(time.quantile(part));
        // Writing to a string never fails.
        let _ = write!(text, "{name:<8} {}", count.completed);
        if count.bytes > 0 {
            let _ = write!(text, ", {}", bytes(count.bytes));
        }
        if count.completed > 0 {
            let _ = write!(
                text,
                ", p50 {:.0} us, p99 {:.0} us, max {:.0} us",
                quantile(0.5),
                quantile(0.99),
                micros(time.max())
            );
        }
        text.push('\n');
    }
    let all = backend.statistics();
    let _ = write!(
        text,
        "calls    {}, {:.2} operations and {:.0} bytes each; {} batches\n\
         flight   {} at most; {} writes durable by themselves\n\
         trouble  {} failed, {} continued after a short count, {} retried\n",
        all.system_calls,
        all.operations_per_system_call(),
        all.bytes_per_system_call(),
        all.batches,
        all.peak_in_flight,
        all.durable_writes,
        // To look whether there is a file is no trouble.
        all.failed() - all.opens.failed,
        all.continued,
        all.retries,
    );
    text
}

/// The same as an object.
pub(crate) fn as_json<B: Backend>(backend: &B) -> Value {
    let mut object = serde_json::Map::new();
    for (name, count, time) in kinds(backend) {
        let kind = json!({
            "submitted": count.submitted,
            "completed": count.completed,
            "failed": count.failed,
            "bytes": count.bytes,
            "latency_us": {
                "p50": micros(time.quantile(0.5)),
                "p90": micros(time.quantile(0.9)),
                "p99": micros(time.quantile(0.99)),
                "p999": micros(time.quantile(0.999)),
                "max": micros(time.max()),
            },
        });
        object.insert(name.to_owned(), kind);
    }
    let all = backend.statistics();
    for (name, count) in [
        ("allocations", all.allocations),
        ("truncations", all.truncations),
        ("holes", all.holes),
        ("opens", all.opens),
        ("dir_syncs", all.dir_syncs),
    ] {
        let kind = json!({
            "submitted": count.submitted,
            "completed": count.completed,
            "failed": count.failed,
        });
        object.insert(name.to_owned(), kind);
    }
    for (name, value) in [
        ("durable_writes", all.durable_writes),
        ("batches", all.batches),
        ("system_calls", all.system_calls),
        ("continued", all.continued),
        ("retries", all.retries),
        ("in_flight", all.in_flight),
        ("peak_in_flight", all.peak_in_flight),
    ] {
        object.insert(name.to_owned(), value.into());
    }
    for (name, value) in [
        (
            "operations_per_system_call",
            all.operations_per_system_call(),
        ),
        ("bytes_per_system_call", all.bytes_per_system_call()),
    ] {
        object.insert(name.to_owned(), value.into());
    }
    Value::Object(object)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
