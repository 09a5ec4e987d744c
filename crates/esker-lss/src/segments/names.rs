//! What the segments' files are called.

use std::ffi::OsStr;
use std::fmt;

/// The name of a file that holds, or is to hold, a part of the log: a number of 16 hexadecimal
/// digits, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentName {
    /// The segment of this number.
    Segment(u64),
    /// A file of a segment's length that the log has not reached.
    Spare(u64),
    /// A file that is being made.
    Unfinished(u64),
}

impl SegmentName {
    /// What a file with this name is; `None` for what is none of these, however near it comes.
    pub(crate) fn parse(name: &OsStr) -> Option<Self> {
        let (digits, suffix) = name.to_str()?.split_once('.')?;
        let canonical = digits.len() == 16
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = canonical.then(|| u64::from_str_radix(digits, 16).ok())??;
        let kinds = [Self::Segment, Self::Spare, Self::Unfinished];
        let mut names = kinds.map(|kind| kind(number)).into_iter();
        names.find(|name| name.suffix() == suffix)
    }

    /// The segment's number, if it is one.
    pub(crate) fn segment(self) -> Option<u64> {
        match self {
            Self::Segment(number) => Some(number),
            Self::Spare(_) | Self::Unfinished(_) => None,
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::Segment(_) => "seg",
            Self::Spare(_) => "spare",
            Self::Unfinished(_) => "new-seg",
        }
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Segment(number) | Self::Spare(number) | Self::Unfinished(number)) = *self;
        write!(f, "{number:016x}.{}", self.suffix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_the_file_is() {
        for number in [0, 1, 0xabc, u64::MAX] {
            for (name, text) in [
                (SegmentName::Segment(number), format!("{number:016x}.seg")),
                (SegmentName::Spare(number), format!("{number:016x}.spare")),
                (
                    SegmentName::Unfinished(number),
                    format!("{number:016x}.new-seg"),
                ),
            ] {
                assert_eq!(name.to_string(), text);
                assert_eq!(SegmentName::parse(OsStr::new(&text)), Some(name));
            }
        }
    }

    #[test]
    fn only_canonical_names_are_taken() {
        for name in [
            "1.seg",
            "000000000000000A.seg",
            "+000000000000001.seg",
            "0000000000000001.seg.bak",
            "0000000000000001",
            "superblock",
            ".seg",
        ] {
            assert_eq!(SegmentName::parse(OsStr::new(name)), None, "{name}");
        }
    }
}
