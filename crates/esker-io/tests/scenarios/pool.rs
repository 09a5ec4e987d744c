//! How a pool's threads find their jobs, over the real code of `pool.rs`, written once as those of
//! the waiters are.

use super::checker::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use super::checker::sync::{Arc, Condvar, Mutex};
use super::checker::thread;

use crate::pool::{Job, Pool};

/// Every scenario, by name.
pub(crate) const ALL: &[(&str, fn())] = &[
    (
        "one_thread_runs_every_job_once",
        one_thread_runs_every_job_once,
    ),
    (
        "two_threads_run_every_job_once",
        two_threads_run_every_job_once,
    ),
    (
        "a_sleeping_thread_is_woken_for_a_job",
        a_sleeping_thread_is_woken_for_a_job,
    ),
];

/// How many jobs come at a time: what loom enumerates has to be short.
const CROWD: usize = if cfg!(esker_loom) { 1 } else { 5 };

/// P1 to P3: what two threads submit is run once each, and all of it before the drop returns.
fn every_job_once(limit: usize) {
    let pool = Arc::new(Pool::new(limit));
    let ran: Arc<Vec<_>> = Arc::new((0..2 * CROWD).map(|_| AtomicUsize::new(0)).collect());
    let jobs = |first: usize| -> Vec<Job> {
        let job = |number: usize| {
            let ran = Arc::clone(&ran);
            Box::new(move || {
                ran[number].fetch_add(1, Relaxed);
            }) as Job
        };
        (first..first + CROWD).map(job).collect()
    };
    let other = {
        let (pool, jobs) = (Arc::clone(&pool), jobs(CROWD));
        thread::spawn(move || assert!(pool.run(jobs).is_empty()))
    };
    assert!(pool.run(jobs(0)).is_empty());
    other.join().expect("no panic");
    drop(Arc::try_unwrap(pool).ok().expect("the other is over"));
    // Joining the threads makes what they did visible.
    assert!(ran.iter().all(|ran| ran.load(Relaxed) == 1));
}

/// P1 to P3, with one thread.
pub(crate) fn one_thread_runs_every_job_once() {
    every_job_once(1);
}

/// P1 to P3, with two threads.
pub(crate) fn two_threads_run_every_job_once() {
    every_job_once(2);
}

/// P2: a job that is submitted to a thread asleep wakes it; its effect is waited for outside the
/// pool.
pub(crate) fn a_sleeping_thread_is_woken_for_a_job() {
    let pool = Pool::new(1);
    let done = Arc::new((Mutex::new(0), Condvar::new()));
    for number in 1..=2 {
        let told = Arc::clone(&done);
        let left = pool.run([Box::new(move || {
            *told.0.lock().expect("no panic") += 1;
            told.1.notify_one();
        }) as Job]);
        assert!(left.is_empty());
        let mut count = done.0.lock().expect("no panic");
        while *count < number {
            count = done.1.wait(count).expect("no panic");
        }
    }
}
