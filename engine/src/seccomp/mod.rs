//! Seccomp profiles in Docker's form: rules that depend on capabilities, architecture and kernel are resolved for one
//! container, and what is left is runtime-spec's `linux.seccomp`.

mod default;
#[cfg(test)]
mod tests;

use std::str::FromStr;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;

/// A profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not JSON of the right shape.
    #[error("the seccomp profile is not valid")]
    Malformed(#[source] serde_json::Error),
    /// `archMap` and `architectures` say the same thing in two ways.
    #[error("the seccomp profile has both `archMap` and `architectures`: remove one of them")]
    TwoArchitectureLists,
    /// A rule has both `name` and `names`, or neither.
    #[error("rule {index} of the seccomp profile must have either `names` or `name`")]
    Names {
        /// Its position, from 0.
        index: usize,
    },
    /// A kernel version is not of the form `4.8`.
    #[error(
        "rule {index} of the seccomp profile has minKernel {version:?}: write it as major.minor, like 4.8"
    )]
    KernelVersion {
        /// The rule's position, from 0.
        index: usize,
        /// What it says.
        version: String,
    },
}

/// What a profile's conditions are tested against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// Capabilities that the container's processes can have (`CAP_...`).
    pub capabilities: &'a [String],
    /// The machine's architecture, in Go's words: `amd64`, `arm64`.
    pub arch: &'static str,
    /// The running kernel.
    pub kernel: KernelVersion,
}

impl<'a> Target<'a> {
    /// This host, for a container with these capabilities.
    pub fn host(capabilities: &'a [String]) -> Self {
        Self { capabilities, arch: native().0, kernel: KernelVersion::running() }
    }
}

/// A kernel version, as far as profiles look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The number before the first dot.
    pub major: u32,
    /// The number after it.
    pub minor: u32,
}

impl KernelVersion {
    /// The running kernel's; 0.0 when it cannot be told, which leaves out what needs a newer one.
    pub fn running() -> Self {
        nix::sys::utsname::uname()
            .ok()
            .and_then(|name| name.release().to_str()?.parse().ok())
            .unwrap_or(Self { major: 0, minor: 0 })
    }
}

/// The text has no two numbers with a dot in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAVersion;

impl FromStr for KernelVersion {
    type Err = NotAVersion;

    /// Reads the beginning: `6.18.5-cloud` is 6.18.
    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let (major, rest) = text.split_once('.').ok_or(NotAVersion)?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        match (major.parse(), rest[..end].parse()) {
            (Ok(major), Ok(minor)) => Ok(Self { major, minor }),
            _ => Err(NotAVersion),
        }
    }
}

/// A profile as Docker's JSON has it; runtime-spec's form is a part of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<std::path::PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Conditions,
    #[serde(default)]
    excludes: Conditions,
}

/// When a rule applies, or does not.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conditions {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Docker's default profile for a container with these capabilities: everything that a program without privileges needs
/// is allowed, everything else gets EPERM, and a capability that the container has brings its calls with it.
pub fn default_profile(capabilities: &[String]) -> LinuxSeccomp {
    default::profile(&Target::host(capabilities))
}

/// Resolves a profile in Docker's or runtime-spec's form for a container with these capabilities.
///
/// # Errors
/// The text is not a profile, or contradicts itself.
pub fn load_profile(json: &str, capabilities: &[String]) -> Result<LinuxSeccomp, ProfileError> {
    resolve(json, &Target::host(capabilities))
}

fn resolve(json: &str, target: &Target<'_>) -> Result<LinuxSeccomp, ProfileError> {
    let profile: Profile = serde_json::from_str(json).map_err(ProfileError::Malformed)?;
    let architectures = match (profile.architectures, profile.arch_map) {
        (Some(listed), Some(map)) if !listed.is_empty() && !map.is_empty() => {
            return Err(ProfileError::TwoArchitectureLists);
        }
        (_, Some(map)) if !map.is_empty() => {
            let native = go_arch(target.arch);
            map.into_iter().find(|entry| Some(entry.architecture) == native).map(|entry| {
                let mut all = vec![entry.architecture];
                all.extend(entry.sub_architectures.into_iter().flatten());
                all
            })
        }
        (listed, _) => listed,
    };
    let mut syscalls = vec![];
    for (index, rule) in profile.syscalls.into_iter().flatten().enumerate() {
        if !applies(&rule, index, target)? {
            continue;
        }
        let names = match (rule.name, rule.names) {
            (Some(name), None) => vec![name],
            (None, Some(names)) => names,
            _ => return Err(ProfileError::Names { index }),
        };
        let mut syscall = LinuxSyscall::default();
        syscall.set_names(names).set_action(rule.action).set_errno_ret(rule.errno_ret);
        syscall.set_args(rule.args.filter(|args| !args.is_empty()));
        syscalls.push(syscall);
    }
    let mut seccomp = LinuxSeccomp::default();
    seccomp.set_default_action(profile.default_action).set_default_errno_ret(profile.default_errno_ret);
    seccomp.set_architectures(architectures).set_flags(profile.flags).set_syscalls(Some(syscalls));
    seccomp.set_listener_path(profile.listener_path).set_listener_metadata(profile.listener_metadata);
    Ok(seccomp)
}

/// Docker's rules: every included capability must be there, one of the included architectures, and a kernel that is new
/// enough; one hit among the excluded is enough to drop the rule.
fn applies(rule: &Rule, index: usize, target: &Target<'_>) -> Result<bool, ProfileError> {
    let has = |capability: &String| target.capabilities.contains(capability);
    let new_enough = |version: &String| match version.parse::<KernelVersion>() {
        Ok(minimum) => Ok(target.kernel >= minimum),
        Err(NotAVersion) => Err(ProfileError::KernelVersion { index, version: version.clone() }),
    };
    let includes = &rule.includes;
    let excludes = &rule.excludes;
    let arch = |arches: &Option<Vec<String>>| {
        arches.as_ref().filter(|all| !all.is_empty()).map(|all| all.iter().any(|one| one == target.arch))
    };
    let included = includes.caps.iter().flatten().all(has)
        && arch(&includes.arches).unwrap_or(true)
        && includes.min_kernel.as_ref().map_or(Ok(true), new_enough)?;
    let excluded = excludes.caps.iter().flatten().any(has)
        || arch(&excludes.arches).unwrap_or(false)
        || excludes.min_kernel.as_ref().map_or(Ok(false), new_enough)?;
    Ok(included && !excluded)
}

/// This machine's architecture, in Go's words and libseccomp's.
fn native() -> (&'static str, Option<Arch>) {
    let go = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "x86",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    };
    (go, go_arch(go))
}

fn go_arch(go: &str) -> Option<Arch> {
    Some(match go {
        "amd64" => Arch::ScmpArchX86_64,
        "x86" => Arch::ScmpArchX86,
        "arm64" => Arch::ScmpArchAarch64,
        "arm" => Arch::ScmpArchArm,
        "riscv64" => Arch::ScmpArchRiscv64,
        "ppc64le" => Arch::ScmpArchPpc64le,
        "s390x" => Arch::ScmpArchS390x,
        "loong64" => Arch::ScmpArchLoongarch64,
        _ => return None,
    })
}
