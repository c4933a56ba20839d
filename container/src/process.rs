//! `process` of config.json, understood: what the container's process takes on before it executes the program.

use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{
    IOPriorityClass, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimitType,
    Process, Spec,
};
use rkvm_oci::{Error, Result};

use crate::init::kernel::{Module, Proc};
use crate::memory_policy::MemoryPolicy;
use rkvm_linux::capabilities::{self, Capabilities};
use rkvm_linux::sys::{fs, process as sys};

/// Everything that needs no further reading of the configuration.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The configuration itself: user, environment, arguments, working directory.
    pub process: Process,
    capabilities: Capabilities,
    scheduler: Option<sys::SchedAttr>,
    io_priority: Option<(u32, u32)>,
    personality: Option<u64>,
    memory_policy: Option<MemoryPolicy>,
    label: Option<(Module, String)>,
    /// Whether the working directory is made when it is missing.
    make_cwd: bool,
    /// The user namespace denies setgroups(2) (rootless with one id).
    groups_denied: bool,
}

/// Which process a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The container's first.
    Init,
    /// A later one.
    Exec,
}

impl Plan {
    /// Understands `process`.
    ///
    /// # Errors
    /// A field has a value that cannot be, or this host cannot do it.
    pub fn new(process: &Process, spec: &Spec, role: Role, in_user_namespace: bool) -> Result<Self> {
        if !process.cwd().is_absolute() {
            return Err(Error::invalid_spec("process.cwd", "it must be an absolute path"));
        }
        if process.args().as_ref().is_none_or(Vec::is_empty) {
            return Err(Error::invalid_spec("process.args", "it is empty; name the program to run"));
        }
        let grantable = capabilities::grantable(in_user_namespace)?;
        let linux = spec.linux().as_ref();
        Ok(Self {
            process: process.clone(),
            capabilities: Capabilities::plan(process.capabilities().as_ref(), grantable),
            scheduler: scheduler(process)?,
            io_priority: io_priority(process)?,
            personality: personality(spec)?,
            memory_policy: match linux.and_then(|linux| linux.memory_policy().as_ref()) {
                Some(policy) if role == Role::Init => Some(MemoryPolicy::new(policy)?),
                _ => None,
            },
            label: label(process)?,
            make_cwd: role == Role::Init,
            groups_denied: false,
        })
    }

    /// Says that the user namespace denies setgroups(2).
    ///
    /// # Errors
    /// The configuration asks for groups.
    pub fn deny_groups(&mut self) -> Result<()> {
        self.groups_denied = true;
        match self.process.user().additional_gids() {
            Some(groups) if !groups.is_empty() => Err(Error::unsupported(
                "process.user.additionalGids",
                "a rootless container that maps one group only cannot have further groups",
            )),
            _ => Ok(()),
        }
    }

    /// Whether the program may not gain privileges.
    pub fn no_new_privileges(&self) -> bool {
        self.process.no_new_privileges().unwrap_or(false)
    }

    /// Takes on what needs privileges and is not an identity: labels, scheduling, personality.
    ///
    /// # Errors
    /// The kernel refuses one; the message names the field.
    pub fn privileged(&self) -> Result<()> {
        if let Some((module, label)) = &self.label {
            Proc::open(None)?.label(*module, label)?;
        }
        let failed = |field: &'static str| move |source| Error::failed("apply", field, source);
        if let Some(scheduler) = self.scheduler {
            sys::set_scheduler(scheduler).map_err(failed("process.scheduler"))?;
        }
        if let Some((class, level)) = self.io_priority {
            sys::set_io_priority(class, level).map_err(failed("process.ioPriority"))?;
        }
        if let Some(personality) = self.personality {
            sys::set_personality(personality).map_err(failed("linux.personality"))?;
        }
        if let Some(policy) = &self.memory_policy {
            sys::set_memory_policy(policy.mode, &policy.nodes).map_err(failed("linux.memoryPolicy"))?;
        }
        Ok(())
    }

