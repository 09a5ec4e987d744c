//! [`Splitter`]: cuts a stream of bytes into records, many at a time.
//!
//! Records stay where they were read: a [`Chunk`] is the bytes of one or more reads and the places
//! of the records in them, and only the beginning of a record that is not all there yet is copied
//! into the next one. As soon as a read has completed a record, what is complete is given away.

use std::io;
use std::ops::Range;

use crate::args::Framing;

/// How much the command reads at a time.
pub(crate) const READ_BYTES: usize = 1 << 20;

/// A chunk's memory is given back when an outsized record has made it larger than so many reads.
const KEPT_READS: usize = 4;

/// Where bytes come from.
pub(crate) trait Source {
    /// Reads some bytes; none is the end.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, SourceError>;
}

/// Why there are no more bytes, though it is not the end.
#[derive(Debug)]
pub(crate) enum SourceError {
    /// Reading failed.
    Io(io::Error),
    /// Nobody wants them any more.
    Stopped,
}

/// Why there are no more records, though it is not the end.
#[derive(Debug)]
pub(crate) enum SplitError {
    /// The source has no more.
    Source(SourceError),
    /// A line is too long for the store.
    LongLine {
        /// Its number, from 1.
        line: u64,
    },
    /// A frame is too long for the store.
    LongFrame {
        /// Where its length is, from the start of the source.
        offset: u64,
        /// What that says.
        len_bytes: u64,
    },
    /// The source ends within a frame.
    TruncatedFrame {
        /// Where the frame's length is, or should be, from the start of the source.
        offset: u64,
        /// How many bytes there are from there.
        available_bytes: u64,
        /// The length of the record, if that much is there.
        len_bytes: Option<u64>,
    },
}

/// Some records, in the bytes that they were read in.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    records: Vec<Range<usize>>,
}

impl Chunk {
    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Every `step`-th record from number `first` on.
    pub(crate) fn every(&self, first: usize, step: usize) -> impl Iterator<Item = &[u8]> {
        let records = self.records.get(first..).unwrap_or_default();
        records
            .iter()
            .step_by(step)
            .map(|place| &self.bytes[place.clone()])
    }

    /// The sum of the records' lengths in bytes.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.records.iter().map(|place| place.len() as u64).sum()
    }
}

/// Cuts one source into records.
pub(crate) struct Splitter<S> {
    source: S,
    framing: Framing,
    max_record_bytes: u64,
    read_bytes: usize,
    /// The beginning of a record that is not all there yet.
    rest: Vec<u8>,
    /// Where `rest` begins in the source.
    offset: u64,
    /// How many records have been given away or are in the chunk being filled.
    records: u64,
    /// What comes after the records given away last.
    then: Option<SplitError>,
    ended: bool,
}

impl<S: Source> Splitter<S> {
    /// Takes a source from its start, `read_bytes` at a time.
    pub(crate) fn new(
        source: S,
        framing: Framing,
        max_record_bytes: u64,
        read_bytes: usize,
    ) -> Self {
        Self {
            source,
            framing,
            max_record_bytes,
            read_bytes,
            rest: Vec::new(),
            offset: 0,
            records: 0,
            then: None,
            ended: false,
        }
    }

    /// The source.
    pub(crate) fn source(&mut self) -> &mut S {
        &mut self.source
    }

    /// Fills `chunk` with at least one record, or says that there are no more.
    ///
    /// The records before an error come first, the error with the next call.
    pub(crate) fn fill(&mut self, chunk: &mut Chunk) -> Result<bool, SplitError> {
        chunk.records.clear();
        if let Some(error) = self.then.take() {
            self.ended = true;
            return Err(error);
        }
        if self.ended {
            return Ok(false);
        }
        if chunk.bytes.len() > KEPT_READS * self.read_bytes {
            chunk.bytes = Vec::new();
        }
        let mut filled = self.rest.len();
        let mut cut = Cut { at: 0, scanned: 0 };
        if chunk.bytes.len() < filled {
            chunk.bytes.resize(filled, 0);
        }
        chunk.bytes[..filled].copy_from_slice(&self.rest);
        self.rest.clear();
        loop {
            // Room for a whole read, and at least half as much again as there is: a long record
            // costs no more than its length over and over.
            if chunk.bytes.len() < filled + self.read_bytes {
                chunk
                    .bytes
                    .resize(filled + self.read_bytes.max(filled / 2), 0);
            }
            let read = self.source.read(&mut chunk.bytes[filled..]);
            let error = match read {
                Ok(0) => {
                    self.ended = true;
                    self.end(&chunk.bytes[..filled], cut, &mut chunk.records)
                        .err()
                }
                Ok(read) => {
                    filled += read;
                    self.cut(&chunk.bytes[..filled], &mut cut, &mut chunk.records)
                        .err()
                }
                Err(error) => Some(SplitError::Source(error)),
            };
            let done = error.is_some() || self.ended;
            if !chunk.records.is_empty() {
                self.offset += cut.at as u64;
                self.rest.extend_from_slice(&chunk.bytes[cut.at..filled]);
                self.then = error;
                return Ok(true);
            }
            if done {
                self.ended = true;
                return error.map_or(Ok(false), Err);
            }
        }
    }

