//! Makes this process a function of its seed: what the C library says about time and chance comes from the simulation.
//!
//! Hash maps, tokio's fairness, back-off jitter, uuids and request ids all end in `getrandom`, and every clock that is not
//! tokio's in `clock_gettime`. Both are defined here, so that code under test and the libraries under it need not know.
//! Until [`simulate`] is called, both ask the kernel. A process simulates one seed, on one thread.

#![allow(unsafe_code, reason = "the two functions have C's signatures")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use libc::{c_int, c_long, c_uint, c_void, size_t, ssize_t};

static SIMULATED: AtomicBool = AtomicBool::new(false);
static CHANCE: AtomicU64 = AtomicU64::new(0);
static ELAPSED_NANOS: AtomicU64 = AtomicU64::new(0);

/// Where simulated clocks begin, in nanoseconds: some time after boot, and 2026 for the calendar.
const MONOTONIC_START: u64 = 1_000_000_000_000;
const REALTIME_START: u64 = 1_767_225_600_000_000_000;
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A run that takes longer hangs: the kernel ends it. Processor time, since a run may have to share its core with much else.
const PROCESSOR_SECONDS_MAX: libc::rlim_t = 600;
/// And one that waits for ever uses none.
const REAL_SECONDS_MAX: u32 = 3_600;

/// From now on time and chance are the simulation's.
pub fn simulate(seed: u64) {
    let most = libc::rlimit { rlim_cur: PROCESSOR_SECONDS_MAX, rlim_max: PROCESSOR_SECONDS_MAX };
    // SAFETY: the kernel reads one limit from the address of one; the alarm takes a number and no memory.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CPU, &raw const most);
        libc::alarm(REAL_SECONDS_MAX);
    }
    CHANCE.store(seed, Ordering::SeqCst);
    SIMULATED.store(true, Ordering::SeqCst);
}

/// Sets the simulated time since the beginning.
pub fn set_elapsed(elapsed: Duration) {
    ELAPSED_NANOS.store(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// What this process has used of the processor, for telling people how long a run takes.
pub fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to the address of one.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What the processes that this one started and waited for have used of the processor.
pub fn processor_time_of_children() -> Duration {
    // SAFETY: of numbers only, for which zeros are values; the kernel writes one to the address of one.
    let used = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut used);
        used
    };
    let part = |time: libc::timeval| {
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_usec * 1_000).unwrap_or(0))
    };
    part(used.ru_utime) + part(used.ru_stime)
}

/// Splitmix64: each call the next number of the seed's sequence.
fn next_number() -> u64 {
    let state = CHANCE.fetch_add(GOLDEN, Ordering::Relaxed).wrapping_add(GOLDEN);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// In place of the C library's.
///
/// # Safety
/// `buffer` must be writable for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    if !SIMULATED.load(Ordering::Relaxed) {
        // SAFETY: as the caller promised.
        let filled = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
        return filled as ssize_t;
    }
    let bytes = buffer.cast::<u8>();
    let mut filled = 0;
    while filled < length {
        for byte in next_number().to_le_bytes().into_iter().take(length - filled) {
            // SAFETY: `filled` is below `length`, which the caller promised to be writable.
            unsafe { bytes.add(filled).write(byte) };
            filled += 1;
        }
    }
    length as ssize_t
}

/// In place of the C library's.
///
/// # Safety
/// `time` must be writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    let start = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => REALTIME_START,
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_BOOTTIME => MONOTONIC_START,
        _ => 0,
    };
    if start == 0 || !SIMULATED.load(Ordering::Relaxed) {
        // SAFETY: as the caller promised.
        let answer = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
        return answer as c_int;
    }
    let nanos = start + ELAPSED_NANOS.load(Ordering::Relaxed);
    let now = libc::timespec {
        tv_sec: (nanos / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanos % 1_000_000_000) as c_long,
    };
    // SAFETY: as the caller promised.
    unsafe { time.write(now) };
    0
}
