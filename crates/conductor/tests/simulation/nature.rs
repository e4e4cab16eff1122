#![allow(unsafe_code)]
//! Time and chance of a simulated world, in place of the machine's.
//!
//! A thread that has [`begin`]s sees a clock that stands still while anything can be done, and jumps to the next timer
//! when nothing can; whatever asks the system for random bytes (ids, hash maps, jitter) gets them from the seed. All
//! other threads see the machine's. So no code has to know that it is simulated.
//!
//! The three functions below stand before libc's. tokio's timer ends in `epoll_wait`; std and the crates that make
//! random numbers look `getrandom` up by name.

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_uint, c_void};

/// The first moment, in seconds since 1970.
const DAWN: u64 = 1_750_000_000;
const SECOND: u64 = 1_000_000_000;

thread_local! {
    /// Nanoseconds since 1970; 0 where the machine's time is meant.
    static NOW: Cell<u64> = const { Cell::new(0) };
    static CHANCE: Cell<u64> = const { Cell::new(0) };
}

/// From now on this thread lives in the world of this seed.
pub fn begin(seed: u64) {
    CHANCE.set(seed);
    NOW.set(DAWN * SECOND);
}

/// Microseconds since the beginning.
pub fn now() -> u64 {
    NOW.get().saturating_sub(DAWN * SECOND) / 1000
}

/// The next random number (splitmix64).
fn chance() -> u64 {
    let next = CHANCE.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    CHANCE.set(next);
    let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The numbers of the system calls `getrandom`, `clock_gettime`, `epoll_pwait`.
#[cfg(target_arch = "x86_64")]
const CALLS: (c_long, c_long, c_long) = (318, 228, 281);
#[cfg(target_arch = "aarch64")]
const CALLS: (c_long, c_long, c_long) = (278, 113, 22);

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: c_uint) -> isize {
    if NOW.get() == 0 {
        // SAFETY: the arguments are those of the caller.
        return unsafe { syscall(CALLS.0, buffer, length, flags) } as isize;
    }
    for index in 0..length {
        // SAFETY: the caller's buffer has `length` bytes.
        unsafe { buffer.add(index).write(chance() as u8) };
    }
    length as isize
}

#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: c_int, time: *mut [c_long; 2]) -> c_int {
    if NOW.get() == 0 {
        // SAFETY: the arguments are those of the caller.
        return unsafe { syscall(CALLS.1, c_long::from(clock), time) } as c_int;
    }
    // No two moments are the same, as on a real machine.
    let now = NOW.get() + 1000;
    NOW.set(now);
    // SAFETY: the caller's pointer is to a timespec, which is two longs.
    unsafe { time.write([(now / SECOND) as c_long, (now % SECOND) as c_long]) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn epoll_wait(poll: c_int, events: *mut c_void, most: c_int, timeout: c_int) -> c_int {
    let lives_here = NOW.get() != 0 && timeout >= 0;
    let wait = if lives_here { 0 } else { timeout };
    let none: *const c_void = std::ptr::null();
    // SAFETY: the arguments are those of the caller; no signal mask is given.
    let ready = unsafe {
        let (poll, most, wait) = (c_long::from(poll), c_long::from(most), c_long::from(wait));
        syscall(CALLS.2, poll, events, most, wait, none, 8_usize)
    };
    if lives_here && ready == 0 {
        NOW.set(NOW.get() + u64::try_from(timeout).unwrap_or(0) * 1_000_000);
    }
    ready as c_int
}
