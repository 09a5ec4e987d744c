//! The `esker` command, run as its users run it.

mod append;
mod cat;
mod damage;
mod follow;
mod look;
mod support;
mod usage;
