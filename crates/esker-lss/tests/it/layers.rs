//! The ring and the I/O layer, put together by somebody who takes no store.

use std::collections::VecDeque;

use esker_buf::IoRegion;
use esker_io::{
    AnyBackend, Backend, BackendExt, Create, Direct, Durability, FileOptions, RegisterError,
};
use esker_ring::{Ring, Seal, TryReserve};

const RECORD: usize = 500;
const RECORDS: u32 = 2000;

/// The memory that the kernel's rings of this process know, if it tells; `None` if it does not.
fn known_to_the_kernel() -> Option<String> {
    let mut text = String::new();
    for entry in std::fs::read_dir("/proc/self/fd").ok()?.flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if target.to_string_lossy().contains("io_uring") {
            let info = std::path::Path::new("/proc/self/fdinfo").join(entry.file_name());
            text.push_str(&std::fs::read_to_string(info).unwrap_or_default());
        }
    }
    text.contains("UserBufs").then_some(text)
}

/// The kernel is told of the ring's memory once. Sealed buffers go to it from where they lie, and
/// come back to the ring when they are written.
#[test]
fn a_ring_whose_memory_is_registered_brings_every_record_to_a_file() {
    let backend = AnyBackend::auto();
    let ring = Ring::builder()
        .buffers(3)
        .capacity_bytes(64 << 10)
        .build()
        .expect("a ring");
    let (start, len) = ring.memory().region();
    assert!(len >= ring.buffers() * ring.capacity_bytes());
    let listed = format!("{:#x}/{len}", start.addr());
    let registration = match backend.register(Box::new(ring.memory())) {
        Ok(registration) => Some(registration),
        Err(RegisterError::Unsupported) => None,
        Err(error) => panic!("{error}"),
    };
    let is_listed = || known_to_the_kernel().map(|known| known.contains(&listed));
    if registration.is_some() {
        assert_ne!(is_listed(), Some(false), "{listed} is not registered");
    } else {
        println!("skipped: this backend registers no memory");
    }

    let dir = tempfile::tempdir().expect("a directory");
    let options = FileOptions::read_write()
        .create(Create::New)
        .direct(Direct::Try);
    let file = backend
        .open(&dir.path().join("log"), &options)
        .expect("a new file");
    let mut in_flight = VecDeque::new();
    let mut write = |buffer: esker_ring::SealedBuffer| {
        let address = buffer.bytes().as_ptr().addr();
        let from = start.addr()..start.addr() + len;
        assert!(from.contains(&address), "it lies elsewhere");
        let at = buffer.base();
        backend.start_write(&file, at, buffer, Durability::Written)
    };
    let mut addresses = Vec::new();
    while let Some(number) = u32::try_from(addresses.len())
        .ok()
        .filter(|number| *number < RECORDS)
    {
        match ring.try_reserve(RECORD).expect("it fits") {
            TryReserve::Reserved(mut record) => {
                record.fill(number as u8);
                record[..4].copy_from_slice(&number.to_le_bytes());
                addresses.push(record.address());
                in_flight.extend(record.commit().map(&mut write));
            }
            TryReserve::Sealed(buffer) => in_flight.push_back(write(buffer)),
            TryReserve::Full(_) => {
                let oldest = in_flight.pop_front().expect("a buffer is on its way");
                // Dropping what comes back frees its slot.
                drop(oldest.wait(&backend).expect("it is written"));
            }
            TryReserve::Limit { .. } => unreachable!("no limit is set"),
        }
    }
    if let Seal::Sealed {
        buffer: Some(buffer),
        ..
    } = ring.seal()
    {
        in_flight.push_back(write(buffer));
    }
    for pending in in_flight {
        drop(pending.wait(&backend).expect("it is written"));
    }

    // What the kernel was told of outlives the ring, and the registration is what keeps it.
    drop(ring);
    if registration.is_some() {
        assert_ne!(is_listed(), Some(false), "it went with the ring");
    }
    drop(registration);
    assert_ne!(is_listed(), Some(true), "it outlives its registration");

    let bytes = std::fs::read(dir.path().join("log")).expect("the file");
    for (number, address) in (0..).zip(addresses) {
        let at = usize::try_from(address).expect("small");
        let record = &bytes[at..at + RECORD];
        assert_eq!(record[..4], u32::to_le_bytes(number));
        assert!(record[4..].iter().all(|&byte| byte == number as u8));
    }
}
