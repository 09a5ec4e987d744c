//! The suite on file systems of its own, in loop devices: where the rules for direct transfers and
//! for allocation differ.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use esker_io::{
    AnyBackend, Backend, BackendExt, Blocking, Create, Durability, Fate, FileOptions, Uring,
    UringConfig, conformance,
};

/// A mounted file system, which is gone when this is dropped.
pub(super) struct Mounted {
    /// Holds image and mount point; removed after the file system has gone from there.
    _dir: tempfile::TempDir,
    pub(super) point: PathBuf,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let lazy = run("umount", &["-l".as_ref(), self.point.as_os_str()]);
        if let Err(error) = lazy {
            println!("{} stays mounted: {error}", self.point.display());
        }
    }
}

pub(super) fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        let text = String::from_utf8_lossy(&output.stderr);
        Err(format!("{program}: {}", text.trim()))
    }
}

/// A new file system of that kind and size, or why there is none.
pub(super) fn mount(kind: &str, mib: u64, place: &Path) -> Result<Mounted, String> {
    let dir = tempfile::tempdir_in(place).map_err(|error| error.to_string())?;
    let (image, point) = (dir.path().join("image"), dir.path().join("point"));
    std::fs::create_dir(&point).map_err(|error| error.to_string())?;
    if kind == "tmpfs" {
        let size = format!("size={mib}m");
        run(
            "mount",
            &[
                "-t".as_ref(),
                "tmpfs".as_ref(),
                "-o".as_ref(),
                size.as_ref(),
                "none".as_ref(),
                point.as_ref(),
            ],
        )?;
    } else {
        File::create(&image)
            .and_then(|image| image.set_len(mib << 20))
            .map_err(|error| error.to_string())?;
        run(&format!("mkfs.{kind}"), &["-q".as_ref(), image.as_ref()])?;
        run(
            "mount",
            &[
                "-o".as_ref(),
                "loop".as_ref(),
                image.as_ref(),
                point.as_ref(),
            ],
        )?;
    }
    Ok(Mounted { _dir: dir, point })
}

fn conforms(kind: &str, mib: u64) {
    let mounted = match mount(kind, mib, Path::new(env!("CARGO_TARGET_TMPDIR"))) {
        Ok(mounted) => mounted,
        Err(why) => {
            println!("skipped: no {kind}: {why}");
            return;
        }
    };
    suite(kind, &mounted, "blocking", Blocking::new);
    if super::ring(UringConfig::default()).is_some() {
        suite(kind, &mounted, "io_uring", || {
            Uring::new(UringConfig::default()).expect("it was there just now")
        });
    }
}

fn suite<B: Backend>(kind: &str, mounted: &Mounted, name: &str, make: impl Fn() -> B) {
    let root = mounted.point.join(name);
    std::fs::create_dir(&root).expect("a directory");
    let report = conformance::run(&root, |_| make());
    println!("{kind}, {name}:\n{report}");
    report.assert();
}

#[test]
fn the_backends_conform_on_ext4() {
    conforms("ext4", 64);
}

#[test]
fn the_backends_conform_on_xfs() {
    // Smaller ones are refused.
    conforms("xfs", 320);
}

#[test]
fn the_backends_conform_on_tmpfs() {
    conforms("tmpfs", 64);
}

#[test]
fn a_disk_that_fills_fails_the_write_and_says_so() {
    let mounted = match mount("ext4", 16, Path::new(env!("CARGO_TARGET_TMPDIR"))) {
        Ok(mounted) => mounted,
        Err(why) => {
            println!("skipped: no ext4: {why}");
            return;
        }
    };
    for backend in [Some(AnyBackend::blocking()), AnyBackend::uring().ok()]
        .into_iter()
        .flatten()
    {
        let path = mounted.point.join("log");
        let options = FileOptions::read_write().create(Create::New);
        let file = backend.open(&path, &options).expect("a new file");
        let pending: Vec<_> = (0..24)
            .map(|at| backend.start_write(&file, at << 20, vec![7; 1 << 20], Durability::Durable))
            .collect();
        let results: Vec<_> = pending
            .into_iter()
            .map(|pending| pending.wait(&backend))
            .collect();
        let failed = results.iter().filter_map(|result| result.as_ref().err());
        for failed in failed.clone() {
            assert!(failed.error.is_no_space(), "{failed:?}");
            assert_eq!(failed.error.fate(), Fate::Indeterminate);
            assert_eq!(failed.buf.len(), 1 << 20, "the buffer comes back");
        }
        assert!(failed.count() >= 8, "16 MiB do not take 24 MiB");
        for (at, result) in results
            .iter()
            .enumerate()
            .filter(|(_, result)| result.is_ok())
        {
            let buf = vec![0; 1 << 20];
            let (count, buf) = backend
                .read_at(&file, (at as u64) << 20, buf)
                .expect("it was written");
            assert!(count == 1 << 20 && buf == *result.as_ref().expect("filtered"));
        }
        drop(file);
        backend.remove(&path).expect("it goes");
    }
}
