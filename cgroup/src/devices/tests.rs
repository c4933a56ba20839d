use oci_spec::runtime::LinuxDeviceCgroupBuilder;

use super::program::{Instruction, code};
use super::*;

fn rule(allow: bool, kind: LinuxDeviceType, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
    LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(kind)
        .major(major)
        .minor(minor)
        .access(access.to_owned())
        .build()
        .unwrap()
}

const C: LinuxDeviceType = LinuxDeviceType::C;
const B: LinuxDeviceType = LinuxDeviceType::B;
const A: LinuxDeviceType = LinuxDeviceType::A;

/// Runs a program as the kernel does, for one request.
fn interpret(program: &[Instruction], kind: Kind, major: u32, minor: u32, wanted: Permissions) -> bool {
    let kind = match kind {
        Kind::Block => 1,
        Kind::Char => 2,
    };
    let context = [u32::from(wanted.bits()) << 16 | kind, major, minor];
    let mut registers = [0_u64; 11];
    let mut at = 0;
    loop {
        let Instruction { code, registers: pair, offset, immediate } = program[at];
        let (dst, src) = (usize::from(pair & 15), usize::from(pair >> 4));
        at += 1;
        match code {
            code::LOAD_WORD => registers[dst] = context[offset as usize / 4].into(),
            code::MOVE_REGISTER => registers[dst] = registers[src],
            code::MOVE => registers[dst] = u64::from(immediate as u32),
            code::AND => registers[dst] &= u64::from(immediate as u32),
            code::SHIFT_RIGHT => registers[dst] >>= immediate,
            code::JUMP_UNEQUAL if registers[dst] != immediate as i64 as u64 => at += offset as usize,
            code::JUMP_EQUAL if registers[dst] == immediate as i64 as u64 => at += offset as usize,
            code::JUMP_UNEQUAL | code::JUMP_EQUAL => {}
            code::EXIT => return registers[0] == 1,
            _ => panic!("unknown instruction {code:#x}"),
        }
    }
}

/// What the rules say, straight from runtime-spec: entries apply in order, so for each permission the last decides.
fn expected(rules: &[Rule], kind: Kind, major: u32, minor: u32, wanted: Permissions) -> bool {
    [Permissions::MKNOD, Permissions::READ, Permissions::WRITE]
        .into_iter()
        .filter(|one| one.bits() & wanted.bits() != 0)
        .all(|one| {
            let last = rules.iter().rev().find_map(|rule| match rule {
                Rule::Every(access) => Some(*access),
                Rule::Some(access, devices, permissions) => {
                    let this = Devices { kind, major: Some(major), minor: Some(minor) };
                    (devices.covers(&this) && permissions.bits() & one.bits() != 0).then_some(*access)
                }
            });
            last == Some(Access::Allow)
        })
}

fn sets() -> Vec<Vec<LinuxDeviceCgroup>> {
    vec![
        vec![],
        vec![rule(false, A, -1, -1, "rwm")],
        vec![rule(true, A, -1, -1, "rwm")],
        // Docker's privileged mode with a device taken away
        vec![rule(true, A, -1, -1, "rwm"), rule(false, B, 8, -1, "w")],
        vec![rule(false, A, -1, -1, "rwm"), rule(true, C, 10, 200, "rwm"), rule(true, B, 8, -1, "r")],
        vec![rule(true, C, -1, -1, "rw"), rule(false, C, 10, 229, "r"), rule(true, C, 10, 229, "w")],
        vec![rule(true, B, 8, 1, "r"), rule(true, A, 0, 0, ""), rule(false, C, 1, 11, "rw")],
    ]
}

#[test]
fn the_program_decides_as_the_rules_read() {
    for listed in sets() {
        let rules = rules(&listed).unwrap();
        let program = program::build(&rules);
        for kind in [Kind::Block, Kind::Char] {
            for (major, minor) in [(1, 3), (1, 11), (8, 0), (8, 1), (10, 200), (10, 229), (136, 7), (250, 0)]
            {
                for bits in 1..=7 {
                    let wanted = Permissions(bits);
                    assert_eq!(
                        interpret(&program, kind, major, minor, wanted),
                        expected(&rules, kind, major, minor, wanted),
                        "{listed:?}: {kind:?} {major}:{minor} {wanted}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_kernels_verifier_accepts_every_program() {
    let many: Vec<_> = (0..500).map(|minor| rule(minor % 3 != 0, C, 10, minor, "rw")).collect();
    for listed in sets().into_iter().chain([many]) {
        sys::load(&program::build(&rules(&listed).unwrap())).unwrap();
    }
}

#[test]
fn the_v1_table_takes_the_shortest_way_to_the_rules() {
    let table = Table::build(&[rule(false, A, -1, -1, "rwm"), rule(true, C, 10, 200, "rw")]).unwrap();
    let steps = table.steps_from(None);
    assert_eq!(steps[0], (Access::Deny, "a".to_owned()));
    assert!(steps.contains(&(Access::Allow, "c 10:200 rw".to_owned())), "{steps:?}");
    assert!(steps.contains(&(Access::Allow, "c 136:* rwm".to_owned())), "{steps:?}");
    let list: Vec<_> = steps[1..].iter().map(|(_, line)| line.as_str()).collect();
    let parsed = Table::parse(&list.join("\n"));
    assert_eq!(parsed, table);
    let wider = Table::build(&[rule(true, C, 10, 200, "r"), rule(true, B, 7, -1, "m")]).unwrap();
    assert_eq!(
        wider.steps_from(Some(&parsed)),
        [(Access::Allow, "b 7:* m".to_owned()), (Access::Deny, "c 10:200 w".to_owned())]
    );
}

#[test]
fn a_hole_that_v1_cannot_punch_is_an_error() {
    let error = Table::build(&[rule(true, C, -1, -1, "rwm"), rule(false, C, 10, 229, "rw")]).unwrap_err();
    assert!(error.to_string().contains("c 10:229 rw"), "{error}");
    Table::build(&[rule(true, C, 10, 229, "rwm"), rule(false, C, -1, -1, "w")]).unwrap();
}

#[test]
fn malformed_rules_are_named() {
    for (bad, field) in [
        (rule(true, LinuxDeviceType::P, 1, 1, "r"), "devices[0].type"),
        (rule(true, C, -2, 1, "r"), "devices[0].major"),
        (rule(true, C, 1, 1 << 33, "r"), "devices[0].minor"),
        (rule(true, C, 1, 1, "x"), "devices[0].access"),
    ] {
        let error = rules(&[bad]).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}
