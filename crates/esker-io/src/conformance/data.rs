//! Checks of what reads and writes move, and of what they say about it.

use esker_buf::{AlignedBuf, Alignment, BufferPool, HugePages, PoolBuf};

use super::{Bench, Ran, aligned_pattern, checks, one, pattern, read, write};
use crate::action::{Action, Durability};
use crate::backend::{Allocation, Backend, FileOptions};
use crate::error::{Fate, IoError, Misaligned, OperationKind};
use crate::ext::BackendExt;
use crate::memory::{ReadMemory, WriteMemory};

checks!(
    bytes_come_back_at_odd_sizes_and_offsets,
    a_slice_moves_only_its_range,
    gathered_pieces_land_one_after_the_other,
    direct_bytes_come_back,
    registered_memory_moves_the_same_bytes,
    the_end_of_the_file_is_told_apart,
    holes_read_as_zeroes,
    holes_are_found_where_nothing_was_written,
    empty_transfers_complete,
    durable_writes_and_syncs_complete,
    each_operation_gets_its_own_memory_back,
    unaligned_requests_are_refused_and_named,
    unaligned_pieces_are_refused,
    a_read_only_handle_refuses_writes,
    a_write_only_handle_refuses_reads,
    a_range_past_the_largest_offset_is_refused,
    bytes_are_counted,
);

fn bytes_come_back_at_odd_sizes_and_offsets<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("odd");
    for (number, &(offset, len)) in [(0, 1), (1, 511), (4095, 2), (10_000, 70_001), (3, 4096)]
        .iter()
        .enumerate()
    {
        let bytes = pattern(number as u64, len);
        let mut both = bench.complete(&file, vec![write(offset, bytes.clone())]);
        both.extend(bench.complete(&file, vec![read(offset, len)]));
        both.push(bench.backend.execute(&file, read(offset, len)));
        for completion in both {
            assert_eq!(completion.result.expect("it succeeds"), len);
            assert!(completion.memory.bytes() == bytes, "at {offset}");
        }
        let bytes = pattern(number as u64 + 100, len);
        let back = bench
            .backend
            .write_at(&file, offset, bytes.clone(), Durability::Written)
            .expect("it succeeds");
        assert!(back == bytes);
        let pending = bench.backend.start_read(&file, offset, vec![0; len]);
        let (count, back) = bench.finish(pending).expect("it succeeds");
        assert!(count == len && back == bytes);
    }
    Ran::Done
}

fn a_slice_moves_only_its_range<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("slice");
    let memory = WriteMemory::slice(pattern(1, 1000), 100..300).expect("in range");
    let action = Action::Write {
        offset: 50,
        memory,
        durability: Durability::Written,
    };
    let [done] = one(bench.complete(&file, vec![action]));
    assert_eq!(done.result.expect("it succeeds"), 200);
    let length = bench.backend.facts(&file).expect("facts").len_bytes;
    assert_eq!(length, 250);
    let memory = ReadMemory::slice(vec![7u8; 400], 100..300).expect("in range");
    let [done] = one(bench.complete(&file, vec![Action::Read { offset: 50, memory }]));
    assert_eq!(done.result.expect("it succeeds"), 200);
    let whole: Vec<u8> = done.memory.into_inner().expect("a vector");
    assert!(whole[..100] == [7; 100] && whole[300..] == [7; 100]);
    assert!(whole[100..300] == pattern(1, 1000)[100..300]);
    Ran::Done
}

fn gathered_pieces_land_one_after_the_other<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("gathered");
    // More pieces than one system call takes, some of them empty.
    for (number, count) in [0, 1, 7, 1500].into_iter().enumerate() {
        let pieces = || -> Vec<Vec<u8>> {
            (0..count)
                .map(|piece| pattern(piece, usize::try_from(piece % 5 * 37).expect("small")))
                .collect()
        };
        let (offset, all) = (number as u64 * 1_000_003, pieces().concat());
        for durability in [Durability::Written, Durability::Durable] {
            let pending = bench
                .backend
                .start_write_vectored(&file, offset, pieces(), durability);
            assert!(bench.finish(pending).expect("it succeeds") == pieces());
            let [done] = one(bench.complete(&file, vec![read(offset, all.len())]));
            assert!(done.memory.bytes() == all, "{count} pieces");
        }
        let offset = offset + 500_000;
        let back = bench
            .backend
            .write_vectored_at(&file, offset, pieces(), Durability::Durable)
            .expect("it succeeds");
        assert!(back == pieces());
        let done = bench.backend.execute(&file, read(offset, all.len()));
        assert!(done.memory.bytes() == all, "{count} pieces");
    }
    Ran::Done
}

