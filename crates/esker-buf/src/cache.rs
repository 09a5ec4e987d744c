//! Processor caches.

/// The unit in which x86-64 processors move memory.
#[cfg(target_arch = "x86_64")]
const LINE_BYTES: usize = 64;

/// Writes memory back and drops it from all processors' caches, where the processor has an
/// instruction for that that needs no privilege (x86-64); elsewhere it does nothing.
///
/// For memory that another processor has just read and that is to be overwritten next, as when a
/// hypervisor's processor has copied what was written to a paravirtual disk: taking each line away
/// from that processor's cache can cost several times as much as fetching it from memory does. The
/// content does not change. Never blocks.
///
/// # Examples
///
/// ```
/// let written = vec![7; 4096];
/// esker_buf::evict(&written);
/// assert_eq!(written, [7; 4096]);
/// ```
pub fn evict(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::_mm_clflush;
        if bytes.is_empty() {
            return;
        }
        // One more line where the bytes do not begin at one.
        let begin = bytes.as_ptr().addr() % LINE_BYTES;
        for offset in (0..begin + bytes.len()).step_by(LINE_BYTES) {
            let at = bytes.as_ptr().wrapping_sub(begin).wrapping_add(offset);
            // SAFETY: `clflush` is part of x86-64, needs only an address that can be read (the line
            // holds at least one of the bytes), and changes nothing that a program can see.
            unsafe { _mm_clflush(at) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

/// Asks for memory to be fetched into this processor's cache, to be written soon: as much as `bytes`
/// are, beginning `ahead` bytes behind their end. A hint, on x86-64; elsewhere it does nothing.
///
/// For memory that is filled in order and is in no cache, as after [`evict`]: who is about to fill
/// `bytes` asks for what comes after them, and finds it there. It need not be the caller's, nor be
/// memory at all: nothing is read that a program can see. Never blocks.
///
/// # Examples
///
/// ```
/// let mut buffer = vec![0; 4096];
/// for record in buffer.chunks_mut(256) {
///     esker_buf::prefetch_behind(record, 1024);
///     record.fill(7);
/// }
/// assert_eq!(buffer, [7; 4096]);
/// ```
#[inline(always)]
pub fn prefetch_behind(bytes: &[u8], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};

        let begin = bytes.as_ptr().wrapping_add(bytes.len()).wrapping_add(ahead);
        for offset in (0..bytes.len()).step_by(LINE_BYTES) {
            let at = begin.wrapping_add(offset);
            // SAFETY: a prefetch is a hint: it never faults, whatever the address, and changes
            // nothing that a program can see. `prefetchw` does nothing where it is not supported.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(at.cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, ahead);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_evicted_keeps_its_content() {
        let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        for (from, to) in [
            (0, 10_000),
            (1, 2),
            (63, 65),
            (5, 5),
            (64, 128),
            (17, 9_999),
        ] {
            evict(&bytes[from..to]);
            prefetch_behind(&bytes[from..to], to - from);
            prefetch_behind(&bytes[from..to], usize::MAX);
        }
        assert!(bytes.iter().zip((0..=255).cycle()).all(|(a, b)| *a == b));
    }
}
