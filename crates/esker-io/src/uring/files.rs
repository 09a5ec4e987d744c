//! Files that the kernel looked up in advance: [`Place`], and the [`Table`] of them.
//!
//! A table holds its files open, and their locks with them. These hold:
//!
//! - F1. A file's place is filled before its handle is given out, and emptied when the last handle
//!   and the last operation have let go of it, before its descriptor is closed: so an operation
//!   that names a place means its own file, and nothing is held open that nobody holds.
//! - F2. A place is given to another file only after it has been emptied.
//! - F3. An operation names a place only in the ring whose table that is in.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::squeue::Flags;
use io_uring::types::{Fd, Fixed};
use io_uring::{IoUring, opcode};

use super::Ring;
use crate::file::FileHandle;
use crate::sync::{Mutex, Weak};

const POLLIN: u32 = libc::POLLIN as u32;

/// Whether the kernel lets go of a file at once when its place is emptied, also while an operation on
/// another place runs, so that a lock goes with its handle. An older one does so a while later, or
/// only when all operations on places that were begun before are over. Found out with a pipe, whose
/// end is seen when its last writer is gone, and with an operation that does not end.
pub(super) fn table_lets_go() -> io::Result<bool> {
    let mut ring = IoUring::new(2)?;
    ring.submitter().register_files_sparse(2)?;
    let (mut reader, writer) = io::pipe()?;
    let (waited_for, silent) = io::pipe()?;
    let fill = |place, fd| ring.submitter().register_files_update(place, &[fd]);
    fill(0, writer.as_raw_fd())?;
    fill(1, waited_for.as_raw_fd())?;
    let wait = opcode::PollAdd::new(Fixed(1), POLLIN).build();
    // SAFETY: the entry names no memory.
    unsafe { ring.submission().push(&wait) }
        .map_err(|_| io::Error::other("an empty queue is full"))?;
    ring.submit()?;
    drop(writer);
    ring.submitter().register_files_update(0, &[-1])?;
    // SAFETY: the call touches no memory.
    let set = unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    let lets_go = match io::Read::read(&mut reader, &mut [0]) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
        Err(error) => return Err(error),
    };
    // Ends the operation, now that it has served.
    drop(silent);
    Ok(lets_go)
}

/// Which places of the kernel's table are free.
#[derive(Debug)]
pub(super) struct Table {
    free: Mutex<Vec<u32>>,
    count: u32,
}

impl Table {
    pub(super) fn new(count: u32) -> Self {
        Self {
            free: Mutex::new((0..count).rev().collect()),
            count,
        }
    }
}

/// A file's place in a ring's table, for as long as the file is open (F1).
pub(crate) struct Place {
    ring: Weak<Ring>,
    index: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        // A ring that has gone has taken its table with it.
        let Some(ring) = self.ring.upgrade() else {
            return;
        };
        if !ring.origin.is_here() {
            // O2: the table is the parent's.
            core::mem::forget(ring);
            return;
        }
        if canary!("io-place-stays-filled") || ring.set_place(self.index, -1).is_ok() {
            ring.files.free.lock().push(self.index);
        }
        // Else the table has gone, or keeps the file until the ring goes; the place is not used
        // again.
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// What an entry names a file by.
pub(super) fn named(ring: &Ring, file: &FileHandle) -> (Fd, Flags) {
    match file.place() {
        // F3. The pointer names no other ring for as long as this `Weak` is there.
        Some(Place { ring: its, index }) if core::ptr::eq(its.as_ptr(), ring) => {
            (Fd(index.cast_signed()), Flags::FIXED_FILE)
        }
        _ => (Fd(file.fd()), Flags::empty()),
    }
}

impl Ring {
    /// Gives a file that was just opened a place, if there is one.
    pub(super) fn place(&self, file: FileHandle) -> FileHandle {
        // O2: in a child the table is the parent's.
        if self.files.count == 0 || !self.origin.is_here() {
            return file;
        }
        let Some(index) = self.files.free.lock().pop() else {
            return file;
        };
        if self.set_place(index, file.fd()).is_err() {
            self.files.free.lock().push(index);
            return file;
        }
        file.in_place(Place {
            ring: Weak::clone(&self.this),
            index,
        })
    }

