//! [`Space`]: the calls of an operation that changes what space a file has, or its length.
//!
//! Like [`Transfer`](crate::transfer::Transfer) it only decides what the kernel is asked for next, so
//! that each way to ask it, a system call or an entry of a ring, takes the same steps:
//!
//! - Space is taken by the command that writes zeroes, else it is reserved; and zeroes are written where
//!   it could not be, or where they were asked for.
//! - Where the disk is full the file gets its former length back, with what was taken past it: a file
//!   system takes what there is before it says that there is no more, and keeps it.
//! - A hole is punched, or zeroes are written where the file system knows no holes.

use std::os::fd::RawFd;

use esker_buf::{AlignedBuf, Alignment};

use crate::backend::Allocation;
use crate::call::Call;
use crate::transfer::{Stalls, Step};

/// `FALLOC_FL_WRITE_ZEROES`, Linux 6.17.
const WRITE_ZEROES: libc::c_int = 0x80;

const PUNCH: libc::c_int = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;

/// How many zeroes are written at a time.
const CHUNK: u32 = 256 * 1024;

/// What the kernel is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// The file's length.
    Measure,
    Fallocate {
        mode: libc::c_int,
        offset: u64,
        len: u64,
    },
    SetLen {
        len: u64,
    },
    /// To write so many zeroes.
    Zero {
        offset: u64,
        len: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    Allocate(Allocation),
    Punch,
    SetLen,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Measure,
    /// Zeroes, by the file system's command.
    Command,
    Reserve,
    Punch,
    /// Zeroes from there on.
    Zero(u64),
    SetLen,
    /// The former length, before the failure is told.
    Restore {
        errno: i32,
    },
}

/// How far such an operation has come.
pub(crate) struct Space {
    goal: Goal,
    stage: Stage,
    offset: u64,
    end: u64,
    stalls: Stalls,
    facts: libc::statx,
    zeroes: Option<AlignedBuf>,
    /// Whether something was asked for that may have had an effect.
    has_begun: bool,
}

impl Space {
    fn new(goal: Goal, stage: Stage, offset: u64, len: u64) -> Self {
        Self {
            goal,
            stage,
            offset,
            // `FileHandle::check` bounds it.
            end: offset.saturating_add(len),
            stalls: Stalls::default(),
            // SAFETY: all zeroes is a valid `statx`, which has only integers.
            facts: unsafe { core::mem::zeroed() },
            zeroes: None,
            has_begun: false,
        }
    }

    pub(crate) fn allocate(offset: u64, len: u64, how: Allocation) -> Self {
        Self::new(Goal::Allocate(how), Stage::Measure, offset, len)
    }

    pub(crate) fn punch(offset: u64, len: u64) -> Self {
        Self::new(Goal::Punch, Stage::Punch, offset, len)
    }

    pub(crate) fn set_len(len: u64) -> Self {
        Self::new(Goal::SetLen, Stage::SetLen, len, 0)
    }

    /// Whether there is nothing to ask the kernel for.
    pub(crate) fn is_empty(&self) -> bool {
        self.goal != Goal::SetLen && self.end == self.offset
    }

    /// What is asked for next of the file with this descriptor. It points into this, which has to stay
    /// where it is until it is answered.
    pub(crate) fn call(&mut self, fd: RawFd) -> Call {
        match self.ask() {
            Ask::Measure => Call::Measure {
                fd,
                facts: &raw mut self.facts,
            },
            Ask::Fallocate { mode, offset, len } => Call::Fallocate {
                fd,
                mode,
                offset,
                len,
            },
            Ask::SetLen { len } => Call::SetLen { fd, len },
            Ask::Zero { offset, len } => Call::Write {
                fd,
                // There are always enough for one.
                from: self
                    .zeroes
                    .as_ref()
                    .map_or(core::ptr::null(), |it| it.as_ptr()),
                offset,
                len,
            },
        }
    }

