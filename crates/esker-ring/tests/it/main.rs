//! The ring on real threads: its invariants R1 to R8 by name, its outcomes, its waiting.

mod invariants;
mod outcomes;
mod support;
mod waiting;
