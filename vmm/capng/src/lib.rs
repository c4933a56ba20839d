//! A stand-in for the crate `capng`, by way of `[patch.crates-io]`: what virtiofsd's library calls of it, over `capget(2)` and
//! `capset(2)`.
//!
//! The original links libcap-ng, which would be the VMM's only C library, reads `/proc` when it is loaded (the jail has none), and
//! keeps a copy of the capabilities that goes stale when a thread changes its user id. Here each call asks the kernel. What the
//! library's own program would call besides is not here.

use std::cell::Cell;

mod sys;

/// Number of a capability (`linux/capability.h`).
pub type Capability = u32;

/// Result of any operation in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the new sets.
    #[error("cannot set the thread's capabilities")]
    Apply(#[source] std::io::Error),
    /// The kernel did not tell the present sets.
    #[error("cannot read the thread's capabilities")]
    Read(#[source] std::io::Error),
    /// Not a capability that a file server changes.
    #[error("{0} is not a capability that is changed here")]
    Name(String),
    /// Nothing but the effective set is changed here.
    #[error("only the effective capabilities can be changed here")]
    Unsupported,
}

/// Which of a thread's sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type(u32);

impl Type {
    /// The capabilities that count when the kernel checks.
    pub const EFFECTIVE: Self = Self(1);
    /// The capabilities that may be made effective.
    pub const PERMITTED: Self = Self(2);
}

/// What to give to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set(u32);

impl Set {
    /// The thread's sets.
    pub const CAPS: Self = Self(16);
    /// The thread's sets and its bounding set.
    pub const BOTH: Self = Self(48);
}

/// What to do with a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Take it out of the set.
    DROP,
    /// Put it into the set.
    ADD,
}

/// One change of a set.
#[derive(Debug, Clone, Copy)]
pub struct CUpdate {
    /// What to do.
    pub action: Action,
    /// In which set.
    pub cap_type: Type,
    /// With which capability.
    pub capability: Capability,
}

thread_local! {
    /// The sets that [`apply`] gives to the kernel.
    static STAGED: Cell<Option<sys::Sets>> = const { Cell::new(None) };
}

/// Begins with empty sets.
pub fn clear(_set: Set) {
    STAGED.set(Some(sys::Sets::default()));
}

/// Begins with the thread's present sets.
///
/// # Errors
/// The kernel does not tell them.
pub fn get_caps_process() -> Result<()> {
    STAGED.set(Some(sys::get().map_err(Error::Read)?));
    Ok(())
}

/// Changes the sets that [`apply`] will give to the kernel; begins with the thread's present ones.
///
/// # Errors
/// Another set than the effective one is to be changed, or the kernel does not tell the present sets.
pub fn update(changes: Vec<CUpdate>) -> Result<()> {
    let mut sets = sys::get().map_err(Error::Read)?;
    for change in changes {
        if change.cap_type != Type::EFFECTIVE {
            return Err(Error::Unsupported);
        }
        let bit = 1_u64.checked_shl(change.capability).ok_or(Error::Unsupported)?;
        match change.action {
            Action::ADD => sets.effective |= bit,
            Action::DROP => sets.effective &= !bit,
        }
    }
    STAGED.set(Some(sets));
    Ok(())
}

/// Gives the sets to the kernel, for this thread.
///
/// # Errors
/// The kernel refuses, for instance to make effective what is not permitted.
pub fn apply(set: Set) -> Result<()> {
    if set != Set::CAPS && STAGED.get().is_none() {
        return Err(Error::Unsupported);
    }
    let sets = match STAGED.take() {
        Some(sets) => sets,
        None => sys::get().map_err(Error::Read)?,
    };
    sys::set(sets).map_err(Error::Apply)
}

/// Whether this thread has the capability in that set.
pub fn have_capability(which: Type, capability: Capability) -> bool {
    let Ok(sets) = sys::get() else { return false };
    let set = if which == Type::EFFECTIVE { sets.effective } else { sets.permitted };
    1_u64.checked_shl(capability).is_some_and(|bit| set & bit != 0)
}

/// The number of a capability by its name without `CAP_`.
///
/// # Errors
/// Not one that a file server changes.
pub fn name_to_capability(name: &str) -> Result<Capability> {
    const DAC_OVERRIDE: Capability = 1;
    const FSETID: Capability = 4;
    match name {
        "DAC_OVERRIDE" => Ok(DAC_OVERRIDE),
        "FSETID" => Ok(FSETID),
        _ => Err(Error::Name(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn change(action: Action, capability: Capability) {
        update(vec![CUpdate { action, cap_type: Type::EFFECTIVE, capability }]).unwrap();
        apply(Set::CAPS).unwrap();
    }

    #[test]
    fn drops_and_takes_back_in_this_thread_only() {
        let fsetid = name_to_capability("FSETID").unwrap();
        if !have_capability(Type::PERMITTED, fsetid) {
            return;
        }
        change(Action::DROP, fsetid);
        assert!(!have_capability(Type::EFFECTIVE, fsetid));
        assert!(have_capability(Type::PERMITTED, fsetid));
        std::thread::spawn(move || change(Action::ADD, fsetid)).join().unwrap();
        assert!(!have_capability(Type::EFFECTIVE, fsetid), "another thread's change is not ours");
        change(Action::ADD, fsetid);
        assert!(have_capability(Type::EFFECTIVE, fsetid));
    }

    #[test]
    fn names_and_numbers_out_of_range_are_refused() {
        assert!(matches!(name_to_capability("SYS_ADMIN"), Err(Error::Name(_))));
        let change = CUpdate { action: Action::ADD, cap_type: Type::EFFECTIVE, capability: 64 };
        assert!(matches!(update(vec![change]), Err(Error::Unsupported)));
        assert!(!have_capability(Type::EFFECTIVE, 64));
    }
}