    /// Fills a place of the kernel's table, or with -1 empties it.
    fn set_place(&self, index: u32, fd: RawFd) -> io::Result<()> {
        let submitter = self.uring.submitter();
        match submitter.register_files_update(index, &[fd])? {
            1 => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EIO)),
        }
    }

    /// Lets go of the table now: the kernel would do so only some time after the ring is closed.
    /// Nothing may be in flight.
    pub(super) fn give_up_places(&self) {
        if self.files.count > 0 {
            // It fails only if there is none any more.
            let _ = self.uring.submitter().unregister_files();
        }
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::action::Durability;
    use crate::backend::{Backend, Create, FileOptions};
    use crate::ext::BackendExt;
    use crate::uring::{Uring, UringConfig};

    /// A ring with two places; `None` where there is none.
    fn ring_of_two() -> Option<Uring> {
        let uring = Uring::new(UringConfig::default().registered_files(2));
        uring.inspect_err(|error| println!("skipped: {error}")).ok()
    }

    fn open(uring: &Uring, dir: &Path, name: &str) -> FileHandle {
        let options = FileOptions::read_write().create(Create::IfMissing);
        uring.open(&dir.join(name), &options).expect("a file")
    }

    fn name_in(uring: &Uring, file: &FileHandle) -> (RawFd, Flags) {
        let (Fd(name), flags) = named(&uring.ring, file);
        (name, flags)
    }

    #[test]
    fn a_file_has_a_place_while_there_is_one_and_its_entries_name_it() {
        let Some(uring) = ring_of_two() else { return };
        let dir = tempfile::tempdir().expect("a directory");
        let open = |name| open(&uring, dir.path(), name);
        let by = |file: &FileHandle| name_in(&uring, file);
        let (first, second, third) = (open("0"), open("1"), open("2"));
        assert_eq!(by(&first), (0, Flags::FIXED_FILE));
        assert_eq!(by(&second), (1, Flags::FIXED_FILE));
        assert_eq!(by(&third), (third.fd(), Flags::empty()));
        let clone = first.clone();
        drop(first);
        assert_eq!(by(&clone), (0, Flags::FIXED_FILE), "a clone keeps it");
        assert_eq!(by(&open("3")).1, Flags::empty());
        drop(clone);
        let next = open("4");
        assert_eq!(by(&next), (0, Flags::FIXED_FILE), "it comes back");
        // F3: another ring, with a table of its own, knows nothing of the place.
        let Some(other) = ring_of_two() else { return };
        let as_other = name_in(&other, &next);
        assert_eq!(as_other, (next.fd(), Flags::empty()));
    }

    #[test]
    fn a_file_that_an_operation_has_opened_has_a_place_too() {
        let Some(uring) = ring_of_two() else { return };
        let dir = tempfile::tempdir().expect("a directory");
        let options = FileOptions::read_write().create(Create::New);
        let opening = uring.start_open(&dir.path().join("0"), &options);
        let file = opening.wait(&uring).expect("a new file");
        assert_eq!(name_in(&uring, &file), (0, Flags::FIXED_FILE));
        for cut in [true, false] {
            let pending = match cut {
                true => uring.start_truncate(&file, 100),
                false => uring.start_sync(&file),
            };
            pending.wait(&uring).expect("it succeeds");
        }
        assert_eq!(uring.facts(&file).expect("facts").len_bytes, 100);
    }

    #[test]
    fn operations_reach_their_file_by_its_place() {
        let Some(uring) = ring_of_two() else { return };
        let dir = tempfile::tempdir().expect("a directory");
        let open = |name| open(&uring, dir.path(), name);
        let (placed, _second, beyond) = (open("placed"), open("second"), open("beyond"));
        let decoy = open("decoy");
        // The descriptors of both lead elsewhere now; what the kernel looked up in advance does not.
        for file in [&placed, &beyond] {
            // SAFETY: both descriptors are open, and belong to handles that are held.
            let moved = unsafe { libc::dup2(decoy.fd(), file.fd()) };
            assert_eq!(moved, file.fd());
            let write = uring.start_write(file, 0, vec![7; 100], Durability::Written);
            write.wait(&uring).expect("it succeeds");
            let sync = uring.start_sync(file);
            sync.wait(&uring).expect("it succeeds");
        }
        let len = |name: &str| {
            std::fs::metadata(dir.path().join(name))
                .expect("it is there")
                .len()
        };
        assert_eq!((len("placed"), len("beyond"), len("decoy")), (100, 0, 100));
        let read = uring.start_read(&placed, 0, vec![0; 200]);
        let (count, bytes) = read.wait(&uring).expect("it succeeds");
        assert!(count == 100 && bytes[..100] == [7; 100]);
    }
}
