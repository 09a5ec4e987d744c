//! The ring on real threads: its invariants R1 to R8 by name, its outcomes, its waiting.

mod failures;
mod invariants;
mod leases;
mod outcomes;
mod protocol_doc;
#[path = "../scenarios/mod.rs"]
mod scenarios;
mod scenarios_on_threads;
mod support;
mod waiting;
