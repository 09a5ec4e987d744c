//! What the worker is told: frames of a length in four bytes, little-endian, and so many bytes. Two
//! lengths that no record has stand for orders.

use std::io::{self, Read};

use esker_lss::Lsn;

/// In place of a length: the store is to be trimmed before the LSN in the next eight bytes.
const TRIM: u32 = u32::MAX;
/// In place of a length: the store is to be opened again when all before is durable.
const REOPEN: u32 = u32::MAX - 1;

/// One item of the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Record(Vec<u8>),
    Trim(Lsn),
    Reopen,
}

/// Reads the next one; none at the end.
pub(crate) fn read(input: &mut impl Read) -> io::Result<Option<Input>> {
    let mut word = [0; 4];
    match input.read_exact(&mut word) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        done => done?,
    }
    Ok(Some(match u32::from_le_bytes(word) {
        TRIM => {
            let mut lsn = [0; 8];
            input.read_exact(&mut lsn)?;
            Input::Trim(Lsn::new(u64::from_le_bytes(lsn)))
        }
        REOPEN => Input::Reopen,
        len => {
            let mut record = Vec::new();
            if input.take(u64::from(len)).read_to_end(&mut record)? < len as usize {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Input::Record(record)
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_orders_are_told_apart() {
        let mut bytes = Vec::new();
        bytes.extend([3, 0, 0, 0, 7, 8, 9]);
        bytes.extend([0xff, 0xff, 0xff, 0xff, 5, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend([0xfe, 0xff, 0xff, 0xff]);
        let mut input = &bytes[..];
        let mut next = || read(&mut input).unwrap();
        assert_eq!(next(), Some(Input::Record(vec![7, 8, 9])));
        assert_eq!(next(), Some(Input::Trim(Lsn::new(5))));
        assert_eq!(next(), Some(Input::Reopen));
        assert_eq!(next(), None);
        read(&mut &[3, 0, 0, 0, 7][..]).unwrap_err();
    }
}
