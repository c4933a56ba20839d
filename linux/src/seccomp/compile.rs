//! From a profile to BPF, through libseccomp.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use libseccomp::error::SeccompError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall, ScmpVersion,
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use rkvm_oci::{Error, Result};

use super::prologue;

/// Most instructions that the kernel takes (BPF_MAXINSNS).
const MAX_INSTRUCTIONS: usize = 4096;

/// Compiles a profile. The program is libseccomp's, behind a [prologue].
pub(super) fn compile(profile: &LinuxSeccomp) -> Result<Vec<libc::sock_filter>> {
    let default = action(profile.default_action(), profile.default_errno_ret(), "defaultErrnoRet")?;
    let mut context =
        ScmpFilterContext::new(default).map_err(|error| failed("linux.seccomp.defaultAction", error))?;
    let mut arches = vec![ScmpArch::native()];
    for (index, arch) in profile.architectures().iter().flatten().enumerate() {
        let arch = architecture(*arch);
        let added = context
            .add_arch(arch)
            .map(|_| ())
            .map_err(|error| failed(format!("linux.seccomp.architectures[{index}]"), error));
        added?;
        let arch = if arch == ScmpArch::Native { ScmpArch::native() } else { arch };
        if !arches.contains(&arch) {
            arches.push(arch);
        }
    }
    // A binary tree instead of a list: fewer steps per call, and the kernel walks the program once for every call number
    // when it loads it.
    context.set_ctl_optimize(2).map_err(|error| failed("linux.seccomp", error))?;
    let mut recent = BTreeMap::new();
    for (index, rule) in profile.syscalls().iter().flatten().enumerate() {
        let field = format!("linux.seccomp.syscalls[{index}]");
        let action = action(rule.action(), rule.errno_ret(), &format!("syscalls[{index}].errnoRet"))?;
        // libseccomp refuses rules that only repeat the default.
        if action == default {
            continue;
        }
        let rules = conditions(rule, &field)?;
        for name in rule.names() {
            match ScmpSyscall::from_name(name) {
                Ok(syscall) => add(&mut context, syscall, action, &rules)
                    .map_err(|error| failed(format!("{field} ({name})"), error))?,
                Err(_) => {
                    // Numbers above libseccomp's own: without conditions the prologue decides them.
                    if let (Some(number), [only]) = (prologue::recent_number(name), &rules[..])
                        && only.is_empty()
                    {
                        recent.insert(number, rule.action().as_u32(rule.errno_ret()));
                    }
                }
            }
        }
    }
    let mut program = prologue::build(profile, default, &arches, &recent)?;
    program.extend(export(&context)?);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::unsupported(
            "linux.seccomp",
            format!(
                "the profile needs {} instructions, and the kernel takes {MAX_INSTRUCTIONS}",
                program.len()
            ),
        ));
    }
    Ok(program)
}

fn failed(field: impl ToString, error: SeccompError) -> Error {
    Error::invalid_spec(field, format!("libseccomp refuses it: {error}"))
}

fn add(
    context: &mut ScmpFilterContext,
    syscall: ScmpSyscall,
    action: ScmpAction,
    rules: &[Vec<ScmpArgCompare>],
) -> Result<(), SeccompError> {
    for conditions in rules {
        if conditions.is_empty() {
            context.add_rule(action, syscall)?;
        } else {
            context.add_rule_conditional(action, syscall, conditions)?;
        }
    }
    Ok(())
}

/// The conditions of a rule: each inner list is one libseccomp rule whose conditions must all hold. Conditions on the
/// same argument are alternatives, which is how runc reads them and profiles rely on it.
fn conditions(rule: &LinuxSyscall, field: &str) -> Result<Vec<Vec<ScmpArgCompare>>> {
    let mut all = vec![];
    let mut seen = [false; 6];
    let mut repeated = false;
    for (index, arg) in rule.args().iter().flatten().enumerate() {
        let Some(seen) = seen.get_mut(arg.index()) else {
            return Err(Error::invalid_spec(
                format!("{field}.args[{index}].index"),
                format!("{}; a system call has arguments 0 to 5", arg.index()),
            ));
        };
        repeated |= std::mem::replace(seen, true);
        all.push(condition(arg));
    }
    Ok(if repeated { all.into_iter().map(|one| vec![one]).collect() } else { vec![all] })
}