    /// Finds the records that are complete.
    fn cut(
        &mut self,
        bytes: &[u8],
        cut: &mut Cut,
        records: &mut Vec<Range<usize>>,
    ) -> Result<(), SplitError> {
        match self.framing {
            Framing::Lines => self.cut_lines(bytes, cut, records),
            Framing::Length => self.cut_frames(bytes, cut, records),
        }
    }

    fn cut_lines(
        &mut self,
        bytes: &[u8],
        cut: &mut Cut,
        records: &mut Vec<Range<usize>>,
    ) -> Result<(), SplitError> {
        for newline in memchr::memchr_iter(b'\n', &bytes[cut.scanned..]) {
            let newline = cut.scanned + newline;
            self.check_line(newline - cut.at)?;
            records.push(cut.at..newline);
            self.records += 1;
            cut.at = newline + 1;
        }
        cut.scanned = bytes.len();
        self.check_line(bytes.len() - cut.at)
    }

    fn check_line(&self, len: usize) -> Result<(), SplitError> {
        if len as u64 > self.max_record_bytes {
            return Err(SplitError::LongLine {
                line: self.records + 1,
            });
        }
        Ok(())
    }

    fn cut_frames(
        &mut self,
        bytes: &[u8],
        cut: &mut Cut,
        records: &mut Vec<Range<usize>>,
    ) -> Result<(), SplitError> {
        while let Some((len, _)) = bytes[cut.at..].split_first_chunk() {
            let len_bytes = u64::from(u32::from_le_bytes(*len));
            let start = cut.at + len.len();
            if len_bytes > self.max_record_bytes && !canary!("cli-frame-length-unchecked") {
                let offset = self.offset + cut.at as u64;
                return Err(SplitError::LongFrame { offset, len_bytes });
            }
            if len_bytes > (bytes.len() - start) as u64 {
                break;
            }
            // It fits into what is in memory already.
            let end = start + usize::try_from(len_bytes).unwrap_or(usize::MAX);
            records.push(start..end);
            self.records += 1;
            cut.at = end;
        }
        Ok(())
    }

    /// Decides what the bytes after the last complete record are at the end of the source.
    fn end(
        &mut self,
        bytes: &[u8],
        cut: Cut,
        records: &mut Vec<Range<usize>>,
    ) -> Result<(), SplitError> {
        let rest = &bytes[cut.at..];
        if rest.is_empty() {
            return Ok(());
        }
        match self.framing {
            Framing::Length if canary!("cli-frame-cut-short") => {
                records.push(cut.at..bytes.len());
                Ok(())
            }
            Framing::Lines => {
                records.push(cut.at..bytes.len());
                self.records += 1;
                Ok(())
            }
            Framing::Length => Err(SplitError::TruncatedFrame {
                offset: self.offset + cut.at as u64,
                available_bytes: rest.len() as u64,
                len_bytes: rest
                    .first_chunk()
                    .map(|len| u64::from(u32::from_le_bytes(*len))),
            }),
        }
    }
}

