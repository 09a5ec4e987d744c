//! Opening a store: the lock, recovery, and the new life's parts.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use esker_io::{Backend, Lane};
use esker_ring::{BufferSeq, Ring};

use crate::Lsn;
use crate::commit::Commit;
use crate::committer::Committer;
use crate::core::{Core, Counters};
use crate::dispatch::Queue;
use crate::durable::Durable;
use crate::error::OpenError;
use crate::format::record::{self, RecordSeal};
use crate::format::slot;
use crate::geometry::{Geometry, Sizes};
use crate::log::Log;
use crate::maintenance::Maintainer;
use crate::options::Options;
use crate::poison::PoisonCell;
use crate::recovery::recover;
use crate::resident::Resident;
use crate::rewrite::rewrite;
use crate::segments::SegmentSet;
use crate::stability::Frontier;
use crate::superblock::SuperblockFile;
use crate::sync::{AtomicU64, Mutex};
use crate::syncing::Syncing;
use crate::tasks::Tasks;
use crate::trim::Marks;

/// The options that a store of a certain geometry can't have.
fn check(options: &Options, geometry: &Geometry) -> Result<(), OpenError> {
    let limits = [
        (
            "the number of buffers",
            options.buffers as u64,
            u64::from(geometry.window_slots()),
        ),
        (
            "the size of a buffer",
            options.buffer_bytes as u64,
            geometry.max_slot_bytes(),
        ),
    ];
    match limits.into_iter().find(|(_, found, max)| found > max) {
        Some((what, found, max)) => Err(OpenError::Options { what, found, max }),
        None => Ok(()),
    }
}

/// The geometry of a store to be created.
fn new_geometry(options: &Options) -> Result<Geometry, OpenError> {
    // The hasher's keys are drawn from the system's random numbers.
    let id = options
        .store_id
        .unwrap_or_else(|| RandomState::new().hash_one(std::process::id()));
    let buffers = options.buffers as u64;
    let in_buffers = buffers
        .saturating_mul(options.buffer_bytes as u64)
        .saturating_mul(2);
    // Twice the largest record, so that the next can be on its way while one becomes durable.
    let in_records = options
        .max_record_bytes
        .saturating_mul(2)
        .saturating_add(1 << 20);
    let sizes = Sizes {
        block_bytes: options.block_bytes,
        segment_bytes: options.segment_bytes,
        max_record_bytes: options.max_record_bytes,
        window_slots: options.window_slots,
        window_bytes: in_buffers.max(in_records),
    };
    Ok(Geometry::new(id, &sizes)?)
}

/// Opens a store, or creates one: what it held is recovered, made durable, and given a new epoch
/// before anything else is done.
pub(crate) fn open<B: Backend>(
    dir: &Path,
    backend: Arc<B>,
    options: Options,
) -> Result<Arc<Core<B>>, OpenError> {
    // The lock comes first: whoever holds it is alone with the files.
    let mut superblock = if options.create {
        let geometry = new_geometry(&options)?;
        check(&options, &geometry)?;
        SuperblockFile::create(&backend, dir, geometry, options.lock_timeout)?
    } else {
        SuperblockFile::open(&backend, dir, options.lock_timeout)?
    };
    let found = *superblock.current();
    let geometry = found.geometry;
    check(&options, &geometry)?;
    let lives = u32::from(!canary!("lss-epoch-stays") || found.epoch == 0);
    let epoch = found
        .epoch
        .checked_add(lives)
        .ok_or(OpenError::EpochsExhausted)?;
    let segments = SegmentSet::open_to_write(
        &backend,
        dir,
        geometry,
        found.checkpoint.lsn,
        options.lock_timeout,
    )?;
    let segments = Arc::new(segments.evicting(options.evict_written));
    let recovered = recover(&segments, &found)?;

    // What is kept may be in the disk's cache only, if the last life was killed, or not even there, if
    // a sync has failed; so may be the names of its files, and the superblock that says so. From here
    // on all of them are acted upon.
    let recovered = rewrite(&segments, &found, recovered)?;
    let start = recovered.end;
    if !canary!("lss-recovery-without-sync") {
        segments.sync_range(found.checkpoint.lsn, start.lsn)?;
    }
    if !canary!("lss-recovery-without-names") {
        backend.sync_dir(dir)?;
    }
    superblock.sync()?;
    superblock.update(|next| {
        next.epoch = epoch;
        next.epoch_start = start;
        next.checkpoint = start;
        next.clean_end = None;
    })?;

    let ring = Ring::builder()
        .buffers(options.buffers)
        .capacity_bytes(options.buffer_bytes)
        .header_bytes(slot::HEADER_BYTES)
        .min_reservation_bytes(record::HEADER_BYTES)
        .alignment(geometry.block())
        .huge_pages(options.huge_pages)
        .start(BufferSeq::new(start.seq), start.lsn.get())
        .limit(0);
    let checksums = RecordSeal::new(geometry.store_id());
    let ring = ring
        .void(move |address, room| record::write_void(room, &checksums, Lsn::new(address)))
        .build()?;
    let window = usize::try_from(geometry.window_slots()).unwrap_or(usize::MAX);
    segments.begin(start.lsn);
    let core = Arc::new(Core {
        lane: Lane::new(Arc::clone(&backend), options.ordering),
        log: Log::new(&segments),
        written: Frontier::new(window, start.seq, start.lsn.get()),
        durable: Arc::new(Durable::new(window, start.seq, start.lsn.get())),
        queue: Queue::new(start.seq),
        resident: Resident::new(options.buffers, options.evict_written),
        commit: Commit::new(options.commit_writes, options.gather),
        committer: Committer::default(),
        followers: Tasks::default(),
        syncing: Syncing::default(),
        poison: Arc::new(PoisonCell::new(dir.to_path_buf())),
        marks: Marks::new(recovered.boundaries.into_values(), geometry.segment_bytes()),
        first: Arc::new(AtomicU64::new(found.first.lsn.get())),
        superblock: Mutex::new(superblock),
        maintenance: Maintainer::default(),
        counters: Counters::default(),
        backend,
        ring,
        options,
        geometry,
        checksums,
        epoch,
        start,
        segments,
    });
    core.prepare_start()?;
    Ok(core)
}
