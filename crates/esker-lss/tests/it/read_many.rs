//! Reading many records by address, with many reads in flight.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use esker_io::Backend;
use esker_lss::{Lsn, ReadError, Reader, Store};

use crate::faulty::Faulty;
use crate::support::{backends, open, record, small};

/// A record of a length that reaches every way of reading one: in one read, in two, across the end
/// of a segment, in more than one segment, in a slot of its own.
fn any_record(index: usize) -> Vec<u8> {
    match index % 23 {
        5 => vec![index as u8; 14 << 10],
        11 => vec![index as u8; 40 << 10],
        17 => vec![index as u8; 200 << 10],
        _ => record(index),
    }
}

fn fill<B: Backend>(store: &Store<B>, count: usize) -> Vec<(Lsn, Vec<u8>)> {
    let records: Vec<_> = (0..count)
        .map(|index| {
            let payload = any_record(index);
            (store.append(&payload).expect("appends"), payload)
        })
        .collect();
    store.flush().expect("flushes");
    records
}

/// The indices below `count` in no order, some of them more than once.
fn shuffled(count: usize) -> impl Iterator<Item = usize> {
    (0..count + count / 3).map(move |index| index * 7919 % count)
}

fn segment(dir: &Path, number: u64) -> std::path::PathBuf {
    dir.join(format!("{number:016x}.seg"))
}

#[test]
fn records_come_in_the_order_in_which_they_were_asked_for() {
    for backend in backends() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path(), backend, small()).expect("opens");
        let records = fill(&store, 150);
        let reader = Reader::open(dir.path(), esker_io::AnyBackend::auto()).expect("opens");
        let wanted: Vec<_> = shuffled(records.len()).map(|i| &records[i]).collect();
        let lsns: Vec<Lsn> = wanted.iter().map(|(lsn, _)| *lsn).collect();
        for depth in [0, 1, 3, 32, usize::MAX] {
            let both = [
                store.read_many(&lsns).depth(depth),
                reader.read_many(&lsns).depth(depth),
            ];
            for mut many in both {
                for (count, (lsn, payload)) in wanted.iter().enumerate() {
                    assert_eq!(many.len(), lsns.len() - count);
                    let read = many.next().expect("one for each").expect("intact");
                    assert!(read == *payload, "{lsn}, {depth} in flight");
                }
                assert!(many.next().is_none() && many.next().is_none());
            }
        }
        assert_eq!(store.read_many(&[]).count(), 0);
        // One that is left in the middle leaves nothing behind.
        assert_eq!(
            store.read_many(&lsns).take(3).filter(Result::is_ok).count(),
            3
        );
        store.close().expect("closes");
    }
}

#[test]
fn what_is_in_memory_is_read_from_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = Arc::new(Faulty::default());
    let store = Store::<Faulty>::open(dir.path(), Arc::clone(&backend), small()).expect("opens");
    let on_disk = fill(&store, 20);
    let reads = backend.reads.load(SeqCst);
    let written = store.info().expect("info").slots_written;
    let resident: Vec<_> = (0..50)
        .map(|index| {
            (
                store.append(&[index; 20]).expect("appends"),
                vec![index; 20],
            )
        })
        .collect();
    let lsns: Vec<Lsn> = resident.iter().map(|(lsn, _)| *lsn).collect();
    for (read, (_, payload)) in store.read_many(&lsns).zip(&resident) {
        assert_eq!(read.expect("reads its own writes"), *payload);
    }
    assert_eq!(backend.reads.load(SeqCst), reads, "nothing was read");
    assert_eq!(store.info().expect("info").slots_written, written);
    // And both kinds together.
    let mixed: Vec<_> = on_disk
        .iter()
        .zip(&resident)
        .flat_map(|(a, b)| [a, b])
        .collect();
    let lsns: Vec<Lsn> = mixed.iter().map(|(lsn, _)| *lsn).collect();
    for (read, (_, payload)) in store.read_many(&lsns).zip(&mixed) {
        assert!(read.expect("reads") == *payload);
    }
}

