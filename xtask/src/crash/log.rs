//! The log of a device's writes, as qemu's `blklogwrites` keeps it: the format of the kernel's
//! dm-log-writes. And [`Mark`]: what is written behind the file system to say, in the order of the
//! log, what had happened.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use crate::suite::SuiteError;

/// The unit of the log, and that in which a write tears.
pub(super) const SECTOR_BYTES: u64 = 512;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// Something that happened to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Bytes were written at an offset.
    Write { offset: u64, bytes: Vec<u8> },
    /// A range was given back, and reads as zeroes.
    Discard { offset: u64, len: u64 },
    /// Everything before is durable.
    Flush,
    /// Said by this program.
    Mark(Mark),
}

/// What this program says in the log. Each is said after what it names has happened, or, where
/// something begins, before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The life's process is about to be started.
    Started { life: usize },
    /// So many LSNs of the life had been printed.
    Acknowledged { life: usize, count: usize },
    /// What lies below is about to be trimmed.
    Trimming { before: u64 },
}

impl Mark {
    const MAGIC: u64 = u64::from_le_bytes(*b"esk-mark");

    /// The sector that says it.
    pub(super) fn encode(self) -> Vec<u8> {
        let words = match self {
            Self::Started { life } => [Self::MAGIC, 0, life as u64, 0],
            Self::Acknowledged { life, count } => [Self::MAGIC, 1, life as u64, count as u64],
            Self::Trimming { before } => [Self::MAGIC, 2, before, 0],
        };
        let mut sector: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        sector.resize(SECTOR_BYTES as usize, 0);
        sector
    }

    fn decode(sector: &[u8]) -> Option<Self> {
        let word =
            |index: usize| Some(u64::from_le_bytes(*sector.get(index * 8..)?.first_chunk()?));
        match (word(0)?, word(1)?) {
            (Self::MAGIC, 0) => Some(Self::Started {
                life: word(2)? as usize,
            }),
            (Self::MAGIC, 1) => Some(Self::Acknowledged {
                life: word(2)? as usize,
                count: word(3)? as usize,
            }),
            (Self::MAGIC, 2) => Some(Self::Trimming { before: word(2)? }),
            _ => None,
        }
    }
}

/// Reads the log of a device; what is at `marks_from` and behind are marks.
pub(super) fn read(path: &Path, marks_from: u64) -> Result<Vec<Event>, SuiteError> {
    let mut log = BufReader::with_capacity(1 << 20, File::open(path)?);
    let [magic, version, entries] = words(&mut log)?;
    if magic != MAGIC || version != 1 {
        return Err(format!("{} is no log of a device's writes", path.display()).into());
    }
    log.seek(SeekFrom::Start(SECTOR_BYTES))?;
    let mut events = Vec::new();
    for _ in 0..entries {
        let header: [u64; 4] = match words(&mut log) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            header => header?,
        };
        let [sector, sectors, flags, _] = header;
        log.seek_relative(SECTOR_BYTES as i64 - 32)?;
        let (offset, len) = (sector * SECTOR_BYTES, sectors * SECTOR_BYTES);
        if flags & FLUSH != 0 {
            events.push(Event::Flush);
        }
        if flags & (DISCARD | MARK) != 0 || len == 0 {
            if flags & DISCARD != 0 {
                events.push(Event::Discard { offset, len });
            }
            continue;
        }
        let mut bytes = vec![0; len as usize];
        log.read_exact(&mut bytes)?;
        if offset >= marks_from {
            let mark = Mark::decode(&bytes).ok_or("a mark in the log cannot be read")?;
            events.push(Event::Mark(mark));
            continue;
        }
        events.push(Event::Write { offset, bytes });
        if flags & FUA != 0 {
            return Err("a durable write is in the log: loop devices know none".into());
        }
    }
    Ok(events)
}

fn words<const N: usize>(log: &mut impl Read) -> std::io::Result<[u64; N]> {
    let mut words = [0; N];
    for word in &mut words {
        let mut bytes = [0; 8];
        log.read_exact(&mut bytes)?;
        *word = u64::from_le_bytes(bytes);
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_in_its_order() {
        let mark = Mark::Acknowledged { life: 3, count: 17 };
        let mut log = Vec::new();
        let entry = |log: &mut Vec<u8>, words: [u64; 4], data: &[u8]| {
            words.iter().for_each(|word| log.extend(word.to_le_bytes()));
            log.resize(log.len() + 480, 0);
            log.extend(data);
        };
        [MAGIC, 1, 4]
            .iter()
            .for_each(|word| log.extend(word.to_le_bytes()));
        log.resize(512, 0);
        entry(&mut log, [2, 2, 0, 0], &[7; 1024]);
        entry(&mut log, [0, 0, FLUSH, 0], &[]);
        entry(&mut log, [100, 1, 0, 0], &mark.encode());
        entry(&mut log, [8, 4, DISCARD, 0], &[]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &log).unwrap();
        let expected = [
            Event::Write {
                offset: 1024,
                bytes: vec![7; 1024],
            },
            Event::Flush,
            Event::Mark(mark),
            Event::Discard {
                offset: 4096,
                len: 2048,
            },
        ];
        assert_eq!(read(file.path(), 100 * 512).unwrap(), expected);
        std::fs::write(file.path(), [0; 512]).unwrap();
        read(file.path(), 0).unwrap_err();
    }

    #[test]
    fn marks_say_what_they_said() {
        for mark in [
            Mark::Started { life: 1 },
            Mark::Acknowledged { life: 2, count: 99 },
            Mark::Trimming { before: 4096 },
        ] {
            assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        }
        assert_eq!(Mark::decode(&[0; 512]), None);
    }
}
