//! Finds out whether hardware virtualization really runs guests here.
//!
//! The device file, `KVM_CREATE_VM` and even a trivial guest can all work on hosts whose KVM is itself emulated and
//! lacks instructions that every kernel uses. So a small program that needs the real thing runs in 64-bit mode: an
//! atomic 16-byte exchange, then a counted loop, then a port write that says it got there. Both steps are timed.
//!
//! A guest that hangs cannot hang the caller: it runs on a thread of its own, and when the time is up its memory is
//! taken away, which makes the processor leave the guest.

use std::fmt;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kvm {
    /// Guests run on hardware.
    Usable,
    /// They do not, and why.
    Unusable(String),
}

impl Kvm {
    /// Whether guests run on hardware.
    pub fn is_usable(&self) -> bool {
        *self == Self::Usable
    }
}

impl fmt::Display for Kvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usable => f.write_str("usable"),
            Self::Unusable(reason) => write!(f, "unusable: {reason}"),
        }
    }
}

/// Whether the machine has the device.
pub fn is_there() -> bool {
    std::path::Path::new("/dev/kvm").exists()
}

/// Runs the probe; takes milliseconds, at most about a second and a half. Blocks.
pub fn probe() -> Kvm {
    #[cfg(target_arch = "x86_64")]
    {
        match x86::probe() {
            Ok(()) => Kvm::Usable,
            Err(reason) => Kvm::Unusable(reason),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    Kvm::Unusable("there is no probe for this architecture yet".into())
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use rustix::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
    use rustix::fs::{Mode, OFlags, open};
    use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
    use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
    use std::ffi::c_void;
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    // Numbers of KVM's ioctls and exits ("The Definitive KVM API Documentation" in the kernel's documentation).
    const CREATE_VM: Opcode = 0xae01;
    const GET_VCPU_MMAP_SIZE: Opcode = 0xae04;
    const CREATE_VCPU: Opcode = 0xae41;
    const SET_USER_MEMORY_REGION: Opcode = 0x4020_ae46;
    const SET_TSS_ADDR: Opcode = 0xae47;
    const RUN: Opcode = 0xae80;
    const SET_REGS: Opcode = 0x4090_ae82;
    const GET_SREGS: Opcode = 0x8138_ae83;
    const SET_SREGS: Opcode = 0x4138_ae84;
    const EXIT_IO: u32 = 2;
    const EXIT_INTERNAL_ERROR: u32 = 17;
    const PORT: u16 = 0xf1;

    const MEMORY: usize = 4 << 20;
    const CODE_AT: usize = 0x8000;
    const TIME_FOR_EXCHANGE: Duration = Duration::from_millis(500);
    const LOOP_TURNS: u32 = 100_000;
    /// A real processor needs well under a millisecond for the turns.
    const TIME_FOR_LOOP: Duration = Duration::from_millis(50);

    /// A KVM call with its argument as a number or an address.
    struct Call {
        opcode: Opcode,
        argument: *mut c_void,
    }

    // SAFETY: the opcode and the argument given together by the callers below fit each other: a number where KVM takes
    // a number, a pointer to a value of the layout and size encoded in the opcode where it takes a pointer. The output
    // is the plain return value.
    unsafe impl Ioctl for Call {
        type Output = i32;
        const IS_MUTATING: bool = true;

        fn opcode(&self) -> Opcode {
            self.opcode
        }

        fn as_ptr(&mut self) -> *mut c_void {
            self.argument
        }

        unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
            Ok(out)
        }
    }

    fn call_number(
        fd: BorrowedFd<'_>,
        opcode: Opcode,
        number: usize,
        what: &str,
    ) -> Result<i32, String> {
        let call = Call {
            opcode,
            argument: std::ptr::without_provenance_mut(number),
        };
        // SAFETY: used for KVM calls only, whose argument is a number.
        unsafe { ioctl(fd, call) }.map_err(|error| format!("{what}: {error}"))
    }

    fn call_struct<T>(
        fd: BorrowedFd<'_>,
        opcode: Opcode,
        value: &mut T,
        what: &str,
    ) -> Result<i32, String> {
        let call = Call {
            opcode,
            argument: std::ptr::from_mut(value).cast(),
        };
        // SAFETY: each opcode is used with the struct that KVM defines for it; the compile-time assertions below hold
        // their sizes to those encoded in the opcodes, and `value` lives through the call.
        unsafe { ioctl(fd, call) }.map_err(|error| format!("{what}: {error}"))
    }

    fn owned(fd: i32) -> OwnedFd {
        // SAFETY: KVM has just returned this new descriptor to us and nobody else knows it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Segment {
        base: u64,
        limit: u32,
        selector: u16,
        kind: u8,
        present: u8,
        dpl: u8,
        db: u8,
        s: u8,
        l: u8,
        g: u8,
        avl: u8,
        unusable: u8,
        padding: u8,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Table {
        base: u64,
        limit: u16,
        padding: [u16; 3],
    }

    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct SpecialRegisters {
        cs: Segment,
        ds: Segment,
        es: Segment,
        fs: Segment,
        gs: Segment,
        ss: Segment,
        tr: Segment,
        ldt: Segment,
        gdt: Table,
        idt: Table,
        cr0: u64,
        cr2: u64,
        cr3: u64,
        cr4: u64,
        cr8: u64,
        efer: u64,
        apic_base: u64,
        interrupts: [u64; 4],
    }

    /// rax rbx rcx rdx rsi rdi rsp rbp r8..r15 rip rflags.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Registers([u64; 18]);
    const RSP: usize = 6;
    const RIP: usize = 16;
    const RFLAGS: usize = 17;

    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct MemoryRegion {
        slot: u32,
        flags: u32,
        guest_address: u64,
        size: u64,
        host_address: u64,
    }

    const _: () = assert!(size_of::<SpecialRegisters>() == 0x138 && size_of::<Registers>() == 0x90);
    const _: () = assert!(size_of::<MemoryRegion>() == 0x20 && size_of::<Segment>() == 24);

    /// Memory mapped by this module, unmapped when dropped.
    struct Mapping {
        start: *mut c_void,
        length: usize,
    }

    // SAFETY: the mapping is reachable through one `Mapping` only and its raw accesses go through `&self` methods that
    // are used by one thread at a time: set up before the guest runs, read after it stopped.
    unsafe impl Send for Mapping {}
    // SAFETY: as above.
    unsafe impl Sync for Mapping {}

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: start and length are those of the successful mmap; nothing refers to the memory any more.
            unsafe { munmap(self.start, self.length) }.ok();
        }
    }

    impl Mapping {
        fn anonymous(length: usize) -> Result<Self, String> {
            let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
            // SAFETY: a fresh mapping at an address of the kernel's choice touches no other memory.
            let start = unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, flags) };
            start
                .map(|start| Self { start, length })
                .map_err(|error| format!("guest memory: {error}"))
        }

        fn of(fd: BorrowedFd<'_>, length: usize) -> Result<Self, String> {
            let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
            // SAFETY: as above; the descriptor is a vCPU's and the length is what KVM said.
            let start = unsafe { mmap(std::ptr::null_mut(), length, protection, flags, fd, 0) };
            start
                .map(|start| Self { start, length })
                .map_err(|error| format!("vCPU state: {error}"))
        }

        fn write(&self, at: usize, bytes: &[u8]) {
            assert!(at + bytes.len() <= self.length);
            // SAFETY: inside of the mapping by the assertion; the guest does not run while it is set up.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    self.start.cast::<u8>().add(at),
                    bytes.len(),
                )
            };
        }

        fn read<const N: usize>(&self, at: usize) -> [u8; N] {
            assert!(at + N <= self.length);
            // SAFETY: inside of the mapping by the assertion, bytes have no alignment.
            unsafe {
                self.start
                    .cast::<u8>()
                    .add(at)
                    .cast::<[u8; N]>()
                    .read_volatile()
            }
        }
    }

    struct Machine {
        vcpu: OwnedFd,
        run: Mapping,
        vm: OwnedFd,
        memory: Mapping,
    }

    enum Exit {
        Reached,
        Other(String),
    }

    pub fn probe() -> Result<(), String> {
        // mov edi,0x9000; lock cmpxchg16b [rdi]; mov al,'K'; out PORT,al; hlt
        let exchange = [
            0xbf, 0, 0x90, 0, 0, 0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0xb0, b'K', 0xe6, PORT as u8, 0xf4,
        ];
        run_guest(&exchange, TIME_FOR_EXCHANGE, "an atomic 16-byte exchange")?;
        // mov ecx,turns; 1: dec ecx; jnz 1b; mov al,'K'; out PORT,al; hlt
        let [a, b, c, d] = LOOP_TURNS.to_le_bytes();
        let count = [
            0xb9, a, b, c, d, 0xff, 0xc9, 0x75, 0xfc, 0xb0, b'K', 0xe6, PORT as u8, 0xf4,
        ];
        run_guest(&count, TIME_FOR_LOOP, "a loop of 100000 turns")
    }

    fn run_guest(code: &[u8], limit: Duration, what: &str) -> Result<(), String> {
        let machine = Arc::new(Machine::new(code)?);
        let (sender, ended) = mpsc::channel();
        let inside = machine.clone();
        let started = Instant::now();
        std::thread::Builder::new()
            .name("kvm-probe".into())
            .spawn(move || sender.send(inside.run()).ok())
            .map_err(|error| format!("no thread for the probe: {error}"))?;
        let exit = match ended.recv_timeout(limit) {
            Ok(exit) => exit,
            Err(_) => {
                machine.take_memory_away();
                // Whether or not the thread comes back now, the answer is no; the thread owns what it still uses.
                ended.recv_timeout(limit).ok();
                return Err(format!("{what} did not end within {limit:?}"));
            }
        };
        let took = started.elapsed();
        match exit {
            Exit::Reached if took > limit => Err(format!("{what} took {took:?}")),
            Exit::Reached => Ok(()),
            Exit::Other(why) => Err(format!("{what} ended with {why}")),
        }
    }

    impl Machine {
        fn new(code: &[u8]) -> Result<Self, String> {
            let kvm = open("/dev/kvm", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
            let kvm = kvm.map_err(|error| format!("/dev/kvm: {error}"))?;
            let vm = owned(call_number(kvm.as_fd(), CREATE_VM, 0, "KVM_CREATE_VM")?);
            call_number(vm.as_fd(), SET_TSS_ADDR, 0xfffb_d000, "KVM_SET_TSS_ADDR")?;
            let memory = Mapping::anonymous(MEMORY)?;
            write_page_tables(&memory);
            memory.write(CODE_AT, code);
            let mut region = MemoryRegion {
                size: MEMORY as u64,
                host_address: memory.start.addr() as u64,
                ..MemoryRegion::default()
            };
            call_struct(
                vm.as_fd(),
                SET_USER_MEMORY_REGION,
                &mut region,
                "KVM_SET_USER_MEMORY_REGION",
            )?;
            let vcpu = owned(call_number(vm.as_fd(), CREATE_VCPU, 0, "KVM_CREATE_VCPU")?);
            let size = call_number(kvm.as_fd(), GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE")?;
            let run = Mapping::of(vcpu.as_fd(), usize::try_from(size).unwrap_or(0).max(4096))?;
            enter_long_mode(vcpu.as_fd())?;
            Ok(Self {
                vcpu,
                run,
                vm,
                memory,
            })
        }

        /// `kvm_run`: the exit's reason at 8; for a port access its number at 34; for an internal error its
        /// sub-number at 32.
        fn run(&self) -> Exit {
            if let Err(error) = call_number(self.vcpu.as_fd(), RUN, 0, "KVM_RUN") {
                return Exit::Other(error);
            }
            let reason = u32::from_ne_bytes(self.run.read(8));
            match reason {
                EXIT_IO if u16::from_ne_bytes(self.run.read(34)) == PORT => Exit::Reached,
                EXIT_INTERNAL_ERROR => {
                    let detail = u32::from_ne_bytes(self.run.read(32));
                    Exit::Other(format!("a KVM internal error (suberror {detail})"))
                }
                _ => Exit::Other(format!("exit reason {reason}")),
            }
        }

        /// Removes the guest's only memory slot: the next instruction cannot be fetched and the processor leaves.
        fn take_memory_away(&self) {
            let mut region = MemoryRegion {
                host_address: self.memory.start.addr() as u64,
                ..MemoryRegion::default()
            };
            call_struct(
                self.vm.as_fd(),
                SET_USER_MEMORY_REGION,
                &mut region,
                "removing the memory",
            )
            .ok();
        }
    }

    /// Identity mapping of the first 4 MiB by two large pages.
    fn write_page_tables(memory: &Mapping) {
        for (at, entry) in [
            (0x1000, 0x2003u64),
            (0x2000, 0x3003),
            (0x3000, 0x83),
            (0x3008, 0x20_0083),
        ] {
            memory.write(at, &entry.to_le_bytes());
        }
    }

    fn enter_long_mode(vcpu: BorrowedFd<'_>) -> Result<(), String> {
        let mut special = SpecialRegisters::default();
        call_struct(vcpu, GET_SREGS, &mut special, "KVM_GET_SREGS")?;
        special.cr3 = 0x1000;
        special.cr4 = 0x20; // physical address extension
        special.cr0 = 0x8005_0033; // paging and protection
        special.efer = 0x500; // long mode enabled and active
        let code = Segment {
            limit: 0xffff_ffff,
            selector: 8,
            present: 1,
            kind: 11,
            s: 1,
            l: 1,
            g: 1,
            ..Segment::default()
        };
        let data = Segment {
            kind: 3,
            selector: 16,
            l: 0,
            db: 1,
            ..code
        };
        special.cs = code;
        for segment in [
            &mut special.ds,
            &mut special.es,
            &mut special.fs,
            &mut special.gs,
            &mut special.ss,
        ] {
            *segment = data;
        }
        call_struct(vcpu, SET_SREGS, &mut special, "KVM_SET_SREGS")?;
        let mut registers = Registers::default();
        registers.0[RIP] = CODE_AT as u64;
        registers.0[RSP] = 0x7000;
        registers.0[RFLAGS] = 2;
        call_struct(vcpu, SET_REGS, &mut registers, "KVM_SET_REGS").map(drop)
    }

    #[cfg(test)]
    mod tests {
        #![allow(clippy::unwrap_used)]
        use super::*;

        #[test]
        fn a_guest_that_never_ends_is_stopped() {
            // jmp $
            let Err(reason) =
                run_guest(&[0xeb, 0xfe], Duration::from_millis(50), "a jump to itself")
            else {
                panic!("an endless guest ended well");
            };
            assert!(!reason.is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_gives_the_same_answer_twice() {
        // A machine that stands still for a moment makes a probe end too late.
        let agree = (0..5).any(|_| {
            let (first, second) = (probe(), probe());
            println!("KVM is {first}; {second}");
            first.is_usable() == second.is_usable()
        });
        assert!(agree);
    }
}
