//! `linux.resources.devices`: which device nodes the processes may open and make.
//!
//! Both hierarchies are given the same rules; v1 takes them as lines ([`Table`]), v2 as an eBPF program
//! ([`program`]).

pub(super) mod program;
mod sys;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rkvm_oci::{Error, Result};

/// Whether a rule gives or takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Allow,
    Deny,
}

/// Block or character devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Block,
    Char,
}

/// A set of `m` (mknod), `r` and `w`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Permissions(u8);

impl Permissions {
    pub const MKNOD: Self = Self(1);
    pub const READ: Self = Self(2);
    pub const WRITE: Self = Self(4);
    pub const ALL: Self = Self(7);

    fn parse(text: &str) -> Option<Self> {
        text.chars().try_fold(Self(0), |all, c| {
            let one = match c {
                'm' => Self::MKNOD,
                'r' => Self::READ,
                'w' => Self::WRITE,
                _ => return None,
            };
            Some(Self(all.0 | one.0))
        })
    }

    /// Bits in the order of the kernel's `BPF_DEVCG_ACC_*`: mknod 1, read 2, write 4.
    pub fn bits(self) -> u8 {
        self.0
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MKNOD, 'm')] {
            if self.0 & bit.0 != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// The devices that a rule speaks of; `None` stands for every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Devices {
    pub kind: Kind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
}

impl Devices {
    /// Whether every device of `other` is one of these.
    fn covers(&self, other: &Self) -> bool {
        self.kind == other.kind
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
    }
}

/// One checked rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Type `a`: every device, whatever came before (the kernel ignores the rest of such a rule).
    Every(Access),
    /// Some devices.
    Some(Access, Devices, Permissions),
}

/// What every container may use, after its own rules (runc's list): making any node, and the harmless devices that
/// runtime-spec promises, with terminals.
fn defaults() -> impl Iterator<Item = Rule> {
    let any = |kind| (Devices { kind, major: None, minor: None }, Permissions::MKNOD);
    let char = |major, minor| (Devices { kind: Kind::Char, major: Some(major), minor }, Permissions::ALL);
    [
        any(Kind::Char),
        any(Kind::Block),
        // null, zero, full, random, urandom
        char(1, Some(3)),
        char(1, Some(5)),
        char(1, Some(7)),
        char(1, Some(8)),
        char(1, Some(9)),
        // tty, ptmx, pts/*
        char(5, Some(0)),
        char(5, Some(2)),
        char(136, None),
    ]
    .into_iter()
    .map(|(devices, permissions)| Rule::Some(Access::Allow, devices, permissions))
}

/// Checks the rules of config.json and puts the defaults behind them. Everything is denied before the first rule.
///
/// # Errors
/// A rule has a type, number or access that there is not.
pub(super) fn rules(listed: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let mut rules = vec![Rule::Every(Access::Deny)];
    for (index, rule) in listed.iter().enumerate() {
        rules.push(check(rule, index)?);
    }
    // What comes before the last rule for every device has no effect.
    let last = rules.iter().rposition(|rule| matches!(rule, Rule::Every(_))).unwrap_or(0);
    rules.drain(..last);
    rules.extend(defaults());
    Ok(rules)
}

fn check(rule: &LinuxDeviceCgroup, index: usize) -> Result<Rule> {
    let invalid = |field: &str, reason: String| {
        Err(Error::invalid_spec(format!("linux.resources.devices[{index}].{field}"), reason))
    };
    let access = if rule.allow() { Access::Allow } else { Access::Deny };
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => return Ok(Rule::Every(access)),
        LinuxDeviceType::B => Kind::Block,
        LinuxDeviceType::C | LinuxDeviceType::U => Kind::Char,
        LinuxDeviceType::P => return invalid("type", "p (a FIFO); rules exist for a, b and c".into()),
    };
    let mut numbers = [None; 2];
    for (slot, (field, number)) in numbers.iter_mut().zip([("major", rule.major()), ("minor", rule.minor())])
    {
        *slot = match number {
            None | Some(-1) => None,
            Some(number) => match u32::try_from(number) {
                Ok(number) => Some(number),
                Err(_) => return invalid(field, format!("{number}; 0 to {} are possible", u32::MAX)),
            },
        };
    }
    let text = rule.access().as_deref().unwrap_or_default();
    let Some(permissions) = Permissions::parse(text) else {
        return invalid("access", format!("{text:?}; use letters of \"rwm\""));
    };
    let permissions = if permissions.is_empty() { Permissions::ALL } else { permissions };
    let [major, minor] = numbers;
    Ok(Rule::Some(access, Devices { kind, major, minor }, permissions))
}

/// The kernel's v1 table: a default, and exceptions from it that all have the same sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    default: Access,
    exceptions: BTreeMap<Devices, Permissions>,
}

