//! [`Output`]: standard output, through a large buffer, with records in either framing.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};

use esker_lss::Lsn;

use crate::args::Framing;
use crate::failure::Failure;

/// Says a line on standard error. Nobody may be able to hear it: that does not change what has
/// happened.
pub(crate) fn say(line: &str) {
    let _unheard = writeln!(io::stderr(), "{line}");
}

const BUFFER_BYTES: usize = 256 << 10;

/// Standard output. What is written must be flushed to be seen.
pub(crate) struct Output {
    out: BufWriter<File>,
}

impl Output {
    /// Standard output, past the line buffer that the standard library puts before it.
    pub(crate) fn new() -> Result<Self, Failure> {
        let fd = io::stdout().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|error| Failure::output(&error))?;
        Ok(Self {
            out: BufWriter::with_capacity(BUFFER_BYTES, File::from(fd)),
        })
    }

    /// The descriptor, to see whether anybody still reads.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.out.get_ref().as_fd()
    }

    /// Writes an LSN on a line.
    pub(crate) fn lsn(&mut self, lsn: Lsn) -> Result<(), Failure> {
        writeln!(self.out, "{lsn}").map_err(|error| Failure::output(&error))
    }

    /// Writes a line of text.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "{text}").map_err(|error| Failure::output(&error))
    }

    /// Writes a record, with its LSN and a tab before it if that is given.
    pub(crate) fn record(
        &mut self,
        lsn: Option<Lsn>,
        payload: &[u8],
        framing: Framing,
    ) -> Result<(), Failure> {
        write_record(&mut self.out, lsn, payload, framing).map_err(|error| Failure::output(&error))
    }

    /// Hands everything over.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| Failure::output(&error))
    }
}

fn write_record(
    out: &mut impl Write,
    lsn: Option<Lsn>,
    payload: &[u8],
    framing: Framing,
) -> io::Result<()> {
    if let Some(lsn) = lsn {
        write!(out, "{lsn}\t")?;
    }
    match framing {
        Framing::Lines => {
            out.write_all(payload)?;
            out.write_all(b"\n")
        }
        Framing::Length => {
            let len = u32::try_from(payload.len()).map_err(|_too_long| {
                io::Error::other(format!(
                    "a record of {} bytes has no frame: its length is more than a u32 holds",
                    payload.len()
                ))
            })?;
            out.write_all(&len.to_le_bytes())?;
            out.write_all(payload)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_written_in_their_framing() {
        for (lsn, framing, expected) in [
            (None, Framing::Lines, &b"a\0\n"[..]),
            (Some(Lsn::new(64)), Framing::Lines, b"64\ta\0\n"),
            (None, Framing::Length, b"\x02\0\0\0a\0"),
            (Some(Lsn::new(64)), Framing::Length, b"64\t\x02\0\0\0a\0"),
        ] {
            let mut out = Vec::new();
            write_record(&mut out, lsn, b"a\0", framing).unwrap();
            assert_eq!(out, expected);
        }
    }
}
