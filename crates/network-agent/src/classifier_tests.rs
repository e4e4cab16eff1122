use super::*;

/// A frame before and after a program: its tag (protocol as it stands in the frame, number with
/// its other bits), and where it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    tag: Option<([u8; 2], u32)>,
    sent_to: Option<u32>,
}

const PLAIN: Frame = Frame {
    tag: None,
    sent_to: None,
};
const SENT: u32 = 7;

fn tagged(number: u32) -> Frame {
    Frame {
        tag: Some(([0x81, 0x00], number)),
        ..PLAIN
    }
}

/// Runs a program as the kernel does: the verdict and the frame. Functions fail where `fails` is.
fn run(program: Program, mut frame: Frame, fails: bool) -> (u32, Frame) {
    let code = program.instructions();
    let mut registers = [0_u32; 11];
    let mut at = 0;
    let protocol = |frame: &Frame| {
        frame
            .tag
            .map(|(protocol, _)| u32::from(u16::from_le_bytes(protocol)))
    };
    loop {
        let now = code[at];
        at += 1;
        let (to, from) = (usize::from(now.to), usize::from(now.from));
        match now.code {
            LOAD_WORD => {
                assert_eq!(from, 1, "only the frame is read");
                registers[to] = match now.offset {
                    TAGGED => u32::from(frame.tag.is_some()),
                    TAG => frame.tag.map_or(0, |(_, number)| number),
                    TAG_PROTOCOL => protocol(&frame).unwrap_or_default(),
                    other => panic!("field {other}"),
                };
            }
            AND => registers[to] &= now.value,
            SET => registers[to] = now.value,
            JUMP_IF_EQUAL | JUMP_IF_OTHER => {
                let equal = registers[to] == now.value;
                if equal == (now.code == JUMP_IF_EQUAL) {
                    at += usize::try_from(now.offset).expect("programs end");
                }
            }
            CALL if fails && now.value != REDIRECT => registers[0] = u32::MAX,
            CALL => {
                registers[0] = 0;
                match now.value {
                    VLAN_POP => frame.tag = None,
                    VLAN_PUSH => {
                        let protocol = u16::try_from(registers[2]).expect("16 bits");
                        frame.tag = Some((protocol.to_le_bytes(), registers[3]));
                    }
                    REDIRECT => {
                        assert_eq!(registers[2], 0, "out of it, not into it");
                        (frame.sent_to, registers[0]) = (Some(registers[1]), SENT);
                    }
                    other => panic!("function {other}"),
                }
                // The kernel refuses to load a program that reads them after a call.
                registers[1..6].fill(0xdead);
            }
            RETURN => return (registers[0], frame),
            other => panic!("instruction {other:#x}"),
        }
    }
}

#[test]
fn what_becomes_of_frames() {
    let pop = Program::Pop { vlan: 42, to: 17 };
    let push = Program::Push { vlan: 42, to: 9 };
    let out = |frame: Frame, to| Frame {
        sent_to: Some(to),
        ..frame
    };
    let service_tag = Frame {
        tag: Some(([0x88, 0xa8], 42)),
        ..PLAIN
    };
    for (program, frame, verdict, after) in [
        (pop, tagged(42), SENT, out(PLAIN, 17)),
        // With a priority.
        (pop, tagged(0xe000 | 42), SENT, out(PLAIN, 17)),
        (pop, tagged(43), NEXT, tagged(43)),
        (pop, tagged(0x100 | 42), NEXT, tagged(0x100 | 42)),
        (pop, PLAIN, NEXT, PLAIN),
        (pop, service_tag, NEXT, service_tag),
        (push, PLAIN, SENT, out(tagged(42), 9)),
    ] {
        assert_eq!(
            run(program, frame, false),
            (verdict, after),
            "{program:?} {frame:?}"
        );
    }
    for (program, frame) in [(pop, tagged(42)), (push, PLAIN)] {
        assert_eq!(run(program, frame, true), (DROP, frame), "{program:?}");
    }
}

#[test]
fn instructions_stand_as_the_kernel_reads_them() {
    let [load, _, _, protocol, ..] = Program::Pop { vlan: 42, to: 17 }.instructions()[..] else {
        panic!("too short")
    };
    // In the words of `llvm-objdump`: r2 = *(u32 *)(r1 + 20); if r2 != 129 goto +9; r0 = -1.
    assert_eq!(bytes(&load), [0x61, 0x12, 20, 0, 0, 0, 0, 0]);
    assert_eq!(bytes(&protocol), [0x55, 0x02, 9, 0, 0x81, 0, 0, 0]);
    assert_eq!(
        bytes(&does(SET, 0, NEXT)),
        [0xb7, 0, 0, 0, 255, 255, 255, 255]
    );
}

#[test]
fn the_object_file_has_the_program_in_its_section() {
    let program = Program::Push { vlan: 42, to: 300 };
    let file = program.object_file();
    let number = |at: usize, size: usize| {
        let bytes = file[at..at + size].iter().rev();
        bytes.fold(0, |sum: usize, byte| sum << 8 | usize::from(*byte))
    };
    assert_eq!((&file[..4], number(18, 2)), (&b"\x7fELF"[..], 247));
    let table = number(40, 8);
    assert_eq!(
        file.len(),
        table + number(60, 2) * HEADER,
        "the table is the end"
    );
    let body = |section: usize| {
        let (at, size) = (
            number(table + section * HEADER + 24, 8),
            number(table + section * HEADER + 32, 8),
        );
        assert_eq!(at % 8, 0);
        &file[at..at + size]
    };
    let names = body(number(62, 2));
    let name = |at: usize| names[at..].split(|byte| *byte == 0).next().expect("a name");
    assert_eq!(
        name(number(table + 3 * HEADER, 4)),
        b"kilonova-push-42-to-300"
    );
    let code: Vec<u8> = program.instructions().iter().flat_map(bytes).collect();
    assert_eq!(body(3), code);
    // The second symbol is a function as long as the section.
    let symbol = &body(2)[SYMBOL..];
    assert_eq!(name(usize::from(symbol[0])), b"kilonova");
    assert_eq!(
        (symbol[4], symbol[6], usize::from(symbol[16])),
        (0x12, 3, code.len())
    );
}
