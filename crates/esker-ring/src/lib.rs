//! A latch-free ring of flush buffers: many threads append records of any size, full buffers come
//! out as owned values.
//!
//! A [`Ring`] is `N` equal buffers over one stretch of an endless address space. A thread
//! [reserves](Ring::try_reserve) some bytes with one atomic read-modify-write on the open buffer's
//! packed state word, fills them, and [commits](Reservation::commit) with another. A reservation
//! that does not fit *seals* the buffer and opens the next one. The last one out of a sealed
//! buffer, whoever that is, gets it as a [`SealedBuffer`] and does with it what it likes; dropping
//! it lets the ring use the memory again. There is no thread of the ring's own, and it knows
//! nothing of files, records or durability.
//!
//! ```
//! use esker_ring::{Ring, Seal, TryReserve};
//!
//! let ring = Ring::builder().buffers(2).capacity_bytes(4096).build()?;
//! let TryReserve::Reserved(mut record) = ring.try_reserve(8)? else {
//!     panic!("the first buffer is open and empty");
//! };
//! let address = record.address();
//! record.copy_from_slice(b"a record");
//! assert!(record.commit().is_none());
//!
//! let Seal::Sealed { buffer: Some(buffer), .. } = ring.seal() else {
//!     panic!("nobody else is writing");
//! };
//! let at = usize::try_from(address - buffer.base())?;
//! assert_eq!(&buffer.bytes()[at..], b"a record");
//! buffer.recycle();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Many small records are cheaper in [batches](Ring::try_reserve_batch), or through an
//! [`Appender`], which takes room for many of them with one reservation and then needs no shared
//! memory for each; they are in order for each appender, not over all of them.
//!
//! # What is latch-free and what is not
//!
//! No lock is taken to reserve, commit, seal or hand over. Two short sections are waited for all
//! the same, as in every scheme of this kind: the thread that seals a buffer publishes its end
//! before anybody can open the next, and the thread that claims an opening stores a base address
//! before anybody can reserve under it. A thread that is descheduled inside one of them (a few
//! stores) holds up those who need the *next* buffer; they are told so ([`TryReserve::Full`]) and
//! can wait parked. A mutex guards only the parking lot and the list of orphaned buffers.
//!
//! # When a thread fails
//!
//! - A *writer that panics or gives up* drops its [`Reservation`]. The bytes become a void record,
//!   and the ring goes on.
//! - A *flusher that panics* drops its [`SealedBuffer`], and a queue that goes with it drops what is
//!   in it. The memory goes back to the ring, which goes on. It cannot know whether the bytes had
//!   reached their place: the log has a hole then, which is for the layer above to notice, by
//!   the panic or by the sequence number that is missing.
//! - A guard or buffer that is *forgotten*, or whose thread hangs, keeps its slot. The ring goes on
//!   through the others, and stops where it comes round to that one: reserving says
//!   [`TryReserve::Full`], waiting ends only with its timeout and uses no CPU, and
//!   [`Ring::blocker`] names the buffer and who has it.
//!
//! # What the compiler refuses
//!
//! A reservation belongs to its ring, and to its appender:
//!
//! ```compile_fail,E0505
//! # use esker_ring::{Ring, TryReserve};
//! # let ring = Ring::builder().build().unwrap();
//! # let Ok(TryReserve::Reserved(record)) = ring.try_reserve(8) else { unreachable!() };
//! drop(ring);
//! let _ = record.commit();
//! ```
//!
//! ```compile_fail,E0499
//! # use esker_ring::{Ring, TryReserve};
//! # let mut appender = Ring::builder().build().unwrap().appender();
//! let one = appender.try_reserve(8);
//! let two = appender.try_reserve(8);
//! drop(one);
//! ```
//!
//! It is committed once, and a buffer is recycled once, by whoever has it:
//!
//! ```compile_fail,E0382
//! # use esker_ring::{Ring, TryReserve};
//! # let ring = Ring::builder().build().unwrap();
//! # let Ok(TryReserve::Reserved(record)) = ring.try_reserve(8) else { unreachable!() };
//! let _ = record.commit();
//! let _ = record.cancel();
//! ```
//!
//! ```compile_fail,E0382
//! # fn flush(buffer: esker_ring::SealedBuffer) {
//! buffer.recycle();
//! buffer.recycle();
//! # }
//! ```
//!
//! And its bytes are not looked at any more when it has been:
//!
//! ```compile_fail,E0505
//! # fn flush(buffer: esker_ring::SealedBuffer) {
//! let bytes = buffer.bytes();
//! buffer.recycle();
//! assert_eq!(bytes.len(), 0);
//! # }
//! ```
//!
//! # Where it comes from
//!
//! The flush buffers with a packed state word are those of LLAMA (Levandoski, Lomet, Sengupta:
//! *LLAMA: A Cache/Storage Subsystem for Modern Hardware*, PVLDB 6(10), 2013, section 4.1); the
//! void record over a dropped reservation is its Failed Flush. It departs from the paper in that
//! sealed buffers are owned values, that opening has conditions and a claim of its own, in waiting
//! without spinning, in leases, and in extents for oversize records. `docs/protocol.md` has the state table,
//! the ordering edges (named E1 to E7 and
//! L1 to L4 in the code), and the argument for each invariant (R1 to R8).

#[macro_use]
mod canary;

mod appender;
mod batch;
mod blocker;
mod config;
mod error;
mod extent;
mod fences;
mod lease;
mod memory;
mod pin;
mod reservation;
mod ring;
mod seal;
mod sealed;
mod seq;
mod shared;
mod slot;
mod sync;
mod waiters;
mod word;

pub use appender::Appender;
pub use blocker::Blocker;
pub use config::RingBuilder;
pub use error::{ExtentError, ExtentRefused, ReserveError, RingConfigError};
pub use extent::ReserveExtent;
pub use memory::RingMemory;
pub use pin::{BufferPin, PinCommitted};
pub use reservation::Reservation;
pub use ring::{Reserve, Ring, TryReserve};
pub use seal::Seal;
pub use sealed::SealedBuffer;
pub use seq::BufferSeq;
pub use waiters::Wait;
