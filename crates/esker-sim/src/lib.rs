//! A simulated disk behind [`esker_io::Backend`]: in memory, deterministic, faulty, crashable.
//!
//! A [`Sim`] is a machine with a disk, for one life: until its power fails or the process on it is
//! killed. It keeps apart what reads see and what has become durable, and knows of every difference
//! between the two, so a test can end a life after any effect and look at each disk that could be
//! found afterwards:
//!
//! - A completed write is lost in a power failure unless a sync of its file, submitted after it had
//!   completed, or the write's own [`Durability`](esker_io::Durability) has covered it. Until then it
//!   is there or not, or in part, in sectors of 512 bytes, whatever becomes of the others.
//! - So are lengths until the file is synced or written durably up to there, and names until their
//!   directory is synced, by a sync that was submitted after the change. A change of a name is whole or
//!   has not happened, and is lost with a lost one that it builds on.
//! - [`Sim::crash`] is a power failure, [`Sim::kill`] the end of a process: that loses nothing that had
//!   completed, and makes nothing durable. Writes in flight may have happened, in part, or land late,
//!   in the next life, which finds their files locked until then.
//! - Operations complete when somebody waits, in an order that the seed draws.
//! - [`Fault`]s are injected by number; bits are flipped and bytes replaced by path.
//!
//! Used by one thread that says so ([`SimOptions::alone`]), the same seed and the same calls are the
//! same run, to the byte. It can be used by many threads too, without that promise.
//!
//! It knows nothing of what is stored. The assumptions about the medium are those that `docs/format.md`
//! lists, and no better: it is as bad as those allow.
//!
//! # Examples
//!
//! ```
//! use esker_io::{Backend, BackendExt, Create, Durability, FileOptions};
//! use esker_sim::{Sim, Survival};
//!
//! let sim = Sim::new(1);
//! let options = FileOptions::read_write().create(Create::New);
//! let file = sim.open("/log".as_ref(), &options)?;
//! sim.sync_dir("/".as_ref())?;
//! sim.write_at(&file, 0, b"durable".to_vec(), Durability::Durable)?;
//! sim.write_at(&file, 7, b", or not".to_vec(), Durability::Written)?;
//!
//! let unlucky = sim.crash(&mut |_| Survival::Lost);
//! assert_eq!(unlucky.contents("/log".as_ref()).as_deref(), Some(&b"durable"[..]));
//! let lucky = sim.crash(&mut |_| Survival::Kept);
//! assert_eq!(lucky.contents("/log".as_ref()).as_deref(), Some(&b"durable, or not"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod backend;
mod content;
mod dice;
mod fault;
mod file;
mod machine;
mod names;
mod node;
mod options;
mod sim;
mod survival;
mod sync;

pub use dice::Dice;
pub use fault::{Fault, MachineDown};
pub use file::SimFile;
pub use options::{Completions, SimOptions};
pub use sim::Sim;
pub use survival::{Loss, Survival, Undurable};
