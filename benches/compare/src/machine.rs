//! What the figures were measured on.

use std::fs;
use std::path::Path;

/// One line each: processor, kernel, file system, device.
pub(crate) fn describe(dir: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        text.lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
    });
    lines.push(format!(
        "{cores} cores, {}",
        cpu.unwrap_or_else(|| "processor unknown".into())
    ));
    if let Ok(release) = fs::read_to_string("/proc/sys/kernel/osrelease") {
        lines.push(format!("Linux {}", release.trim()));
    }
    if let Some(mount) = mount_of(dir) {
        lines.push(mount);
    }
    lines
}

/// File system, options and device of the mount that `dir` is on.
fn mount_of(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut best: Option<(usize, String)> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (device, point) = (fields.next()?, fields.next()?);
        let (kind, options) = (fields.next()?, fields.next()?);
        if dir.starts_with(point) && best.as_ref().is_none_or(|(len, _)| point.len() >= *len) {
            let device = device.rsplit('/').next().unwrap_or(device);
            let cache = fs::read_to_string(format!("/sys/block/{device}/queue/write_cache"))
                .unwrap_or_default();
            best = Some((
                point.len(),
                format!("{kind} ({options}) on {device}, {}", cache.trim()),
            ));
        }
    }
    best.map(|(_, line)| line)
}
