//! The disk alone.

use std::path::Path;
use std::sync::{Arc, Mutex};

use esker_io::{
    Action, Allocation, Backend, BackendExt, Completion, Create, Durability, FileOptions, IoError,
    Operation, WriteMemory, conformance,
};
use esker_sim::{Completions, Dice, Fault, Loss, MachineDown, Sim, SimFile, SimOptions, Survival};

fn create(sim: &Sim, path: &str) -> SimFile {
    let options = FileOptions::read_write().create(Create::IfMissing);
    sim.open(Path::new(path), &options).expect("a file")
}

fn contents(sim: &Sim, path: &str) -> Vec<u8> {
    sim.contents(Path::new(path)).expect("there is one")
}

fn write(offset: u64, bytes: &[u8], durability: Durability) -> Action {
    Action::Write {
        offset,
        memory: WriteMemory::new(bytes.to_vec()),
        durability,
    }
}

#[test]
fn it_conforms_with_drawn_completions() {
    let report = conformance::run(Path::new("/suite"), |_| Sim::new(3));
    println!("{report}");
    report.assert();
}

#[test]
fn it_conforms_with_immediate_completions() {
    let options = SimOptions::new(3).completions(Completions::Immediate);
    let report = conformance::run(Path::new("/suite"), |_| Sim::with(options));
    println!("{report}");
    report.assert();
}

#[test]
fn it_conforms_with_slow_operations() {
    let options = SimOptions::new(3).slow_one_in(3);
    let report = conformance::run(Path::new("/suite"), |_| Sim::with(options));
    println!("{report}");
    report.assert();
}

#[test]
fn a_slow_operation_completes_when_nothing_else_is_in_flight() {
    let mut overtaken = 0;
    for seed in 0..50 {
        let sim = Sim::with(SimOptions::new(seed).alone(true).slow_one_in(4));
        let file = create(&sim, "/f");
        let order = Arc::new(Mutex::new(Vec::new()));
        let batch = (0..6_u64).map(|number| {
            let order = Arc::clone(&order);
            let action = write(number * 512, &[1; 512], Durability::Written);
            Operation::new(file.clone(), action, move |_| {
                order.lock().expect("whole").push(number);
            })
        });
        sim.submit(batch.collect());
        sim.wait_until(&mut || sim.in_flight() == 0, None);
        let order = order.lock().expect("whole");
        assert_eq!(order.len(), 6, "seed {seed}");
        overtaken += usize::from(order[5] == 0);
    }
    // One in four is slow, and one that is not comes last in one of six.
    assert!((5..40).contains(&overtaken), "{overtaken} of 50");
}

#[test]
fn a_short_write_has_transferred_its_first_sectors() {
    let sim = Sim::new(1);
    let file = create(&sim, "/f");
    sim.sync_dir(Path::new("/")).expect("synced");
    sim.write_at(&file, 0, vec![1; 2048], Durability::Durable)
        .expect("written");
    sim.inject(Fault::WriteIsShort { sectors: 2 }, 0);
    let error = sim
        .write_at(&file, 0, vec![2; 2048], Durability::Durable)
        .expect_err("short");
    let context = esker_io::IoError::from(error).context().clone();
    assert_eq!(context.transferred_bytes, 1024);
    let expected = [[2; 1024], [1; 1024]].concat();
    assert_eq!(contents(&sim, "/f"), expected);
    let lost = sim.crash(&mut |_| Survival::Lost);
    assert_eq!(contents(&lost, "/f"), [1; 2048], "nothing was confirmed");
}

#[test]
fn a_seed_repeats_its_order_and_another_has_its_own() {
    let order = |seed| {
        let sim = Sim::with(SimOptions::new(seed).alone(true));
        let file = create(&sim, "/f");
        let order = Arc::new(Mutex::new(Vec::new()));
        let batch = (0..50u64).map(|number| {
            let order = Arc::clone(&order);
            let action = write(number * 100, &[7; 100], Durability::Written);
            Operation::new(file.clone(), action, move |_: Completion| {
                order.lock().expect("unpoisoned").push(number);
            })
        });
        sim.submit(batch.collect());
        sim.wait_until(&mut || sim.in_flight() == 0, None);
        let mut dice = Dice::new(seed);
        let next = sim.crash(&mut |_| Survival::drawn(&mut dice));
        let left = next.contents(Path::new("/f"));
        let order = order.lock().expect("unpoisoned").clone();
        (order, left)
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1).0, order(2).0);
    assert_ne!(order(1).0, (0..50).collect::<Vec<_>>());
}

