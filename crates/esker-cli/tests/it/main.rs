//! The `esker` command, run as its users run it.

#![expect(
    clippy::cast_possible_truncation,
    reason = "noise is made by cutting numbers off"
)]

mod append;
mod bench;
mod cat;
mod damage;
mod follow;
mod look;
mod order;
mod support;
mod usage;
