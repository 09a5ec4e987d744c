//! [`Mounted`]: small file systems in files, mounted through loop devices.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::suite::SuiteError;

/// Where tools lie that a user's path may leave out.
const SYSTEM_PATH: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A command that runs a tool of the system.
pub(crate) fn tool(name: &str) -> Command {
    let mut command = Command::new(find(name).unwrap_or_else(|| name.into()));
    command.stdin(Stdio::null());
    command
}

/// The first of these tools that is not installed.
pub(crate) fn missing_tool<'n>(names: &[&'n str]) -> Option<&'n str> {
    names.iter().copied().find(|name| find(name).is_none())
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_PATH.iter().map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Runs a tool to its end; an error says what it said.
pub(crate) fn run_tool<A: AsRef<OsStr>>(
    name: &str,
    args: impl IntoIterator<Item = A>,
) -> Result<(), SuiteError> {
    let mut command = tool(name);
    let output = command.args(args).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}: {}", output.status, said.trim_end()).into())
}

/// Where disks that are files are best put: in memory, if there is room for them, since it is not
/// their own durability that is tried; else where temporary files go.
pub(crate) fn roomy_dir() -> PathBuf {
    const NEEDED_KIB: u64 = 2 << 20;
    let shared = PathBuf::from("/dev/shm");
    let output = tool("df")
        .args(["-k", "--output=avail"])
        .arg(&shared)
        .output();
    let free_kib = output.ok().and_then(|output| {
        let text = String::from_utf8(output.stdout).ok()?;
        text.lines().nth(1)?.trim().parse::<u64>().ok()
    });
    match free_kib {
        Some(free_kib) if free_kib >= NEEDED_KIB => shared,
        _ => std::env::temp_dir(),
    }
}

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
}

impl FileSystem {
    pub(crate) const ALL: [Self; 2] = [Self::Ext4, Self::Xfs];

    /// What makes one.
    pub(crate) fn maker(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
        }
    }

    /// How small one may be, in bytes.
    pub(crate) fn least_bytes(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Xfs => 300 << 20,
        }
    }

    /// Makes one of its least size at the beginning of a file of `file_bytes`, which takes space
    /// only for what is in it.
    pub(crate) fn make(self, image: &Path, file_bytes: u64) -> Result<(), SuiteError> {
        File::create(image)?.set_len(file_bytes)?;
        let blocks = format!("{}k", self.least_bytes() >> 10);
        let size = format!("size={}", self.least_bytes());
        let image = image.as_os_str();
        let args: Vec<&OsStr> = match self {
            // Nothing is to be written behind anybody's back later.
            Self::Ext4 => [
                "-q",
                "-F",
                "-b",
                "4096",
                "-m",
                "0",
                "-E",
                "lazy_itable_init=0,lazy_journal_init=0",
            ]
            .map(OsStr::new)
            .into_iter()
            .chain([image, OsStr::new(&blocks)])
            .collect(),
            Self::Xfs => vec![
                OsStr::new("-q"),
                OsStr::new("-f"),
                OsStr::new("-d"),
                OsStr::new(&size),
                image,
            ],
        };
        run_tool(self.maker(), args)
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "XFS",
        })
    }
}

/// A mounted file system that does not outlive its owner.
pub(crate) struct Mounted {
    point: PathBuf,
    mounted: bool,
}

impl Mounted {
    /// Mounts the file system at the beginning of `image` at the directory `point`.
    pub(crate) fn new(
        kind: FileSystem,
        image: &Path,
        point: &Path,
        options: &str,
    ) -> Result<Self, SuiteError> {
        std::fs::create_dir_all(point)?;
        let size = kind.least_bytes();
        let options = format!("loop,sizelimit={size},noatime{options}");
        let args = [OsStr::new("-o"), OsStr::new(&options)];
        run_tool(
            "mount",
            args.into_iter()
                .chain([image.as_os_str(), point.as_os_str()]),
        )?;
        Ok(Self {
            point: point.into(),
            mounted: true,
        })
    }

    /// Where it is.
    pub(crate) fn point(&self) -> &Path {
        &self.point
    }

    /// Mounts it with other options, in place.
    pub(crate) fn remount(&self, options: &str) -> Result<(), SuiteError> {
        let options = format!("remount,{options}");
        run_tool(
            "mount",
            [
                OsStr::new("-o"),
                OsStr::new(&options),
                self.point.as_os_str(),
            ],
        )
    }

    /// Unmounts it; waits for those who still have files open.
    pub(crate) fn unmount(mut self) -> Result<(), SuiteError> {
        self.mounted = false;
        let mut beats = 0;
        loop {
            match run_tool("umount", [self.point.as_os_str()]) {
                Err(_) if beats < 200 => thread::sleep(Duration::from_millis(10)),
                Err(error) => {
                    self.mounted = true;
                    return Err(error);
                }
                Ok(()) => return Ok(()),
            }
            beats += 1;
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.mounted {
            // Out of sight at least; the rest goes with the last open file.
            let _gone = run_tool("umount", [OsStr::new("-l"), self.point.as_os_str()]);
        }
    }
}
