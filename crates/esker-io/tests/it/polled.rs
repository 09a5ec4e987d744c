//! A ring whose completions are polled for. Few devices can: on the others it is refused.

use std::path::Path;

use esker_buf::{AlignedBuf, Alignment};
use esker_io::{
    Backend, BackendExt, Create, Direct, Durability, Fate, FileOptions, IoError, Uring,
    UringConfig, UringError, conformance,
};

fn here() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

const DIRECT: FileOptions = FileOptions::read_write()
    .create(Create::New)
    .direct(Direct::Try);

/// Whether direct files there can be polled, and a word about it if not.
fn polls(ring: &Uring, dir: &Path) -> bool {
    match ring.open(&dir.join("asked"), &DIRECT) {
        Ok(_) => true,
        Err(error @ IoError::NotPolled { .. }) => {
            println!("skipped: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_device_that_cannot_be_polled_is_refused_by_name() {
    let Some(ring) = super::ring(UringConfig::default().iopoll(true)) else {
        return;
    };
    for root in super::roots() {
        let path = root.path().join("log");
        match ring.open(&path, &DIRECT) {
            Ok(_) => println!("skipped: {} can be polled", root.path().display()),
            Err(error) => {
                assert!(matches!(error, IoError::NotPolled { .. }), "{error:?}");
                assert_eq!(error.fate(), Fate::Determinate);
                let text = error.to_string();
                assert!(text.contains("io_poll") && text.contains("log"), "{text}");
                assert!(!path.exists(), "nothing was created");
            }
        }
        // What goes through the page cache is as ever.
        let path = root.path().join("buffered");
        let options = FileOptions::read_write().create(Create::New);
        let file = ring.open(&path, &options).expect("a new file");
        let write = ring.start_write(&file, 0, vec![3; 100], Durability::Durable);
        write.wait(&ring).expect("it succeeds");
        let sync = ring.start_sync(&file);
        sync.wait(&ring).expect("it succeeds");
        let read = ring.start_read(&file, 0, vec![0; 200]);
        let (count, bytes) = read.wait(&ring).expect("it succeeds");
        assert!(count == 100 && bytes[..100] == [3; 100]);
    }
}

#[test]
fn a_ring_that_polls_conforms_where_the_device_does() {
    let polled = UringConfig::default().iopoll(true);
    let Some(ring) = super::ring(polled) else {
        return;
    };
    let dir = here();
    if !polls(&ring, dir.path()) {
        return;
    }
    for (number, config) in [
        polled,
        polled.entries(4).cq_entries(4).registered_files(3),
        polled.defer_taskrun(true),
        polled.entries(8).sqpoll(Some(5)),
    ]
    .into_iter()
    .enumerate()
    {
        if let Err(UringError::Lacks { what }) = Uring::new(config) {
            println!("skipped: the kernel lacks {what}");
            continue;
        }
        let root = dir.path().join(number.to_string());
        let make = |_: &Path| Uring::new(config).expect("it was there just now");
        let report = conformance::run(&root, make);
        println!("{config:?}:\n{report}");
        report.assert();
    }
}

#[test]
fn direct_transfers_by_many_threads_are_found_by_polling() {
    let Some(ring) = super::ring(UringConfig::default().entries(8).iopoll(true)) else {
        return;
    };
    let dir = here();
    if !polls(&ring, dir.path()) {
        return;
    }
    let file = ring
        .open(&dir.path().join("log"), &DIRECT)
        .expect("a new file");
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (ring, file) = (&ring, &file);
            scope.spawn(move || {
                for round in 0..50u64 {
                    let mark = u8::try_from(thread * 50 + round).expect("small");
                    let at = (thread * 50 + round) * 4096;
                    let mut buf = AlignedBuf::zeroed(4096, Alignment::BLOCK).expect("memory");
                    buf.fill(mark);
                    let durability = if round % 5 == 0 {
                        Durability::Durable
                    } else {
                        Durability::Written
                    };
                    let write = ring.start_write(file, at, buf, durability);
                    let mut buf = write.wait(ring).expect("it succeeds");
                    buf.fill(!mark);
                    let read = ring.start_read(file, at, buf);
                    let (count, buf) = read.wait(ring).expect("it succeeds");
                    assert!(count == 4096 && buf.iter().all(|&byte| byte == mark));
                }
            });
        }
    });
}
