//! What an operation asks for next, as an entry of the submission queue.

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};

use super::files;
use super::regions::Region;
use super::table::{InFlight, Vectors};
use super::{Accepted, Ring};
use crate::action::{Action, Durability};
use crate::call::{Call, FACTS, MODE, NONE};
use crate::course::Course;
use crate::operation::Operation;
use crate::transfer::Piece;

/// The entry for what an operation of the ring asks for next. A transfer names its file by its place in
/// the ring's table; not every other request could.
pub(super) fn entry(ring: &Ring, tenant: &mut InFlight) -> squeue::Entry {
    let InFlight {
        operation: Accepted {
            operation, course, ..
        },
        vectors,
        region,
    } = tenant;
    let is_polled = ring.polled_for(operation).is_some();
    let fd = match operation {
        Operation::OnFile { file, .. } => file.fd(),
        Operation::Open { .. } | Operation::SyncDir { .. } => NONE,
    };
    if let Some(call) = course.call(fd) {
        return call_entry(call);
    }
    match (operation, course) {
        (Operation::OnFile { file, action, .. }, Course::Transfer(transfer)) => {
            // The table is the other ring's.
            let (fd, flags) = match is_polled {
                true => (Fd(fd), squeue::Flags::empty()),
                false => files::named(ring, file),
            };
            let piece = transfer.piece();
            transfer_entry(fd, action, piece, vectors, region.as_deref()).flags(flags)
        }
        // There is none: only a transfer has no call.
        _ => opcode::Nop::new().build(),
    }
}

fn transfer_entry(
    fd: Fd,
    action: &Action,
    piece: Piece,
    vectors: &mut Vectors,
    region: Option<&Region>,
) -> squeue::Entry {
    match action {
        Action::Read { memory, .. } => {
            let start = memory.as_mut_ptr().wrapping_add(piece.start);
            match region {
                Some(region) => opcode::ReadFixed::new(fd, start, piece.len, region.index())
                    .offset(piece.offset)
                    .build(),
                None => opcode::Read::new(fd, start, piece.len)
                    .offset(piece.offset)
                    .build(),
            }
        }
        Action::Write {
            memory, durability, ..
        } => {
            let flags = match durability {
                Durability::Written => 0,
                Durability::Durable => libc::RWF_DSYNC,
            };
            if let Some(start) = memory.as_ptr() {
                let start = start.wrapping_add(piece.start);
                return match region {
                    Some(region) => opcode::WriteFixed::new(fd, start, piece.len, region.index())
                        .offset(piece.offset)
                        .rw_flags(flags)
                        .build(),
                    None => opcode::Write::new(fd, start, piece.len)
                        .offset(piece.offset)
                        .rw_flags(flags)
                        .build(),
                };
            }
            vectors.0 = memory.vectors(piece.start, piece.len as usize).into();
            #[expect(
                clippy::cast_possible_truncation,
                reason = "`WriteMemory::vectors` bounds it"
            )]
            let count = vectors.0.len() as u32;
            opcode::Writev::new(fd, vectors.0.as_ptr(), count)
                .offset(piece.offset)
                .rw_flags(flags)
                .build()
        }
        Action::SyncData => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        Action::SyncAll => opcode::Fsync::new(fd).build(),
        // Their course is none of transfers.
        Action::Allocate { .. } | Action::Truncate { .. } | Action::PunchHole { .. } => {
            opcode::Nop::new().build()
        }
    }
}

