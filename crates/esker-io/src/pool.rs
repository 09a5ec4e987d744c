//! [`Pool`]: a bounded number of threads that run jobs, started when there are jobs for them.
//!
//! These hold:
//!
//! - P1. Every job that was taken in is run, once, by one of the threads; those still queued when
//!   the pool is dropped are run before the drop returns.
//! - P2. A job waits only while as many threads as the pool may have are running others: a thread
//!   that is not running a job looks at the queue, behind the mutex, before it sleeps.
//! - P3. There are never more threads than the limit, and none before the first job.

use core::fmt;
use std::collections::VecDeque;

use crate::sync::waiting::{Arc, Condvar, JoinHandle, Mutex, current_thread, spawn, thread_of};

/// Something to run. It must not panic.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

pub(crate) struct Pool {
    shared: Arc<Shared>,
    limit: usize,
}

struct Shared {
    state: Mutex<State>,
    /// Rung for each job, and when the pool is closed.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads that run a job at the moment; the others sleep or are about to look at the queue.
    busy: usize,
    threads: Vec<JoinHandle>,
    closed: bool,
}

impl Pool {
    /// A pool of at most `limit` threads, of which there is none yet.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                changed: Condvar::default(),
            }),
            limit,
        }
    }

    /// How many threads it may have.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Takes jobs in. Gives them back if the pool has no thread and the system lets it have none.
    pub(crate) fn run(&self, jobs: impl IntoIterator<Item = Job>) -> VecDeque<Job> {
        let mut state = self.shared.state.lock();
        let before = state.jobs.len();
        state.jobs.extend(jobs);
        let wanted = self.limit.min(state.busy + state.jobs.len());
        while state.threads.len() < wanted {
            let shared = Arc::clone(&self.shared);
            match spawn("esker-io-pool", move || shared.work()) {
                Ok(thread) => state.threads.push(thread),
                Err(_) if state.threads.is_empty() => return core::mem::take(&mut state.jobs),
                // Those that there are do it.
                Err(_) => break,
            }
        }
        let added = state.jobs.len() - before;
        drop(state);
        if !canary!("io-pool-wakes-nobody") {
            for _ in 0..added.min(self.limit) {
                self.shared.changed.notify_one();
            }
        }
        VecDeque::new()
    }
}

impl Shared {
    /// What each thread does until the pool is closed and its queue is empty.
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            if state.closed && canary!("io-pool-leaves-jobs") {
                return;
            }
            let Some(job) = state.jobs.pop_front() else {
                if state.closed {
                    return;
                }
                state = self.changed.wait(state);
                continue;
            };
            state.busy += 1;
            drop(state);
            job();
            state = self.state.lock();
            state.busy -= 1;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let threads = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            core::mem::take(&mut state.threads)
        };
        self.shared.changed.notify_all();
        for thread in threads {
            // What holds the pool last may be a job; its thread leaves by itself.
            if thread_of(&thread) != current_thread() {
                // It is an error only if a job has panicked, which none does.
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(esker_loom, esker_shuttle))))]
mod tests {
    use super::*;
    use crate::sync::{AtomicUsize, SeqCst, channel};

    #[test]
    fn threads_are_started_for_jobs_and_never_more_than_the_limit() {
        let pool = Pool::new(3);
        assert_eq!(pool.shared.state.lock().threads.len(), 0);
        let (open, gate) = channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let ran = Arc::new(AtomicUsize::new(0));
        for started in [1, 2, 3, 3, 3] {
            let (gate, ran) = (Arc::clone(&gate), Arc::clone(&ran));
            let left = pool.run([Box::new(move || {
                // One at a time, as the gate opens.
                let _ = gate.lock().recv();
                ran.fetch_add(1, SeqCst);
            }) as Job]);
            assert!(left.is_empty());
            assert_eq!(pool.shared.state.lock().threads.len(), started);
        }
        drop(open);
        drop(pool);
        assert_eq!(
            ran.load(SeqCst),
            5,
            "what was queued is run before the drop returns"
        );
    }

    #[test]
    fn a_thread_that_is_free_serves_again() {
        let pool = Pool::new(8);
        for _ in 0..100 {
            let (done, over) = channel();
            pool.run([Box::new(move || done.send(()).expect("it is waited for")) as Job]);
            over.recv().expect("it is run");
            // The thread counts as busy until it has come back for more.
            while pool.shared.state.lock().busy > 0 {
                std::hint::spin_loop();
            }
        }
        assert_eq!(pool.shared.state.lock().threads.len(), 1);
    }
}