#[test]
fn a_sync_covers_what_had_completed_when_it_was_submitted_and_no_more() {
    for seed in 0..40 {
        let sim = Sim::with(SimOptions::new(seed).alone(true));
        let file = create(&sim, "/f");
        sim.sync_dir(Path::new("/")).expect("synced");
        sim.write_at(&file, 0, vec![1; 512], Durability::Written)
            .expect("written");
        let sync = sim.start_sync(&file);
        let late = sim.start_write(&file, 512, vec![2; 512], Durability::Written);
        late.wait(&sim).expect("written");
        sync.wait(&sim).expect("synced");
        let next = sim.crash(&mut |_| Survival::Lost);
        assert_eq!(contents(&next, "/f"), [1; 512], "seed {seed}");
    }
}

#[test]
fn names_and_lengths_are_lost_until_they_are_synced() {
    let sim = Sim::new(1);
    let file = create(&sim, "/new");
    sim.write_at(&file, 0, vec![1; 10], Durability::Durable)
        .expect("written");
    assert!(sim.crash(&mut |_| Survival::Lost).paths().is_empty());

    let sim = Sim::new(1);
    let file = create(&sim, "/new");
    sim.sync_dir(Path::new("/")).expect("synced");
    sim.allocate(&file, 0, 4096).expect("space");
    let kinds: Vec<_> = sim.undurable().iter().map(|item| item.what).collect();
    assert_eq!(kinds, [Loss::Length]);
    assert!(contents(&sim.crash(&mut |_| Survival::Lost), "/new").is_empty());
    assert_eq!(
        contents(&sim.crash(&mut |_| Survival::Kept), "/new"),
        [0; 4096]
    );
}

#[test]
fn a_failed_sync_drops_what_it_covered_for_good() {
    let sim = Sim::new(1);
    let file = create(&sim, "/f");
    sim.sync_dir(Path::new("/")).expect("synced");
    sim.write_at(&file, 0, vec![1; 512], Durability::Durable)
        .expect("written");
    sim.write_at(&file, 0, vec![2; 512], Durability::Written)
        .expect("written");
    sim.inject(Fault::SyncFails, 0);
    assert!(sim.sync_data(&file).is_err());
    sim.sync_data(&file).expect("the next one succeeds");
    assert_eq!(contents(&sim, "/f"), [2; 512]);
    assert_eq!(
        contents(&sim.crash(&mut |_| Survival::Lost), "/f"),
        [1; 512]
    );
}

#[test]
fn a_failed_flush_drops_what_any_file_has_not_made_durable() {
    for of_names in [false, true] {
        let sim = Sim::new(1);
        let (file, other) = (create(&sim, "/f"), create(&sim, "/g"));
        sim.sync_dir(Path::new("/")).expect("synced");
        for (number, file) in [(1, &file), (2, &other)] {
            sim.write_at(file, 0, vec![number; 512], Durability::Durable)
                .expect("written");
        }
        sim.write_at(&other, 0, vec![3; 512], Durability::Written)
            .expect("written");
        sim.inject(Fault::FlushFails, 0);
        let failed = match of_names {
            false => sim.sync_data(&file),
            true => sim.sync_dir(Path::new("/")),
        };
        assert!(failed.is_err());
        sim.sync_data(&other).expect("the next one succeeds");
        let after = sim.crash(&mut |_| Survival::Lost);
        assert_eq!(contents(&after, "/f"), [1; 512]);
        assert_eq!(contents(&after, "/g"), [2; 512], "of names: {of_names}");
    }
}

#[test]
fn a_crash_comes_after_exactly_the_effect_it_was_asked_for() {
    let run = |stop: Option<u64>| {
        let sim = Sim::with(SimOptions::new(1).alone(true));
        if let Some(stop) = stop {
            sim.crash_after(stop);
        }
        let result = (|| -> Result<(), IoError> {
            let options = FileOptions::read_write().create(Create::New);
            let file = sim.open(Path::new("/a"), &options)?;
            sim.write_at(&file, 0, vec![1; 512], Durability::Durable)?;
            sim.rename(Path::new("/a"), Path::new("/b"))?;
            sim.sync_dir(Path::new("/"))?;
            sim.start_write(&file, 512, vec![2; 512], Durability::Written)
                .wait(&sim)?;
            sim.sync_data(&file)
        })();
        (sim, result)
    };
    let (whole, result) = run(None);
    result.expect("nothing fails");
    assert_eq!(whole.effects(), 8);
    let mut lengths = Vec::new();
    for stop in 1..=8 {
        let (sim, result) = run(Some(stop));
        let error = result.expect_err("the machine stops");
        assert!(MachineDown::caused(&error), "{error:?}");
        assert!(sim.is_down() && sim.effects() == stop);
        let left = sim.crash(&mut |_| Survival::Lost);
        let name = left
            .paths()
            .first()
            .map(|path| path.to_string_lossy().into_owned());
        lengths.push(name.map(|name| contents(&left, &name).len()));
    }
    let kept = Some(512);
    assert_eq!(
        lengths,
        [None, None, None, None, kept, kept, kept, Some(1024)]
    );
}