#[test]
fn each_address_has_a_result_of_its_own_like_that_of_a_single_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let records = fill(&store, 150);
    let first = store.trim_before(records[60].0).expect("trims");
    assert!(first > Lsn::ZERO);
    let (there, long) = (records[100].0, records[109].0);
    let beyond = store.tail();
    let lsns = [
        there,
        Lsn::ZERO,
        Lsn::new(first.get() - 8),
        long,
        Lsn::new(there.get() + 8),
        Lsn::new(there.get() + 1),
        there,
        beyond,
        Lsn::new(u64::MAX),
        Lsn::new(u64::MAX - 7),
        long,
    ];
    let read: Vec<_> = store.read_many(&lsns).collect();
    let kinds: String = read
        .iter()
        .map(|read| match read {
            Ok(_) => 'r',
            Err(ReadError::Trimmed { .. }) => 't',
            Err(ReadError::NotARecord { .. }) => 'n',
            Err(ReadError::BeyondEnd { .. }) => 'b',
            Err(_) => '?',
        })
        .collect();
    assert_eq!(kinds, "rttrnnrbbbr");
    let reader = Reader::open(dir.path(), esker_io::AnyBackend::auto()).expect("opens");
    let beside: Vec<_> = reader.read_many(&lsns).collect();
    for ((many, beside), lsn) in read.iter().zip(&beside).zip(lsns) {
        assert_eq!(format!("{many:?}"), format!("{:?}", store.read(lsn)));
        assert_eq!(format!("{beside:?}"), format!("{:?}", reader.read(lsn)));
        assert_eq!(many.is_ok(), beside.is_ok());
    }
}

#[test]
fn damage_fails_the_record_that_it_is_in_and_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let records = fill(&store, 60);
    let lsns: Vec<Lsn> = records.iter().map(|(lsn, _)| *lsn).collect();
    let segment_bytes = store.info().expect("info").segment_bytes;
    // In the first read of one, in the second of another (40 KiB), in the last byte of a third.
    let last = records[40].1.len() as u64 - 1;
    for (index, within) in [(3usize, 50), (34, 20_000), (40, last)] {
        let at = records[index].0.get() + 8 + within;
        let path = segment(dir.path(), at / segment_bytes);
        let mut bytes = std::fs::read(&path).expect("reads");
        let offset = usize::try_from(at % segment_bytes).expect("small");
        bytes[offset] ^= 4;
        std::fs::write(&path, &bytes).expect("writes");
        for (number, read) in store.read_many(&lsns).enumerate() {
            match read {
                Ok(payload) => assert!(number != index && payload == records[number].1),
                Err(ReadError::Corrupt(damage)) => {
                    assert_eq!((number, damage.lsn), (index, lsns[index]));
                }
                Err(error) => panic!("{number}: {error}"),
            }
        }
        bytes[offset] ^= 4;
        std::fs::write(&path, bytes).expect("writes");
    }
    assert!(store.read_many(&lsns).all(|read| read.is_ok()));
}

#[test]
fn a_read_that_fails_is_that_records_error_and_is_not_made_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = Arc::new(Faulty::default());
    let store = Store::<Faulty>::open(dir.path(), Arc::clone(&backend), small()).expect("opens");
    let lsns: Vec<Lsn> = (0..40)
        .map(|index| store.append(&[index; 30]).expect("appends"))
        .collect();
    store.flush().expect("flushes");
    backend.reads_left.set(25);
    let read: Vec<_> = store.read_many(&lsns).collect();
    assert_eq!(read.iter().filter(|read| read.is_ok()).count(), 25);
    for failed in read.iter().skip(25) {
        assert!(matches!(failed, Err(ReadError::Io(_))), "{failed:?}");
    }
    // Reading is no way to lose a store.
    backend.reads_left.set(u64::MAX);
    assert!(store.append_durable(b"goes on").is_ok());
    assert!(store.read_many(&lsns).all(|read| read.is_ok()));
}

