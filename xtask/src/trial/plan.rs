//! [`Plan`]: what one life of a store is to be like, drawn from the seed.

use std::time::Duration;

use rand::{Rng, RngExt};

use super::records::{Mix, Records};

/// When the process is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kill {
    /// So long after it was started.
    After(Duration),
    /// So long after it had printed so many LSNs, or all that there are to print.
    Printed(u64, Duration),
    /// So long after all of its input had been handed over.
    Fed(Duration),
    /// Not at all: it may end by itself.
    Never,
}

/// How the input is handed over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Feed {
    /// As fast as it goes.
    FlatOut,
    /// So many records at a time, with a pause after them.
    Bursts(u64, Duration),
}

/// One life.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) records: Records,
    pub(crate) threads: u64,
    pub(crate) ordering: &'static str,
    pub(crate) backend: &'static str,
    pub(crate) framing: &'static str,
    pub(crate) feed: Feed,
    pub(crate) kill: Kill,
    pub(crate) max_records: u64,
    pub(crate) max_bytes: usize,
}

impl Plan {
    /// Draws one. Every use of `random` happens whatever the outcome, so that a seed means the same
    /// on every machine.
    pub(crate) fn draw(random: &mut impl Rng, backends: &[&'static str]) -> Self {
        let binary = random.random_bool(0.5);
        let key = random.next_u64();
        let mix = pick(random, &[Mix::Small, Mix::Mixed, Mix::Mixed, Mix::Oversize]);
        let threads = pick(random, &[1, 2, 4, 8]);
        let ordering = pick(random, &["tail-localised", "serialised"]);
        let backend = pick(random, backends);
        let burst = Feed::Bursts(random.random_range(1..200), micros(random, 2000));
        let feed = pick(random, &[Feed::FlatOut, Feed::FlatOut, burst]);
        // From a handful to more than a segment takes, so that kills meet the step to the next.
        let max_records = 1 << random.random_range(4..20);
        let max_bytes = pick(random, &[8 << 20, 24 << 20, 24 << 20, 96 << 20]);
        let kill = draw_kill(random);
        Self {
            records: Records { key, mix, binary },
            threads,
            ordering,
            backend,
            framing: if binary { "length" } else { "lines" },
            feed,
            kill,
            max_records,
            max_bytes,
        }
    }
}

fn draw_kill(random: &mut impl Rng) -> Kill {
    // Down to nothing, and from there over five powers of ten: a store's creation takes
    // milliseconds, and so do its first commits.
    let early = Kill::After(micros(random, 5000));
    let log = 10f64.powf(random.random_range(1.0..5.7));
    let later = Kill::After(Duration::from_secs_f64(log / 1e6));
    let few = Kill::Printed(random.random_range(1..20), micros(random, 300));
    let many = Kill::Printed(1 << random.random_range(4..14), micros(random, 3000));
    let fed = Kill::Fed(micros(random, 20_000));
    match random.random_range(0..20) {
        0..3 => early,
        3..8 => later,
        8..12 => few,
        12..17 => many,
        17..19 => fed,
        _ => Kill::Never,
    }
}

fn micros(random: &mut impl Rng, below: u64) -> Duration {
    Duration::from_micros(random.random_range(0..below))
}

fn pick<T: Copy>(random: &mut impl Rng, of: &[T]) -> T {
    of[random.random_range(0..of.len())]
}
