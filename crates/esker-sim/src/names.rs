//! [`Names`]: directories, the names in them, and which of their changes are durable.
//!
//! Invariants:
//! - A change of a name is atomic: after a power failure it has happened or not.
//! - Changes of one name, and of names that a change touches together, keep their order: one that is
//!   lost takes with it those that came after it and built on it. Others are independent.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// The number of a file.
pub(crate) type NodeId = u64;

/// A directory, absolute, without dots.
type DirPath = PathBuf;

#[derive(Clone, Debug, Default)]
struct Dir {
    seen: BTreeMap<OsString, NodeId>,
    kept: BTreeMap<OsString, NodeId>,
}

/// What one name leads to after a change.
#[derive(Clone, Debug)]
struct Edit {
    dir: DirPath,
    name: OsString,
    node: Option<NodeId>,
}

/// A creation, a renaming or a removal that a power failure may lose.
#[derive(Clone, Debug)]
struct Change {
    /// The path that it is about, for whoever decides.
    path: PathBuf,
    edits: Vec<Edit>,
    /// How many changes there had been with it.
    number: u64,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Directory,
    File(NodeId),
}

#[derive(Clone, Debug)]
pub(crate) struct Names {
    dirs: BTreeMap<DirPath, Dir>,
    changes: Vec<Change>,
    /// How many changes there have ever been.
    made: u64,
}

