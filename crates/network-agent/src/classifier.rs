//! Programs for the kernel's packet classifier (eBPF, see `tc-bpf(8)`) that do what a VLAN link does. Pure.
//!
//! They are a dozen instructions with a VLAN's number and an interface's index in them, so they
//! are put together here; no compiler is needed, neither when Kilonova is built nor on the host.

/// What a program does with each frame that comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Takes the tag off frames of one VLAN and sends them out of an interface; others go on.
    Pop {
        /// The VLAN's number.
        vlan: u16,
        /// Index of the interface.
        to: u32,
    },
    /// Puts the tag of a VLAN on and sends all frames out of an interface.
    Push {
        /// The VLAN's number.
        vlan: u16,
        /// Index of the interface.
        to: u32,
    },
}

/// An instruction as `linux/bpf.h` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    to: u8,
    from: u8,
    offset: i16,
    value: u32,
}

// Instructions.
const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x57;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_OTHER: u8 = 0x55;
const CALL: u8 = 0x85;
const RETURN: u8 = 0x95;
const SET: u8 = 0xb7;

// Functions of the kernel.
const VLAN_PUSH: u32 = 18;
const VLAN_POP: u32 = 19;
const REDIRECT: u32 = 23;

// Fields of `struct __sk_buff`. The kernel has taken the tag out of the frame before any program
// sees it, with and without 8021q.
const TAGGED: i16 = 20;
const TAG: i16 = 24;
const TAG_PROTOCOL: i16 = 28;

/// The protocol of VLANs, 0x8100, as it stands in a frame.
const DOT1Q: u32 = u16::from_le_bytes([0x81, 0x00]) as u32;
/// A tag is the VLAN's number and four other bits.
const NUMBER: u32 = 0xfff;

/// Verdicts: the next program decides; away with it.
const NEXT: u32 = u32::MAX;
const DROP: u32 = 2;

const fn does(code: u8, to: u8, value: u32) -> Instruction {
    Instruction {
        code,
        to,
        from: 0,
        offset: 0,
        value,
    }
}

/// Loads a field of the frame in register 1.
const fn load(to: u8, offset: i16) -> Instruction {
    Instruction {
        from: 1,
        offset,
        ..does(LOAD_WORD, to, 0)
    }
}

/// Compares a register and goes on so many instructions further.
const fn jump(code: u8, register: u8, value: u32, over: i16) -> Instruction {
    Instruction {
        offset: over,
        ..does(code, register, value)
    }
}

impl Program {
    /// Says all that is in the program: equal names are equal programs.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Pop { vlan, to } => format!("{OURS}pop-{vlan}-to-{to}"),
            Self::Push { vlan, to } => format!("{OURS}push-{vlan}-to-{to}"),
        }
    }

    fn instructions(&self) -> Vec<Instruction> {
        match *self {
            Self::Pop { vlan, to } => vec![
                load(2, TAGGED),
                jump(JUMP_IF_EQUAL, 2, 0, 11),
                load(2, TAG_PROTOCOL),
                jump(JUMP_IF_OTHER, 2, DOT1Q, 9),
                load(2, TAG),
                does(AND, 2, NUMBER),
                jump(JUMP_IF_OTHER, 2, vlan.into(), 6),
                does(CALL, 0, VLAN_POP),
                jump(JUMP_IF_OTHER, 0, 0, 6),
                does(SET, 1, to),
                does(SET, 2, 0),
                does(CALL, 0, REDIRECT),
                does(RETURN, 0, 0),
                does(SET, 0, NEXT),
                does(RETURN, 0, 0),
                does(SET, 0, DROP),
                does(RETURN, 0, 0),
            ],
            Self::Push { vlan, to } => vec![
                does(SET, 2, DOT1Q),
                does(SET, 3, vlan.into()),
                does(CALL, 0, VLAN_PUSH),
                jump(JUMP_IF_OTHER, 0, 0, 4),
                does(SET, 1, to),
                does(SET, 2, 0),
                does(CALL, 0, REDIRECT),
                does(RETURN, 0, 0),
                does(SET, 0, DROP),
                does(RETURN, 0, 0),
            ],
        }
    }

    /// The program as an object file, which `tc` takes: one section of this name.
    #[must_use]
    pub fn object_file(&self) -> Vec<u8> {
        let code: Vec<u8> = self.instructions().iter().flat_map(bytes).collect();
        object_file(&self.name(), &code)
    }
}

