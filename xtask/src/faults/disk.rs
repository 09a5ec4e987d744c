//! [`Trouble`]: what happens to a file system, or to the disk below it, while `esker` appends.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::scenario::{Harm, check_end, plan, small_store};
use crate::suite::{SuiteError, Tally};
use crate::trial::{
    End, Failure, FileSystem, Kill, Mounted, Program, Store, live, missing_tool, run_tool, tool,
};

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The file system has only so much space left, in KiB.
    Full(u64),
    /// It is mounted read-only.
    ReadOnly,
    /// It is shut down when so many LSNs have been printed; its journal reaches the disk, or not.
    Shutdown { flushed: bool, at: usize },
    /// It gives up and becomes read-only when so many LSNs have been printed.
    Abort { at: usize },
    /// It is frozen for a while.
    Freeze,
    /// The n-th write to the disk fails.
    WriteFails(u32),
    /// The n-th flush of the disk fails.
    FlushFails(u32),
}

/// What happens, on which file system, to a store on which backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trouble {
    kind: Kind,
    on: FileSystem,
    backend: &'static str,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk-{}-{}, ", self.on, self.backend)?;
        match self.kind {
            Kind::Full(kib) => write!(f, "full:{kib}"),
            Kind::ReadOnly => write!(f, "read-only"),
            Kind::Shutdown { flushed, at } => write!(f, "shutdown:{at}:{flushed}"),
            Kind::Abort { at } => write!(f, "abort:{at}"),
            Kind::Freeze => write!(f, "freeze"),
            Kind::WriteFails(number) => write!(f, "write-fails:{number}"),
            Kind::FlushFails(number) => write!(f, "flush-fails:{number}"),
        }
    }
}

