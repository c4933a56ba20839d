//! Device rules as an eBPF program of type BPF_PROG_TYPE_CGROUP_DEVICE: cgroup v2 has no device controller.
//!
//! The kernel runs it whenever a process of the cgroup opens or makes a device node; it returns 1 to allow and 0 to deny.

use super::{Access, Kind, Rule};

/// One instruction, laid out as the kernel's `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    pub code: u8,
    /// Destination register in the low four bits, source in the high ones.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// Operation codes (linux/bpf.h, linux/bpf_common.h).
pub(super) mod code {
    /// `dst = *(u32 *)(src + offset)`
    pub const LOAD_WORD: u8 = 0x61;
    /// `dst = src`, 32 bits
    pub const MOVE_REGISTER: u8 = 0xbc;
    /// `dst = immediate`, 32 bits
    pub const MOVE: u8 = 0xb4;
    /// `dst &= immediate`, 32 bits
    pub const AND: u8 = 0x54;
    /// `dst >>= immediate`, 32 bits
    pub const SHIFT_RIGHT: u8 = 0x74;
    /// jump if `dst != immediate`
    pub const JUMP_UNEQUAL: u8 = 0x55;
    /// jump if `dst == immediate`
    pub const JUMP_EQUAL: u8 = 0x15;
    /// return r0
    pub const EXIT: u8 = 0x95;
}

/// Result, and at the start the context: `struct bpf_cgroup_dev_ctx { u32 access_type, major, minor; }`.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
/// The request, taken apart.
const KIND: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

fn op(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: dst | src << 4, offset, immediate }
}

/// The program for checked rules. The last rule that speaks of a device and a permission decides, so rules are tested
/// from the last to the first; what one allows is taken off the request, which is granted once nothing is left of it.
pub(crate) fn build(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        op(code::LOAD_WORD, KIND, CONTEXT, 0, 0),
        op(code::MOVE_REGISTER, WANTED, KIND, 0, 0),
        op(code::SHIFT_RIGHT, WANTED, 0, 0, 16),
        op(code::AND, KIND, 0, 0, 0xffff),
        op(code::LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        op(code::LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        match rule {
            Rule::Every(access) => {
                program.extend(answer(*access));
                return program;
            }
            Rule::Some(access, devices, permissions) => {
                let bits = i32::from(permissions.bits());
                let verdict = match access {
                    Access::Allow => {
                        vec![op(code::AND, WANTED, 0, 0, !bits), op(code::JUMP_UNEQUAL, WANTED, 0, 2, 0)]
                    }
                    Access::Deny => vec![
                        op(code::MOVE_REGISTER, SCRATCH, WANTED, 0, 0),
                        op(code::AND, SCRATCH, 0, 0, bits),
                        op(code::JUMP_EQUAL, SCRATCH, 0, 2, 0),
                    ],
                };
                let kind = match devices.kind {
                    Kind::Block => 1,
                    Kind::Char => 2,
                };
                // A number above i32::MAX would be extended with its sign and match nothing, as it should: device
                // numbers have 12 and 20 bits.
                let mut tests = vec![(KIND, kind)];
                tests.extend(devices.major.map(|major| (MAJOR, major as i32)));
                tests.extend(devices.minor.map(|minor| (MINOR, minor as i32)));
                let mut rest = (tests.len() + verdict.len() + 2) as i16;
                for (register, value) in tests {
                    rest -= 1;
                    program.push(op(code::JUMP_UNEQUAL, register, 0, rest, value));
                }
                program.extend(verdict);
                program.extend(answer(*access));
            }
        }
    }
    program.extend(answer(Access::Deny));
    program
}

fn answer(access: Access) -> [Instruction; 2] {
    let value = match access {
        Access::Allow => 1,
        Access::Deny => 0,
    };
    [op(code::MOVE, RESULT, 0, 0, value), op(code::EXIT, 0, 0, 0, 0)]
}