#[test]
fn what_was_in_flight_is_lost_kept_or_torn_and_its_waiters_are_told() {
    let sim = Sim::with(SimOptions::new(5).alone(true));
    let file = create(&sim, "/f");
    sim.allocate(&file, 0, 4096).expect("space");
    sim.sync_data(&file).expect("synced");
    sim.sync_dir(Path::new("/")).expect("synced");
    let pending = sim.start_write(&file, 0, vec![1; 2048], Durability::Durable);
    assert_eq!(sim.undurable().len(), 1);
    let torn = sim.crash(&mut |_| Survival::Torn(3));
    let error = pending.wait(&sim).expect_err("the machine is down").error;
    assert!(MachineDown::caused(&error));
    let count = |sim: &Sim| {
        contents(sim, "/f")
            .iter()
            .filter(|byte| **byte == 1)
            .count()
    };
    assert!((1..4).contains(&(count(&torn) / 512)) && count(&torn).is_multiple_of(512));
    assert_eq!(count(&sim.crash(&mut |_| Survival::Kept)), 2048);
    assert_eq!(count(&sim.crash(&mut |_| Survival::Prefix(1))), 512);
    assert_eq!(count(&sim.crash(&mut |_| Survival::Late)), 0);
}

#[test]
fn a_killed_process_loses_nothing_that_completed_and_its_late_writes_keep_the_lock() {
    let sim = Sim::with(SimOptions::new(5).alone(true));
    let file = create(&sim, "/f");
    assert!(sim.try_lock(&file).expect("asked"));
    sim.write_at(&file, 0, vec![1; 512], Durability::Written)
        .expect("written");
    let pending = sim.start_write(&file, 512, vec![2; 512], Durability::Written);
    let next = sim.kill(&mut |item| {
        assert_eq!(
            item.what,
            Loss::InFlight {
                offset: 512,
                len_bytes: 512
            }
        );
        Survival::Late
    });
    drop((pending, file, sim));
    assert_eq!(contents(&next, "/f"), [1; 512]);
    let file = create(&next, "/f");
    assert!(!next.try_lock(&file).expect("asked"));
    next.wait_until(&mut || false, Some(std::time::Duration::from_millis(1)));
    assert!(next.try_lock(&file).expect("asked"));
    assert_eq!(contents(&next, "/f")[512..], [2; 512]);
    let lost = next.crash(&mut |_| Survival::Lost);
    assert!(lost.paths().is_empty(), "nothing has become durable");
}

#[test]
fn a_full_disk_says_so_and_has_space_again_when_a_file_is_gone() {
    let sim = Sim::with(SimOptions::new(1).capacity_bytes(10_000));
    let (one, two) = (create(&sim, "/1"), create(&sim, "/2"));
    sim.allocate(&one, 0, 8000).expect("space");
    let error = sim.allocate(&two, 0, 4000).expect_err("no space");
    assert!(error.is_no_space());
    let error = sim
        .write_at(&two, 4000, vec![1; 10], Durability::Written)
        .expect_err("no space");
    assert!(error.error.is_no_space());
    sim.write_at(&one, 0, vec![1; 8000], Durability::Written)
        .expect("it has space");
    sim.remove(Path::new("/1")).expect("removed");
    assert_eq!(sim.used_bytes(), 8000, "an open file takes space");
    drop(one);
    sim.allocate(&two, 0, 4000).expect("space");
}

#[test]
fn damage_is_done_where_it_was_asked_for() {
    let sim = Sim::new(1);
    let file = create(&sim, "/f");
    sim.write_at(&file, 0, vec![0; 2048], Durability::Durable)
        .expect("written");
    assert!(sim.flip_bit(Path::new("/f"), 5, 1));
    assert!(!sim.flip_bit(Path::new("/g"), 5, 1));
    assert_eq!(contents(&sim, "/f")[5], 2);
    sim.inject(Fault::WriteIsLost, 0);
    sim.inject(Fault::WriteGoesTo { offset: 1024 }, 1);
    for fill in [1, 2] {
        sim.write_at(&file, 0, vec![fill; 512], Durability::Durable)
            .expect("it says that it succeeds");
    }
    let bytes = contents(&sim, "/f");
    assert!(bytes[..5] == [0; 5] && bytes[1024..1536] == [2; 512]);
    sim.make_unreadable(Path::new("/f"), 512..1024);
    assert!(sim.read_at(&file, 0, vec![0; 513]).is_err());
    assert!(sim.read_at(&file, 0, vec![0; 512]).is_ok());
    sim.write_at(&file, 512, vec![3; 512], Durability::Written)
        .expect("written");
    assert!(sim.read_at(&file, 0, vec![0; 513]).is_ok());
}