fn unaligned_pieces_are_refused<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.direct_file("pieces");
    let facts = bench.backend.facts(&file).expect("facts");
    let step = facts.alignment.bytes();
    if step == 1 {
        return Ran::Skipped("the file asks for no alignment".to_owned());
    }
    let piece = |range| {
        let buf = AlignedBuf::zeroed(4 * step, Alignment::BLOCK).expect("memory");
        WriteMemory::slice(buf, range).expect("in range")
    };
    let gathered = |pieces| Action::Write {
        offset: 0,
        memory: WriteMemory::gather(pieces),
        durability: Durability::Written,
    };
    // The whole is a multiple of the alignment, the pieces are not.
    let split = gathered(vec![piece(0..step / 2), piece(step / 2..step)]);
    let good = gathered(vec![piece(0..step), piece(step..3 * step)]);
    let mut both = bench.complete(&file, vec![split, good]).into_iter();
    match both.next().map(|done| done.result) {
        Some(Err(IoError::Misaligned { what, .. })) => assert_eq!(what, Misaligned::Memory),
        // A backend without vectors of its own joins them.
        Some(Ok(bytes)) => assert_eq!(bytes, step),
        other => panic!("{other:?}"),
    }
    let good = both.next().expect("two").result.expect("it succeeds");
    assert_eq!(good, 3 * step);
    Ran::Done
}

fn direct_bytes_come_back<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.direct_file("direct");
    let facts = bench.backend.facts(&file).expect("facts");
    assert!(
        facts.alignment <= Alignment::BLOCK,
        "the suite's memory is aligned to a block"
    );
    for (number, durability) in [Durability::Written, Durability::Durable]
        .into_iter()
        .enumerate()
    {
        let (seed, offset) = (number as u64, 4096 * number as u64);
        let bytes = aligned_pattern(seed, 12_288);
        let pending = bench.backend.start_write(&file, offset, bytes, durability);
        bench.finish(pending).expect("it succeeds");
        let buf = AlignedBuf::zeroed(12_288, Alignment::BLOCK).expect("memory");
        let pending = bench.backend.start_read(&file, offset, buf);
        let (count, buf) = bench.finish(pending).expect("it succeeds");
        assert_eq!(count, 12_288);
        assert!(*buf == *pattern(seed, 12_288));
    }
    // A file that ends within a block: the read says so, and stops there.
    bench.backend.truncate(&file, 5000).expect("it succeeds");
    let buf = AlignedBuf::zeroed(8192, Alignment::BLOCK).expect("memory");
    let (count, _) = bench.backend.read_at(&file, 0, buf).expect("it succeeds");
    assert_eq!(count, 5000);
    let buf = AlignedBuf::zeroed(8192, Alignment::BLOCK).expect("memory");
    let pending = bench.backend.start_read(&file, 4096, buf);
    let (count, _) = bench.finish(pending).expect("it succeeds");
    assert_eq!(count, 904);
    Ran::Done
}

