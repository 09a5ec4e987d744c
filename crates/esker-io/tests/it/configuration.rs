//! Every option of a ring has the effect that it names.

use std::process::Command;
use std::time::{Duration, Instant};

use esker_io::{
    Backend, BackendExt, ConfigError, Create, Durability, FileOptions, Uring, UringConfig,
};

/// The names of this process's threads, those of the kernel's among them.
fn threads() -> Vec<String> {
    std::fs::read_dir("/proc/self/task")
        .expect("it is there")
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

#[test]
fn a_polled_ring_has_its_thread_for_as_long_as_it_lives() {
    let Some(ring) = super::ring(UringConfig::default().sqpoll(Some(1))) else {
        return;
    };
    // The kernel names it after the thread that made the ring.
    // SAFETY: it touches no memory.
    let poller = format!("iou-sqp-{}", unsafe { libc::gettid() });
    assert!(threads().contains(&poller), "{poller}: {:?}", threads());
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let options = FileOptions::read_write().create(Create::New);
    let file = ring
        .open(&dir.path().join("log"), &options)
        .expect("a new file");
    for round in 0..20 {
        // Asleep or awake, it takes what is submitted.
        std::thread::sleep(Duration::from_millis(round % 3));
        ring.start_write(&file, round * 100, vec![1; 100], Durability::Written)
            .wait(&ring)
            .expect("it succeeds");
    }
    drop(file);
    drop(ring);
    let began = Instant::now();
    while threads().contains(&poller) {
        assert!(began.elapsed() < Duration::from_secs(20), "it lives on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_kernel_sees_the_flags_that_are_asked_for() {
    let program = std::env::current_exe().expect("this program");
    let traced = Command::new("strace")
        .args(["-f", "-e", "trace=io_uring_setup"])
        .arg(program)
        .args(["--exact", "configuration::makes_rings", "--ignored"])
        .output();
    let Ok(traced) = traced else {
        println!("skipped: there is no strace");
        return;
    };
    let text = String::from_utf8_lossy(&traced.stderr);
    if text.contains("ptrace") {
        println!("skipped: tracing is forbidden here");
        return;
    }
    let calls: Vec<_> = text
        .lines()
        .filter(|line| line.contains("io_uring_setup("))
        .collect();
    if calls.iter().any(|call| call.contains("= -1")) {
        println!("skipped: {}", calls.join("; "));
        return;
    }
    let [plain, high, low, polled] = calls[..] else {
        panic!("{text}");
    };
    assert!(plain.contains("io_uring_setup(128, {flags=0,"), "{plain}");
    assert!(high.contains("io_uring_setup(512,"), "{high}");
    assert!(high.contains("IORING_SETUP_CQSIZE"), "{high}");
    assert!(high.contains("cq_entries=4096"), "{high}");
    // Old straces know the flag only by its number.
    assert!(
        high.contains("COOP_TASKRUN") || high.contains("0x100"),
        "{high}"
    );
    assert!(low.contains("io_uring_setup(32, {flags=0,"), "{low}");
    assert!(polled.contains("IORING_SETUP_SQPOLL"), "{polled}");
    assert!(polled.contains("sq_thread_idle=77"), "{polled}");
}

#[test]
#[ignore = "run under strace by the test above"]
fn makes_rings() {
    for config in [
        UringConfig::default(),
        UringConfig::high_throughput(),
        UringConfig::low_latency(),
        UringConfig::default().sqpoll(Some(77)),
    ] {
        drop(super::ring(config));
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    for (config, error) in [
        (
            UringConfig::default().sqpoll(Some(0)),
            ConfigError::Idle { idle_ms: 0 },
        ),
        (
            UringConfig::default().registered_buffers(16_385),
            ConfigError::RegisteredBuffers { slots: 16_385 },
        ),
        (
            UringConfig::high_throughput().sqpoll(Some(1)),
            ConfigError::PollerAndCoopTaskrun,
        ),
        (
            UringConfig::default().cq_entries(64),
            ConfigError::CompletionEntries {
                cq_entries: 64,
                entries: 128,
            },
        ),
    ] {
        assert_eq!(config.check(), Err(error));
        assert!(Uring::new(config).is_err());
    }
}
