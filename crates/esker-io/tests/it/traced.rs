//! Tests in a process of their own, whose system calls are seen or made to fail by strace.

use std::process::Command;

/// Runs an ignored test of this program under strace with these options, and demands that it
/// passes. What strace saw; `None`, and a word about it, where nothing can be traced.
pub(crate) fn traced(options: &[&str], test: &str) -> Option<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("calls");
    let traced = Command::new("strace")
        .args(["-f", "-o"])
        .arg(&log)
        .args(options)
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output();
    let Ok(traced) = traced else {
        println!("skipped: there is no strace");
        return None;
    };
    let output = String::from_utf8_lossy(&traced.stdout);
    let errors = String::from_utf8_lossy(&traced.stderr);
    if errors.contains("ptrace") {
        println!("skipped: tracing is forbidden here");
        return None;
    }
    assert!(traced.status.success(), "{options:?}: {output}{errors}");
    assert!(output.contains("1 passed"), "{output}");
    if let Some(why) = output.lines().find(|line| line.starts_with("skipped:")) {
        println!("{why}");
        return None;
    }
    let log = std::fs::read(log).expect("strace has written it");
    Some(String::from_utf8_lossy(&log).into_owned())
}
