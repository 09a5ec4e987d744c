//! Sinks that are called in the submitting thread, without the stack growing with each that
//! submits again.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Something to run in this thread, which ends by calling a sink.
pub(crate) type Job = Box<dyn FnOnce()>;

thread_local! {
    /// What this thread still has to run; `None` while it is running nothing.
    static JOBS: RefCell<Option<VecDeque<Job>>> = const { RefCell::new(None) };
}

/// Runs the jobs, and those that they add, before it returns; called from within a job it only
/// queues them. Every job is run: if some panic, the first panic goes on afterwards.
pub(crate) fn run(jobs: impl IntoIterator<Item = Job>) {
    let idle = JOBS.with_borrow_mut(|queue| {
        let idle = queue.is_none();
        queue.get_or_insert_default().extend(jobs);
        idle
    });
    if !idle {
        return;
    }
    let mut panic = None;
    while let Some(job) = next() {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
            panic.get_or_insert(payload);
        }
    }
    if let Some(payload) = panic {
        resume_unwind(payload);
    }
}

/// The next job of this thread; when there is none the thread is marked as running nothing.
fn next() -> Option<Job> {
    JOBS.with_borrow_mut(|queue| {
        let job = queue.as_mut().and_then(VecDeque::pop_front);
        if job.is_none() {
            *queue = None;
        }
        job
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn jobs_that_add_jobs_do_not_nest() {
        fn chain(left: u32, ran: Rc<RefCell<u32>>) {
            run([Box::new(move || {
                *ran.borrow_mut() += 1;
                if left > 0 {
                    chain(left - 1, ran);
                }
            }) as Job]);
        }
        let ran = Rc::new(RefCell::new(0));
        chain(200_000, Rc::clone(&ran));
        assert_eq!(*ran.borrow(), 200_001);
    }

    fn stop() {
        panic!("stop");
    }

    #[test]
    fn a_panic_stops_no_other_job() {
        let ran = Rc::new(RefCell::new(false));
        let after = Rc::clone(&ran);
        let result = catch_unwind(AssertUnwindSafe(|| {
            run([
                Box::new(stop) as Job,
                Box::new(move || *after.borrow_mut() = true) as Job,
            ]);
        }));
        assert!(result.is_err());
        assert!(*ran.borrow());
        run([]);
    }
}
