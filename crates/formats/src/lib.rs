//! Disk images of users are hostile until checked here.
//!
//! [`inspect`] are pure functions over bytes: what the data really are, and whether they would make QEMU open another
//! file. [`qemu`] runs `qemu-img` on what has passed them, with the format named, under limits of memory, time and file
//! size.

pub mod inspect;
pub mod qemu;
