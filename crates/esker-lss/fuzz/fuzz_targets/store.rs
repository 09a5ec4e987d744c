//! Everything that reads a store, over files that say anything.
#![no_main]

#[path = "../../../esker-sim/tests/it/hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::run(bytes));
