//! [`Committer`]: the thread that commits for those who cannot wait, started when there are any.

use std::sync::Arc;

use esker_io::Backend;

use crate::core::Core;
use crate::options::Maintenance;
use crate::sync::{AtomicBool, JoinHandle, Mutex, Ordering, Parker, spawn};
use crate::tasks::Tasks;
use crate::write_error::CommitError;

/// The thread, once there is one.
#[derive(Default)]
pub(crate) struct Committer {
    /// Whether it has been started. Stored with `thread` locked.
    started: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    /// Ends the thread, with everybody for whom it commits, and waits for it.
    pub(crate) fn stop(&self, tasks: &Tasks) {
        tasks.close();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // A panic of the thread has been reported by the panic hook and ends only it.
            let _panicked = thread.join();
        }
    }
}

impl<B: Backend> Core<B> {
    /// Starts the thread if there is to be one and there is none yet.
    pub(crate) fn start_committer(self: &Arc<Self>) -> Result<(), CommitError> {
        let committer = &self.committer;
        // Relaxed: nothing is read because of it; the thread finds whoever enters.
        if committer.started.load(Ordering::Relaxed)
            || self.options.maintenance == Maintenance::Manual
        {
            return Ok(());
        }
        let mut thread = committer.thread.lock();
        if !committer.started.load(Ordering::Relaxed) {
            let core = Arc::clone(self);
            let started = spawn("esker-commit", move || core.run_commits());
            *thread = Some(started.map_err(|source| CommitError::NoThread {
                source: Arc::new(source),
            })?);
            committer.started.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn run_commits(self: &Arc<Self>) {
        let parker = Parker::new();
        while self.commit.tasks.await_wanted(&parker).is_some() {
            if self.commit_for_tasks().is_err() {
                // The store is poisoned, and everybody has been told.
                return;
            }
            self.commit.await_return();
        }
    }

    /// Makes durable what futures wait for now.
    pub(crate) fn commit_for_tasks(self: &Arc<Self>) -> Result<(), CommitError> {
        self.check_alive()?;
        if let Some(end) = self.commit.tasks.wanted() {
            self.wait_durable_to(end)?;
            // Whoever moved the prefix may not have come to it yet.
            self.commit.tasks.reached(self.durable.lsn());
        }
        Ok(())
    }
}