impl Table {
    /// The table that has the effect of the rules of config.json.
    ///
    /// # Errors
    /// A rule is malformed, or punches a hole into an earlier, wider one: v1 cannot express that, and would silently
    /// leave the device open.
    pub fn build(listed: &[LinuxDeviceCgroup]) -> Result<Self> {
        let mut table = Self { default: Access::Deny, exceptions: BTreeMap::new() };
        for rule in rules(listed)? {
            table.add(rule)?;
        }
        Ok(table)
    }

    fn add(&mut self, rule: Rule) -> Result<()> {
        let (access, devices, permissions) = match rule {
            Rule::Every(access) => {
                self.default = access;
                self.exceptions.clear();
                return Ok(());
            }
            Rule::Some(access, devices, permissions) => (access, devices, permissions),
        };
        if access != self.default {
            let entry = self.exceptions.entry(devices).or_default();
            entry.0 |= permissions.0;
            return Ok(());
        }
        // The rule restores the default: exceptions within it shrink, wider ones would have to be split.
        for (other, left) in &mut self.exceptions {
            if devices.covers(other) {
                *left = left.minus(permissions);
            } else if other.covers(&devices) && left.0 & permissions.0 != 0 && access == Access::Deny {
                return Err(Error::unsupported(
                    "linux.resources.devices",
                    format!(
                        "denying `{}` after allowing `{}`: cgroup v1 cannot take a part out of a wider rule; \
                         list the allowed devices one by one",
                        line(&devices, permissions),
                        line(other, *left)
                    ),
                ));
            }
        }
        self.exceptions.retain(|_, left| !left.is_empty());
        Ok(())
    }

    /// Reads the kernel's `devices.list`.
    pub fn parse(list: &str) -> Self {
        let mut table = Self { default: Access::Deny, exceptions: BTreeMap::new() };
        for line in list.lines() {
            let mut words = line.split([' ', ':']);
            let kind = match words.next() {
                Some("b") => Kind::Block,
                Some("c") => Kind::Char,
                // `a *:* rwm` is all that the kernel shows of a table that allows by default.
                Some("a") => return Self { default: Access::Allow, exceptions: BTreeMap::new() },
                _ => continue,
            };
            let mut number = || words.next().and_then(|word| word.parse().ok());
            let devices = Devices { kind, major: number(), minor: number() };
            let permissions = words.next().and_then(Permissions::parse).unwrap_or_default();
            table.exceptions.insert(devices, permissions);
        }
        table
    }

    /// Lines for `devices.allow` and `devices.deny` that lead from `current` to this table; without one, or where it
    /// cannot be known exactly, from scratch. Between two tables that deny by default nothing that both allow is ever
    /// taken away in between.
    pub fn steps_from(&self, current: Option<&Self>) -> Vec<(Access, String)> {
        let mut steps = vec![];
        let known = current.filter(|current| current.default == self.default && self.default == Access::Deny);
        if known.is_none() {
            steps.push((self.default, "a".to_owned()));
        }
        let exception = match self.default {
            Access::Allow => Access::Deny,
            Access::Deny => Access::Allow,
        };
        let none = BTreeMap::new();
        let before = known.map_or(&none, |current| &current.exceptions);
        for (devices, permissions) in &self.exceptions {
            let missing = permissions.minus(before.get(devices).copied().unwrap_or_default());
            if !missing.is_empty() {
                steps.push((exception, line(devices, missing)));
            }
        }
        for (devices, permissions) in before {
            let surplus = permissions.minus(self.exceptions.get(devices).copied().unwrap_or_default());
            if !surplus.is_empty() {
                steps.push((self.default, line(devices, surplus)));
            }
        }
        steps
    }
}

fn line(devices: &Devices, permissions: Permissions) -> String {
    let kind = match devices.kind {
        Kind::Block => 'b',
        Kind::Char => 'c',
    };
    let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
    format!("{kind} {}:{} {permissions}", number(devices.major), number(devices.minor))
}

/// Gives a v2 cgroup these rules in place of those that it has. A process that opens a device meanwhile needs the leave
/// of both the old and the new ones.
///
/// # Errors
/// A rule is malformed, or the kernel refuses the program (no BPF, or no privilege).
pub(super) fn attach(dir: &Path, listed: &[LinuxDeviceCgroup], moment: super::Moment) -> Result<()> {
    let failed = |errno: nix::errno::Errno| {
        Error::failed("attach the device rules to cgroup", dir.display(), errno)
            .hint("this needs CAP_SYS_ADMIN or CAP_BPF and a kernel with CONFIG_CGROUP_BPF")
    };
    let program = program::build(&rules(listed)?);
    let folder = File::open(dir).map_err(|source| Error::failed("open cgroup", dir.display(), source))?;
    let old = match moment {
        super::Moment::Create => vec![],
        super::Moment::Update => sys::attached(folder.as_fd()).map_err(failed)?,
    };
    let program = sys::load(&program).map_err(failed)?;
    sys::attach(folder.as_fd(), program.as_fd()).map_err(failed)?;
    for old in old {
        sys::detach(folder.as_fd(), old.as_fd()).map_err(failed)?;
    }
    Ok(())
}