    /// Whether anything may have come of it.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    fn ask(&self) -> Ask {
        let fallocate = |mode| Ask::Fallocate {
            mode,
            offset: self.offset,
            len: self.end - self.offset,
        };
        match self.stage {
            Stage::Measure => Ask::Measure,
            Stage::Command => fallocate(WRITE_ZEROES),
            Stage::Reserve => fallocate(0),
            Stage::Punch => fallocate(PUNCH),
            Stage::Zero(at) => Ask::Zero {
                offset: at,
                len: u32::try_from(self.end - at).map_or(CHUNK, |left| left.min(CHUNK)),
            },
            Stage::SetLen => Ask::SetLen { len: self.offset },
            Stage::Restore { .. } => Ask::SetLen {
                len: self.facts.stx_size,
            },
        }
    }

    /// Takes what the kernel returned for [`ask`](Self::ask): a count, or an error number below zero.
    pub(crate) fn returned(&mut self, result: i64) -> Step {
        self.has_begun |= self.stage != Stage::Measure;
        match u64::try_from(result) {
            Ok(count) => self.succeeded(count),
            Err(_) => self.failed(i32::try_from(-result).unwrap_or(libc::EIO)),
        }
    }

    fn succeeded(&mut self, count: u64) -> Step {
        if !matches!(self.stage, Stage::Zero(_)) {
            self.stalls = Stalls::default();
        }
        match (self.stage, self.goal) {
            (Stage::Measure, Goal::Allocate(Allocation::Reserved)) => self.enter(Stage::Reserve),
            (Stage::Measure, Goal::Allocate(_)) => self.enter(Stage::Command),
            (Stage::Measure, Goal::Punch | Goal::SetLen) => {
                self.end = self.end.min(self.facts.stx_size).max(self.offset);
                self.write_zeroes()
            }
            (Stage::Command, _) => self.zeroed(),
            (Stage::Reserve, Goal::Allocate(Allocation::Written)) => self.write_zeroes(),
            (Stage::Reserve | Stage::Punch | Stage::SetLen, _) => Step::Done(0),
            (Stage::Zero(at), _) => self.wrote(at, count),
            (Stage::Restore { errno }, _) => Step::Failed(errno),
        }
    }

    fn failed(&mut self, errno: i32) -> Step {
        let passing = self.stalls.passing(errno);
        if passing == Some(Step::Retry) {
            return Step::Retry;
        }
        match self.stage {
            // The first error counts.
            Stage::Restore { errno } => Step::Failed(errno),
            Stage::Command if is_unsupported(errno) => self.enter(Stage::Reserve),
            Stage::Reserve if is_unsupported(errno) => self.write_zeroes(),
            Stage::Punch if is_unsupported(errno) => self.enter(Stage::Measure),
            Stage::Command | Stage::Reserve | Stage::Zero(_)
                if matches!(self.goal, Goal::Allocate(_))
                    && matches!(errno, libc::ENOSPC | libc::EDQUOT) =>
            {
                self.enter(Stage::Restore { errno })
            }
            _ => Step::Failed(errno),
        }
    }

    fn enter(&mut self, stage: Stage) -> Step {
        self.stage = stage;
        Step::Next
    }

    fn write_zeroes(&mut self) -> Step {
        if self.end == self.offset {
            return Step::Done(0);
        }
        match AlignedBuf::zeroed(CHUNK as usize, Alignment::BLOCK) {
            Ok(zeroes) => {
                self.zeroes = Some(zeroes);
                self.enter(Stage::Zero(self.offset))
            }
            Err(_) => Step::Failed(libc::ENOMEM),
        }
    }

    fn wrote(&mut self, at: u64, count: u64) -> Step {
        if count == 0 {
            return self.stalls.empty_handed();
        }
        self.stalls = Stalls::default();
        let reached = at.saturating_add(count);
        if reached >= self.end {
            return self.zeroed();
        }
        self.enter(Stage::Zero(reached))
    }

    /// All of the range is written zeroes.
    fn zeroed(&self) -> Step {
        Step::Done(usize::try_from(self.end - self.offset).unwrap_or(usize::MAX))
    }
}