fn registered_memory_moves_the_same_bytes<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.direct_file("registered");
    let pool = BufferPool::new(4, 12_288, Alignment::BLOCK, HugePages::Try).expect("memory");
    let mut registration = bench.backend.register(Box::new(pool.clone())).ok();
    for seed in 0..4u64 {
        let (offset, bytes) = (seed * 12_288, pattern(seed, 12_288));
        let mut buf = pool.take().expect("it is there");
        buf.copy_from_slice(&bytes);
        let durability = if seed % 2 == 0 {
            Durability::Durable
        } else {
            Durability::Written
        };
        // A part of the buffer, between two that stay as they are.
        let memory = WriteMemory::slice(buf, 4096..8192).expect("in range");
        let action = Action::Write {
            offset: offset + 4096,
            memory,
            durability,
        };
        let [done] = one(bench.complete(&file, vec![action]));
        assert_eq!(done.result.expect("it succeeds"), 4096);
        let mut buf: PoolBuf = done.memory.into_inner().expect("its own memory");
        assert!(*buf == *bytes);
        buf.fill(0xEE);
        let memory = ReadMemory::slice(buf, 4096..8192).expect("in range");
        let offset = offset + 4096;
        let outcomes = bench.submit(&file, vec![Action::Read { offset, memory }]);
        if seed == 2 {
            // What is in flight keeps what it uses.
            registration = None;
        }
        bench.wait("the end of a read", || !outcomes.lock().is_empty());
        let (_, done) = outcomes.lock().pop().expect("there is one");
        assert_eq!(done.result.expect("it succeeds"), 4096);
        let buf: PoolBuf = done.memory.into_inner().expect("its own memory");
        assert!(buf[4096..8192] == bytes[4096..8192]);
        let around = buf[..4096].iter().chain(&buf[8192..]);
        assert!(around.copied().all(|byte| byte == 0xEE));
    }
    drop(registration);
    Ran::Done
}

fn the_end_of_the_file_is_told_apart<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("end");
    let bytes = pattern(9, 1000);
    bench
        .backend
        .write_at(&file, 0, bytes.clone(), Durability::Written)
        .expect("it succeeds");
    for (offset, len, expected) in [
        (0, 1000, 1000),
        (0, 1001, 1000),
        (900, 5000, 100),
        (1000, 10, 0),
        (1 << 40, 10, 0),
    ] {
        let mut both = bench.complete(&file, vec![read(offset, len)]);
        both.push(bench.backend.execute(&file, read(offset, len)));
        for done in both {
            assert_eq!(done.result.expect("it succeeds"), expected, "at {offset}");
            let (moved, rest) = done.memory.bytes().split_at(expected);
            let start = usize::try_from(offset).expect("small").min(1000);
            assert!(moved == &bytes[start..start + expected]);
            assert!(
                rest.iter().all(|&byte| byte == 0xEE),
                "the rest is untouched"
            );
        }
    }
    Ran::Done
}

fn holes_read_as_zeroes<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("hole");
    let [done] = one(bench.complete(&file, vec![write(100_000, vec![1; 10])]));
    assert_eq!(done.result.expect("it succeeds"), 10);
    let [done] = one(bench.complete(&file, vec![read(0, 100_010)]));
    assert_eq!(done.result.expect("it succeeds"), 100_010);
    let (hole, bytes) = done.memory.bytes().split_at(100_000);
    assert!(hole.iter().all(|&byte| byte == 0));
    assert!(bytes == [1; 10]);
    Ran::Done
}

fn holes_are_found_where_nothing_was_written<B: Backend>(bench: &Bench<B>) -> Ran {
    const END: u64 = 1 << 20;
    let file = bench.direct_file("holes");
    let hole_from = |offset| {
        let hole = bench.backend.first_hole(&file, offset);
        hole.expect("it succeeds")
    };
    let fill = |offset, len| {
        let written = bench.backend.write_at(
            &file,
            offset,
            aligned_pattern(offset, len),
            Durability::Durable,
        );
        written.expect("it succeeds");
    };
    assert_eq!(hole_from(0), None, "there is nothing below the end");
    bench
        .backend
        .allocate_with(&file, 0, END, Allocation::Reserved)
        .expect("there is space");
    fill(0, 65_536);
    let Some(hole) = hole_from(0) else {
        return Ran::Skipped("it cannot tell where holes are".to_owned());
    };
    assert!(hole.start >= 65_536 && hole.end == END, "{hole:?}");
    assert_eq!(hole_from(hole.start), Some(hole.clone()));
    let middle = hole.start + 262_144;
    assert_eq!(hole_from(middle), Some(middle..END));
    fill(middle, 65_536);
    let before = hole_from(0).expect("there is one before it, and one behind");
    assert!(
        before.start == hole.start && before.end <= middle,
        "{before:?}"
    );
    let behind = hole_from(before.end).expect("there is one behind it");
    assert!(
        behind.start >= middle + 65_536 && behind.end == END,
        "{behind:?}"
    );
    #[expect(clippy::cast_possible_truncation, reason = "1 MiB")]
    fill(0, END as usize);
    assert_eq!(hole_from(0), None);
    assert_eq!(hole_from(END - 1), None);
    assert_eq!(hole_from(END), None);
    assert_eq!(hole_from(END * 2), None);
    assert!(
        bench
            .backend
            .first_hole(&file, u64::MAX)
            .is_ok_and(|hole| hole.is_none())
            || matches!(
                bench.backend.first_hole(&file, u64::MAX),
                Err(IoError::OutOfRange { .. })
            )
    );
    Ran::Done
}

