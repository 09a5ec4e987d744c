//! Aligned, owned memory for I/O.
//!
//! Direct I/O wants memory at a multiple of the device's block size, the kernel uses that memory
//! while the program runs on, and huge pages make it much cheaper to hand over. This crate has the
//! pieces: [`Alignment`], a power of two that was checked; [`AlignedBuf`], an owned buffer at
//! such an address, optionally on huge pages ([`HugePages`]), or one of many in a [`BufferPool`]; and
//! [`IoBuf`], [`IoBufMut`] and [`IoRegion`], the contract that says which owned values may back an
//! operation in flight, and what the kernel may be told of in advance.
//!
//! It knows nothing of files or of rings.
//!
//! ```
//! use esker_buf::{AlignedBuf, Alignment, HugePages, IoBuf};
//!
//! // One allocation on huge pages where the kernel has them, on ordinary ones where not.
//! let buf = AlignedBuf::zeroed_on(4 << 20, Alignment::BLOCK, HugePages::Try)?;
//! assert_eq!(buf.len_bytes(), 4 << 20);
//! # Ok::<(), esker_buf::AllocError>(())
//! ```

mod aligned;
mod alignment;
mod cache;
mod io;
mod pool;
mod sync;

pub use aligned::{AlignedBuf, AllocError, HugePages};
pub use alignment::{Alignment, AlignmentError};
pub use cache::{evict, prefetch_behind};
pub use io::{IoBuf, IoBufMut, IoRegion};
pub use pool::{BufferPool, PoolBuf};