    /// Becomes the user, in the working directory, with the capabilities: the last thing before the program is looked up.
    ///
    /// # Errors
    /// An id is not mapped, the working directory cannot be entered or is outside the root.
    pub fn identity(&self) -> Result<()> {
        let user = self.process.user();
        for stream in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
            crate::init::devices::give_to(stream, user.uid());
        }
        let failed = |field: &'static str| move |source| Error::failed("apply", field, source);
        self.own_limits()?;
        self.capabilities.limit_bounding().map_err(failed("process.capabilities.bounding"))?;
        let cwd = self.process.cwd();
        let entered = self.enter(cwd);
        if !self.groups_denied {
            let groups = user.additional_gids().as_deref().unwrap_or_default();
            sys::set_groups(groups).map_err(failed("process.user.additionalGids"))?;
        }
        sys::keep_capabilities().map_err(failed("process.capabilities"))?;
        sys::set_gid(user.gid()).map_err(failed("process.user.gid"))?;
        sys::set_uid(user.uid()).map_err(failed("process.user.uid"))?;
        if entered.is_err() {
            // A folder on a network file system may be open to the user and closed to root.
            nix::unistd::chdir(cwd)
                .map_err(|source| Error::failed("enter process.cwd", cwd.display(), source))?;
        }
        // CVE-2024-21626: a descriptor of the host's, left open, could have been the way in.
        if !fs::cwd_is_reachable().unwrap_or(false) {
            return Err(Error::failed(
                "enter process.cwd",
                cwd.display(),
                std::io::Error::from_raw_os_error(libc::EXDEV),
            )
            .hint("it lies outside the container's root"));
        }
        self.capabilities.apply().map_err(failed("process.capabilities"))?;
        sys::set_umask(user.umask().unwrap_or(0o022));
        Ok(())
    }

    fn enter(&self, cwd: &Path) -> nix::Result<()> {
        match nix::unistd::chdir(cwd) {
            Err(nix::Error::ENOENT) if self.make_cwd => {
                // An error here shows in the next chdir.
                let _ = std::fs::create_dir_all(cwd);
                nix::unistd::chdir(cwd)
            }
            other => other,
        }
    }

    /// Takes on the resource limits. [`Plan::limits`] has made room for those that are above the inherited ones.
    ///
    /// # Errors
    /// CAP_SYS_RESOURCE was missing for a raise.
    fn own_limits(&self) -> Result<()> {
        for (index, limit) in self.process.rlimits().iter().flatten().enumerate() {
            sys::set_rlimit(0, resource(limit.typ()), limit.soft(), limit.hard())
                .map_err(|source| Error::failed("set", limit_field(index, limit.typ()), source))?;
        }
        Ok(())
    }

    /// Sets, for process `pid`, what only root of the host may: hard limits above the inherited ones and the OOM score. Early,
    /// while it still has the runtime's user id.
    ///
    /// # Errors
    /// CAP_SYS_RESOURCE is missing for a raise.
    pub fn limits(&self, pid: i32) -> Result<()> {
        for (index, limit) in self.process.rlimits().iter().flatten().enumerate() {
            if limit.soft() > limit.hard() {
                return Err(Error::invalid_spec(
                    limit_field(index, limit.typ()),
                    format!("soft limit {} is above the hard limit {}", limit.soft(), limit.hard()),
                ));
            }
            let kind = resource(limit.typ());
            let failed = |source| {
                Error::failed("set", limit_field(index, limit.typ()), source)
                    .hint("raising a hard limit needs CAP_SYS_RESOURCE (operation not permitted without it)")
            };
            let (soft, hard) = sys::rlimit(kind).map_err(failed)?;
            if limit.hard() > hard {
                sys::set_rlimit(pid, kind, soft, limit.hard()).map_err(failed)?;
            }
        }
        let Some(score) = self.process.oom_score_adj() else { return Ok(()) };
        let path = format!("/proc/{pid}/oom_score_adj");
        let current = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<i32>().ok());
        if current == Some(score) {
            return Ok(());
        }
        std::fs::write(&path, score.to_string()).map_err(|source| {
            Error::failed("set", format!("process.oomScoreAdj = {score}"), source)
                .hint("lowering it needs CAP_SYS_RESOURCE")
        })
    }
}

fn limit_field(index: usize, kind: PosixRlimitType) -> String {
    format!("process.rlimits[{index}] ({kind})")
}

fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU as _,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE as _,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA as _,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK as _,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE as _,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS as _,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC as _,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE as _,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK as _,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS as _,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS as _,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING as _,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE as _,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE as _,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO as _,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME as _,
    }
}

fn scheduler(process: &Process) -> Result<Option<sys::SchedAttr>> {
    let Some(scheduler) = process.scheduler() else { return Ok(None) };
    // Numbers of linux/sched.h; SCHED_ISO is reserved there and not implemented by any kernel.
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => {
            return Err(Error::unsupported(
                "process.scheduler.policy SCHED_ISO",
                "Linux does not implement it",
            ));
        }
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSchedulerFlag::SchedResetOnFork => 0x01,
                LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
                LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
                LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
                LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
                LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
                LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
            }
    });
    let priority = scheduler.priority().unwrap_or(0);
    Ok(Some(sys::SchedAttr {
        policy,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(priority).map_err(|_| {
            Error::invalid_spec("process.scheduler.priority", format!("{priority} is negative"))
        })?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..sys::SchedAttr::default()
    }))
}

fn io_priority(process: &Process) -> Result<Option<(u32, u32)>> {
    let Some(configured) = process.io_priority() else { return Ok(None) };
    let class = match configured.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(configured.priority()) {
        Ok(level @ 0..=7) => Ok(Some((class, level))),
        _ => Err(Error::invalid_spec(
            "process.ioPriority.priority",
            format!("{} is not within 0 to 7", configured.priority()),
        )),
    }
}

fn personality(spec: &Spec) -> Result<Option<u64>> {
    let Some(configured) = spec.linux().as_ref().and_then(|linux| linux.personality().as_ref()) else {
        return Ok(None);
    };
    if configured.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(Error::unsupported("linux.personality.flags", "runtime-spec defines none yet"));
    }
    Ok(Some(match configured.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }))
}

fn label(process: &Process) -> Result<Option<(Module, String)>> {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let apparmor = set(process.apparmor_profile());
    let selinux = set(process.selinux_label());
    if let Some(profile) = apparmor {
        if profile == "unconfined" {
            return Ok(None);
        }
        if !Module::AppArmor.is_there() {
            return Err(Error::unsupported(
                "process.apparmorProfile",
                "this host's kernel runs without AppArmor",
            ));
        }
        return Ok(Some((Module::AppArmor, profile)));
    }
    let Some(label) = selinux else { return Ok(None) };
    if !Module::Selinux.is_there() {
        return Err(Error::unsupported("process.selinuxLabel", "this host's kernel runs without SELinux"));
    }
    Ok(Some((Module::Selinux, label)))
}