/// Every trouble that can be had here.
pub(super) fn troubles(backends: &[&'static str], skips: &mut Tally) -> Vec<Trouble> {
    let mut has = |what: &str, tools: &[&str]| {
        let missing = missing_tool(tools);
        if let Some(missing) = missing {
            skips.skip(what, &format!("{missing} is not installed"));
        }
        missing.is_none()
    };
    let mut kinds = Vec::new();
    if has("file systems that are full", &["df", "fallocate"]) {
        let sizes = [
            0, 4, 16, 60, 64, 68, 128, 252, 256, 260, 300, 512, 700, 1024, 1500, 2048, 4096, 8192,
        ];
        kinds.extend(sizes.map(Kind::Full));
    }
    kinds.push(Kind::ReadOnly);
    let moments = [1, 20, 60, 120];
    kinds.extend(moments.map(|at| Kind::Abort { at }));
    if has("file systems that are shut down", &["xfs_io"]) {
        for at in moments {
            kinds.push(Kind::Shutdown { flushed: false, at });
            kinds.push(Kind::Shutdown { flushed: true, at });
        }
    }
    if has("file systems that are frozen", &["fsfreeze"]) {
        kinds.push(Kind::Freeze);
    }
    if has("disks that fail", &["qemu-storage-daemon"]) {
        kinds.extend((1..40).map(Kind::WriteFails));
        kinds.extend((1..12).map(Kind::FlushFails));
    }
    let mut troubles = Vec::new();
    for on in FileSystem::ALL {
        if !has(&on.to_string(), &[on.maker(), "mount", "umount", "losetup"]) {
            continue;
        }
        // How ext4 gives up XFS does not.
        let kinds = kinds
            .iter()
            .filter(|kind| on == FileSystem::Ext4 || !matches!(kind, Kind::Abort { .. }));
        for &kind in kinds {
            let trouble = |&backend| Trouble { kind, on, backend };
            troubles.extend(backends.iter().map(trouble));
        }
    }
    troubles
}

impl Trouble {
    /// Lets it happen, and judges what came of it. Whether the append succeeded.
    pub(super) fn run(
        &self,
        program: &Program,
        dir: &Path,
    ) -> Result<Result<bool, Failure>, SuiteError> {
        let image = dir.join("troubled");
        self.on.make(&image, self.on.least_bytes())?;
        let place = dir.join("trouble");
        let mounted = Mounted::new(self.on, &image, &place, "")?;
        let mut store = small_store(mounted.point(), program, dir, Kill::Never)?;
        let (mounted, result) = match self.kind {
            Kind::Full(kib) => {
                let result = fill(&mounted, &mut store, self.backend, kib)?;
                (mounted, result)
            }
            Kind::ReadOnly => {
                mounted.remount("ro")?;
                let result = read_only(&mut store, self.backend);
                mounted.remount("rw")?;
                (mounted, result)
            }
            Kind::WriteFails(_) | Kind::FlushFails(_) => {
                mounted.unmount()?;
                let disk = FailingDisk::start(self, &image, dir)?;
                // It may fail already when it is mounted.
                let result = match Mounted::new(self.on, &disk.export, &place, "") {
                    Ok(mounted) => {
                        let result = self.append(&mut store, || Ok(()));
                        mounted.unmount()?;
                        result
                    }
                    Err(_) => Ok(true),
                };
                drop(disk);
                match Mounted::new(self.on, &image, &place, "") {
                    Ok(mounted) => (mounted, result),
                    Err(error) => {
                        println!("{self}: the file system itself does not survive it: {error}");
                        return Ok(result);
                    }
                }
            }
            Kind::Shutdown { flushed, .. } => {
                let command = if flushed { "shutdown -f" } else { "shutdown" };
                let result = self.append(&mut store, || {
                    let args = ["-x", "-c", command].map(OsStr::new);
                    run_tool("xfs_io", args.into_iter().chain([place.as_os_str()]))
                });
                mounted.unmount()?;
                (Mounted::new(self.on, &image, &place, "")?, result)
            }
            Kind::Abort { .. } => {
                let result = self.append(&mut store, || mounted.remount("abort"));
                mounted.unmount()?;
                (Mounted::new(self.on, &image, &place, "")?, result)
            }
            Kind::Freeze => {
                let result = self.append(&mut store, || {
                    run_tool("fsfreeze", [OsStr::new("-f"), place.as_os_str()])?;
                    thread::sleep(Duration::from_millis(300));
                    run_tool("fsfreeze", [OsStr::new("-u"), place.as_os_str()])
                });
                let result = match result {
                    Ok(false) => Err(Failure::Command("it does not wait until it thaws".into())),
                    result => result,
                };
                (mounted, result)
            }
        };
        let result = result.and_then(|succeeded| {
            if let Some(life) = store.lives.pop_if(|life| !life.printed.is_empty()) {
                let _kept = store.settle(life, 0)?;
            } else {
                store.esker.run("append")?;
                let found = store.look(0, "after the trouble")?;
                store.survivors.extend(found);
            }
            store.append_more()?;
            Ok(succeeded)
        });
        mounted.unmount()?;
        Ok(result)
    }

    /// Appends, and lets it happen on the way. What was appended is the store's last life, not
    /// looked at yet. Whether it succeeded.
    fn append(
        &self,
        store: &mut Store,
        mut happen: impl FnMut() -> Result<(), SuiteError> + Send,
    ) -> Result<bool, Failure> {
        let at = match self.kind {
            Kind::Shutdown { at, .. } | Kind::Abort { at } => at,
            _ => 20,
        };
        let mut happened = None;
        let plan = plan(3, 4, self.backend, Kill::Never);
        let (life, end) = live(&store.esker, &plan, &[], |count| {
            if count >= at && happened.is_none() {
                happened = Some(happen());
            }
        })?;
        if let Some(Err(error)) = happened {
            return Err(Failure::Command(error.to_string()));
        }
        store.lives.push(life);
        check_end(&end, Harm::default())?;
        Ok(end == End::ByItself)
    }
}

/// Leaves only so much space on a file system, appends more than that, trims and appends again.
fn fill(
    mounted: &Mounted,
    store: &mut Store,
    backend: &'static str,
    kib: u64,
) -> Result<Result<bool, Failure>, SuiteError> {
    let filler = mounted.point().join("filler");
    take_space(mounted.point(), &filler, kib)?;
    let mut try_all = || {
        let plan = plan(3, 1, backend, Kill::Never);
        let (life, end) = live(&store.esker, &plan, &[], |_| {})?;
        check_end(&end, Harm::default())?;
        let _kept = store.settle(life, 0)?;
        let before = store.survivors[store.survivors.len() / 2].lsn;
        store
            .esker
            .run_with("trim", &["--before", &before.to_string()])?;
        store.forget_trimmed(before)?;
        let _seen = store.look(0, "after trimming a full file system")?;
        store.append_more()?;
        Ok(end == End::ByItself)
    };
    let result = try_all();
    std::fs::remove_dir_all(&filler)?;
    Ok(result)
}

/// Fills a file system up with files in the directory `filler`, until so many KiB are left. A file
/// takes a little more than what is in it, so the last ones are small.
fn take_space(point: &Path, filler: &Path, left_kib: u64) -> Result<(), SuiteError> {
    const BLOCK_KIB: u64 = 4;
    std::fs::create_dir(filler)?;
    let mut taken = free_kib(point)?;
    for number in 0..100 {
        taken = taken.min(free_kib(point)?.saturating_sub(left_kib));
        if taken < BLOCK_KIB {
            break;
        }
        let file = filler.join(number.to_string());
        let length = format!("{taken}K");
        let args = [OsStr::new("-l"), OsStr::new(&length), file.as_os_str()];
        if run_tool("fallocate", args).is_err() {
            // It may not even have been created.
            let _removed = std::fs::remove_file(&file);
            taken /= 2;
        }
    }
    Ok(())
}

fn free_kib(point: &Path) -> Result<u64, SuiteError> {
    let output = tool("df")
        .args(["-k", "--output=avail"])
        .arg(point)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let free = text.lines().nth(1).ok_or("df says nothing")?;
    Ok(free.trim().parse()?)
}

/// On a file system that takes nothing, what is there is read, and an append says so.
fn read_only(store: &mut Store, backend: &'static str) -> Result<bool, Failure> {
    let plan = plan(3, 1, backend, Kill::Never);
    let (life, end) = live(&store.esker, &plan, &[], |_| {})?;
    check_end(&end, Harm::default())?;
    if end == End::ByItself || !life.printed.is_empty() {
        return Err(Failure::Command("it appends to what is read-only".into()));
    }
    let _same = store.look(0, "read-only")?;
    Ok(false)
}

/// A disk of which one write or one flush fails with EIO.
struct FailingDisk {
    daemon: Child,
    export: PathBuf,
}

impl FailingDisk {
    fn start(trouble: &Trouble, image: &Path, dir: &Path) -> Result<Self, SuiteError> {
        let (event, iotype, number) = match trouble.kind {
            Kind::FlushFails(number) => ("flush_to_disk", "flush", number),
            Kind::WriteFails(number) => ("write_aio", "write", number),
            _ => return Err("this trouble needs no failing disk".into()),
        };
        let export = dir.join("failing");
        File::create(&export)?;
        let path = |path: &Path| path.display().to_string().replace(',', ",,");
        // Every event leads on to the next state, and in the last one the operation fails.
        let mut rules = format!(
            "inject-error.0.event={event},inject-error.0.iotype={iotype},inject-error.0.errno=5,\
             inject-error.0.once=on,inject-error.0.state={number}"
        );
        for state in 1..number {
            rules += &format!(
                ",set-state.{state}.event={event},set-state.{state}.state={state},\
                 set-state.{state}.new_state={}",
                state + 1
            );
        }
        // Lists begin at 0.
        rules += ",set-state.0.event=none,set-state.0.state=9999,set-state.0.new_state=9999";
        let mut daemon = tool("qemu-storage-daemon");
        for blockdev in [
            format!(
                "driver=file,node-name=disk,filename={},cache.no-flush=on,locking=off",
                path(image)
            ),
            format!("driver=blkdebug,node-name=failing,image=disk,{rules}"),
            "driver=raw,node-name=exported,file=failing".to_owned(),
        ] {
            daemon.args(["--blockdev", &blockdev]);
        }
        let point = path(&export);
        daemon.args([
            "--export",
            &format!("type=fuse,id=export,node-name=exported,mountpoint={point},writable=on"),
        ]);
        daemon
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("daemon"))?);
        let mut disk = Self {
            daemon: daemon.spawn()?,
            export,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::metadata(&disk.export)?.len() == 0 {
            if disk.daemon.try_wait()?.is_some() || Instant::now() > deadline {
                let said = std::fs::read_to_string(dir.join("daemon"))?;
                return Err(format!("qemu-storage-daemon exports nothing: {}", said.trim()).into());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(disk)
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        let _gone = self.daemon.kill();
        let _waited = self.daemon.wait();
        let _gone = run_tool("umount", [OsStr::new("-l"), self.export.as_os_str()]);
    }
}
