//! File systems of a test's own, in loop devices, and what can be done to them from outside.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A mounted file system, which is gone when this is dropped.
pub(crate) struct Mounted {
    /// Holds image and mount point; removed after the file system has gone from there.
    _dir: tempfile::TempDir,
    pub(crate) point: PathBuf,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let lazy = run("umount", &["-l".as_ref(), self.point.as_os_str()]);
        if let Err(error) = lazy {
            println!("{} stays mounted: {error}", self.point.display());
        }
    }
}

pub(crate) fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<(), String> {
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
pub(crate) fn mount(kind: &str, mib: u64, place: &Path) -> Result<Mounted, String> {
    let dir = tempfile::tempdir_in(place).map_err(|error| error.to_string())?;
    let (image, point) = (dir.path().join("image"), dir.path().join("point"));
    std::fs::create_dir(&point).map_err(|error| error.to_string())?;
    if kind == "tmpfs" || kind == "ramfs" {
        // The other one takes what it is given, and knows no bound.
        let size = format!("size={mib}m");
        run(
            "mount",
            &[
                "-t".as_ref(),
                kind.as_ref(),
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

/// A file system on which every write waits, until this is dropped, or for ten minutes: whoever fails
/// with writes in flight would wait for himself.
pub(crate) struct Frozen {
    thaw: Option<Sender<()>>,
    thawing: Option<JoinHandle<()>>,
}

impl Mounted {
    /// Ends all traffic with its disk, as if that had gone, or says why that can't be.
    pub(crate) fn shut_down(&self) -> Result<(), String> {
        let shutdown = ["-x", "-c", "shutdown"].map(std::ffi::OsStr::new);
        let [x, c, command] = shutdown;
        run("xfs_io", &[x, c, command, self.point.as_os_str()])
    }

    /// Makes all writes to it wait, or says why that can't be.
    pub(crate) fn freeze(&self) -> Result<Frozen, String> {
        run("fsfreeze", &["-f".as_ref(), self.point.as_os_str()])?;
        let (thaw, told) = channel::<()>();
        let point = self.point.clone();
        let thawing = std::thread::spawn(move || {
            // Ended by the drop of the other end, which is an error.
            let _ = told.recv_timeout(Duration::from_secs(600));
            if let Err(error) = run("fsfreeze", &["-u".as_ref(), point.as_os_str()]) {
                println!("{} stays frozen: {error}", point.display());
            }
        });
        Ok(Frozen {
            thaw: Some(thaw),
            thawing: Some(thawing),
        })
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.thaw.take());
        if let Some(thawing) = self.thawing.take() {
            thawing.join().expect("it does not panic");
        }
    }
}
