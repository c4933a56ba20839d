//! Capability sets of `process.capabilities` as the kernel's bit masks (capabilities(7)).

use oci_spec::runtime::{Capability, LinuxCapabilities};
use rkvm_oci::Result;

use crate::sys::process::{self, CapabilitySets};

/// All five sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What execve can ever give.
    pub bounding: u64,
    /// The three sets of capset(2).
    pub sets: CapabilitySets,
    /// Kept over execve of an ordinary program by a user other than root.
    pub ambient: u64,
}

/// Highest capability number of Linux 5.9 and later (CAP_CHECKPOINT_RESTORE).
pub const LAST: u8 = 40;

/// The kernel's number of a capability (linux/capability.h).
pub fn number(capability: Capability) -> u8 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

impl Capabilities {
    /// The sets as configured; none at all without `process.capabilities`. What the kernel does not have, or this
    /// process itself does not, cannot be granted and is left out, as runtime-spec asks ("SHOULD NOT fail").
    ///
    /// # Errors
    /// None in practice.
    pub fn plan(configured: Option<&LinuxCapabilities>, grantable: u64) -> Self {
        let Some(configured) = configured else { return Self::default() };
        let mask = |set: &Option<std::collections::HashSet<Capability>>| {
            set.iter().flatten().fold(0u64, |mask, capability| mask | 1 << number(*capability)) & grantable
        };
        let permitted = mask(configured.permitted());
        let inheritable = mask(configured.inheritable());
        Self {
            bounding: mask(configured.bounding()),
            sets: CapabilitySets {
                effective: mask(configured.effective()) & permitted,
                permitted,
                inheritable,
            },
            ambient: mask(configured.ambient()) & permitted & inheritable,
        }
    }

    /// Drops the rest of the bounding set. Needs CAP_SETPCAP, so it comes before [`Capabilities::apply`].
    ///
    /// # Errors
    /// CAP_SETPCAP is missing.
    pub fn limit_bounding(&self) -> std::io::Result<()> {
        if process::keep_bounding(self.bounding).is_ok() {
            return Ok(());
        }
        for capability in (0..=LAST).filter(|number| self.bounding & 1 << number == 0) {
            match process::drop_bounding(capability) {
                Ok(()) => {}
                // EINVAL: this kernel does not have it. EPERM: no matter for one that is not there.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => match process::in_bounding_set(capability) {
                    Ok(false) => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    /// Takes on the sets.
    ///
    /// # Errors
    /// One of them is not permitted.
    pub fn apply(&self) -> std::io::Result<()> {
        process::set_capabilities(self.sets)?;
        process::clear_ambient()?;
        (0..=LAST).filter(|number| self.ambient & 1 << number != 0).try_for_each(process::raise_ambient)
    }
}

/// The capabilities that this process can give to one that it makes; all of them in a user namespace of its own.
///
/// # Errors
/// None in practice.
pub fn grantable(in_user_namespace: bool) -> Result<u64> {
    if in_user_namespace {
        return Ok((1 << (LAST + 1)) - 1);
    }
    process::capabilities()
        .map(|sets| sets.permitted)
        .map_err(|source| rkvm_oci::Error::failed("read", "this process's capabilities", source))
}

#[cfg(test)]
mod tests {
    use rkvm_oci::capability::NAMES;

    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for (index, name) in NAMES.iter().enumerate() {
            let capability: Capability = name.trim_start_matches("CAP_").parse().unwrap();
            assert_eq!(usize::from(number(capability)), index, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_granted_is_left_out_everywhere() {
        let configured: LinuxCapabilities = serde_json::from_value(serde_json::json!({
            "bounding": ["CAP_KILL", "CAP_SYS_ADMIN"], "permitted": ["CAP_KILL", "CAP_SYS_ADMIN"],
            "effective": ["CAP_KILL", "CAP_CHOWN"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        }))
        .unwrap();
        let plan = Capabilities::plan(Some(&configured), 1 << 5);
        assert_eq!((plan.bounding, plan.ambient), (1 << 5, 1 << 5));
        assert_eq!(plan.sets, CapabilitySets { effective: 1 << 5, permitted: 1 << 5, inheritable: 1 << 5 });
    }
}
