//! Every option of a ring has the effect that it names.

use std::time::{Duration, Instant};

use esker_buf::{Alignment, BufferPool, HugePages};
use esker_io::{
    Backend, BackendExt, ConfigError, Create, Durability, FileOptions, RegisterError, Uring,
    UringConfig, UringError,
};

use super::fallback::in_a_process_of_its_own;
use super::traced::traced;

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

const IOPOLL: u32 = 1 << 0;
const CQSIZE: u32 = 1 << 3;
const SQPOLL: u32 = 1 << 1;
const COOP_TASKRUN: u32 = 1 << 8;
const SINGLE_ISSUER: u32 = 1 << 12;
const DEFER_TASKRUN: u32 = 1 << 13;

/// The flags in a traced call that sets up a ring. An older strace knows some only by their number.
fn flags(call: &str) -> u32 {
    let (_, rest) = call.split_once("{flags=").expect("flags");
    let (flags, _) = rest.split_once(',').expect("more parameters");
    let bits = flags.split('|').map(|flag| {
        let (flag, _) = flag.split_once(' ').unwrap_or((flag, ""));
        match flag.strip_prefix("IORING_SETUP_") {
            Some("IOPOLL") => IOPOLL,
            Some("CQSIZE") => CQSIZE,
            Some("SQPOLL") => SQPOLL,
            Some("COOP_TASKRUN") => COOP_TASKRUN,
            Some("SINGLE_ISSUER") => SINGLE_ISSUER,
            Some("DEFER_TASKRUN") => DEFER_TASKRUN,
            Some(other) => panic!("{other}: {call}"),
            None => {
                let number = flag.strip_prefix("0x").unwrap_or(flag);
                u32::from_str_radix(number, 16).expect("a number")
            }
        }
    });
    bits.fold(0, |all, bits| all | bits)
}

#[test]
fn the_kernel_sees_the_flags_that_are_asked_for() {
    let trace = ["-e", "trace=io_uring_setup"];
    let Some(log) = traced(&trace, "configuration::makes_rings") else {
        return;
    };
    let calls: Vec<_> = log
        .lines()
        .filter(|line| line.contains("io_uring_setup("))
        .collect();
    let [
        plain,
        high,
        low,
        coop,
        polled,
        single,
        deferred,
        both,
        beside,
        looked_at,
    ] = calls[..]
    else {
        panic!("{log}");
    };
    // The presets, with nothing besides.
    assert!(plain.contains("io_uring_setup(128, "), "{plain}");
    assert_eq!(flags(plain), 0);
    assert!(high.contains("io_uring_setup(512, "), "{high}");
    assert!(high.contains("cq_entries=4096"), "{high}");
    assert_eq!(flags(high), CQSIZE | COOP_TASKRUN);
    assert!(low.contains("io_uring_setup(32, "), "{low}");
    assert_eq!(flags(low), 0);
    // Single options.
    assert_eq!(flags(coop), COOP_TASKRUN);
    assert_eq!(flags(polled), SQPOLL);
    assert!(polled.contains("sq_thread_idle=77"), "{polled}");
    assert_eq!(flags(single), SINGLE_ISSUER);
    assert_eq!(flags(deferred), SINGLE_ISSUER | DEFER_TASKRUN);
    assert_eq!(flags(both), SQPOLL | SINGLE_ISSUER);
    // A ring that polls, and the one beside it for all that such a one does not take.
    assert_eq!(flags(beside), 0);
    assert_eq!(flags(looked_at), IOPOLL | CQSIZE);
}

