//! What happens where io_uring is not to be had.

use std::error::Error;
use std::process::Command;

use esker_io::{AnyBackend, Backend, Uring, UringConfig, UringError, conformance};

/// Runs an ignored test of this program in a process of its own, and demands that it passes.
pub(crate) fn in_a_process_of_its_own(test: &str) {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{text}");
    for line in text.lines().filter(|line| line.starts_with("skipped:")) {
        println!("{line}");
    }
}

/// Installs a filter under which a system call fails with an error number, for this process and
/// for good; `false` if the system lets no filter in.
fn forbid(call: libc::c_long, errno: libc::c_int) -> bool {
    let statement = |code: u32, k: u32, jt, jf| libc::sock_filter {
        code: u16::try_from(code).expect("small"),
        jt,
        jf,
        k,
    };
    let call = u32::try_from(call).expect("small");
    let errno = u32::try_from(errno).expect("positive");
    let mut program = [
        // The number of the call is the first word of what a filter sees.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call, 0, 1),
        statement(
            libc::BPF_RET | libc::BPF_K,
            libc::SECCOMP_RET_ERRNO | errno,
            0,
            0,
        ),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: 4,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program lives across the call, which copies it.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_TSYNC,
                &raw const filter,
            ) == 0
    }
}

/// The portable backend is picked, says why, and is as good.
fn falls_back(why: &str) {
    let backend = AnyBackend::auto();
    let description = backend.description();
    assert_eq!(description.kind, "blocking", "{description}");
    assert!(description.reason.contains(why), "{description}");
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    conformance::run(dir.path(), |_| AnyBackend::auto()).assert();
}

#[test]
fn a_filter_that_forbids_io_uring_is_told_apart() {
    in_a_process_of_its_own("fallback::where_a_filter_forbids_it");
}

#[test]
#[ignore = "run in a process of its own by the test above"]
fn where_a_filter_forbids_it() {
    if !forbid(libc::SYS_io_uring_setup, libc::EPERM) {
        println!("skipped: no filter can be installed");
        return;
    }
    let error = Uring::new(UringConfig::default()).expect_err("it is forbidden");
    assert!(matches!(error, UringError::Forbidden { .. }), "{error:?}");
    assert!(error.source().is_some());
    falls_back("io_uring is forbidden to this process: Operation not permitted");
}

#[test]
fn a_kernel_without_io_uring_is_told_apart() {
    in_a_process_of_its_own("fallback::where_there_is_none");
}

#[test]
#[ignore = "run in a process of its own by the test above"]
fn where_there_is_none() {
    if !forbid(libc::SYS_io_uring_setup, libc::ENOSYS) {
        println!("skipped: no filter can be installed");
        return;
    }
    let error = Uring::new(UringConfig::default()).expect_err("there is none");
    assert!(matches!(error, UringError::Unknown { .. }), "{error:?}");
    falls_back("the kernel has no io_uring");
}

#[test]
fn a_ring_that_cannot_be_entered_is_found_out_before_it_is_used() {
    in_a_process_of_its_own("fallback::where_setup_alone_is_allowed");
}

#[test]
#[ignore = "run in a process of its own by the test above"]
fn where_setup_alone_is_allowed() {
    if !forbid(libc::SYS_io_uring_enter, libc::EPERM) {
        println!("skipped: no filter can be installed");
        return;
    }
    match Uring::new(UringConfig::default()).map(drop) {
        Err(UringError::Trial { .. }) => falls_back("a trial operation through io_uring failed"),
        // There was no ring in the first place.
        Err(error @ (UringError::Unknown { .. } | UringError::Forbidden { .. })) => {
            println!("skipped: {error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_ring_of_which_no_feature_can_be_asked_is_refused() {
    in_a_process_of_its_own("fallback::where_registering_is_forbidden");
}

#[test]
#[ignore = "run in a process of its own by the test above"]
fn where_registering_is_forbidden() {
    if !forbid(libc::SYS_io_uring_register, libc::EACCES) {
        println!("skipped: no filter can be installed");
        return;
    }
    let error = Uring::new(UringConfig::default()).expect_err("it can't be probed");
    println!("{error}");
    let backend = AnyBackend::auto();
    assert_eq!(backend.description().kind, "blocking");
}
