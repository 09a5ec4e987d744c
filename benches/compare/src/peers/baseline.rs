//! What a store is measured against: the bare device, and the obvious log.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, IoSlice, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use esker_buf::{AlignedBuf, Alignment, HugePages};
use io_uring::{IoUring, opcode, types};
use parking_lot::{Condvar, Mutex};

use crate::log::{About, Address, Log, Outcome};

const MIB: usize = 1 << 20;
/// How much of the file the bare writes go round in.
const SPAN: u64 = 1024 * MIB as u64;

/// The bare device: a durable append is one 4 KiB `pwritev2(RWF_DSYNC)` into a file that was
/// written before; appends that need not be durable fill 1 MiB blocks that are written with
/// O_DIRECT through io_uring, four in flight for each thread. Nothing can be recovered from it.
pub(crate) struct Raw {
    file: File,
    next: AtomicU64,
}

/// A thread's blocks.
pub(crate) struct RawWriter {
    ring: IoUring,
    block: AlignedBuf,
    large: [AlignedBuf; DEPTH],
    /// Which of the large blocks is being filled, and how far.
    filling: usize,
    filled: usize,
    appended: u64,
    in_flight: [bool; DEPTH],
}

const DEPTH: usize = 4;

impl RawWriter {
    /// Waits for one write and takes note of it.
    fn reap(&mut self) -> Outcome<()> {
        self.ring.submit_and_wait(1)?;
        for completion in self.ring.completion() {
            if completion.result() < 0 {
                return Err(std::io::Error::from_raw_os_error(-completion.result()).into());
            }
            self.in_flight[usize::try_from(completion.user_data())?] = false;
        }
        Ok(())
    }

    /// Waits for all writes.
    fn settle(&mut self) -> Outcome<()> {
        while self.in_flight.contains(&true) {
            self.reap()?;
        }
        Ok(())
    }
}

impl Drop for RawWriter {
    fn drop(&mut self) {
        if let Err(error) = self.settle() {
            // The kernel may still read the blocks.
            eprintln!("raw: {error}");
            std::process::abort();
        }
    }
}

impl Raw {
    fn write_durable(&self, block: &[u8], offset: u64) -> Outcome<()> {
        let slice = IoSlice::new(block);
        // SAFETY: one vector of memory that lives as long as the call; `IoSlice` has its layout.
        let written = unsafe {
            libc::pwritev2(
                self.file.as_raw_fd(),
                (&raw const slice).cast(),
                1,
                i64::try_from(offset)?,
                libc::RWF_DSYNC,
            )
        };
        if usize::try_from(written) == Ok(block.len()) {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error().into())
        }
    }

    fn write(&self, writer: &mut RawWriter) -> Outcome<()> {
        let block = writer.filling;
        let offset = self.next.fetch_add(MIB as u64, Ordering::Relaxed) % SPAN;
        let entry = opcode::Write::new(
            types::Fd(self.file.as_raw_fd()),
            writer.large[block].as_ptr(),
            u32::try_from(MIB)?,
        )
        .offset(offset)
        .build()
        .user_data(block as u64);
        // SAFETY: the block is not touched, nor freed, before its completion is seen.
        unsafe { writer.ring.submission().push(&entry)? };
        writer.in_flight[block] = true;
        writer.ring.submit()?;
        writer.filling = (block + 1) % DEPTH;
        writer.filled = 0;
        while writer.in_flight[writer.filling] {
            writer.reap()?;
        }
        Ok(())
    }
}

impl Log for Raw {
    type Writer<'a> = RawWriter;

    const ABOUT: About = About {
        name: "raw",
        how: "4 KiB pwritev2(RWF_DSYNC) each, one large for many; O_DIRECT: writes and reads of 1 MiB, 4 in flight; reads of 4 KiB",
        appends: true,
        reads: true,
        scans: true,
    };

    fn open(dir: &Path) -> Outcome<Self> {
        let path = dir.join("raw");
        if !path.exists() {
            let mut file = File::create(&path)?;
            let ones = vec![1; MIB];
            for _ in 0..SPAN / MIB as u64 {
                file.write_all(&ones)?;
            }
            file.sync_all()?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)?;
        Ok(Self {
            file,
            next: AtomicU64::new(0),
        })
    }

    fn writer(&self, _thread: usize) -> Outcome<RawWriter> {
        let huge = || -> Outcome<AlignedBuf> {
            let mut block = AlignedBuf::zeroed_on(2 * MIB, Alignment::BLOCK, HugePages::Try)?;
            block.fill(1);
            Ok(block)
        };
        Ok(RawWriter {
            ring: IoUring::new(8)?,
            block: AlignedBuf::zeroed(4096, Alignment::BLOCK)?,
            large: [huge()?, huge()?, huge()?, huge()?],
            filling: 0,
            filled: 0,
            appended: 0,
            in_flight: [false; DEPTH],
        })
    }

