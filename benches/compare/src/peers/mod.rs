//! The stores compared. Each is used as its documentation says for what the workload asks, with its
//! defaults except where a comment says why.

mod baseline;
mod commitlog;
mod esker;
mod fjall;
mod okaywal;
mod raft_engine;
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod sled;
mod walrus;
mod writeahead;

use crate::log::{About, Address, Log, Outcome};

/// Something to do with a store whose type is found by name.
pub(crate) trait Visit {
    /// What comes of it.
    type Output;
    /// Does it.
    fn visit<L: Log + 'static>(self) -> Outcome<Self::Output>;
}

macro_rules! peers {
    ($($(#[$attribute:meta])* $peer:ty,)*) => {
        /// What each store says of itself, the baselines first.
        pub(crate) fn all() -> Vec<About> {
            vec![$($(#[$attribute])* <$peer>::ABOUT,)*]
        }

        /// Visits the store of that name.
        pub(crate) fn visit<V: Visit>(name: &str, visitor: V) -> Outcome<V::Output> {
            $($(#[$attribute])* if <$peer>::ABOUT.name == name {
                return visitor.visit::<$peer>();
            })*
            Err(format!("there is no store called {name} here").into())
        }
    };
}

peers! {
    baseline::Raw,
    baseline::RawNew,
    baseline::MutexLog,
    esker::Esker,
    writeahead::Writeahead,
    okaywal::OkayWal,
    raft_engine::RaftEngine,
    walrus::WalrusLog,
    commitlog::Commitlog,
    fjall::Fjall,
    redb::Redb,
    sled::Sled,
    #[cfg(feature = "rocksdb")]
    rocksdb::Rocks,
}

/// Which record of which thread comes next, for stores with keys.
pub(crate) struct Next {
    thread: u64,
    index: u64,
}

impl Next {
    fn of(thread: usize) -> Self {
        Self {
            thread: thread as u64,
            index: 0,
        }
    }

    fn address(&mut self) -> Address {
        self.index += 1;
        [self.thread, self.index]
    }
}

/// The key of a record: big-endian, so that their order is the order of their appending.
fn key(address: Address) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&address[0].to_be_bytes()[4..]);
    key[4..].copy_from_slice(&address[1].to_be_bytes());
    key
}
