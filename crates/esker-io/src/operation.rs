//! What is asked of a backend and what comes back: [`Operation`], [`Sink`], [`Ended`].

use std::path::Path;

use crate::action::{Action, Completion};
use crate::backend::{Backend, FileOptions};
use crate::error::{Context, IoError, OperationKind};
use crate::sync::Arc;

/// Who is told of a completion.
///
/// Called exactly once, in whichever thread drives the backend at that moment (the submitting one
/// included), with no lock of the backend held. It may submit further operations and wake; it must
/// not block, and above all not wait for another completion. If it panics the other sinks are
/// still called, and the panic goes on in the thread that was driving.
///
/// What it is told is a [`Completion`] for an action on a file, and a `Result` for an operation on a
/// name.
///
/// # Examples
///
/// Every `FnOnce(Completion) + Send` is one:
///
/// ```
/// use esker_io::{Completion, Sink};
///
/// let sink: Box<dyn Sink> = Box::new(|completion: Completion| drop(completion));
/// # drop(sink);
/// ```
pub trait Sink<C = Completion>: Send {
    /// Takes the completion.
    fn complete(self: Box<Self>, completion: C);
}

impl<C, F: FnOnce(C) + Send> Sink<C> for F {
    fn complete(self: Box<Self>, completion: C) {
        self(completion);
    }
}

/// Something to be done, and who is to be told of its end.
///
/// It owns what it needs: its memory, its path, and its hold on the file, whose description stays open
/// until the operation has completed.
///
/// # Examples
///
/// ```
/// use std::sync::mpsc;
/// use esker_io::{AnyBackend, Backend, Create, FileOptions, Operation};
///
/// # let dir = tempfile::tempdir()?;
/// let backend = AnyBackend::auto();
/// let options = FileOptions::read_write().create(Create::New);
/// let (opened, file) = mpsc::channel();
/// let sink = move |result| opened.send(result).expect("it is waited for");
/// backend.submit(vec![Operation::open(dir.path().join("log"), options, sink)]);
/// backend.wait_until(&mut || backend.in_flight() == 0, None);
/// assert_eq!(backend.facts(&file.recv()??)?.len_bytes, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub enum Operation<F> {
    /// Does something to an open file.
    OnFile {
        /// The file.
        file: F,
        /// What to do.
        action: Action,
        /// Who is told.
        sink: Box<dyn Sink>,
    },
    /// Opens or creates a regular file, as [`Backend::open`] does. One that nobody takes is closed, and
    /// stays if it was created.
    Open {
        /// Where it is.
        path: Arc<Path>,
        /// How it is opened.
        options: FileOptions,
        /// Who is given the file.
        sink: Box<dyn Sink<Result<F, IoError>>>,
    },
    /// Makes the names in a directory durable, as [`Backend::sync_dir`] does: as they were when this was
    /// submitted, or later.
    SyncDir {
        /// The directory.
        dir: Arc<Path>,
        /// Who is told.
        sink: Box<dyn Sink<Result<(), IoError>>>,
    },
}

impl<F> Operation<F> {
    /// An action on a file, of whose end `sink` is told.
    pub fn new(file: F, action: Action, sink: impl Sink + 'static) -> Self {
        Self::OnFile {
            file,
            action,
            sink: Box::new(sink),
        }
    }

    /// The opening or creation of a file, which `sink` is given.
    pub fn open(
        path: impl Into<Arc<Path>>,
        options: FileOptions,
        sink: impl Sink<Result<F, IoError>> + 'static,
    ) -> Self {
        Self::Open {
            path: path.into(),
            options,
            sink: Box::new(sink),
        }
    }

    /// The making durable of a directory's names, of which `sink` is told.
    pub fn sync_dir(
        dir: impl Into<Arc<Path>>,
        sink: impl Sink<Result<(), IoError>> + 'static,
    ) -> Self {
        Self::SyncDir {
            dir: dir.into(),
            sink: Box::new(sink),
        }
    }

    /// What kind of operation it is.
    #[must_use]
    pub fn kind(&self) -> OperationKind {
        match self {
            Self::OnFile { action, .. } => action.kind(),
            Self::Open { .. } => OperationKind::Open,
            Self::SyncDir { .. } => OperationKind::SyncDir,
        }
    }

