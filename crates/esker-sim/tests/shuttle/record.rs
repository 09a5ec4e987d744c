//! Records that say who wrote them, so that one can be checked by whoever finds it.

/// Life, author, number, length, and how many more records of its batch follow; eight bytes each.
const HEADER_BYTES: usize = 40;

/// Whoever appends in an order of its own, in one life of the store: a thread through the store, or
/// through its appender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Author {
    life: u64,
    id: u64,
    written: u64,
}

impl Author {
    pub(crate) fn new(life: u64, id: u64) -> Self {
        Self {
            life,
            id,
            written: 0,
        }
    }

    /// Its next record, of at least so many bytes.
    pub(crate) fn next(&mut self, len: usize) -> Vec<u8> {
        self.next_of_batch(len, 0)
    }

    /// Its next record, which so many more of the same batch follow.
    pub(crate) fn next_of_batch(&mut self, len: usize, follow: usize) -> Vec<u8> {
        let len = len.max(HEADER_BYTES);
        let record = record([self.life, self.id, self.written, len as u64, follow as u64]);
        self.written += 1;
        record
    }
}

fn record(header: [u64; 5]) -> Vec<u8> {
    let header: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    let len = word(&header, 3);
    let fill = crc(&header).to_le_bytes();
    let fill = fill.iter().copied().cycle();
    let len = usize::try_from(len).expect("made here, or refused");
    header.iter().copied().chain(fill).take(len).collect()
}

fn word(bytes: &[u8], number: usize) -> u64 {
    let bytes = &bytes[number * 8..][..8];
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

/// Something that differs from header to header.
fn crc(header: &[u8]) -> u64 {
    header.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// Whether these are the bytes of a record as it was written.
pub(crate) fn is_whole(payload: &[u8]) -> bool {
    if payload.len() < HEADER_BYTES || word(payload, 3) != payload.len() as u64 {
        return false;
    }
    let header = [0, 1, 2, 3, 4].map(|number| word(payload, number));
    payload == record(header)
}

/// Life and author of a record, and its number among theirs.
pub(crate) fn written_by(payload: &[u8]) -> ((u64, u64), u64) {
    ((word(payload, 0), word(payload, 1)), word(payload, 2))
}

/// How many more records of its batch follow a record.
pub(crate) fn following(payload: &[u8]) -> u64 {
    word(payload, 4)
}
