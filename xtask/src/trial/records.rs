//! [`Records`]: the records of one life of a store, each of which says itself which one it is.

/// How long the records of a life are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Up to a few hundred bytes, many of them next to nothing.
    Small,
    /// From next to nothing to a few hundred KiB.
    Mixed,
    /// The same, and some that fit into no flush buffer.
    Oversize,
}

/// Generates any record of one life from its number.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    /// Tells this life from every other of any store.
    pub(crate) key: u64,
    pub(crate) mix: Mix,
    /// Whether any byte may occur in a record, or none that ends a line.
    pub(crate) binary: bool,
}

impl Records {
    /// Appends record number `index` to `out`.
    pub(crate) fn write(&self, index: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(self.tag(index).as_bytes());
        let mut random = SplitMix(self.key ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let len = filler_bytes(self.mix, &mut random);
        // A set top bit in every byte rules out newlines, and makes it anything but UTF-8.
        let mask = if self.binary {
            0
        } else {
            0x8080_8080_8080_8080
        };
        let end = out.len() + len;
        while out.len() < end {
            out.extend_from_slice(&(random.next() | mask).to_le_bytes());
        }
        out.truncate(end);
    }

    /// Which record of this life `payload` claims to be.
    pub(crate) fn index_of(&self, payload: &[u8]) -> Option<u64> {
        let tag = payload.get(..TAG_BYTES)?;
        let (key, index) = std::str::from_utf8(tag).ok()?.split_once('.')?;
        if u64::from_str_radix(key, 16).ok()? != self.key {
            return None;
        }
        u64::from_str_radix(index.strip_suffix(':')?, 16).ok()
    }

    fn tag(&self, index: u64) -> String {
        format!("{:016x}.{index:08x}:", self.key)
    }
}

const TAG_BYTES: usize = 16 + 1 + 8 + 1;

/// Lengths that lie on both sides of what matters: nothing at all, a block, a flush buffer.
fn filler_bytes(mix: Mix, random: &mut SplitMix) -> usize {
    let below = |bound: u64, random: &mut SplitMix| (random.next() % bound) as usize;
    match (mix, random.next() % 1000) {
        (_, 0..300) => 0,
        (Mix::Small, _) | (_, 300..700) => below(300, random),
        (_, 700..900) => below(5000, random),
        (_, 900..985) => below(80 << 10, random),
        (Mix::Oversize, 985..) => (3 << 19) + below(3 << 19, random),
        (Mix::Mixed, _) => below(400 << 10, random),
    }
}

/// A small generator, because every byte is made twice: once to be fed and once to be compared.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_which_one_it_is_and_comes_out_the_same_every_time() {
        for mix in [Mix::Small, Mix::Mixed, Mix::Oversize] {
            for binary in [false, true] {
                let records = Records {
                    key: 0xfeed,
                    mix,
                    binary,
                };
                for index in 0..200 {
                    let (mut first, mut second) = (Vec::new(), Vec::new());
                    records.write(index, &mut first);
                    records.write(index, &mut second);
                    assert!(first == second && first.len() >= TAG_BYTES);
                    assert!(binary || !first.contains(&b'\n'));
                    assert_eq!(records.index_of(&first), Some(index));
                }
            }
        }
    }

    #[test]
    fn a_record_of_another_life_is_told_apart() {
        let ours = Records {
            key: 1,
            mix: Mix::Small,
            binary: true,
        };
        let theirs = Records {
            key: 2,
            ..ours.clone()
        };
        let mut record = Vec::new();
        theirs.write(7, &mut record);
        assert_eq!(ours.index_of(&record), None);
        assert_eq!(ours.index_of(b""), None);
        assert_eq!(ours.index_of(&[0xff; 40]), None);
    }
}
