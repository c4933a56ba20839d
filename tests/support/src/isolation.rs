//! One test body, two isolations.

use std::path::Path;

/// How the containers of a sandbox are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// On the host's kernel.
    #[default]
    Container,
    /// On a kernel of their own.
    Vm,
}

/// Whether this host runs virtual machines. Where it does not, tests of them say so and prove nothing.
pub fn has_vms() -> bool {
    let has = Path::new("/dev/kvm").exists();
    if !has {
        eprintln!("skipped: this host has no /dev/kvm");
    }
    has
}

/// Makes two tests of each function named, `container::NAME` and `vm::NAME`: what they check behaves alike in both isolations. The
/// function takes the [`Isolation`] and makes its sandbox with [`crate::Sandbox::of`].
#[macro_export]
macro_rules! in_both_isolations {
    ($($name:ident),* $(,)?) => {
        mod container {
            $(#[test] fn $name() { super::$name($crate::Isolation::Container) })*
        }
        mod vm {
            $(#[test] fn $name() { if $crate::has_vms() { super::$name($crate::Isolation::Vm) } })*
        }
    };
}
