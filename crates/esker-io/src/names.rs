//! The blocking calls on names and directories that both kernel backends share.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use crate::call::NONE;
use crate::course::Course;
use crate::error::{Context, IoError, OperationKind};
use crate::opening::{DirSync, c_path};
use crate::space::is_unsupported;
use crate::transfer::Step;

/// Creates a directory and its parents, each with its name made durable.
///
/// The names of those that exist are synced too: a process that was killed may have made them and
/// not synced them. Those cannot be told from what has been there for ever, so this goes up to the
/// root, or to the working directory, and passes over what this process may not read.
pub(crate) fn create_dir_all(path: &Path) -> Result<(), IoError> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let existed = path.is_dir();
    let parent = match path.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    if parent != Path::new(".") {
        create_dir_all(parent)?;
    }
    if !existed {
        match std::fs::create_dir(path) {
            // Somebody else may have made it just now, and not synced it yet.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            result => result.map_err(|error| {
                IoError::from_os(Context::new(OperationKind::CreateDir, path), error)
            })?,
        }
    }
    match sync(parent) {
        Err(error)
            if existed
                && (error.kind() == io::ErrorKind::PermissionDenied
                    || error.raw_os_error().is_some_and(is_unsupported)) =>
        {
            Ok(())
        }
        synced => synced
            .map_err(|error| IoError::from_os(Context::new(OperationKind::SyncDir, parent), error)),
    }
}

/// Makes the names in a directory durable.
fn sync(dir: &Path) -> io::Result<()> {
    let mut course = Course::DirSync(Box::new(DirSync::new(dir)?));
    match course.make_calls(NONE, || ()) {
        Step::Done(_) => Ok(()),
        Step::Failed(errno) => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), IoError> {
    std::fs::rename(from, to)
        .map_err(|error| IoError::from_os(Context::new(OperationKind::Rename, from), error))
}

pub(crate) fn remove(path: &Path) -> Result<(), IoError> {
    std::fs::remove_file(path)
        .map_err(|error| IoError::from_os(Context::new(OperationKind::Remove, path), error))
}

pub(crate) fn list(dir: &Path) -> Result<Vec<OsString>, IoError> {
    OpenDir::open(dir)
        .and_then(|mut entries| {
            let mut names = Vec::new();
            while let Some(name) = entries.next()? {
                if name != "." && name != ".." {
                    names.push(name);
                }
            }
            Ok(names)
        })
        .map_err(|error| IoError::from_os(Context::new(OperationKind::List, dir), error))
}

/// A directory that is being read. The standard library's panics where closing it fails, which
/// loses nothing: everything has been read by then.
struct OpenDir(NonNull<libc::DIR>);

impl OpenDir {
    fn open(dir: &Path) -> io::Result<Self> {
        let path = c_path(dir)?;
        loop {
            // SAFETY: the path is a C string that lives across the call.
            let stream = unsafe { libc::opendir(path.as_ptr()) };
            if let Some(stream) = NonNull::new(stream) {
                return Ok(Self(stream));
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    fn next(&mut self) -> io::Result<Option<OsString>> {
        // The end and an error are told apart by the error number alone.
        // SAFETY: it is this thread's own.
        unsafe { *libc::__errno_location() = 0 };
        // SAFETY: `open` has made the stream, and only `drop` closes it.
        let Some(entry) = NonNull::new(unsafe { libc::readdir64(self.0.as_ptr()) }) else {
            return match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(0) => Ok(None),
                error => Err(error),
            };
        };
        // SAFETY: an entry, and the C string that is its name, are good until the stream is read
        // again; the name is copied before that.
        let name = unsafe { CStr::from_ptr((&raw const (*entry.as_ptr()).d_name).cast()) };
        Ok(Some(OsStr::from_bytes(name.to_bytes()).to_owned()))
    }
}

impl Drop for OpenDir {
    fn drop(&mut self) {
        // SAFETY: as in `next`; nobody uses it afterwards. Whatever this returns, it is closed.
        let _closed = unsafe { libc::closedir(self.0.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_listed_but_not_the_directories_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let expected: Vec<OsString> = (0..1000).map(|n| format!(".{n:0200}").into()).collect();
        for name in &expected {
            std::fs::write(dir.path().join(name), "").expect("a file");
        }
        let mut names = list(dir.path()).expect("it lists");
        names.sort();
        assert_eq!(names, expected);
    }

    #[test]
    fn what_is_no_directory_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("a file");
        for path in [file, dir.path().join("missing"), "a\0b".into()] {
            let error = list(&path).expect_err("nothing to list");
            assert!(error.to_string().contains("list"), "{error}");
        }
    }

    #[test]
    #[ignore = "takes a descriptor away, so it wants a process of its own"]
    fn a_directory_that_fails_to_close_has_been_read() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("one"), "").expect("a file");
        let mut open = OpenDir::open(dir.path()).expect("it opens");
        let mut names = Vec::new();
        while let Some(name) = open.next().expect("it reads") {
            names.push(name);
        }
        // SAFETY: no other thread of this process opens anything that could get this number.
        let closed = unsafe { libc::close(libc::dirfd(open.0.as_ptr())) };
        drop(open);
        assert!(closed == 0 && names.contains(&"one".into()));
    }

    #[test]
    fn a_directory_that_fails_to_close_is_no_panic() {
        let tests = std::env::current_exe().expect("this program");
        let name = "names::tests::a_directory_that_fails_to_close_has_been_read";
        let output = std::process::Command::new(tests)
            .args(["--ignored", "--exact", name])
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }
}
