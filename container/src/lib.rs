//! Isolation backend: namespaces, cgroups, capabilities and seccomp.
