//! [`LogBytes`]: the log's bytes by address, with what cannot be read as zeroes.

use std::ops::Range;
use std::sync::Arc;

use esker_buf::{AlignedBuf, Alignment};
use esker_io::{Backend, BackendExt, IoError};

use crate::error::{Damage, OpenError};
use crate::segments::SegmentSet;

/// How much is read at a time: it divides every segment or is a multiple of it.
const WINDOW_BYTES: u64 = 256 << 10;

/// A look at a window of the log, which moves.
pub(super) struct LogBytes<B: Backend> {
    segments: Arc<SegmentSet<B>>,
    start: u64,
    /// Of a window that has not been read: nothing.
    bytes: Vec<u8>,
    /// The blocks of it that are not there.
    faults: Vec<(Range<u64>, Damage)>,
}

impl<B: Backend> LogBytes<B> {
    pub(super) fn new(segments: &Arc<SegmentSet<B>>) -> Self {
        Self {
            segments: Arc::clone(segments),
            start: 0,
            bytes: Vec::new(),
            faults: Vec::new(),
        }
    }

    pub(super) fn segments(&self) -> &Arc<SegmentSet<B>> {
        &self.segments
    }

    /// What is at `at`, up to the end of its window, which is a block's end.
    pub(super) fn from(&mut self, at: u64) -> Result<&[u8], OpenError> {
        self.load(at)?;
        Ok(&self.bytes[to_usize(at - self.start)..])
    }

    /// Why what is at `at` could not be read, if it could not.
    pub(super) fn fault(&mut self, at: u64) -> Result<Option<Damage>, OpenError> {
        self.load(at)?;
        let fault = self.faults.iter().find(|(blocks, _)| blocks.contains(&at));
        Ok(fault.map(|(_, damage)| *damage))
    }

    /// Shows `[from, to)` piece by piece; whether all of it could be read.
    pub(super) fn pieces(
        &mut self,
        from: u64,
        to: u64,
        show: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, OpenError> {
        let mut at = from;
        let mut is_there = true;
        while at < to {
            let bytes = self.from(at)?;
            let len = bytes.len().min(to_usize(to - at));
            show(&bytes[..len]);
            let end = at + len as u64;
            let mut faults = self.faults.iter();
            is_there &= !faults.any(|(blocks, _)| blocks.start < end && at < blocks.end);
            at = end;
        }
        Ok(is_there)
    }

    /// What is read at a time where reading fails.
    fn unit(&self) -> Alignment {
        self.segments.geometry().block().max(Alignment::BLOCK)
    }

    /// Makes the window that holds `at` the current one.
    fn load(&mut self, at: u64) -> Result<(), OpenError> {
        let segment_bytes = self.segments.geometry().segment_bytes();
        let window = WINDOW_BYTES.min(segment_bytes);
        let start = at / window * window;
        if start == self.start && !self.bytes.is_empty() {
            return Ok(());
        }
        self.bytes.clear();
        self.bytes.resize(to_usize(window), 0);
        self.start = start;
        self.faults.clear();
        let segment = self.segments.geometry().segment_of(start);
        let opened = match self.segments.file(segment) {
            Ok(file) => file.ok_or(Damage::Missing),
            Err(_) => Err(Damage::Unreadable),
        };
        let file = match opened {
            Ok(file) => file,
            Err(damage) => {
                self.mark(0, to_usize(window), damage);
                return Ok(());
            }
        };
        let offset = start % segment_bytes;
        if let Ok(len) = self.read(&file, offset, 0, to_usize(window))? {
            self.mark(len, to_usize(window), Damage::Missing);
            return Ok(());
        }
        // Somewhere in it the device fails: all the rest is still wanted.
        let unit = self.unit().bytes();
        for from in (0..to_usize(window)).step_by(unit) {
            match self.read(&file, offset, from, unit)? {
                Ok(len) => self.mark(from + len, from + unit, Damage::Missing),
                Err(_) => self.mark(from, from + unit, Damage::Unreadable),
            }
        }
        Ok(())
    }

    /// Reads `len` bytes at `from` of the window; how many there were.
    fn read(
        &mut self,
        file: &B::File,
        offset: u64,
        from: usize,
        len: usize,
    ) -> Result<Result<usize, IoError>, OpenError> {
        let buf = AlignedBuf::zeroed(len, self.unit())?;
        let read = self
            .segments
            .backend()
            .read_at(file, offset + from as u64, buf);
        Ok(match read {
            Ok((read, buf)) => {
                self.bytes[from..from + read].copy_from_slice(&buf[..read]);
                Ok(read)
            }
            Err(error) => Err(error.into()),
        })
    }

    /// Nothing is there in this part of the window: what is not a whole block is nothing.
    fn mark(&mut self, from: usize, to: usize, damage: Damage) {
        let from = self.segments.geometry().block().floor(from as u64);
        if from < to as u64 {
            let blocks = self.start + from..self.start + to as u64;
            self.faults.push((blocks, damage));
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "lengths within a window")]
fn to_usize(len: u64) -> usize {
    len as usize
}
