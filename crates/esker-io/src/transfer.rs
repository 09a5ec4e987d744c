//! [`Transfer`]: how far an operation has come, and what to do after each return of the kernel.
//!
//! The decision is the same whichever way the kernel was asked, and has no effects: so both
//! backends share it, and every path of it is tested without a disk.

use esker_buf::Alignment;

use crate::error::OperationKind;

/// How often a transfer may come back empty-handed in a row before it is given up.
const MAX_STALLS: u32 = 1000;

/// The most that one system call is asked to move: below the kernel's own limit of 2 GiB - 4 KiB,
/// and a multiple of every alignment.
const MAX_PIECE: usize = 1 << 30;

/// How far an operation has come.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    kind: OperationKind,
    offset: u64,
    len: usize,
    done: usize,
    stalls: Stalls,
    alignment: Alignment,
}

/// How often in a row an operation came back empty-handed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stalls(u32);

impl Stalls {
    /// What to do after an error that passes; `None` for any other.
    pub(crate) fn passing(&mut self, errno: i32) -> Option<Step> {
        // An interrupted attempt has done nothing; a cancelled one was never started.
        if !matches!(errno, libc::EINTR | libc::EAGAIN | libc::ECANCELED) {
            return None;
        }
        self.0 += 1;
        Some(if self.0 < MAX_STALLS {
            Step::Retry
        } else {
            Step::Failed(errno)
        })
    }

    /// What to do after a write that moved nothing and was no error.
    pub(crate) fn empty_handed(&mut self) -> Step {
        self.0 += 1;
        if self.0 < 3 {
            Step::Retry
        } else {
            Step::Stuck { attempts: self.0 }
        }
    }
}

/// The next piece of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// Where it begins in the memory of the operation.
    pub(crate) start: usize,
    /// Its length, at most 1 GiB.
    pub(crate) len: u32,
}

/// What to do after the kernel has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Step {
    /// Ask for the next piece.
    Continue,
    /// Ask for what comes next; the last answer was a whole one.
    Next,
    /// Ask for the same piece again.
    Retry,
    /// It is over; so many bytes were moved.
    Done(usize),
    /// It failed with this error number.
    Failed(i32),
    /// It stopped moving.
    Stuck {
        /// How often it was tried.
        attempts: u32,
    },
}

impl Transfer {
    /// A transfer that has not begun. A sync has length 0.
    pub(crate) fn new(kind: OperationKind, offset: u64, len: usize, alignment: Alignment) -> Self {
        Self {
            kind,
            offset,
            len,
            done: 0,
            stalls: Stalls::default(),
            alignment,
        }
    }

    /// Bytes moved so far.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    /// Whether there is nothing to ask the kernel for.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0 && self.kind != OperationKind::Sync
    }

    pub(crate) fn piece(&self) -> Piece {
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^30")]
        let len = (self.len - self.done).min(MAX_PIECE) as u32;
        Piece {
            offset: self.offset + self.done as u64,
            start: self.done,
            len,
        }
    }

    /// Takes what the kernel returned for [`piece`](Self::piece): a count, or an error number
    /// below zero.
    pub(crate) fn returned(&mut self, result: i64) -> Step {
        let Ok(count) = usize::try_from(result) else {
            let errno = i32::try_from(-result).unwrap_or(libc::EIO);
            let passing = self.stalls.passing(errno);
            return passing.unwrap_or(Step::Failed(errno));
        };
        match self.kind {
            OperationKind::Read => self.read(count),
            OperationKind::Write => self.wrote(count),
            _ => Step::Done(0),
        }
    }

    fn read(&mut self, count: usize) -> Step {
        self.done += count.min(self.len - self.done);
        self.stalls = Stalls::default();
        // A direct read that ends within a block has met the end of the file, and could not go on
        // from there.
        let at_end = count == 0 || !self.alignment.divides(count as u64);
        if self.done == self.len || at_end {
            Step::Done(self.done)
        } else {
            Step::Continue
        }
    }

    fn wrote(&mut self, count: usize) -> Step {
        let reached = self.done + count.min(self.len - self.done);
        if reached == self.len || canary!("io-short-write-succeeds") {
            self.done = reached;
            return Step::Done(self.len);
        }
        // A direct write can go on only at a block's start; what lies before is written again.
        #[expect(clippy::cast_possible_truncation, reason = "not above `reached`")]
        let aligned = self.alignment.floor(reached as u64) as usize;
        if aligned > self.done {
            self.done = aligned;
            self.stalls = Stalls::default();
            return Step::Continue;
        }
        self.stalls.empty_handed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(kind: OperationKind, len: usize, alignment: Alignment) -> Transfer {
        Transfer::new(kind, 8192, len, alignment)
    }

    #[test]
    fn a_short_write_is_continued_where_it_stopped() {
        let mut write = transfer(OperationKind::Write, 100, Alignment::ONE);
        assert_eq!(write.returned(30), Step::Continue);
        assert_eq!(
            write.piece(),
            Piece {
                offset: 8222,
                start: 30,
                len: 70
            }
        );
        assert_eq!(write.returned(70), Step::Done(100));
    }

    #[test]
    fn a_short_direct_write_is_continued_at_a_block() {
        let mut write = transfer(OperationKind::Write, 8192, Alignment::BLOCK);
        assert_eq!(write.returned(5000), Step::Continue);
        assert_eq!(write.piece().start, 4096);
        assert_eq!(write.returned(4096), Step::Done(8192));
    }

    #[test]
    fn a_write_without_progress_is_given_up() {
        let mut write = transfer(OperationKind::Write, 8192, Alignment::BLOCK);
        assert_eq!(write.returned(0), Step::Retry);
        assert_eq!(write.returned(100), Step::Retry);
        assert_eq!(write.returned(0), Step::Stuck { attempts: 3 });
    }

    #[test]
    fn a_read_ends_at_the_end_of_the_file() {
        let mut read = transfer(OperationKind::Read, 100, Alignment::ONE);
        assert_eq!(read.returned(30), Step::Continue);
        assert_eq!(read.returned(0), Step::Done(30));
        let mut read = transfer(OperationKind::Read, 8192, Alignment::BLOCK);
        assert_eq!(read.returned(4097), Step::Done(4097));
    }

    #[test]
    fn an_interruption_is_retried_but_not_for_ever() {
        let mut sync = transfer(OperationKind::Sync, 0, Alignment::ONE);
        let retries = (0..2 * MAX_STALLS)
            .take_while(|_| sync.returned(-i64::from(libc::EINTR)) == Step::Retry)
            .count();
        assert_eq!(retries, MAX_STALLS as usize - 1);
        assert_eq!(
            sync.returned(-i64::from(libc::EIO)),
            Step::Failed(libc::EIO)
        );
    }

    #[test]
    fn pieces_fit_the_kernels_limit() {
        let mut write = transfer(OperationKind::Write, 3 << 30, Alignment::BLOCK);
        assert_eq!(write.piece().len, 1 << 30);
        assert_eq!(write.returned(1 << 30), Step::Continue);
        assert_eq!(write.piece().offset, 8192 + (1 << 30));
    }
}
