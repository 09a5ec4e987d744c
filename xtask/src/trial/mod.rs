//! What the suites share that try the `esker` command on real files: running it, records that say
//! themselves which one they are, and what a store may hold after its process has ended.

mod check;
mod esker;
mod files;
mod life;
mod options;
mod plan;
mod program;
mod records;
mod store;
mod worker;

pub(crate) use check::Failure;
pub(crate) use esker::Esker;
pub(crate) use files::{FileSystem, Mounted, missing_tool, roomy_dir, run_tool, tool};
pub(crate) use life::{End, live};
pub(crate) use options::{clock_seed, number_arg, on_disk, path_arg, working_backends};
pub(crate) use plan::{Feed, Kill, Plan};
pub(crate) use program::Program;
pub(crate) use records::{Mix, Records};
pub(crate) use store::{Store, create_small};
pub(crate) use worker::{Told, Worker};
