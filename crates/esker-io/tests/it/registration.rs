//! Memory that the kernel was told of in advance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use esker_buf::{Alignment, BufferPool, HugePages, IoRegion};
use esker_io::{
    Backend, BackendExt, Blocking, Create, Direct, Durability, FileHandle, FileOptions,
    RegisterError, Uring, UringConfig,
};

fn pool(count: usize) -> BufferPool {
    BufferPool::new(count, 8192, Alignment::BLOCK, HugePages::Never).expect("memory")
}

/// A pool that says when nobody holds it any more.
struct Watched {
    pool: BufferPool,
    gone: Arc<AtomicBool>,
}

// SAFETY: as for the pool within.
unsafe impl IoRegion for Watched {
    fn region(&self) -> (*const u8, usize) {
        self.pool.region()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.gone.store(true, SeqCst);
    }
}

/// What the kernel says of this process's rings.
fn rings() -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir("/proc/self/fd")
        .expect("it is there")
        .flatten()
    {
        let name = entry.file_name();
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if target.to_string_lossy().contains("io_uring") {
            let info = std::path::Path::new("/proc/self/fdinfo").join(name);
            text.push_str(&std::fs::read_to_string(info).unwrap_or_default());
        }
    }
    text
}

fn file(backend: &Uring, dir: &tempfile::TempDir) -> FileHandle {
    let options = FileOptions::read_write()
        .create(Create::IfMissing)
        .direct(Direct::Try);
    let path = dir.path().join("log");
    backend.open(&path, &options).expect("a file")
}

#[test]
fn the_kernel_knows_memory_for_as_long_as_it_is_registered_or_in_use() {
    let Some(ring) = super::ring(UringConfig::default()) else {
        return;
    };
    let (pool, gone) = (pool(4), Arc::new(AtomicBool::new(false)));
    let watched = Watched {
        pool: pool.clone(),
        gone: Arc::clone(&gone),
    };
    let registration = match ring.register(Box::new(watched)) {
        Ok(registration) => registration,
        Err(RegisterError::Unsupported) => return println!("skipped: the kernel has no table"),
        Err(error) => panic!("{error}"),
    };
    let (start, len) = pool.region();
    let listed = format!("{:#x}/{len}", start.addr());
    let info = rings();
    if info.contains("UserBufs") {
        assert!(info.contains(&listed), "{listed} is not in {info}");
    } else {
        println!("skipped: the kernel does not list registered memory");
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let file = file(&ring, &dir);
    let mut buf = pool.take().expect("it is there");
    buf.fill(9);
    let write = ring.start_write(&file, 0, buf, Durability::Durable);
    // The operation keeps what it uses.
    drop(registration);
    let buf = write.wait(&ring).expect("it succeeds");
    ring.wait_until(&mut || gone.load(SeqCst), None);
    assert!(!rings().contains(&listed));
    // The ordinary way, to the same memory.
    let (count, buf) = ring.read_at(&file, 0, buf).expect("it succeeds");
    assert!(count == 8192 && buf.iter().all(|&byte| byte == 9));
    let read = ring.start_read(&file, 0, buf);
    let (count, buf) = read.wait(&ring).expect("it succeeds");
    assert!(count == 8192 && buf.iter().all(|&byte| byte == 9));
}

#[test]
fn slots_are_counted_and_come_back() {
    let Some(ring) = super::ring(UringConfig::default().registered_buffers(2)) else {
        return;
    };
    for _ in 0..3 {
        let held = [
            ring.register(Box::new(pool(1))),
            ring.register(Box::new(pool(1))),
        ];
        assert!(held.iter().all(Result::is_ok), "{held:?}");
        let third = ring.register(Box::new(pool(1)));
        assert!(
            matches!(third, Err(RegisterError::Full { slots: 2 })),
            "{third:?}"
        );
    }
    let empty = ring.register(Box::new(pool(0)));
    assert!(matches!(empty, Err(RegisterError::Length { len_bytes: 0 })));
}

#[test]
fn the_kernel_has_as_many_slots_as_were_asked_for() {
    // Numbers that no other ring of this process has.
    for slots in [23, 1041] {
        let Some(ring) = super::ring(UringConfig::default().registered_buffers(slots)) else {
            return;
        };
        let info = rings();
        if !info.contains("UserBufs") {
            return println!("skipped: the kernel does not list registered memory");
        }
        let listed = format!("UserBufs:\t{slots}\n");
        assert!(info.contains(&listed), "{listed} is not in {info}");
        drop(ring);
    }
}

#[test]
fn who_has_no_table_says_so() {
    let refused = Blocking::new().register(Box::new(pool(1)));
    assert!(matches!(refused, Err(RegisterError::Unsupported)));
    if let Some(ring) = super::ring(UringConfig::default().registered_buffers(0)) {
        let refused = ring.register(Box::new(pool(1)));
        assert!(matches!(refused, Err(RegisterError::Unsupported)));
    }
}

#[test]
fn memory_comes_and_goes_while_operations_run() {
    let Some(ring) = super::ring(UringConfig::default().entries(4)) else {
        return;
    };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let file = file(&ring, &dir);
    let pool = pool(8);
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let (ring, file, pool) = (&ring, &file, &pool);
            scope.spawn(move || {
                for round in 0..100u8 {
                    let mark = thread ^ round;
                    let held = (round % 3 > 0).then(|| ring.register(Box::new(pool.clone())));
                    let mut buf = pool.take().expect("two for each thread");
                    buf.fill(mark);
                    let at = u64::from(thread) * 8192;
                    let write = ring.start_write(file, at, buf, Durability::Written);
                    drop(held);
                    let mut buf = write.wait(ring).expect("it succeeds");
                    buf.fill(!mark);
                    let read = ring.start_read(file, at, buf);
                    let (count, buf) = read.wait(ring).expect("it succeeds");
                    assert!(count == 8192 && buf.iter().all(|&byte| byte == mark));
                }
            });
        }
    });
}
