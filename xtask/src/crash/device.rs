//! [`Device`]: a disk whose writes and flushes are recorded in their order, with a file system on
//! it.
//!
//! `qemu-storage-daemon` keeps the disk in one file and the log in another, and exports the disk
//! through FUSE; the file system is mounted from there through a loop device. A write reaches the
//! log before the loop device completes it, and so does a flush. Marks are written to the same
//! disk, behind the file system: one that is in the log comes after whatever had been completed
//! when it was written.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::log::{self, Event, Mark, SECTOR_BYTES};
use crate::suite::SuiteError;
use crate::trial::{FileSystem, Mounted, run_tool, tool};

/// The programs that it takes.
pub(super) const TOOLS: &[&str] = &["qemu-storage-daemon", "mount", "umount", "losetup"];

/// Room for marks behind the file system; used round and round.
const MARKS_BYTES: u64 = 1 << 20;

/// How long the daemon may take to come or to go.
const PATIENCE: Duration = Duration::from_secs(20);

/// How large a disk with this file system is, in bytes.
pub(super) fn disk_bytes(kind: FileSystem) -> u64 {
    kind.least_bytes() + MARKS_BYTES
}

/// A disk that is being recorded.
pub(super) struct Device {
    daemon: Child,
    mounted: Option<Mounted>,
    export: PathBuf,
    log: PathBuf,
    marks: File,
    next_mark: AtomicU64,
    kind: FileSystem,
}

impl Device {
    /// Records what happens to the disk in the file `disk`, and mounts its file system. What is
    /// needed besides is made in `dir`.
    pub(super) fn start(kind: FileSystem, disk: &Path, dir: &Path) -> Result<Self, SuiteError> {
        let (export, log) = (dir.join("export"), dir.join("log"));
        File::create(&export)?;
        // It is sparse: as long as any log may get.
        File::create(&log)?.set_len(64 << 30)?;
        let mut daemon = tool("qemu-storage-daemon");
        let file = |name: &str, path: &Path| {
            // What the daemon writes need not be durable, only in order.
            let path = path.display().to_string().replace(',', ",,");
            format!("driver=file,node-name={name},filename={path},cache.no-flush=on,locking=off")
        };
        daemon.args(["--blockdev", &file("disk", disk)]);
        daemon.args(["--blockdev", &file("log", &log)]);
        daemon.args([
            "--blockdev",
            "driver=blklogwrites,node-name=recorder,file=disk,log=log,log-sector-size=512",
        ]);
        let point = export.display().to_string().replace(',', ",,");
        daemon.args([
            "--export",
            &format!("type=fuse,id=export,node-name=recorder,mountpoint={point},writable=on"),
        ]);
        daemon.args([
            "--chardev",
            "stdio,id=control",
            "--monitor",
            "chardev=control",
        ]);
        daemon.stdin(Stdio::piped()).stdout(Stdio::null());
        daemon.stderr(File::create(dir.join("daemon"))?);
        let mut daemon = daemon.spawn()?;
        let deadline = Instant::now() + PATIENCE;
        while std::fs::metadata(&export)?.len() != disk_bytes(kind) {
            let gone = daemon.try_wait()?.is_some();
            if gone || Instant::now() > deadline {
                let _gone = daemon.kill();
                let _waited = daemon.wait();
                let said = std::fs::read_to_string(dir.join("daemon"))?;
                return Err(format!("qemu-storage-daemon exports nothing: {}", said.trim()).into());
            }
            thread::sleep(Duration::from_millis(2));
        }
        let marks = File::options().write(true).open(&export)?;
        let mut device = Self {
            daemon,
            mounted: None,
            export,
            log,
            marks,
            next_mark: AtomicU64::new(0),
            kind,
        };
        let mounted = Mounted::new(kind, &device.export, &dir.join("recorded"), "")?;
        device.mounted = Some(mounted);
        Ok(device)
    }

    /// Where the file system is.
    pub(super) fn point(&self) -> &Path {
        self.mounted.as_ref().map_or(&*self.export, Mounted::point)
    }

    /// Says something in the log; it is there when this returns.
    pub(super) fn mark(&self, mark: Mark) -> Result<(), SuiteError> {
        // Relaxed: each mark gets a place of its own, in whatever order.
        let number = self.next_mark.fetch_add(SECTOR_BYTES, Ordering::Relaxed);
        let offset = self.kind.least_bytes() + number % MARKS_BYTES;
        Ok(self.marks.write_all_at(&mark.encode(), offset)?)
    }

    /// Ends the recording and gives the log.
    pub(super) fn stop(mut self) -> Result<Vec<Event>, SuiteError> {
        if let Some(mounted) = self.mounted.take() {
            mounted.unmount()?;
        }
        if let Some(mut control) = self.daemon.stdin.take() {
            control.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n")?;
            control.flush()?;
            let deadline = Instant::now() + PATIENCE;
            while self.daemon.try_wait()?.is_none() {
                if Instant::now() > deadline {
                    return Err("qemu-storage-daemon does not end".into());
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        log::read(&self.log, self.kind.least_bytes())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        drop(self.mounted.take());
        if let Ok(None) = self.daemon.try_wait() {
            let _gone = self.daemon.kill();
            let _waited = self.daemon.wait();
            let _gone = run_tool("umount", [Path::new("-l"), &self.export]);
        }
    }
}
