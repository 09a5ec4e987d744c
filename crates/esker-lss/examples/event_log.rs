//! An event log: several threads append, each waits for what must not be lost, a reader follows.

use esker_lss::{AnyBackend, Options, Reader, Store};

const WRITERS: u32 = 4;
const EVENTS: u32 = 250;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let options = Options::default().segment_bytes(1 << 20);
    let store = Store::open(dir.path(), AnyBackend::auto(), options.clone())?;

    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = &store;
                scope.spawn(move || -> Result<(), esker_lss::AppendDurableError> {
                    for event in 0..EVENTS {
                        let text = format!("writer {writer}, event {event}");
                        if event % 50 == 49 {
                            // Durable, and with it everything this thread appended before.
                            store.append_durable(text.as_bytes())?;
                        } else {
                            store.append(text.as_bytes())?;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().expect("no writer panics"))
    })?;
    let end = store.flush()?;

    // A reader needs no lock: it may as well be another process.
    let reader = Reader::open(dir.path(), AnyBackend::auto())?;
    let mut seen = 0;
    for record in reader.scan(..)? {
        record?;
        seen += 1;
    }
    assert_eq!(seen, WRITERS * EVENTS);
    println!("{seen} events, durable up to LSN {end}");

    // The older half is of no use any more.
    let first = store.trim_before(esker_lss::Lsn::new(end.get() / 2))?;
    store.close()?;
    let store = Store::open(dir.path(), AnyBackend::auto(), options)?;
    println!("opened again, from LSN {first} to {}", store.durable());
    Ok(store.close()?)
}