fn empty_transfers_complete<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.direct_file("empty");
    let actions = vec![write(1, Vec::new()), read(1, 0)];
    for done in bench.complete(&file, actions) {
        assert_eq!(done.result.expect("it succeeds"), 0);
    }
    assert_eq!(bench.backend.facts(&file).expect("facts").len_bytes, 0);
    assert!(bench.complete(&file, Vec::new()).is_empty());
    Ran::Done
}

fn durable_writes_and_syncs_complete<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("durable");
    let durable = |offset| Action::Write {
        offset,
        memory: WriteMemory::new(pattern(offset, 3000)),
        durability: Durability::Durable,
    };
    let syncs = [Action::SyncData, Action::SyncAll];
    let batch = [durable(0), durable(3000)].into_iter().chain(syncs);
    let completions = bench.complete(&file, batch.collect());
    let counts: Vec<_> = completions
        .into_iter()
        .map(|done| done.result.expect("it succeeds"))
        .collect();
    assert_eq!(counts, [3000, 3000, 0, 0]);
    let done = bench.backend.execute(&file, durable(6000));
    assert_eq!(done.result.expect("it succeeds"), 3000);
    bench.backend.sync_data(&file).expect("it succeeds");
    let pending = bench.backend.start_sync(&file);
    bench.finish(pending).expect("it succeeds");
    let pending = bench.backend.start_sync_all(&file);
    bench.finish(pending).expect("it succeeds");
    bench.backend.sync_all(&file).expect("it succeeds");
    let [done] = one(bench.complete(&file, vec![read(3000, 3000)]));
    assert!(done.memory.bytes() == pattern(3000, 3000));
    Ran::Done
}

fn each_operation_gets_its_own_memory_back<B: Backend>(bench: &Bench<B>) -> Ran {
    const COUNT: usize = 300;
    let file = bench.file("own");
    let len = |number: usize| 100 + number % 700;
    let writes = (0..COUNT)
        .map(|number| write(number as u64 * 800, pattern(number as u64, len(number))))
        .collect();
    for (number, done) in bench.complete(&file, writes).into_iter().enumerate() {
        assert_eq!(done.result.expect("it succeeds"), len(number));
        let back: Vec<u8> = done.memory.into_inner().expect("a vector");
        assert!(
            back == pattern(number as u64, len(number)),
            "write {number}"
        );
    }
    let reads = (0..COUNT)
        .map(|number| read(number as u64 * 800, len(number)))
        .collect();
    for (number, done) in bench.complete(&file, reads).into_iter().enumerate() {
        assert_eq!(done.result.expect("it succeeds"), len(number));
        let expected = pattern(number as u64, len(number));
        assert!(done.memory.bytes() == expected, "read {number}");
    }
    Ran::Done
}

fn unaligned_requests_are_refused_and_named<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.direct_file("unaligned");
    let facts = bench.backend.facts(&file).expect("facts");
    if facts.alignment == Alignment::ONE {
        return Ran::Skipped("the file asks for no alignment".to_owned());
    }
    let step = facts.alignment.bytes();
    let buf = || AlignedBuf::zeroed(4 * step, Alignment::BLOCK).expect("memory");
    for (offset, range, expected) in [
        (1, 0..step, Misaligned::Offset),
        (0, 0..step + 1, Misaligned::Length),
        (0, 1..step + 1, Misaligned::Memory),
    ] {
        let writes = Action::Write {
            offset,
            memory: WriteMemory::slice(buf(), range.clone()).expect("in range"),
            durability: Durability::Durable,
        };
        let reads = Action::Read {
            offset,
            memory: ReadMemory::slice(buf(), range.clone()).expect("in range"),
        };
        for done in bench.complete(&file, vec![writes, reads]) {
            match done.result {
                Err(error @ IoError::Misaligned { what, .. }) => {
                    assert_eq!(what, expected);
                    assert_eq!(error.fate(), Fate::Determinate);
                    assert_eq!(error.context().offset, offset);
                }
                other => panic!("{expected:?}: {other:?}"),
            }
            let back: Result<AlignedBuf, _> = done.memory.into_inner();
            assert!(back.is_ok(), "the memory comes back with the error");
        }
    }
    assert_eq!(bench.backend.facts(&file).expect("facts").len_bytes, 0);
    Ran::Done
}

