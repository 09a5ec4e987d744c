//! [`Zeroes`]: what is written where nothing has been, so that what is written there later is as quick as
//! it can be.

use std::sync::Arc;

use esker_buf::{AlignedBuf, Alignment, AllocError, HugePages};
use esker_io::{Action, Backend, Durability, IoError, WriteMemory};

use crate::geometry::Geometry;

/// How much is written at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Nobody else wants the device.
    Swift,
    /// The log goes on. A commit that meets such a write waits for it: it is to take less time than the
    /// commit does.
    Gentle,
}

impl Pace {
    /// How much that is: a part of a segment, and blocks. All three are powers of two.
    pub(crate) fn bytes(self, geometry: &Geometry) -> u64 {
        let bytes: u64 = match self {
            Self::Swift => 1 << 20,
            Self::Gentle => 64 << 10,
        };
        let block = geometry.block().bytes() as u64;
        bytes.min(geometry.segment_bytes() / 16).max(block)
    }
}

/// Memory for one write of zeroes, at the swiftest.
pub(super) struct Zeroes(Arc<AlignedBuf>);

impl Zeroes {
    /// # Errors
    ///
    /// There is no memory.
    pub(super) fn new(geometry: &Geometry) -> Result<Self, AllocError> {
        #[expect(clippy::cast_possible_truncation, reason = "at most a MiB")]
        let bytes = Pace::Swift.bytes(geometry) as usize;
        let alignment = geometry.block().max(Alignment::BLOCK);
        let zeroes = AlignedBuf::zeroed_on(bytes, alignment, HugePages::Never)?;
        Ok(Self(Arc::new(zeroes)))
    }

    /// Writes `bytes` of them, at most what is written at the swiftest, and waits for it.
    ///
    /// # Errors
    ///
    /// Those of the write.
    pub(super) fn write<B: Backend>(
        &self,
        backend: &B,
        file: &B::File,
        offset: u64,
        bytes: u64,
    ) -> Result<(), IoError> {
        #[expect(clippy::cast_possible_truncation, reason = "at most a MiB")]
        let memory = WriteMemory::slice(Arc::clone(&self.0), 0..bytes as usize)
            .expect("no write is longer than the longest");
        let action = Action::Write {
            offset,
            memory,
            durability: Durability::Written,
        };
        backend.execute(file, action).result.map(drop)
    }
}
