//! The command's framing: bytes that come in any pieces are cut into the records that they are.
#![no_main]

/// What the splitter takes from the command line.
mod args {
    #[derive(Clone, Copy)]
    pub(crate) enum Framing {
        Lines,
        Length,
    }
}

#[macro_use]
#[path = "../../../esker-cli/src/canary.rs"]
mod canary;
#[path = "../../../esker-cli/src/split/hostile.rs"]
mod hostile;
#[path = "../../../esker-cli/src/split.rs"]
#[allow(dead_code, reason = "the command uses the rest")]
mod split;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::run(bytes));