fn a_read_only_handle_refuses_writes<B: Backend>(bench: &Bench<B>) -> Ran {
    drop(bench.file("read-only"));
    let path = bench.path("read-only");
    let file = bench
        .backend
        .open(&path, &FileOptions::read())
        .expect("it exists");
    let [done] = one(bench.complete(&file, vec![write(8, vec![1; 5])]));
    let error = done.result.expect_err("the handle is read-only");
    assert!(matches!(error, IoError::NotWritable { .. }), "{error:?}");
    assert_eq!(error.fate(), Fate::Determinate);
    let context = error.context();
    assert_eq!(context.operation, OperationKind::Write);
    assert_eq!((context.offset, context.len_bytes), (8, 5));
    assert_eq!(*context.path, *path);
    for result in [
        bench.backend.truncate(&file, 1),
        bench.backend.allocate(&file, 0, 1).map(drop),
        bench.backend.try_lock(&file).map(drop),
    ] {
        assert!(matches!(result, Err(IoError::NotWritable { .. })));
    }
    Ran::Done
}

fn a_write_only_handle_refuses_reads<B: Backend>(bench: &Bench<B>) -> Ran {
    drop(bench.file("write-only"));
    let options = FileOptions {
        read: false,
        ..FileOptions::read_write()
    };
    let path = bench.path("write-only");
    let file = bench.backend.open(&path, &options).expect("it exists");
    let [done] = one(bench.complete(&file, vec![read(0, 5)]));
    let error = done.result.expect_err("the handle is write-only");
    assert!(matches!(error, IoError::NotReadable { .. }), "{error:?}");
    Ran::Done
}

fn a_range_past_the_largest_offset_is_refused<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("far");
    for offset in [i64::MAX as u64, u64::MAX - 1, u64::MAX] {
        for done in bench.complete(&file, vec![write(offset, vec![1; 2]), read(offset, 2)]) {
            let error = done.result.expect_err("no file reaches there");
            assert!(matches!(error, IoError::OutOfRange { .. }), "{error:?}");
        }
    }
    let result = bench.backend.allocate(&file, u64::MAX, u64::MAX);
    assert!(matches!(result, Err(IoError::OutOfRange { .. })));
    let result = bench.backend.truncate(&file, u64::MAX);
    assert!(matches!(result, Err(IoError::OutOfRange { .. })));
    Ran::Done
}

fn bytes_are_counted<B: Backend>(bench: &Bench<B>) -> Ran {
    let file = bench.file("counted");
    bench.complete(&file, vec![write(0, vec![1; 100]), write(100, vec![1; 50])]);
    bench.complete(&file, vec![read(0, 120)]);
    bench.backend.sync_data(&file).expect("it succeeds");
    let counted = bench.backend.statistics();
    assert_eq!((counted.writes.completed, counted.writes.bytes), (2, 150));
    assert_eq!((counted.reads.completed, counted.reads.bytes), (1, 120));
    assert_eq!((counted.syncs.completed, counted.syncs.failed), (1, 0));
    assert_eq!((counted.in_flight, counted.peak_in_flight), (0, 2));
    assert_eq!((counted.batches, counted.failed()), (2, 0));
    let took = bench.backend.latencies();
    if took.writes.count() == 0 {
        return Ran::Skipped("it keeps no latencies".to_owned());
    }
    assert_eq!((took.writes.count(), took.reads.count()), (2, 1));
    assert_eq!(took.syncs.count(), 1);
    assert!(took.writes.max() >= took.writes.quantile(0.5));
    bench.complete(&file, vec![read(0, 120)]);
    let between = bench.backend.statistics().since(&counted);
    assert_eq!((between.reads.bytes, between.writes.bytes), (120, 0));
    let between = bench.backend.latencies().since(&took);
    assert_eq!((between.reads.count(), between.writes.count()), (1, 0));
    Ran::Done
}