#[test]
fn no_more_is_in_flight_or_held_than_was_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = Arc::new(Faulty::default());
    let store = Store::<Faulty>::open(dir.path(), Arc::clone(&backend), small()).expect("opens");
    let lsns: Vec<Lsn> = (0..500)
        .map(|index: u32| store.append(&index.to_le_bytes()).expect("appends"))
        .collect();
    store.flush().expect("flushes");
    for (depth, most) in [(1, 1), (5, 5), (64, 64)] {
        let before = backend.reads.load(SeqCst);
        let mut many = store.read_many(&lsns).depth(depth);
        assert_eq!(backend.reads.load(SeqCst), before, "nothing was asked for");
        backend.largest_batch.store(0, SeqCst);
        for asked in 1..=lsns.len() as u64 {
            many.next().expect("one for each").expect("intact");
            let ahead = backend.reads.load(SeqCst) - before;
            assert!(ahead <= asked + 2 * most, "{ahead} reads for {asked}");
        }
        assert_eq!(backend.largest_batch.load(SeqCst), most);
        assert_eq!(backend.reads.load(SeqCst) - before, 500, "one read each");
    }
}

/// A record of up to 4 KiB lies in one or two blocks. Once such records have been met, the read is
/// as long as it has to be.
#[test]
fn a_small_record_takes_one_read() {
    for len in [100, 1000, 3000, 4096] {
        let dir = tempfile::tempdir().expect("a directory");
        let backend = Arc::new(Faulty::default());
        let options = small().segment_bytes(4 << 20);
        let store =
            Store::<Faulty>::open(dir.path(), Arc::clone(&backend), options).expect("opens");
        let lsns: Vec<Lsn> = (0..200)
            .map(|_| store.append(&vec![7; len]).expect("appends"))
            .collect();
        store.flush().expect("flushes");
        // The first few tell how long they are.
        assert!(store.read_many(&lsns[..3]).all(|read| read.is_ok()));
        let before = backend.reads.load(SeqCst);
        assert!(store.read_many(&lsns).all(|read| read.is_ok()));
        assert_eq!(backend.reads.load(SeqCst) - before, 200, "{len} bytes");
        for lsn in &lsns {
            store.read(*lsn).expect("reads");
        }
        assert_eq!(backend.reads.load(SeqCst) - before, 400, "{len} bytes");
    }
}

/// Of a longer one the rest, whatever is read beside it.
#[test]
fn a_longer_record_takes_two_reads() {
    let dir = tempfile::tempdir().expect("a directory");
    let backend = Arc::new(Faulty::default());
    let options = small().segment_bytes(4 << 20);
    let store = Store::<Faulty>::open(dir.path(), Arc::clone(&backend), options).expect("opens");
    // No sector like the next.
    let payload: Vec<u8> = (0..40 << 10).map(|at| (at / 512) as u8).collect();
    let lsns: Vec<Lsn> = (0..20)
        .map(|_| store.append(&payload).expect("appends"))
        .collect();
    store.flush().expect("flushes");
    let before = backend.reads.load(SeqCst);
    assert!(store.read_many(&lsns).all(|read| read.is_ok()));
    assert_eq!(backend.reads.load(SeqCst) - before, 2 * 20);
    for lsn in &lsns {
        store.read(*lsn).expect("reads");
    }
    assert_eq!(backend.reads.load(SeqCst) - before, 4 * 20);
}

/// What was read before a trim is as gone as what is read after it.
#[test]
fn what_is_trimmed_meanwhile_is_trimmed() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let records = fill(&store, 150);
    let lsns: Vec<Lsn> = records.iter().map(|(lsn, _)| *lsn).collect();
    let mut many = store.read_many(&lsns);
    assert_eq!(many.next().expect("one").expect("intact"), records[0].1);
    let first = store.trim_before(lsns[149]).expect("trims");
    assert!(first > lsns[40]);
    for ((lsn, payload), read) in records[1..].iter().zip(many) {
        match read {
            Ok(read) => assert!(*lsn >= first && read == *payload, "{lsn}"),
            Err(ReadError::Trimmed { .. }) => assert!(*lsn < first, "{lsn}"),
            Err(error) => panic!("{lsn}: {error}"),
        }
    }
}
