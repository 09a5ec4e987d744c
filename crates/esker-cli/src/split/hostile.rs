//! What must hold of cutting any bytes into records, in whatever pieces they come. The fuzz target
//! `framing` is made of this file; its seeds are run here as an ordinary test.

use crate::args::Framing;
use crate::split::{Chunk, Source, SourceError, Splitter};

const MAX_RECORD_BYTES: u64 = 300;

/// Less than a record takes, so that records are cut by the ends of reads too.
const READ_BYTES: usize = 256;

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
    let mut splitter = Splitter::new(Pieces(bytes, piece), framing, MAX_RECORD_BYTES, READ_BYTES);
    let (mut chunk, mut records) = (Chunk::default(), Vec::new());
    loop {
        match splitter.fill(&mut chunk) {
            Ok(true) => records.extend(chunk.every(0, 1).map(<[u8]>::to_vec)),
            Ok(false) => return (records, true),
            Err(_) => return (records, false),
        }
    }
}

/// Cuts all but the first of `bytes`, which says in what framing and in what pieces.
///
/// # Panics
///
/// If the records are not what the bytes say, or depend on the pieces.
pub(crate) fn run(bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else {
        return;
    };
    let framing = match first & 1 {
        0 => Framing::Lines,
        _ => Framing::Length,
    };
    let (records, is_all) = cut(bytes, framing, 1 + usize::from(first >> 1));
    let in_one = cut(bytes, framing, usize::MAX);
    assert!(
        (&records, is_all) == (&in_one.0, in_one.1),
        "the pieces matter"
    );
    let mut again = Vec::new();
    for record in &records {
        assert!(record.len() as u64 <= MAX_RECORD_BYTES);
        if let Framing::Length = framing {
            let len = u32::try_from(record.len()).unwrap_or(u32::MAX);
            again.extend_from_slice(&len.to_le_bytes());
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
}

#[test]
fn every_seed_of_the_fuzz_target_is_cut_the_same_in_any_pieces() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let seeds = std::fs::read_dir(root.join("../esker-lss/fuzz/seeds/framing")).expect("seeds");
    let mut count = 0;
    for seed in seeds {
        let seed = std::fs::read(seed.expect("an entry").path()).expect("a seed");
        let bytes = seed.get(1..).unwrap_or_default();
        for first in [0, 1, 2, 3, 12, 13, 254, 255] {
            run(&[&[first], bytes].concat());
        }
        // It may end anywhere.
        for len in (0..bytes.len()).step_by(1 + bytes.len() / 32) {
            run(&[&[2], &bytes[..len]].concat());
            run(&[&[3], &bytes[..len]].concat());
        }
        count += 1;
    }
    assert!(count >= 5, "{count} seeds");
}
