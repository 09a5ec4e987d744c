//! Setting a ring up: what the kernel must have, and a trial operation that shows that it works.

use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::aside::Offered;
use super::config::{UringConfig, UringError};
use super::files;
use super::regions::SLOTS;
use crate::sync::yield_now;

/// A ring as configured, which has what is needed and through which one operation has gone; how many
/// slots for registered memory it has; and what else it takes.
pub(super) fn set_up(config: UringConfig) -> Result<(IoUring, u32, Offered), UringError> {
    config.check()?;
    let mut ring = build(config).map_err(|error| refused(config, error))?;
    let offered = probe(config, &ring)?;
    if config.sqpoll_idle_ms.is_some() && !ring.params().is_feature_sqpoll_nonfixed() {
        return Err(UringError::Lacks { what: SQPOLL });
    }
    trial(&mut ring).map_err(|source| UringError::Trial { source })?;
    let slots = config.registered_buffers.unwrap_or(SLOTS);
    let registers = slots > 0 && ring.submitter().register_buffers_sparse(slots).is_ok();
    if slots > 0 && !registers && config.registered_buffers.is_some() {
        return Err(UringError::Lacks { what: SPARSE });
    }
    if config.registered_files > 0 {
        ring.submitter()
            .register_files_sparse(config.registered_files)
            .map_err(|source| no_files(config.registered_files, source))?;
        let lets_go = files::table_lets_go().map_err(|source| UringError::Trial { source })?;
        if !lets_go {
            return Err(UringError::Lacks { what: LETS_GO });
        }
    }
    Ok((ring, if registers { slots } else { 0 }, offered))
}

/// Why there is no table of files.
fn no_files(slots: u32, source: io::Error) -> UringError {
    match source.raw_os_error() {
        Some(libc::EINVAL) => UringError::Lacks { what: SPARSE_FILES },
        Some(libc::EMFILE) => UringError::FileLimit { slots, source },
        _ => UringError::setup(source),
    }
}

const SQPOLL: &str = "SQPOLL for files that are not registered (Linux 5.11)";
const SPARSE: &str = "sparse tables of registered memory (Linux 5.19)";
const SPARSE_FILES: &str = "sparse tables of registered files (Linux 5.19)";
const LETS_GO: &str = "tables that let go of a file at once when its place is emptied (Linux 6.13)";
const SINGLE_ISSUER: &str = "SINGLE_ISSUER (Linux 6.0)";
const DEFER_TASKRUN: &str = "DEFER_TASKRUN (Linux 6.1)";
const COOP_TASKRUN: &str = "COOP_TASKRUN (Linux 5.19)";

fn build(config: UringConfig) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    if let Some(cq_entries) = config.cq_entries {
        builder.setup_cqsize(cq_entries);
    }
    if config.coop_taskrun {
        builder.setup_coop_taskrun();
    }
    if let Some(idle_ms) = config.sqpoll_idle_ms {
        builder.setup_sqpoll(idle_ms);
    }
    if config.has_issuer() {
        builder.setup_single_issuer();
    }
    if config.defer_taskrun {
        builder.setup_defer_taskrun();
    }
    builder.build(config.entries)
}

/// Why there is no such ring: the option without which there would be one, if it is an option.
fn refused(config: UringConfig, error: io::Error) -> UringError {
    if error.raw_os_error() == Some(libc::EINVAL) {
        for (asked, without, what) in [
            (
                config.coop_taskrun,
                config.coop_taskrun(false),
                COOP_TASKRUN,
            ),
            (config.sqpoll_idle_ms.is_some(), config.sqpoll(None), SQPOLL),
            (
                config.defer_taskrun,
                config.defer_taskrun(false).single_issuer(true),
                DEFER_TASKRUN,
            ),
            (
                config.has_issuer(),
                config.defer_taskrun(false).single_issuer(false),
                SINGLE_ISSUER,
            ),
        ] {
            if asked && build(without).is_ok() {
                return UringError::Lacks { what };
            }
        }
    }
    UringError::setup(error)
}

/// Refuses a kernel that lacks a feature or an operation without which there is no ring; what it has
/// besides.
fn probe(config: UringConfig, ring: &IoUring) -> Result<Offered, UringError> {
    let parameters = ring.params();
    for (there, what) in [
        (parameters.is_feature_nodrop(), "NODROP (Linux 5.5)"),
        (
            parameters.is_feature_submit_stable(),
            "SUBMIT_STABLE (Linux 5.5)",
        ),
        (parameters.is_feature_ext_arg(), "EXT_ARG (Linux 5.11)"),
    ] {
        if !there {
            return Err(UringError::Lacks { what });
        }
    }
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(UringError::setup)?;
    for (code, what) in [
        (opcode::Nop::CODE, "NOP"),
        (opcode::Read::CODE, "READ"),
        (opcode::Write::CODE, "WRITE"),
        (opcode::Writev::CODE, "WRITEV"),
        (opcode::ReadFixed::CODE, "READ_FIXED"),
        (opcode::WriteFixed::CODE, "WRITE_FIXED"),
        (opcode::Fsync::CODE, "FSYNC"),
    ] {
        if !probe.is_supported(code) {
            return Err(UringError::Lacks { what });
        }
    }
    if config.has_issuer() && !probe.is_supported(opcode::PollAdd::CODE) {
        return Err(UringError::Lacks { what: "POLL_ADD" });
    }
    Ok(Offered::of(&probe))
}

/// Sends one operation through the ring and takes its completion.
fn trial(ring: &mut IoUring) -> io::Result<()> {
    const MARK: u64 = 0x0065_736b_6572;
    let nop = opcode::Nop::new().build().user_data(MARK);
    // SAFETY: a NOP names no memory.
    unsafe { ring.submission().push(&nop) }
        .map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))?;
    let mut postponed = 0;
    while let Err(error) = ring.submit_and_wait(1) {
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EAGAIN) if postponed < 100 => {
                postponed += 1;
                yield_now();
            }
            _ => return Err(error),
        }
    }
    match ring.completion().next() {
        Some(completion) if completion.user_data() == MARK && completion.result() >= 0 => Ok(()),
        Some(completion) => Err(io::Error::from_raw_os_error(-completion.result())),
        None => Err(io::Error::from_raw_os_error(libc::ENODATA)),
    }
}
