//! [`Cuts`]: where a record is cut off, and what is lost there.

use rand::{Rng, RngExt};

use super::image::Loss;
use super::log::{Event, Mark};

/// Where a crash is worth while.
pub(super) struct Cuts {
    /// Right behind each acknowledgement.
    marks: Vec<usize>,
    /// Those of them before which something was written and not flushed: it may be what they are of.
    uncovered: Vec<usize>,
    /// Right before each flush.
    flushes: Vec<usize>,
    /// Behind everything.
    last: usize,
}

impl Cuts {
    pub(super) fn of(events: &[Event]) -> Self {
        let numbered = || events.iter().enumerate();
        let mut is_covered = true;
        let (mut marks, mut uncovered) = (Vec::new(), Vec::new());
        for (number, event) in numbered() {
            match event {
                Event::Write { .. } | Event::Discard { .. } => is_covered = false,
                Event::Flush => is_covered = true,
                Event::Mark(Mark::Acknowledged { .. }) => {
                    marks.push(number + 1);
                    if !is_covered {
                        uncovered.push(number + 1);
                    }
                }
                Event::Mark(_) => {}
            }
        }
        Self {
            marks,
            uncovered,
            flushes: numbered()
                .filter(|(_, event)| **event == Event::Flush)
                .map(|(number, _)| number)
                .collect(),
            last: events.len(),
        }
    }

    /// Draws where the `number`th crash of a record is and what it loses. The first ones are at what
    /// may matter most: right behind an acknowledgement, with everything lost that may be.
    pub(super) fn draw(&self, number: u64, random: &mut impl Rng) -> (usize, Loss) {
        let is_worst = number.is_multiple_of(8);
        let cut = match number % 4 {
            0 if is_worst && !self.uncovered.is_empty() => pick(&self.uncovered, random),
            0 => pick(&self.marks, random),
            1 => pick(&self.flushes, random),
            _ => random.random_range(0..=self.last),
        };
        let loss = Loss::EVERY[random.random_range(0..Loss::EVERY.len())];
        (cut, if is_worst { Loss::All } else { loss })
    }
}

/// One of them; before everything, if there is none.
fn pick(of: &[usize], random: &mut impl Rng) -> usize {
    let index = random.random_range(0..of.len().max(1));
    of.get(index).copied().unwrap_or_default()
}