impl core::fmt::Debug for Space {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Space")
            .field("goal", &self.goal)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// Whether it says that the file system does not know the request.
pub(crate) fn is_unsupported(errno: i32) -> bool {
    matches!(
        errno,
        libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS | libc::ENODEV
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for when the kernel answers like this, and how it ends.
    fn course(mut space: Space, len: u64, answers: &[i64]) -> (Vec<Ask>, Step) {
        let mut asked = Vec::new();
        for answer in answers {
            asked.push(space.ask());
            space.facts.stx_size = len;
            match space.returned(*answer) {
                Step::Next | Step::Retry => {}
                step => return (asked, step),
            }
        }
        panic!("it has not ended after {asked:?}");
    }

    const fn no(errno: i32) -> i64 {
        -(errno as i64)
    }

    const COMMAND: Ask = Ask::Fallocate {
        mode: WRITE_ZEROES,
        offset: 10,
        len: 300_000,
    };
    const RESERVE: Ask = Ask::Fallocate {
        mode: 0,
        offset: 10,
        len: 300_000,
    };

    #[test]
    fn space_is_taken_by_the_first_way_that_the_file_system_knows() {
        let allocate = |how| Space::allocate(10, 300_000, how);
        let unknown = no(libc::EOPNOTSUPP);
        let all = Step::Done(300_000);
        for how in [Allocation::Quick, Allocation::Written] {
            let by_command = course(allocate(how), 7, &[0, 0]);
            assert_eq!(by_command, (vec![Ask::Measure, COMMAND], all));
        }
        let reserved = course(allocate(Allocation::Reserved), 7, &[0, 0]);
        assert_eq!(reserved, (vec![Ask::Measure, RESERVE], Step::Done(0)));
        let quick = course(allocate(Allocation::Quick), 7, &[0, unknown, 0]);
        let asked = vec![Ask::Measure, COMMAND, RESERVE];
        assert_eq!(quick, (asked.clone(), Step::Done(0)));
        let zero = |offset, len| Ask::Zero { offset, len };
        let asked = |first: [Ask; 3]| {
            let written = [zero(10, CHUNK), zero(1010, CHUNK), zero(263_154, 36_856)];
            first.into_iter().chain(written).collect::<Vec<_>>()
        };
        // Short by much, and then all that was asked for.
        let answers = [0, unknown, 0, 1000, i64::from(CHUNK), 36_856];
        let written = course(allocate(Allocation::Written), 7, &answers);
        assert_eq!(written, (asked([Ask::Measure, COMMAND, RESERVE]), all));
        let answers = [0, unknown, unknown, 1000, i64::from(CHUNK), 36_856];
        let neither = course(allocate(Allocation::Quick), 7, &answers);
        assert_eq!(neither, (asked([Ask::Measure, COMMAND, RESERVE]), all));
    }

    #[test]
    fn a_full_disk_leaves_the_former_length() {
        for restored in [0, no(libc::EIO)] {
            let space = Space::allocate(10, 300_000, Allocation::Quick);
            let ended = course(space, 7, &[0, no(libc::ENOSPC), restored]);
            let asked = vec![Ask::Measure, COMMAND, Ask::SetLen { len: 7 }];
            assert_eq!(ended, (asked, Step::Failed(libc::ENOSPC)));
        }
        let full = course(Space::punch(10, 300_000), 7, &[no(libc::ENOSPC)]);
        assert_eq!(full.1, Step::Failed(libc::ENOSPC));
    }

    #[test]
    fn a_hole_that_is_not_known_is_zeroes_up_to_the_end() {
        let ended = course(Space::punch(10, 300), 7, &[0]);
        assert_eq!((ended.0.len(), ended.1), (1, Step::Done(0)));
        let unknown = no(libc::EOPNOTSUPP);
        for (len, end) in [
            (7, Step::Done(0)),
            (110, Step::Done(100)),
            (900, Step::Done(300)),
        ] {
            let count = match end {
                Step::Done(count) => i64::try_from(count).expect("small"),
                _ => 0,
            };
            let ended = course(Space::punch(10, 300), len, &[unknown, 0, count]);
            assert_eq!(ended.1, end);
        }
    }

    #[test]
    fn what_passes_is_asked_for_again_but_not_for_ever() {
        let cut = course(
            Space::set_len(5),
            7,
            &[no(libc::EINTR), no(libc::EAGAIN), 0],
        );
        assert_eq!(cut, (vec![Ask::SetLen { len: 5 }; 3], Step::Done(0)));
        let mut space = Space::set_len(5);
        let mut attempts = 1;
        while space.returned(no(libc::EINTR)) == Step::Retry {
            attempts += 1;
            assert!(attempts <= 10_000, "it is asked for for ever");
        }
        assert!(attempts > 100);
        let mut space = Space::allocate(0, 10, Allocation::Quick);
        for answer in [0, no(libc::ENOSYS), no(libc::ENOSYS), 0, 0] {
            let _ = space.returned(answer);
        }
        assert_eq!(space.returned(0), Step::Stuck { attempts: 3 });
    }
}