/// A path from the root, with dots resolved. A relative path begins at the root too.
fn absolute(path: &Path) -> PathBuf {
    let mut absolute = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => absolute.push(name),
            Component::ParentDir => {
                absolute.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    absolute
}

/// The directory that a path lies in, and its name there; `None` for the root.
fn split(path: &Path) -> Option<(DirPath, OsString)> {
    let path = absolute(path);
    let name = path.file_name()?.to_owned();
    Some((path.parent()?.to_owned(), name))
}

impl Default for Names {
    fn default() -> Self {
        Self {
            dirs: [(PathBuf::from("/"), Dir::default())].into(),
            changes: Vec::new(),
            made: 0,
        }
    }
}

impl Names {
    pub(crate) fn find(&self, path: &Path) -> Found {
        if self.dirs.contains_key(&absolute(path)) {
            return Found::Directory;
        }
        split(path)
            .and_then(|(dir, name)| self.dirs.get(&dir)?.seen.get(&name))
            .map_or(Found::Nothing, |node| Found::File(*node))
    }

    /// Whether a name could be created at this path.
    pub(crate) fn has_parent(&self, path: &Path) -> bool {
        split(path).is_some_and(|(dir, _)| self.dirs.contains_key(&dir))
    }

    /// Makes directories down to this one, durable at once; `false` if a file is in the way.
    pub(crate) fn create_dirs(&mut self, path: &Path) -> bool {
        let path = absolute(path);
        let mut missing: Vec<&Path> = Vec::new();
        for dir in path.ancestors() {
            match self.find(dir) {
                Found::Directory => break,
                Found::File(_) => return false,
                Found::Nothing => missing.push(dir),
            }
        }
        for dir in missing {
            self.dirs.insert(dir.to_owned(), Dir::default());
        }
        true
    }

    /// The names in a directory, in order; `None` if there is none.
    pub(crate) fn list(&self, path: &Path) -> Option<Vec<OsString>> {
        let path = absolute(path);
        let dir = self.dirs.get(&path)?;
        let below = self.dirs.keys().filter(|dir| dir.parent() == Some(&path));
        let dirs = below.filter_map(|dir| dir.file_name()).map(OsStr::to_owned);
        Some(dir.seen.keys().cloned().chain(dirs).collect())
    }

    /// The files that names lead to, by path.
    pub(crate) fn files(&self) -> impl Iterator<Item = (PathBuf, NodeId)> {
        self.dirs.iter().flat_map(|(path, dir)| {
            let files = dir.seen.iter();
            files.map(move |(name, node)| (path.join(name), *node))
        })
    }

    /// Gives a path to a file, or takes it away.
    pub(crate) fn set(&mut self, path: &Path, node: Option<NodeId>) {
        let (dir, name) = split(path).expect("a file's path has a name");
        self.change(path, vec![Edit { dir, name, node }]);
    }

    /// Gives a file another name, which it takes from whatever has it.
    pub(crate) fn rename(&mut self, from: &Path, to: &Path, node: NodeId) {
        let edit = |path, node| {
            let (dir, name) = split(path).expect("a file's path has a name");
            Edit { dir, name, node }
        };
        if absolute(from) != absolute(to) {
            self.change(from, vec![edit(from, None), edit(to, Some(node))]);
        }
    }

    fn change(&mut self, path: &Path, edits: Vec<Edit>) {
        for edit in &edits {
            apply(&mut self.dir(edit).seen, edit);
        }
        self.made += 1;
        self.changes.push(Change {
            path: path.to_owned(),
            edits,
            number: self.made,
        });
    }

    fn dir(&mut self, edit: &Edit) -> &mut Dir {
        self.dirs
            .get_mut(&edit.dir)
            .expect("directories are never removed")
    }

    /// How many changes there have ever been.
    pub(crate) fn changes(&self) -> u64 {
        self.made
    }

    /// Makes the names in a directory durable as they were after so many changes; whether there is one.
    pub(crate) fn sync(&mut self, path: &Path, before: u64) -> bool {
        let path = absolute(path);
        let Some(dir) = self.dirs.get_mut(&path) else {
            return false;
        };
        for change in &mut self.changes {
            if change.number <= before {
                let covered = change.edits.extract_if(.., |edit| edit.dir == path);
                covered.for_each(|edit| apply(&mut dir.kept, &edit));
            }
        }
        self.changes.retain(|change| !change.edits.is_empty());
        true
    }

    /// The paths of the changes that a power failure may lose, in their order.
    pub(crate) fn undurable(&self) -> impl Iterator<Item = &Path> {
        self.changes.iter().map(|change| &*change.path)
    }

    /// What a power failure leaves, when `survives` is told the number of each change and says
    /// whether it had reached the disk.
    pub(crate) fn after_power_failure(&self, survives: impl Fn(usize) -> bool) -> Self {
        let mut names = self.clone();
        for dir in names.dirs.values_mut() {
            dir.seen = dir.kept.clone();
        }
        let mut lost: BTreeSet<(DirPath, OsString)> = BTreeSet::new();
        for (number, change) in std::mem::take(&mut names.changes).into_iter().enumerate() {
            let touched = |edit: &Edit| (edit.dir.clone(), edit.name.clone());
            let builds_on_lost = change
                .edits
                .iter()
                .any(|edit| lost.contains(&touched(edit)));
            if builds_on_lost || !survives(number) {
                lost.extend(change.edits.iter().map(touched));
                continue;
            }
            for edit in &change.edits {
                apply(&mut names.dir(edit).seen, edit);
            }
        }
        for dir in names.dirs.values_mut() {
            dir.kept = dir.seen.clone();
        }
        names
    }
}

fn apply(names: &mut BTreeMap<OsString, NodeId>, edit: &Edit) {
    match edit.node {
        Some(node) => names.insert(edit.name.clone(), node),
        None => names.remove(&edit.name),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[(&str, NodeId)]) -> Names {
        let mut names = Names::default();
        names.create_dirs(Path::new("/d"));
        for (path, node) in files {
            names.set(Path::new(path), Some(*node));
        }
        names.sync(Path::new("/d"), u64::MAX);
        names
    }

    fn files(names: &Names) -> Vec<(String, NodeId)> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        names
            .files()
            .map(|(path, node)| (text(path), node))
            .collect()
    }

    #[test]
    fn a_rename_is_kept_or_lost_as_a_whole() {
        let mut names = names(&[("/d/a", 1), ("/d/b", 2)]);
        names.rename(Path::new("/d/a"), Path::new("/d/b"), 1);
        assert_eq!(files(&names), [("/d/b".into(), 1)]);
        let lost = names.after_power_failure(|_| false);
        assert_eq!(files(&lost), [("/d/a".into(), 1), ("/d/b".into(), 2)]);
        let kept = names.after_power_failure(|_| true);
        assert_eq!(files(&kept), [("/d/b".into(), 1)]);
        names.sync(Path::new("d/."), u64::MAX);
        assert_eq!(
            files(&names.after_power_failure(|_| false)),
            [("/d/b".into(), 1)]
        );
    }

    #[test]
    fn a_lost_change_takes_those_with_it_that_build_on_it() {
        let mut names = names(&[]);
        names.set(Path::new("/d/new"), Some(7));
        names.rename(Path::new("/d/new"), Path::new("/d/x"), 7);
        names.set(Path::new("/d/other"), Some(8));
        let left = names.after_power_failure(|number| number != 0);
        assert_eq!(files(&left), [("/d/other".into(), 8)]);
        let left = names.after_power_failure(|number| number == 0);
        assert_eq!(files(&left), [("/d/new".into(), 7)]);
        assert_eq!(left.undurable().count(), 0);
    }

    #[test]
    fn a_sync_covers_what_had_changed_before() {
        let mut names = names(&[("/d/a", 1)]);
        names.set(Path::new("/d/b"), Some(2));
        let before = names.changes();
        names.set(Path::new("/d/c"), Some(3));
        names.rename(Path::new("/d/a"), Path::new("/d/b"), 1);
        names.sync(Path::new("/d"), before);
        let left = names.after_power_failure(|_| false);
        assert_eq!(files(&left), [("/d/a".into(), 1), ("/d/b".into(), 2)]);
        let left = names.after_power_failure(|_| true);
        assert_eq!(files(&left), [("/d/b".into(), 1), ("/d/c".into(), 3)]);
    }

    #[test]
    fn a_rename_between_directories_needs_both_syncs() {
        let mut names = names(&[("/d/a", 1)]);
        assert!(names.create_dirs(Path::new("/e")));
        names.rename(Path::new("/d/a"), Path::new("/e/a"), 1);
        names.sync(Path::new("/e"), u64::MAX);
        assert_eq!(
            files(&names.after_power_failure(|_| false)),
            [("/d/a".into(), 1), ("/e/a".into(), 1)]
        );
        names.sync(Path::new("/d"), u64::MAX);
        assert_eq!(
            files(&names.after_power_failure(|_| false)),
            [("/e/a".into(), 1)]
        );
    }
}