/// What the names of all programs begin with.
pub const OURS: &str = "kilonova-";

fn bytes(instruction: &Instruction) -> [u8; 8] {
    let [a, b] = instruction.offset.to_le_bytes();
    let [c, d, e, f] = instruction.value.to_le_bytes();
    let registers = instruction.to | instruction.from << 4;
    [instruction.code, registers, a, b, c, d, e, f]
}

const HEADER: usize = 64;
const SYMBOL: usize = 24;

/// A section of an object file.
struct Section<'a> {
    /// Where its name begins among the names.
    name: usize,
    kind: u32,
    flags: u64,
    body: &'a [u8],
    /// Names of symbols stand in this section, and this many symbols are local.
    link: u32,
    local: u32,
    entry: usize,
}

/// The least that is an ELF object for the kernel's machine: names, symbols (one: the program, a
/// function) and its code. `elf(5)` has the layout; hosts are little-endian.
fn object_file(name: &str, code: &[u8]) -> Vec<u8> {
    const RELOCATABLE: u16 = 1;
    const MACHINE_BPF: u16 = 247;
    const VERSION: u32 = 1;
    const GLOBAL_FUNCTION: u8 = 0x12;
    const PROGRAM: u32 = 1;
    const SYMBOLS: u32 = 2;
    const NAMES: u32 = 3;
    const LOADED_CODE: u64 = 6;

    // The kernel takes no hyphens in the name of a function.
    let names = format!("\0.strtab\0.symtab\0kilonova\0{name}\0");
    let own_name = names.len() - name.len() - 1;
    let mut symbols = vec![0; SYMBOL];
    symbols.extend(le32(17));
    symbols.extend([GLOBAL_FUNCTION, 0]);
    symbols.extend(3_u16.to_le_bytes());
    symbols.extend(le64(0));
    symbols.extend(le64(code.len()));
    let section = |name, kind, body| Section {
        name,
        kind,
        flags: 0,
        body,
        link: 0,
        local: 0,
        entry: 0,
    };
    let sections = [
        section(1, NAMES, names.as_bytes()),
        Section {
            link: 1,
            local: 1,
            entry: SYMBOL,
            ..section(9, SYMBOLS, &symbols)
        },
        Section {
            flags: LOADED_CODE,
            ..section(own_name, PROGRAM, code)
        },
    ];

    let mut bodies = Vec::new();
    // The first section is none.
    let mut table = vec![0; HEADER];
    for section in &sections {
        bodies.resize(bodies.len().next_multiple_of(8), 0);
        table.extend(le32(section.name));
        table.extend(section.kind.to_le_bytes());
        table.extend(section.flags.to_le_bytes());
        table.extend(le64(0));
        table.extend(le64(HEADER + bodies.len()));
        table.extend(le64(section.body.len()));
        table.extend(section.link.to_le_bytes());
        table.extend(section.local.to_le_bytes());
        table.extend(le64(8));
        table.extend(le64(section.entry));
        bodies.extend(section.body);
    }
    bodies.resize(bodies.len().next_multiple_of(8), 0);

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend(RELOCATABLE.to_le_bytes());
    file.extend(MACHINE_BPF.to_le_bytes());
    file.extend(VERSION.to_le_bytes());
    file.extend(le64(0));
    file.extend(le64(0));
    file.extend(le64(HEADER + bodies.len()));
    file.extend(le32(0));
    for half in [64_u16, 0, 0, 64, 4, 1] {
        file.extend(half.to_le_bytes());
    }
    file.extend(bodies);
    file.extend(table);
    file
}

fn le64(number: usize) -> [u8; 8] {
    (number as u64).to_le_bytes()
}

fn le32(number: usize) -> [u8; 4] {
    let [a, b, c, d, ..] = le64(number);
    [a, b, c, d]
}

#[cfg(test)]
#[path = "classifier_tests.rs"]
mod tests;