fn condition(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    // `index` is at most 5 here.
    let index = arg.index() as u32;
    let (op, datum) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0))
        }
    };
    ScmpArgCompare::new(index, op, datum)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>, field: &str) -> Result<ScmpAction> {
    let value = match errno {
        // The kernel cuts larger numbers to this one (MAX_ERRNO).
        Some(value) if value > 4095 => {
            return Err(Error::invalid_spec(
                format!("linux.seccomp.{field}"),
                format!("{value}; 0 to 4095 are error numbers"),
            ));
        }
        Some(value) => value as u16,
        None => libc::EPERM as u16,
    };
    let plain = match action {
        LinuxSeccompAction::ScmpActErrno => return Ok(ScmpAction::Errno(value.into())),
        LinuxSeccompAction::ScmpActTrace => return Ok(ScmpAction::Trace(value)),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
    };
    if errno.is_some() {
        // runtime-spec, config-linux.md: "the runtime MUST print an error and return".
        let reason = format!("set, and {action} returns no error number");
        return Err(Error::invalid_spec(format!("linux.seccomp.{field}"), reason));
    }
    Ok(plain)
}

fn architecture(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

/// libseccomp writes programs to descriptors only (to memory from 2.6 on).
fn export(context: &ScmpFilterContext) -> Result<Vec<libc::sock_filter>> {
    let io = |source: std::io::Error| Error::failed("export", "the seccomp filter", source);
    let fd = memfd_create("seccomp", MFdFlags::MFD_CLOEXEC).map_err(|errno| io(errno.into()))?;
    context.export_bpf(&fd).map_err(|error| failed("linux.seccomp", error))?;
    let mut file = std::fs::File::from(fd);
    let mut bytes = vec![];
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(io)?;
    Ok(decode(&bytes))
}

/// Instructions from their 8 bytes each, in the machine's byte order.
pub(super) fn decode(bytes: &[u8]) -> Vec<libc::sock_filter> {
    let (instructions, _) = bytes.as_chunks::<8>();
    instructions
        .iter()
        .map(|[c0, c1, jt, jf, k0, k1, k2, k3]| libc::sock_filter {
            code: u16::from_ne_bytes([*c0, *c1]),
            jt: *jt,
            jf: *jf,
            k: u32::from_ne_bytes([*k0, *k1, *k2, *k3]),
        })
        .collect()
}

/// libseccomp's version, `2.5.4`.
pub fn library_version() -> String {
    ScmpVersion::current().map_or_else(
        |_| "unknown".into(),
        |version| format!("{}.{}.{}", version.major, version.minor, version.micro),
    )
}

/// Actions that profiles may use, for `features`.
pub fn actions() -> Vec<LinuxSeccompAction> {
    use LinuxSeccompAction::{
        ScmpActAllow, ScmpActErrno, ScmpActKill, ScmpActKillProcess, ScmpActKillThread, ScmpActLog,
        ScmpActNotify, ScmpActTrace, ScmpActTrap,
    };
    vec![
        ScmpActAllow,
        ScmpActErrno,
        ScmpActKill,
        ScmpActKillProcess,
        ScmpActKillThread,
        ScmpActLog,
        ScmpActNotify,
        ScmpActTrace,
        ScmpActTrap,
    ]
}

/// Comparison operators that profiles may use, for `features`.
pub fn operators() -> Vec<LinuxSeccompOperator> {
    use LinuxSeccompOperator::{
        ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpLe, ScmpCmpLt, ScmpCmpMaskedEq, ScmpCmpNe,
    };
    vec![ScmpCmpEq, ScmpCmpGe, ScmpCmpGt, ScmpCmpLe, ScmpCmpLt, ScmpCmpMaskedEq, ScmpCmpNe]
}

/// Architectures of this build's libseccomp that profiles may name, for `features`.
pub fn architectures() -> Vec<Arch> {
    let known = [
        Arch::ScmpArchX86,
        Arch::ScmpArchX86_64,
        Arch::ScmpArchX32,
        Arch::ScmpArchArm,
        Arch::ScmpArchAarch64,
        Arch::ScmpArchMips,
        Arch::ScmpArchMips64,
        Arch::ScmpArchMips64n32,
        Arch::ScmpArchMipsel,
        Arch::ScmpArchMipsel64,
        Arch::ScmpArchMipsel64n32,
        Arch::ScmpArchPpc,
        Arch::ScmpArchPpc64,
        Arch::ScmpArchPpc64le,
        Arch::ScmpArchS390,
        Arch::ScmpArchS390x,
        Arch::ScmpArchParisc,
        Arch::ScmpArchParisc64,
        Arch::ScmpArchRiscv64,
        Arch::ScmpArchLoongarch64,
        Arch::ScmpArchM68k,
        Arch::ScmpArchSh,
        Arch::ScmpArchSheb,
    ];
    known
        .into_iter()
        .filter(|arch| ScmpSyscall::from_name_by_arch("read", architecture(*arch)).is_ok())
        .collect()
}
