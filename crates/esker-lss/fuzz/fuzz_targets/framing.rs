//! The command's framing: bytes that come in any pieces are cut into the records that they are.
#![no_main]

/// What the splitter takes from the command line.
mod args {
    #[derive(Clone, Copy)]
    pub(crate) enum Framing {
        Lines,
        Length,
    }
}

#[path = "../../../esker-cli/src/split.rs"]
#[allow(dead_code, reason = "the command uses the rest")]
mod split;

use args::Framing;
use split::{Chunk, Source, SourceError, Splitter};

const MAX_RECORD_BYTES: u64 = 300;

/// Gives bytes in pieces of one length.
struct Pieces<'b>(&'b [u8], usize);

impl Source for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, SourceError> {
        let len = self.1.min(self.0.len()).min(into.len());
        let (taken, left) = self.0.split_at(len);
        into[..len].copy_from_slice(taken);
        self.0 = left;
        Ok(len)
    }
}

/// The records, and whether that was all.
fn cut(bytes: &[u8], framing: Framing, piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut splitter = Splitter::new(Pieces(bytes, piece), framing, MAX_RECORD_BYTES);
    let (mut chunk, mut records) = (Chunk::default(), Vec::new());
    loop {
        match splitter.fill(&mut chunk) {
            Ok(true) => records.extend(chunk.every(0, 1).map(<[u8]>::to_vec)),
            Ok(false) => return (records, true),
            Err(_) => return (records, false),
        }
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&first, bytes)) = bytes.split_first() else {
        return;
    };
    let framing = match first & 1 {
        0 => Framing::Lines,
        _ => Framing::Length,
    };
    let (records, is_all) = cut(bytes, framing, 1 + usize::from(first >> 1));
    assert_eq!((&records, is_all), (&cut(bytes, framing, usize::MAX).0, cut(bytes, framing, usize::MAX).1));
    let mut again = Vec::new();
    for record in &records {
        assert!(record.len() as u64 <= MAX_RECORD_BYTES);
        if let Framing::Length = framing {
            again.extend_from_slice(&u32::try_from(record.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
        again.extend_from_slice(record);
        if let Framing::Lines = framing {
            again.push(b'\n');
        }
    }
    // The last line may end without its newline.
    let is_same = bytes == again || again.strip_suffix(b"\n").is_some_and(|cut| cut == bytes);
    assert!(bytes.starts_with(&again) || is_same);
    assert!(!is_all || is_same);
});
