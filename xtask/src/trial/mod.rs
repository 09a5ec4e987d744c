//! What the suites share that try the `esker` command on real files: running it, records that say
//! themselves which one they are, and what a store may hold after its process has ended.

mod check;
mod esker;
mod options;
mod records;
mod store;

pub(crate) use check::{Failure, Life};
pub(crate) use esker::{Esker, PATIENCE, broken, number};
pub(crate) use options::{clock_seed, number_arg, on_disk, path_arg, working_backends};
pub(crate) use records::{Mix, Records};
pub(crate) use store::Store;
