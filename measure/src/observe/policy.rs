//! Deciding as a filter would.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator};

/// A workload's own filter, interpreted.
#[derive(Debug, Clone)]
pub struct Policy(Option<LinuxSeccomp>);

impl Policy {
    /// That of `linux.seccomp`; `None`: everything is allowed.
    pub fn new(profile: Option<LinuxSeccomp>) -> Self {
        Self(profile)
    }

    /// The errno with which a call is refused; `None`: it is allowed. Actions that end the process count as refusals with EPERM,
    /// so that the workload can be observed further.
    pub fn refusal(&self, name: &str, args: &[u64; 6]) -> Option<i32> {
        let profile = self.0.as_ref()?;
        let rules = profile.syscalls().iter().flatten();
        let mut matching = rules.filter(|rule| {
            rule.names().iter().any(|one| one == name)
                && rule.args().iter().flatten().all(|arg| holds(arg, args))
        });
        let (action, errno) = match matching.next() {
            Some(rule) => (rule.action(), rule.errno_ret()),
            None => (profile.default_action(), profile.default_errno_ret()),
        };
        match action {
            LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog => None,
            _ => Some(errno.map_or(nix::libc::EPERM, |errno| errno as i32)),
        }
    }
}

fn holds(arg: &LinuxSeccompArg, args: &[u64; 6]) -> bool {
    let Some(&actual) = args.get(arg.index()) else { return false };
    let value = arg.value();
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => actual != value,
        LinuxSeccompOperator::ScmpCmpLt => actual < value,
        LinuxSeccompOperator::ScmpCmpLe => actual <= value,
        LinuxSeccompOperator::ScmpCmpEq => actual == value,
        LinuxSeccompOperator::ScmpCmpGe => actual >= value,
        LinuxSeccompOperator::ScmpCmpGt => actual > value,
        // runtime-spec: `value` is the mask, `valueTwo` what the masked argument must be.
        LinuxSeccompOperator::ScmpCmpMaskedEq => actual & value == arg.value_two().unwrap_or(0),
    }
}