fn call_entry(call: Call) -> squeue::Entry {
    match call {
        Call::Open { path, flags } => opcode::OpenAt::new(Fd(libc::AT_FDCWD), path)
            .flags(flags)
            .mode(MODE)
            .build(),
        Call::Measure { fd, facts } => opcode::Statx::new(Fd(fd), c"".as_ptr(), facts.cast())
            .flags(libc::AT_EMPTY_PATH)
            .mask(FACTS)
            .build(),
        Call::Sync { fd } => opcode::Fsync::new(Fd(fd)).build(),
        Call::Fallocate {
            fd,
            mode,
            offset,
            len,
        } => opcode::Fallocate::new(Fd(fd), len)
            .offset(offset)
            .mode(mode)
            .build(),
        Call::SetLen { fd, len } => opcode::Ftruncate::new(Fd(fd), len).build(),
        Call::Write {
            fd,
            from,
            offset,
            len,
        } => opcode::Write::new(Fd(fd), from, len).offset(offset).build(),
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use std::time::Instant;

    use esker_buf::{Alignment, BufferPool, HugePages};

    use super::*;
    use crate::action::Completion;
    use crate::backend::{Backend, Create, FileOptions};
    use crate::file::FileHandle;
    use crate::memory::{ReadMemory, WriteMemory};
    use crate::uring::submission::region_of;
    use crate::uring::{Uring, UringConfig};

    /// The opcode of the entry for an action of a ring.
    fn opcode_of(ring: &Ring, file: &FileHandle, action: Action) -> u8 {
        code_of(
            ring,
            Operation::new(file.clone(), action, drop::<Completion>),
        )
    }

    fn code_of(ring: &Ring, operation: Operation<FileHandle>) -> u8 {
        let region = region_of(&ring.state.lock().regions, &operation);
        let course = Course::begin(&operation).expect("it is good");
        let mut tenant = InFlight {
            operation: Accepted {
                operation,
                course,
                began: Instant::now(),
            },
            vectors: Vectors::default(),
            region,
        };
        let text = format!("{:?}", entry(ring, &mut tenant));
        let code = text
            .split("op_code: ")
            .nth(1)
            .and_then(|text| text.split(',').next());
        code.and_then(|code| code.parse().ok()).expect("a number")
    }

    #[test]
    fn only_memory_that_lies_within_a_region_uses_it() {
        let Ok(uring) = Uring::new(UringConfig::default()) else {
            return println!("skipped: there is no io_uring");
        };
        let pool = BufferPool::new(2, 4096, Alignment::BLOCK, HugePages::Never).expect("memory");
        let Ok(registration) = uring.register(Box::new(pool.clone())) else {
            return println!("skipped: the kernel registers nothing");
        };
        let dir = tempfile::tempdir().expect("a directory");
        let options = FileOptions::read_write().create(Create::New);
        let file = uring
            .open(&dir.path().join("log"), &options)
            .expect("a new file");
        let code = |action| opcode_of(&uring.ring, &file, action);
        let write = |memory| Action::Write {
            offset: 0,
            memory,
            durability: Durability::Durable,
        };
        let inside = || pool.take().expect("it is there");
        let read = |memory| Action::Read { offset: 0, memory };
        assert_eq!(
            code(write(WriteMemory::new(inside()))),
            opcode::WriteFixed::CODE
        );
        assert_eq!(
            code(read(ReadMemory::new(inside()))),
            opcode::ReadFixed::CODE
        );
        assert_eq!(
            code(write(WriteMemory::new(vec![0; 9]))),
            opcode::Write::CODE
        );
        assert_eq!(code(read(ReadMemory::new(vec![0; 9]))), opcode::Read::CODE);
        let pieces = vec![WriteMemory::new(inside()), WriteMemory::new(inside())];
        let gathered = code(write(WriteMemory::gather(pieces)));
        assert_eq!(gathered, opcode::Writev::CODE);
        assert_eq!(code(Action::SyncAll), opcode::Fsync::CODE);
        let cut = Action::Truncate { len_bytes: 7 };
        assert_eq!(code(cut), opcode::Ftruncate::CODE);
        let hole = Action::PunchHole {
            offset: 0,
            len_bytes: 7,
        };
        assert_eq!(code(hole), opcode::Fallocate::CODE);
        let sync = Operation::sync_dir(dir.path(), drop);
        assert_eq!(code_of(&uring.ring, sync), opcode::OpenAt::CODE);
        let opening = Operation::open(dir.path(), options, drop);
        assert_eq!(code_of(&uring.ring, opening), opcode::OpenAt::CODE);
        drop(registration);
        assert_eq!(code(write(WriteMemory::new(inside()))), opcode::Write::CODE);
    }
}