    fn append_durable(&self, writer: &mut RawWriter, record: &[u8]) -> Outcome<()> {
        let len = record.len().min(4096);
        writer.block[..len].copy_from_slice(&record[..len]);
        let offset = self.next.fetch_add(4096, Ordering::Relaxed) % SPAN;
        self.write_durable(&writer.block, offset)
    }

    fn append_many(&self, writer: &mut RawWriter, record: &[u8], count: usize) -> Outcome<()> {
        let len = (count * record.len()).next_multiple_of(4096).min(MIB);
        let block = &mut writer.large[0][..len];
        for room in block.chunks_exact_mut(record.len()) {
            room.copy_from_slice(record);
        }
        let offset = self.next.fetch_add(len as u64, Ordering::Relaxed) % (SPAN - MIB as u64);
        self.write_durable(block, offset / 4096 * 4096)
    }

    fn append(&self, writer: &mut RawWriter, record: &[u8]) -> Outcome<Address> {
        if writer.filled + record.len() > MIB {
            self.write(writer)?;
        }
        let (start, end) = (writer.filled, writer.filled + record.len());
        writer.large[writer.filling][start..end].copy_from_slice(record);
        writer.filled = end;
        // Any block of the file will do: they all have been written.
        writer.appended += 1;
        Ok([writer.appended * 4096 % SPAN, 0])
    }

    fn finish(&self, mut writer: RawWriter) -> Outcome<()> {
        self.write(&mut writer)?;
        writer.settle()
    }

    fn sync(&self) -> Outcome<()> {
        Ok(self.file.sync_data()?)
    }

    fn read(&self, [address, _]: Address) -> Outcome<usize> {
        thread_local! {
            static BLOCK: RefCell<Option<AlignedBuf>> = const { RefCell::new(None) };
        }
        BLOCK.with_borrow_mut(|block| {
            let block = match block {
                Some(block) => block,
                None => block.insert(AlignedBuf::zeroed(4096, Alignment::BLOCK)?),
            };
            self.file.read_exact_at(block, address)?;
            Ok(block.len())
        })
    }

    fn scan(&self) -> Outcome<u64> {
        let mut reader = self.writer(0)?;
        for at in 0..SPAN / MIB as u64 {
            let block = reader.filling;
            let entry = opcode::Read::new(
                types::Fd(self.file.as_raw_fd()),
                reader.large[block].as_mut_ptr(),
                u32::try_from(MIB)?,
            )
            .offset(at * MIB as u64)
            .build()
            .user_data(block as u64);
            // SAFETY: the block is not touched, nor freed, before its completion is seen.
            unsafe { reader.ring.submission().push(&entry)? };
            reader.in_flight[block] = true;
            reader.ring.submit()?;
            reader.filling = (block + 1) % DEPTH;
            while reader.in_flight[reader.filling] {
                reader.reap()?;
            }
        }
        reader.settle()?;
        Ok(SPAN)
    }
}

/// The bare device, into a file whose space is only reserved, as a new log's is before it has been
/// written once.
pub(crate) struct RawNew(Raw);

impl Log for RawNew {
    type Writer<'a> = RawWriter;

    const ABOUT: About = About {
        name: "raw-new",
        how: "raw, flat out only, into a file whose space is reserved and has never been written",
        appends: true,
        reads: false,
        scans: false,
    };

    fn open(dir: &Path) -> Outcome<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_DIRECT)
            .open(dir.join("raw"))
            .map_err(|error| format!("it is for a new file: {error}"))?;
        // SAFETY: a system call on an open file, with no memory.
        let refused = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, i64::try_from(SPAN)?) };
        if refused != 0 {
            return Err(std::io::Error::from_raw_os_error(refused).into());
        }
        file.sync_all()?;
        Ok(Self(Raw {
            file,
            next: AtomicU64::new(0),
        }))
    }

    fn writer(&self, thread: usize) -> Outcome<RawWriter> {
        self.0.writer(thread)
    }

    fn append_durable(&self, _writer: &mut RawWriter, _record: &[u8]) -> Outcome<()> {
        Err("it is for appends flat out".into())
    }

    fn append_many(&self, _: &mut RawWriter, _: &[u8], _: usize) -> Outcome<()> {
        Err("it is for appends flat out".into())
    }

    fn append(&self, writer: &mut RawWriter, record: &[u8]) -> Outcome<Address> {
        self.0.append(writer, record)
    }

    fn finish(&self, writer: RawWriter) -> Outcome<()> {
        self.0.finish(writer)
    }

    fn sync(&self) -> Outcome<()> {
        self.0.sync()
    }
}

/// The log that everybody writes first: a mutex around a buffered file, length and checksum before
/// each record, and a leader that syncs for all who wait (group commit).
pub(crate) struct MutexLog {
    file: File,
    state: Mutex<State>,
    synced: Condvar,
}