/// How far the bytes of a chunk have been cut.
#[derive(Clone, Copy)]
struct Cut {
    /// The end of the last complete record.
    at: usize,
    /// No record ends between there and here.
    scanned: usize,
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives bytes in pieces of the given lengths, over and over.
    struct Pieces<'a> {
        bytes: &'a [u8],
        lens: std::iter::Cycle<std::slice::Iter<'a, usize>>,
    }

    impl Source for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> Result<usize, SourceError> {
            let len = self
                .lens
                .next()
                .copied()
                .unwrap_or(1)
                .min(into.len())
                .min(self.bytes.len());
            let (now, later) = self.bytes.split_at(len);
            into[..len].copy_from_slice(now);
            self.bytes = later;
            Ok(len)
        }
    }

    const PIECES: &[&[usize]] = &[&[1], &[2, 3], &[7, 1, 100], &[4096], &[usize::MAX]];

    fn split(
        bytes: &[u8],
        framing: Framing,
        max: u64,
        lens: &[usize],
    ) -> (Vec<Vec<u8>>, Option<SplitError>) {
        let source = Pieces {
            bytes,
            lens: lens.iter().cycle(),
        };
        let mut splitter = Splitter::new(source, framing, max, READ_BYTES);
        let mut chunk = Chunk::default();
        let mut records = Vec::new();
        loop {
            match splitter.fill(&mut chunk) {
                Ok(true) => {
                    assert!(chunk.len() > 0);
                    records.extend(chunk.every(0, 1).map(<[u8]>::to_vec));
                }
                Ok(false) => return (records, None),
                Err(error) => return (records, Some(error)),
            }
        }
    }

    #[test]
    fn lines_come_out_as_they_went_in_however_they_are_read() {
        let long = vec![b'x'; (2 << 20) + 5];
        let cases: &[&[&[u8]]] = &[
            &[],
            &[b""],
            &[b"", b"", b""],
            &[b"one"],
            &[b"a", b"", b"\0\xff\r", b"d"],
            &[b"short", &long, b"short again"],
        ];
        for lines in cases {
            for last_newline in [true, false] {
                let mut input = lines.join(&b'\n');
                // Without its newline an empty last line is no line.
                let mut expected: Vec<Vec<u8>> = lines.iter().map(|l| l.to_vec()).collect();
                if last_newline && !lines.is_empty() {
                    input.push(b'\n');
                } else if lines.last().is_some_and(|line| line.is_empty()) {
                    expected.pop();
                }
                for lens in PIECES {
                    let (records, error) = split(&input, Framing::Lines, 64 << 20, lens);
                    assert!(error.is_none() && records == expected, "{lens:?}");
                }
            }
        }
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_read() {
        let records = [&b""[..], b"a\nb", b"", &[7; 3000], b"end"].map(<[u8]>::to_vec);
        let mut input = Vec::new();
        for record in &records {
            input.extend_from_slice(&u32::try_from(record.len()).unwrap().to_le_bytes());
            input.extend_from_slice(record);
        }
        for lens in PIECES {
            let (found, error) = split(&input, Framing::Length, 3000, lens);
            assert!(error.is_none() && found == records, "{lens:?}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_named_and_those_before_it_are_given() {
        for input in [&b"ab\nabc\nabcd\nab\n"[..], b"ab\nabc\nabcdefghij"] {
            for lens in PIECES {
                let (records, error) = split(input, Framing::Lines, 3, lens);
                assert_eq!(records, [&b"ab"[..], b"abc"]);
                assert!(
                    matches!(error, Some(SplitError::LongLine { line: 3 })),
                    "{error:?}"
                );
            }
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_or_too_long_is_named_by_its_offset() {
        let input = b"\x02\0\0\0ab\x05\0\0\0abc";
        for lens in PIECES {
            let (records, error) = split(input, Framing::Length, 100, lens);
            assert_eq!(records, [b"ab"]);
            let expected = matches!(
                error,
                Some(SplitError::TruncatedFrame {
                    offset: 6,
                    available_bytes: 7,
                    len_bytes: Some(5)
                })
            );
            assert!(expected, "{error:?}");
            let (_, error) = split(&input[..8], Framing::Length, 100, lens);
            let expected = matches!(
                error,
                Some(SplitError::TruncatedFrame {
                    offset: 6,
                    available_bytes: 2,
                    len_bytes: None
                })
            );
            assert!(expected, "{error:?}");
            let (records, error) = split(input, Framing::Length, 4, lens);
            assert_eq!(records, [b"ab"]);
            let expected = matches!(
                error,
                Some(SplitError::LongFrame {
                    offset: 6,
                    len_bytes: 5
                })
            );
            assert!(expected, "{error:?}");
        }
    }

    #[test]
    fn a_source_that_is_stopped_gives_no_half_record() {
        struct Stops(bool);
        impl Source for Stops {
            fn read(&mut self, into: &mut [u8]) -> Result<usize, SourceError> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(SourceError::Stopped);
                }
                into[..5].copy_from_slice(b"a\nhal");
                Ok(5)
            }
        }
        let mut splitter = Splitter::new(Stops(false), Framing::Lines, 100, READ_BYTES);
        let mut chunk = Chunk::default();
        assert!(splitter.fill(&mut chunk).unwrap());
        assert_eq!(chunk.every(0, 1).collect::<Vec<_>>(), [b"a"]);
        let stopped = splitter.fill(&mut chunk);
        assert!(matches!(
            stopped,
            Err(SplitError::Source(SourceError::Stopped))
        ));
        assert!(!splitter.fill(&mut chunk).unwrap());
    }

    #[test]
    fn every_nth_record_is_a_threads_share() {
        let source = Pieces {
            bytes: b"0\n1\n2\n3\n4\n",
            lens: [usize::MAX].iter().cycle(),
        };
        let mut splitter = Splitter::new(source, Framing::Lines, 100, READ_BYTES);
        let mut chunk = Chunk::default();
        splitter.fill(&mut chunk).unwrap();
        assert_eq!(chunk.every(1, 2).collect::<Vec<_>>(), [b"1", b"3"]);
        assert_eq!(chunk.every(7, 2).count(), 0);
        assert_eq!(chunk.record_bytes(), 5);
    }
}