#[test]
#[ignore = "run under strace by the test above"]
fn makes_rings() {
    for config in [
        UringConfig::default(),
        UringConfig::high_throughput(),
        UringConfig::low_latency(),
        UringConfig::default().coop_taskrun(true),
        UringConfig::default().sqpoll(Some(77)),
        UringConfig::default().single_issuer(true),
        UringConfig::default().defer_taskrun(true),
        UringConfig::default().single_issuer(true).sqpoll(Some(77)),
        UringConfig::default().iopoll(true),
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
            UringConfig::default().registered_files(32_769),
            ConfigError::RegisteredFiles { slots: 32_769 },
        ),
        (
            UringConfig::default().defer_taskrun(true).sqpoll(Some(1)),
            ConfigError::PollerAndDeferTaskrun,
        ),
        (
            UringConfig::default()
                .single_issuer(true)
                .registered_files(1),
            ConfigError::FilesAndSingleIssuer,
        ),
        (
            UringConfig::default()
                .defer_taskrun(true)
                .registered_files(1),
            ConfigError::FilesAndSingleIssuer,
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

/// Makes the n-th call of a kind fail as on a kernel that lacks what it asks for, and runs a test.
fn on_an_older_kernel(call: &str, number: &str, test: &str) {
    let inject = format!("inject={call}:error=EINVAL:when={number}");
    if let Some(log) = traced(&["-e", &inject], test) {
        assert!(log.contains("(INJECTED)"), "{inject}: {log}");
    }
}

/// The error of a ring that the kernel has not.
fn lacking(config: UringConfig) -> &'static str {
    let error = Uring::new(config).map(drop).expect_err("it is refused");
    let UringError::Lacks { what } = error else {
        panic!("{error:?}");
    };
    what
}

#[test]
fn what_the_kernel_lacks_is_refused_by_name() {
    for test in ["coop_taskrun", "a_polling_thread", "deferred_work"] {
        let test = format!("configuration::is_told_that_it_lacks_{test}");
        on_an_older_kernel("io_uring_setup", "1", &test);
    }
    let test = "configuration::is_told_that_it_lacks_polling";
    on_an_older_kernel("io_uring_setup", "2", test);
    // Neither this one nor the one without deferred work can be made there.
    let test = "configuration::is_told_that_it_lacks_a_single_issuer";
    on_an_older_kernel("io_uring_setup", "1..2", test);
    // The first one asks what there is.
    for test in ["tables_of_memory", "them_only_if_it_asks"] {
        let test = format!("configuration::is_told_that_it_lacks_{test}");
        on_an_older_kernel("io_uring_register", "2", &test);
    }
    let test = "configuration::is_told_that_it_lacks_tables_of_files";
    on_an_older_kernel("io_uring_register", "3", test);
    // One that says that it has emptied a place, and has not.
    let test = "configuration::is_told_that_tables_hold_on_to_files";
    let inject = "inject=io_uring_register:retval=1:when=7";
    if let Some(log) = traced(&["-e", inject], test) {
        assert!(log.contains("(INJECTED)"), "{inject}: {log}");
    }
}

#[test]
#[ignore = "run under strace by the test above"]
fn is_told_that_it_lacks_coop_taskrun() {
    let what = lacking(UringConfig::high_throughput());
    assert!(what.contains("COOP_TASKRUN"), "{what}");
}

#[test]
#[ignore = "run under strace by the test above"]
fn is_told_that_it_lacks_a_polling_thread() {
    let what = lacking(UringConfig::default().sqpoll(Some(7)));
    assert!(what.contains("SQPOLL"), "{what}");
}

#[test]
#[ignore = "run under strace by the test above"]
fn is_told_that_it_lacks_tables_of_memory() {
    let what = lacking(UringConfig::default().registered_buffers(8));
    assert!(what.contains("registered memory"), "{what}");
}

#[test]
#[ignore = "run under strace by the test above"]
fn is_told_that_it_lacks_them_only_if_it_asks() {
    let ring =
        Uring::new(UringConfig::default()).expect("what it did not ask for it need not have");
    let pool = BufferPool::new(1, 4096, Alignment::BLOCK, HugePages::Never).expect("memory");
    let refused = ring.register(Box::new(pool));
    assert!(matches!(refused, Err(RegisterError::Unsupported)));
}

#[test]
#[ignore = "run under strace by the test above"]
fn is_told_that_it_lacks_tables_of_files() {
    let what = lacking(UringConfig::default().registered_files(8));
    assert!(what.contains("registered files"), "{what}");
}

#[test]
fn a_table_of_more_files_than_may_be_open_is_refused() {
    if super::ring(UringConfig::default()).is_some() {
        in_a_process_of_its_own("configuration::asks_for_more_files_than_may_be_open");
    }
}

#[test]
#[ignore = "lowers a limit, so it is run in a process of its own by the test above"]
fn asks_for_more_files_than_may_be_open() {
    let limit = libc::rlimit {
        rlim_cur: 100,
        rlim_max: 100,
    };
    // SAFETY: `limit` is a valid `rlimit`.
    let limited = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(limited, 0);
    let fits = Uring::new(UringConfig::default().registered_files(100));
    assert!(fits.is_ok(), "{fits:?}");
    let error =
        Uring::new(UringConfig::default().registered_files(101)).expect_err("it is refused");
    assert!(
        matches!(error, UringError::FileLimit { slots: 101, .. }),
        "{error:?}"
    );
}

#[test]
#[ignore = "run under strace by the test above"]
fn is_told_that_it_lacks_deferred_work() {
    let what = lacking(UringConfig::default().defer_taskrun(true));
    assert!(what.contains("DEFER_TASKRUN"), "{what}");
}

#[test]
#[ignore = "run under strace by the test above"]
fn is_told_that_it_lacks_a_single_issuer() {
    let what = lacking(UringConfig::default().defer_taskrun(true));
    assert!(what.contains("SINGLE_ISSUER"), "{what}");
}

#[test]
#[ignore = "run under strace by the test above"]
fn is_told_that_it_lacks_polling() {
    let what = lacking(UringConfig::default().iopoll(true));
    assert!(what.contains("IOPOLL"), "{what}");
}

#[test]
#[ignore = "run under strace by the test above"]
fn is_told_that_tables_hold_on_to_files() {
    let what = lacking(UringConfig::default().registered_files(8));
    assert!(what.contains("let go of a file at once"), "{what}");
}
