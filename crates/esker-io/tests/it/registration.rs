//! Memory and files that the kernel was told of in advance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

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

/// What the kernel says of the tables of files of this process's rings: the paths in them.
fn listed_files() -> Option<Vec<String>> {
    let info = rings();
    if !info.contains("UserFiles") {
        println!("skipped: the kernel does not list registered files");
        return None;
    }
    let listed = info.lines().filter_map(|line| {
        let (place, path) = line.trim().split_once(": ")?;
        place.parse::<u32>().ok().map(|_| path.trim().to_owned())
    });
    Some(listed.collect())
}

#[test]
fn the_kernel_has_a_place_for_as_many_files_as_were_asked_for() {
    // Numbers that no other ring of this process has.
    for slots in [29, 1049] {
        let Some(ring) = super::ring(UringConfig::default().registered_files(slots)) else {
            return;
        };
        let listed = format!("UserFiles:\t{slots}\n");
        if listed_files().is_some() {
            let info = rings();
            assert!(info.contains(&listed), "{listed} is not in {info}");
        }
        drop(ring);
        if listed_files().is_some() {
            assert!(!rings().contains(&listed));
        }
    }
}

#[test]
fn the_kernel_has_a_file_in_its_table_for_as_long_as_it_is_open() {
    for config in [
        UringConfig::default(),
        UringConfig::default().sqpoll(Some(5)),
    ] {
        let Some(ring) = super::ring(config.registered_files(2)) else {
            return;
        };
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let options = FileOptions::read_write().create(Create::New);
        let path = |name: &str| dir.path().join(name);
        let open = |name| ring.open(&path(name), &options).expect("a new file");
        let is_listed = |name| {
            let path = path(name).display().to_string();
            listed_files().map(|listed| listed.contains(&path))
        };
        let (first, second, third) = (open("first"), open("second"), open("third"));
        let Some(true) = is_listed("first") else {
            assert_eq!(is_listed("first"), None);
            return;
        };
        assert_eq!(is_listed("second"), Some(true));
        assert_eq!(is_listed("third"), Some(false), "the table is full");
        // An operation holds it as well.
        let write = ring.start_write(&first, 0, vec![1; 100], Durability::Durable);
        drop(first);
        assert_eq!(is_listed("first"), Some(true));
        write.wait(&ring).expect("it succeeds");
        super::until_idle(&ring);
        assert_eq!(is_listed("first"), Some(false));
        let fourth = open("fourth");
        assert_eq!(is_listed("fourth"), Some(true));
        drop((second, third));
        assert_eq!(is_listed("second"), Some(false));
        // One that outlives the ring is closed like any other.
        drop(ring);
        drop(fourth);
    }
}

#[test]
fn a_lock_goes_with_its_file_whether_the_ring_goes_before_or_after() {
    for ring_first in [false, true] {
        let Some(ring) = super::ring(UringConfig::default().registered_files(8)) else {
            return;
        };
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let file = file(&ring, &dir);
        assert!(ring.try_lock(&file).expect("it succeeds"));
        let blocking = Blocking::new();
        let path = dir.path().join("log");
        let options = FileOptions::read_write();
        let other = blocking.open(&path, &options).expect("it exists");
        assert!(!blocking.try_lock(&other).expect("it succeeds"));
        if ring_first {
            drop(ring);
            assert!(!blocking.try_lock(&other).expect("it succeeds"));
            drop(file);
        } else {
            drop(file);
            drop(ring);
        }
        // A process that another test is starting holds it until it has become its program.
        let end = Instant::now() + Duration::from_secs(20);
        while !blocking.try_lock(&other).expect("it succeeds") {
            assert!(Instant::now() < end, "{ring_first}");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn files_come_and_go_while_operations_run() {
    let Some(ring) = super::ring(UringConfig::default().entries(4).registered_files(3)) else {
        return;
    };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let (ring, dir) = (&ring, &dir);
            scope.spawn(move || {
                for round in 0..100u8 {
                    let path = dir.path().join(format!("{thread}-{}", round % 5));
                    let options = FileOptions::read_write().create(Create::IfMissing);
                    let file = ring.open(&path, &options).expect("a file");
                    let bytes = vec![thread ^ round; 3000];
                    let write = ring.start_write(&file, 0, bytes.clone(), Durability::Written);
                    if round % 3 == 0 {
                        // Its place is taken by another only after this has ended.
                        drop(file);
                        write.wait(ring).expect("it succeeds");
                    } else {
                        write.wait(ring).expect("it succeeds");
                        let read = ring.start_read(&file, 0, vec![0; 3000]);
                        let (count, read) = read.wait(ring).expect("it succeeds");
                        assert!(count == 3000 && read == bytes);
                    }
                    assert!(std::fs::read(&path).expect("it is there") == bytes);
                }
            });
        }
    });
}