#[test]
fn handles_of_another_life_are_good_for_nothing() {
    let sim = Sim::new(1);
    let file = create(&sim, "/f");
    sim.sync_dir(Path::new("/")).expect("synced");
    let next = sim.crash(&mut |_| Survival::Kept);
    let error = next
        .write_at(&file, 0, vec![1; 10], Durability::Written)
        .expect_err("it is of another life");
    assert_eq!(error.error.fate(), esker_io::Fate::Determinate);
    assert!(next.facts(&file).is_err() && next.try_lock(&file).is_err());
    assert!(contents(&next, "/f").is_empty());
}

#[test]
fn a_sync_of_names_covers_what_had_changed_when_it_was_submitted() {
    let sim = Sim::with(SimOptions::new(1).alone(true));
    drop(create(&sim, "/before"));
    let sync = sim.start_sync_dir(Path::new("/"));
    drop(create(&sim, "/after"));
    let names = |sim: &Sim, survival| {
        let left = sim.crash(&mut |_| survival);
        left.paths()
    };
    let other = sim.fork();
    sync.wait(&sim).expect("synced");
    sim.inject(Fault::DirSyncFails, 0);
    let failed = sim.start_sync_dir(Path::new("/"));
    let error = failed.wait(&sim).expect_err("it is told to fail");
    assert_eq!(error.fate(), esker_io::Fate::Indeterminate);
    assert_eq!(names(&sim, Survival::Lost), [Path::new("/before")]);
    assert_eq!(names(&sim, Survival::Kept).len(), 2);
    assert!(
        names(&other, Survival::Lost).len() == 2,
        "a fork is durable"
    );
}

#[test]
fn an_opening_in_flight_has_happened_or_has_not() {
    let options = FileOptions::read_write().create(Create::New);
    let sim = Sim::with(SimOptions::new(1).alone(true));
    let opening = sim.start_open(Path::new("/f"), &options);
    assert!(sim.run_ahead(), "it is carried out, and nobody told");
    let next = sim.kill(&mut |_| Survival::Lost);
    assert_eq!(next.paths(), [Path::new("/f")]);
    assert!(opening.wait(&sim).is_ok(), "it had happened");
    assert!(next.crash(&mut |_| Survival::Lost).paths().is_empty());
    let sim = Sim::with(SimOptions::new(1).alone(true));
    let opening = sim.start_open(Path::new("/f"), &options);
    assert!(sim.kill(&mut |_| Survival::Lost).paths().is_empty());
    let error = opening.wait(&sim).expect_err("the machine is down");
    assert!(MachineDown::caused(&error));
    let sim = Sim::with(SimOptions::new(1).alone(true));
    sim.inject(Fault::OpenFails, 0);
    let opening = sim.start_open(Path::new("/f"), &options);
    assert!(opening.wait(&sim).is_err() && sim.paths().is_empty());
}

#[test]
fn changes_of_space_that_were_submitted_are_lost_or_kept_like_executed_ones() {
    let sim = Sim::with(SimOptions::new(2).alone(true).capacity_bytes(10_000));
    let file = create(&sim, "/f");
    sim.sync_dir(Path::new("/")).expect("synced");
    sim.write_at(&file, 0, vec![1; 2048], Durability::Durable)
        .expect("written");
    let cut = sim.start_truncate(&file, 1024);
    assert_eq!(contents(&sim, "/f").len(), 2048, "it is in flight");
    cut.wait(&sim).expect("cut");
    let hole = sim.start_punch_hole(&file, 0, 512);
    hole.wait(&sim).expect("punched");
    let full = sim.start_allocate(&file, 0, 20_000, Allocation::Quick);
    assert!(full.wait(&sim).expect_err("no space").is_no_space());
    let mut now = vec![0; 512];
    now.resize(1024, 1);
    assert_eq!(contents(&sim, "/f"), now);
    let kept = sim.crash(&mut |_| Survival::Kept);
    assert_eq!(contents(&kept, "/f"), now);
    let lost = sim.crash(&mut |_| Survival::Lost);
    assert_eq!(contents(&lost, "/f"), [1; 2048]);
}
