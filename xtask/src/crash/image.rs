//! [`Image`]: what is on a device, and what a crash may leave of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rand::{Rng, RngExt};

use super::log::{Event, SECTOR_BYTES};
use crate::suite::SuiteError;

const CHUNK_BYTES: u64 = 64 << 10;

/// The bytes of a device; what was never written is zero and takes no memory.
#[derive(Clone, Default)]
pub(super) struct Image {
    len: u64,
    chunks: BTreeMap<u64, Box<[u8]>>,
}

impl Image {
    /// Reads a device's file.
    pub(super) fn read(path: &Path) -> Result<Self, SuiteError> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let mut image = Self {
            len,
            chunks: BTreeMap::new(),
        };
        let mut bytes = vec![0; CHUNK_BYTES as usize];
        for number in 0..len.div_ceil(CHUNK_BYTES) {
            let here = CHUNK_BYTES.min(len - number * CHUNK_BYTES) as usize;
            file.read_exact(&mut bytes[..here])?;
            if bytes[..here].iter().any(|&byte| byte != 0) {
                bytes[here..].fill(0);
                image.chunks.insert(number, bytes.clone().into());
            }
        }
        Ok(image)
    }

    /// Writes it to a new file.
    pub(super) fn store(&self, path: &Path) -> Result<(), SuiteError> {
        let file = File::create(path)?;
        file.set_len(self.len)?;
        for (number, bytes) in &self.chunks {
            let offset = number * CHUNK_BYTES;
            let here = CHUNK_BYTES.min(self.len - offset) as usize;
            file.write_all_at(&bytes[..here], offset)?;
        }
        Ok(())
    }

    fn write(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let start = (offset % CHUNK_BYTES) as usize;
            let here = bytes.len().min(CHUNK_BYTES as usize - start);
            let chunk = self
                .chunks
                .entry(offset / CHUNK_BYTES)
                .or_insert_with(|| vec![0; CHUNK_BYTES as usize].into());
            chunk[start..start + here].copy_from_slice(&bytes[..here]);
            bytes = &bytes[here..];
            offset += here as u64;
        }
    }

    /// Lets an event happen as a whole.
    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Write { offset, bytes } => self.write(*offset, bytes),
            Event::Discard { offset, len } => self.write(*offset, &vec![0; *len as usize]),
            Event::Flush | Event::Mark(_) => {}
        }
    }

    /// Lets those sectors of an event happen that `keep` says.
    fn apply_torn(&mut self, event: &Event, mut keep: impl FnMut() -> bool) {
        let Event::Write { offset, bytes } = event else {
            return self.apply(event);
        };
        for (index, sector) in bytes.chunks(SECTOR_BYTES as usize).enumerate() {
            if keep() {
                self.write(offset + index as u64 * SECTOR_BYTES, sector);
            }
        }
    }
}

/// What happens to the writes that no flush had covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// They all are there.
    None,
    /// None is there.
    All,
    /// Each is there or not, the one as likely as the other.
    Some,
    /// Nearly all are there.
    Few,
    /// Each is there, not there, or torn: its first sectors, its last, or any.
    Torn,
}

impl Loss {
    pub(super) const EVERY: [Self; 5] = [Self::None, Self::All, Self::Some, Self::Few, Self::Torn];

    /// Lets `events` happen to `image` as far as they survive.
    pub(super) fn apply(self, image: &mut Image, events: &[Event], random: &mut impl Rng) {
        for event in events {
            match self {
                Self::None => image.apply(event),
                Self::All => {}
                Self::Some if random.random_bool(0.5) => image.apply(event),
                Self::Few if random.random_bool(0.9) => image.apply(event),
                Self::Some | Self::Few => {}
                Self::Torn => tear(image, event, random),
            }
        }
    }
}

fn tear(image: &mut Image, event: &Event, random: &mut impl Rng) {
    let sectors = match event {
        Event::Write { bytes, .. } => bytes.len() / SECTOR_BYTES as usize,
        _ => 1,
    };
    let cut = random.random_range(0..=sectors);
    let mut at = 0..sectors;
    match random.random_range(0..5) {
        0 => {}
        1 => image.apply(event),
        2 => image.apply_torn(event, || at.next().is_some_and(|at| at < cut)),
        3 => image.apply_torn(event, || at.next().is_some_and(|at| at >= cut)),
        _ => image.apply_torn(event, || random.random_bool(0.5)),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn bytes_of(image: &Image) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        image.store(file.path()).unwrap();
        std::fs::read(file.path()).unwrap()
    }

    fn written() -> Event {
        Event::Write {
            offset: CHUNK_BYTES - 1024,
            bytes: vec![9; 4096],
        }
    }

    #[test]
    fn an_image_is_what_was_written_to_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; 200_000];
        bytes[150_000] = 1;
        std::fs::write(file.path(), &bytes).unwrap();
        let mut image = Image::read(file.path()).unwrap();
        assert_eq!(bytes_of(&image), bytes);
        image.apply(&written());
        bytes[65536 - 1024..65536 + 3072].fill(9);
        assert_eq!(bytes_of(&image), bytes);
        image.apply(&Event::Discard {
            offset: 65536,
            len: 1024,
        });
        bytes[65536..65536 + 1024].fill(0);
        assert_eq!(bytes_of(&image), bytes);
    }

    #[test]
    fn a_torn_write_is_old_or_new_in_each_sector() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut kept = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let mut image = Image {
                len: 2 * CHUNK_BYTES,
                ..Image::default()
            };
            Loss::Torn.apply(&mut image, &[written()], &mut random);
            let bytes = bytes_of(&image);
            for sector in bytes.chunks(512) {
                assert!(sector.iter().all(|&byte| byte == sector[0]));
            }
            kept.insert(bytes.iter().filter(|&&byte| byte == 9).count() / 512);
        }
        assert_eq!(
            kept.into_iter().collect::<Vec<_>>(),
            (0..=8).collect::<Vec<_>>()
        );
    }
}