struct State {
    buffer: Vec<u8>,
    /// Where the buffer goes in the file.
    start: u64,
    durable: u64,
    leading: bool,
}

const FLUSH_AT: usize = MIB;
/// Length and checksum.
const HEADER: usize = 8;

fn parts(header: [u8; HEADER]) -> (usize, u32) {
    let [len, crc] = [0, 4]
        .map(|at| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]));
    (len as usize, crc)
}

/// Where the last whole record ends, and how many bytes of payload lie before.
fn records(file: &File) -> Outcome<(u64, u64)> {
    let left = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(MIB, file);
    reader.rewind()?;
    let (mut end, mut bytes) = (0, 0);
    let mut header = [0; HEADER];
    let mut record = Vec::new();
    while left - end >= HEADER as u64 {
        reader.read_exact(&mut header)?;
        let (len, crc) = parts(header);
        if left - end - (HEADER as u64) < len as u64 {
            break;
        }
        record.resize(len, 0);
        reader.read_exact(&mut record)?;
        if crc32c::crc32c(&record) != crc {
            break;
        }
        end += (HEADER + len) as u64;
        bytes += len as u64;
    }
    Ok((end, bytes))
}

impl MutexLog {
    fn push(&self, state: &mut State, record: &[u8]) -> Outcome<u64> {
        let at = state.start + state.buffer.len() as u64;
        state
            .buffer
            .extend_from_slice(&u32::try_from(record.len())?.to_le_bytes());
        state
            .buffer
            .extend_from_slice(&crc32c::crc32c(record).to_le_bytes());
        state.buffer.extend_from_slice(record);
        if state.buffer.len() >= FLUSH_AT {
            self.write(state)?;
        }
        Ok(at)
    }

    fn write(&self, state: &mut State) -> Outcome<()> {
        self.file.write_all_at(&state.buffer, state.start)?;
        state.start += state.buffer.len() as u64;
        state.buffer.clear();
        Ok(())
    }

    /// Returns when everything before `end` is durable.
    fn commit(&self, end: u64) -> Outcome<()> {
        let mut state = self.state.lock();
        while state.durable < end {
            if state.leading {
                self.synced.wait(&mut state);
                continue;
            }
            state.leading = true;
            let written = self.write(&mut state).map(|()| state.start);
            drop(state);
            let result = written.and_then(|end| {
                self.file.sync_data()?;
                Ok(end)
            });
            state = self.state.lock();
            state.leading = false;
            self.synced.notify_all();
            state.durable = result?;
        }
        Ok(())
    }
}

impl Log for MutexLog {
    type Writer<'a> = ();

    const ABOUT: About = About {
        name: "mutex",
        how: "a mutex around a buffered file, fdatasync by a leader for all who wait",
        appends: true,
        reads: true,
        scans: true,
    };

    fn open(dir: &Path) -> Outcome<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("log"))?;
        let (start, _) = records(&file)?;
        Ok(Self {
            file,
            state: Mutex::new(State {
                buffer: Vec::with_capacity(2 * FLUSH_AT),
                start,
                durable: start,
                leading: false,
            }),
            synced: Condvar::new(),
        })
    }

    fn writer(&self, _thread: usize) -> Outcome<()> {
        Ok(())
    }

    fn append_durable(&self, (): &mut (), record: &[u8]) -> Outcome<()> {
        let mut state = self.state.lock();
        self.push(&mut state, record)?;
        let end = state.start + state.buffer.len() as u64;
        drop(state);
        self.commit(end)
    }

    fn append(&self, (): &mut (), record: &[u8]) -> Outcome<Address> {
        Ok([self.push(&mut self.state.lock(), record)?, 0])
    }

    fn sync(&self) -> Outcome<()> {
        let state = self.state.lock();
        let end = state.start + state.buffer.len() as u64;
        drop(state);
        self.commit(end)
    }

    fn read(&self, [address, _]: Address) -> Outcome<usize> {
        let mut header = [0; HEADER];
        self.file.read_exact_at(&mut header, address)?;
        let (len, crc) = parts(header);
        let mut record = vec![0; len];
        self.file
            .read_exact_at(&mut record, address + HEADER as u64)?;
        if crc32c::crc32c(&record) == crc {
            Ok(record.len())
        } else {
            Err("the checksum does not match".into())
        }
    }

    fn scan(&self) -> Outcome<u64> {
        let (_, bytes) = records(&self.file)?;
        Ok(bytes)
    }

    fn follow(&self, ready: &dyn Fn(), seen: &dyn Fn() -> bool) -> Outcome<()> {
        let mut at = self.state.lock().durable;
        ready();
        loop {
            let mut state = self.state.lock();
            while state.durable <= at {
                self.synced.wait(&mut state);
            }
            drop(state);
            at += (HEADER + self.read([at, 0])?) as u64;
            if !seen() {
                return Ok(());
            }
        }
    }
}