    /// Whether it is a write that is to be durable when it completes.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        matches!(self, Self::OnFile { action, .. } if action.is_durable())
    }

    /// How many bytes of its memory it moves; 0 for one without memory.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::OnFile { action, .. } => action.len_bytes(),
            Self::Open { .. } | Self::SyncDir { .. } => 0,
        }
    }

    /// Does it in this thread by the blocking methods of a backend ([`Backend::execute`],
    /// [`Backend::open`], [`Backend::sync_dir`]) and lets go of the file; the sink is still to be told.
    /// Blocks. For backends that run what is submitted on threads of their own.
    pub fn run<B: Backend<File = F>>(self, backend: &B) -> Ended<F> {
        match self {
            Self::OnFile { file, action, sink } => {
                let completion = backend.execute(&file, action);
                drop(file);
                Ended::on_file(sink, completion)
            }
            Self::Open {
                path,
                options,
                sink,
            } => Ended::open(sink, backend.open(&path, &options)),
            Self::SyncDir { dir, sink } => Ended::sync_dir(sink, backend.sync_dir(&dir)),
        }
    }

    /// Ends it with an error, without doing anything of it. `path` says by which path a file was opened.
    pub fn refuse(
        self,
        path: impl FnOnce(&F) -> Arc<Path>,
        error: impl FnOnce(Context) -> IoError,
    ) -> Ended<F> {
        let error = error(self.context(path));
        match self {
            Self::OnFile { file, action, sink } => {
                drop(file);
                Ended::on_file(sink, action.complete(Err(error)))
            }
            Self::Open { sink, .. } => Ended::open(sink, Err(error)),
            Self::SyncDir { sink, .. } => Ended::sync_dir(sink, Err(error)),
        }
    }

    /// The context of an error of this operation. `path` says by which path a file was opened.
    pub fn context(&self, path: impl FnOnce(&F) -> Arc<Path>) -> Context {
        match self {
            Self::OnFile { file, action, .. } => action.context(path(file)),
            Self::Open { path, .. } => Context::new(OperationKind::Open, Arc::clone(path)),
            Self::SyncDir { dir, .. } => Context::new(OperationKind::SyncDir, Arc::clone(dir)),
        }
    }
}

impl<F: core::fmt::Debug> core::fmt::Debug for Operation<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut f = f.debug_struct("Operation");
        match self {
            Self::OnFile { file, action, .. } => f.field("file", file).field("action", action),
            Self::Open { path, options, .. } => f.field("open", path).field("options", options),
            Self::SyncDir { dir, .. } => f.field("sync_dir", dir),
        };
        f.finish_non_exhaustive()
    }
}

/// An operation that is over, and its sink not yet told.
#[must_use = "the sink has to be told, once"]
pub struct Ended<F> {
    telling: Telling<F>,
}

enum Telling<F> {
    OnFile(Box<dyn Sink>, Completion),
    Open(Box<dyn Sink<Result<F, IoError>>>, Result<F, IoError>),
    SyncDir(Box<dyn Sink<Result<(), IoError>>>, Result<(), IoError>),
}

impl<F> Ended<F> {
    /// How an action on a file has ended.
    pub fn on_file(sink: Box<dyn Sink>, completion: Completion) -> Self {
        let telling = Telling::OnFile(sink, completion);
        Self { telling }
    }

    /// How an opening has ended.
    pub fn open(sink: Box<dyn Sink<Result<F, IoError>>>, result: Result<F, IoError>) -> Self {
        let telling = Telling::Open(sink, result);
        Self { telling }
    }

    /// How the sync of a directory has ended.
    pub fn sync_dir(sink: Box<dyn Sink<Result<(), IoError>>>, result: Result<(), IoError>) -> Self {
        let telling = Telling::SyncDir(sink, result);
        Self { telling }
    }

    /// Whether it has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        match &self.telling {
            Telling::OnFile(_, completion) => completion.result.is_err(),
            Telling::Open(_, result) => result.is_err(),
            Telling::SyncDir(_, result) => result.is_err(),
        }
    }

    /// Tells the sink, in this thread, with its panic if it does.
    pub fn tell(self) {
        match self.telling {
            Telling::OnFile(sink, completion) => sink.complete(completion),
            Telling::Open(sink, result) => sink.complete(result),
            Telling::SyncDir(sink, result) => sink.complete(result),
        }
    }

    /// The same with another handle of a file that was opened.
    pub(crate) fn map_opened(self, map: impl FnOnce(F) -> F) -> Self {
        match self.telling {
            Telling::Open(sink, result) => Self::open(sink, result.map(map)),
            telling => Self { telling },
        }
    }

    /// Gives each of two actions the other's sink.
    pub(crate) fn swap_sinks(first: &mut Self, second: &mut Self) {
        if let (Telling::OnFile(first, _), Telling::OnFile(second, _)) =
            (&mut first.telling, &mut second.telling)
        {
            core::mem::swap(first, second);
        }
    }
}

impl<F> core::fmt::Debug for Ended<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Ended")
            .field("has_failed", &self.has_failed())
            .finish_non_exhaustive()
    }
}
