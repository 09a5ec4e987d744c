//! The order of writes where they arrive: one that is slow because its file system is frozen, and one
//! that fails because its file system is full, each with a write to another file system behind it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use esker_buf::{AlignedBuf, Alignment};
use esker_io::{
    Action, AnyBackend, Backend, BackendExt, Blocking, Completion, Create, Direct, Durability,
    FileHandle, FileOptions, IoError, Lane, Operation, Ordering, UringConfig, WriteMemory,
};

use super::mounts::mount;

/// Each ordering with the backends on which operations overlap.
fn cases() -> impl Iterator<Item = (Ordering, AnyBackend)> {
    let ring = |config| super::ring(config).map(AnyBackend::Uring);
    let backends = move || {
        [
            Some(AnyBackend::Blocking(Blocking::new())),
            ring(UringConfig::default()),
            ring(UringConfig::high_throughput()),
        ]
    };
    // Of a polled ring nobody can say that it overtakes: the worker that it takes for a write that
    // has to wait may be the only one for a while. That it does not where it must not is certain.
    let polled = ring(UringConfig::default().sqpoll(Some(5)));
    let serialised = backends().into_iter().chain([polled]).flatten();
    serialised
        .map(|backend| (Ordering::Serialised, backend))
        .chain(
            backends()
                .into_iter()
                .flatten()
                .map(|backend| (Ordering::TailLocalised, backend)),
        )
}

/// No wait takes longer, unless what is waited for does not come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which write, and how it ended.
type Named = (&'static str, Result<usize, IoError>);

/// Two files and what became of the writes to them.
struct Case {
    backend: Arc<AnyBackend>,
    lane: Lane<AnyBackend>,
    first: FileHandle,
    second: FileHandle,
    path: PathBuf,
    results: Arc<Mutex<Vec<Named>>>,
}

impl Case {
    fn new(backend: AnyBackend, ordering: Ordering, first: &Path, second: &Path) -> Self {
        // The kernel runs buffered writes of one worker pool one after the other when their files
        // happen to share a hash bucket; direct ones it doesn't.
        let options = FileOptions::read_write()
            .create(Create::New)
            .direct(Direct::Try);
        let open = |path: &Path| backend.open(path, &options).expect("a new file");
        let (first, file) = (open(first), open(second));
        let backend = Arc::new(backend);
        Self {
            lane: Lane::new(Arc::clone(&backend), ordering),
            backend,
            first,
            second: file,
            path: second.to_owned(),
            results: Arc::default(),
        }
    }

    /// Submits a write to each file, in one batch.
    fn submit(&self) {
        let write = |name, file: &FileHandle| {
            let results = Arc::clone(&self.results);
            let action = Action::Write {
                offset: 0,
                memory: WriteMemory::new(
                    AlignedBuf::zeroed(8192, Alignment::BLOCK).expect("memory"),
                ),
                durability: Durability::Durable,
            };
            Operation::new(file.clone(), action, move |done: Completion| {
                results.lock().expect("no panic").push((name, done.result));
            })
        };
        let batch = vec![write("first", &self.first), write("second", &self.second)];
        self.lane.submit(batch);
    }

    /// How much of the second write has arrived.
    fn arrived(&self) -> u64 {
        std::fs::metadata(&self.path).expect("it is there").len()
    }

    fn names(&self) -> Vec<&'static str> {
        let results = self.results.lock().expect("no panic");
        results.iter().map(|(name, _)| *name).collect()
    }

    fn finish(&self) {
        let lane = &self.lane;
        self.backend.wait_until(&mut || lane.in_flight() == 0, None);
    }
}

