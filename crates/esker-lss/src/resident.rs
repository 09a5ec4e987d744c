//! [`Resident`]: which sealed buffers are still in memory, for reading your own writes.
//!
//! A buffer is here from its submission on. While the write is in flight its bytes are shared with
//! readers, who keep them alive by owning them; the ring's slot is free when the last owner is gone.
//! Buffer `t` lies at `t mod N`, like in the ring: buffer `t + N` can exist only when the slot of
//! every buffer up to `t` is free, so everything up to `t` is written and below the written prefix.
//! Of short ones a copy is left to those who follow the log ([`Fresh`]).

use std::sync::Arc;

use esker_buf::evict;
use esker_ring::SealedBuffer;

use crate::fresh::Fresh;
use crate::sync::Mutex;

/// Shorter slots are commits that somebody waits for.
const EVICTED_BYTES: usize = 64 << 10;

pub(crate) struct Resident {
    places: Box<[Mutex<Place>]>,
    /// Whether what has been written is dropped from the processors' caches.
    evicts: bool,
    pub(crate) fresh: Fresh,
}

#[derive(Default)]
enum Place {
    #[default]
    Vacant,
    InMemory {
        seq: u64,
        bytes: Arc<SealedBuffer>,
    },
    /// Written, though the prefix may still wait for an earlier buffer.
    OnDisk {
        base: u64,
        end: u64,
    },
}

/// Where the buffer that holds an address is.
pub(crate) enum Whereabouts {
    /// In memory: these are its bytes.
    InMemory(Arc<SealedBuffer>),
    /// On disk, and it ends there.
    OnDisk { end: u64 },
    /// Not here: open, about to be submitted, or long written.
    Unknown,
}

impl Resident {
    pub(crate) fn new(buffers: usize, evicts: bool) -> Self {
        Self {
            places: (0..buffers).map(|_| Mutex::new(Place::Vacant)).collect(),
            evicts,
            fresh: Fresh::default(),
        }
    }

    /// The buffer is about to be submitted.
    pub(crate) fn submitted(&self, bytes: &Arc<SealedBuffer>) {
        let seq = bytes.seq().get();
        *self.place(seq).lock() = Place::InMemory {
            seq,
            bytes: Arc::clone(bytes),
        };
    }

    /// The buffer is on disk. Its bytes are let go of.
    pub(crate) fn written(&self, seq: u64, base: u64, end: u64) {
        let mut place = self.place(seq).lock();
        if matches!(*place, Place::InMemory { seq: here, .. } if here == seq) {
            // The bytes are let go of behind the lock: the ring may open its next buffer there.
            let before = std::mem::replace(&mut *place, Place::OnDisk { base, end });
            drop(place);
            if let Place::InMemory { bytes, .. } = &before {
                self.fresh.written(base, end, bytes.bytes());
                let is_long = bytes.padded_len() >= EVICTED_BYTES;
                if self.evicts && is_long && !bytes.is_extent() {
                    evict(bytes.padded_bytes());
                }
            }
            drop(before);
        }
    }

    /// The buffer will not be written any more: a write failed. Its bytes are let go of.
    pub(crate) fn abandoned(&self, seq: u64) {
        let mut place = self.place(seq).lock();
        if matches!(*place, Place::InMemory { seq: here, .. } if here == seq) {
            let before = std::mem::take(&mut *place);
            drop(place);
            drop(before);
        }
    }

    /// The submitted buffer that holds `address`.
    pub(crate) fn find(&self, address: u64) -> Whereabouts {
        for place in &self.places {
            match &*place.lock() {
                Place::InMemory { bytes, .. }
                    if (bytes.base()..bytes.next_base()).contains(&address) =>
                {
                    return Whereabouts::InMemory(Arc::clone(bytes));
                }
                Place::OnDisk { base, end } if (*base..*end).contains(&address) => {
                    return Whereabouts::OnDisk { end: *end };
                }
                _ => {}
            }
        }
        Whereabouts::Unknown
    }

    fn place(&self, seq: u64) -> &Mutex<Place> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "less than the number of places"
        )]
        let index = (seq % self.places.len() as u64) as usize;
        &self.places[index]
    }
}