#[test]
fn a_slow_write_is_overtaken_only_where_that_is_allowed() {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mounted = match mount("ext4", 16, place) {
        Ok(mounted) => mounted,
        Err(why) => return println!("skipped: no ext4: {why}"),
    };
    let dir = tempfile::tempdir_in(place).expect("a directory");
    for (number, (ordering, backend)) in cases().enumerate() {
        let name = format!("log-{number}");
        let (slow, fast) = (mounted.point.join(&name), dir.path().join(&name));
        let case = Case::new(backend, ordering, &slow, &fast);
        let what = format!("{ordering:?} on {}", case.backend.description());
        let frozen = match mounted.freeze() {
            Ok(frozen) => frozen,
            Err(why) => return println!("skipped: {why}"),
        };
        case.submit();
        match ordering {
            Ordering::TailLocalised => {
                // The first one waits for the thaw, which comes only after the second is over.
                let overtaken = case
                    .backend
                    .wait_until(&mut || case.names() == ["second"], Some(PATIENCE));
                assert!(overtaken, "{what}");
                assert_eq!(case.arrived(), 8192, "{what}");
                drop(frozen);
                case.finish();
                assert_eq!(case.names(), ["second", "first"], "{what}");
            }
            Ordering::Serialised => {
                // Others come and go meanwhile, to the same file system as the second one.
                let options = FileOptions::read_write().create(Create::New);
                let other = dir.path().join(format!("other-{number}"));
                let other = case.backend.open(&other, &options).expect("a new file");
                for at in 0..4 {
                    let write = case.backend.start_write(
                        &other,
                        at * 4096,
                        vec![1; 4096],
                        Durability::Durable,
                    );
                    write.wait(&*case.backend).expect("it succeeds");
                }
                assert_eq!(case.arrived(), 0, "{what}");
                assert_eq!(case.backend.in_flight(), 1, "{what}");
                assert_eq!(case.lane.in_flight(), 2, "{what}");
                drop(frozen);
                case.finish();
                assert_eq!(case.names(), ["first", "second"], "{what}");
                assert_eq!(case.arrived(), 8192, "{what}");
            }
        }
    }
}

#[test]
fn after_a_failed_write_the_next_one_arrives_only_where_that_is_allowed() {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mounted = match mount("tmpfs", 1, place) {
        Ok(mounted) => mounted,
        Err(why) => return println!("skipped: no tmpfs: {why}"),
    };
    // Not one page is left.
    let full = mounted.point.join("full");
    assert!(std::fs::write(full, vec![1; 2 << 20]).is_err());
    let dir = tempfile::tempdir_in(place).expect("a directory");
    for (number, (ordering, backend)) in cases().enumerate() {
        let name = format!("log-{number}");
        let (bad, good) = (mounted.point.join(&name), dir.path().join(&name));
        let case = Case::new(backend, ordering, &bad, &good);
        case.submit();
        case.finish();
        let mut results = core::mem::take(&mut *case.results.lock().expect("no panic"));
        results.sort_by_key(|(name, _)| *name);
        let what = format!(
            "{ordering:?} on {}: {results:?}",
            case.backend.description()
        );
        let [(_, first), (_, second)] = &results[..] else {
            panic!("{what}");
        };
        assert!(first.as_ref().is_err_and(IoError::is_no_space), "{what}");
        match ordering {
            Ordering::Serialised => {
                assert!(matches!(second, Err(IoError::NotStarted { .. })), "{what}");
                assert_eq!(case.arrived(), 0, "{what}");
            }
            Ordering::TailLocalised => {
                assert!(matches!(second, Ok(8192)), "{what}");
                assert_eq!(case.arrived(), 8192, "{what}");
            }
        }
    }
}

#[test]
fn without_threads_the_submitter_is_the_order() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    for ordering in [Ordering::Serialised, Ordering::TailLocalised] {
        let name = format!("{ordering:?}");
        let (first, second) = (dir.path().join(&name), dir.path().join(name + "-2"));
        let backend = AnyBackend::Blocking(Blocking::inline());
        let case = Case::new(backend, ordering, &first, &second);
        case.submit();
        assert_eq!(case.names(), ["first", "second"]);
    }
}
