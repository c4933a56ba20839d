//! Cases that mean nothing in a machine with a kernel of its own, each with the reason. What of them can be said of a machine is
//! tested in `tests/vm_oci.rs`.

const FROM_THE_HOST: &str =
    "it looks at the container's processes from the host, which sees one: the machine's";
const HOST_CGROUP: &str = "it reads the limit in the host's cgroup, which is the machine's and larger; the container's is in the guest";
const USER_NAMESPACE: &str =
    "the user namespace is that of the machine's process; the guest's ids are the container's own";
const NAMESPACES: &str = "a machine shares no namespace with the host";
const SUBMOUNTS: &str = "mounts below a shared folder appear in the guest when they are first used, with the options of the folder";
const DESCRIPTORS: &str = "a descriptor of the host cannot be handed into a machine";

/// Topic, case, reason.
const CASES: &[(&str, &str, &str)] = &[
    ("lifecycle", "exit-codes-of-run", NAMESPACES),
    ("lifecycle", "pid-file", FROM_THE_HOST),
    ("lifecycle", "init-killed-ends-the-container", FROM_THE_HOST),
    ("output", "ps", FROM_THE_HOST),
    ("bad-input", "an-isolation-that-is-none", "the isolation is a flag here"),
    ("namespaces", "pid-inside-and-outside", FROM_THE_HOST),
    ("namespaces", "mounts-are-its-own", FROM_THE_HOST),
    ("namespaces", "new-ones-differ-from-the-hosts", "numbers of namespaces are those of each kernel"),
    ("namespaces", "left-out-ones-are-the-hosts", NAMESPACES),
    ("namespaces", "join-each-by-path", NAMESPACES),
    ("namespaces", "join-pid-by-path", NAMESPACES),
    ("namespaces", "join-user-by-path", USER_NAMESPACE),
    ("namespaces", "join-user-by-path-without-mappings", USER_NAMESPACE),
    ("namespaces", "user-mapping", USER_NAMESPACE),
    ("namespaces", "user-mapping-in-parts", USER_NAMESPACE),
    ("namespaces", "user-mapping-of-a-single-id", USER_NAMESPACE),
    ("namespaces", "cgroup-namespace", "without one it shows the host's cgroups, which a guest does not see"),
    ("namespaces", "time-offsets", "the clocks of a machine begin with it, not with the host's"),
    ("mounts", "rbind-read-only-leaves-submounts-writable", SUBMOUNTS),
    ("mounts", "recursive-attributes", SUBMOUNTS),
    ("mounts", "cgroup-mount-read-only", "it expects the host's cgroup hierarchies; the guest has version 2"),
    ("mounts", "overlay", "the layers are folders of the host, which the guest does not see"),
    ("devices", "given-devices", "it gives a device other than a disk"),
    ("process", "preserved-descriptors", DESCRIPTORS),
    ("process", "listen-fds", DESCRIPTORS),
    ("cgroups", "memory-limits", HOST_CGROUP),
    ("cgroups", "limits-hold-before-the-program-runs", HOST_CGROUP),
    ("cgroups", "update-by-json", HOST_CGROUP),
    ("cgroups", "update-by-flags", HOST_CGROUP),
    ("cgroups", "update-keeps-the-rest", HOST_CGROUP),
    ("cgroups", "unified-needs-v2", "the guest has version 2"),
    ("hooks", "state-on-standard-input", "startContainer runs in the guest, where the bundle is elsewhere"),
    (
        "hooks",
        "namespaces-they-run-in",
        "startContainer runs in the guest, whose namespaces have numbers of their own",
    ),
    ("exec", "same-namespaces-and-cgroup", FROM_THE_HOST),
    ("exec", "detached", FROM_THE_HOST),
    ("exec", "seen-by-ps", FROM_THE_HOST),
    ("exec", "ends-with-the-container", FROM_THE_HOST),
    ("exec", "in-a-user-namespace", USER_NAMESPACE),
    ("exec", "preserved-descriptors", DESCRIPTORS),
    ("escapes", "no-descriptor-of-the-host-in-init", FROM_THE_HOST),
];

/// Why a case is not asked of the microVM backend, if it is not.
pub fn reason(topic: &str, name: &str) -> Option<&'static str> {
    CASES.iter().find(|(one, case, _)| (*one, *case) == (topic, name)).map(|(.., why)| *why)
}

/// Whether every entry names a case that there is.
pub fn all_are_cases(cases: &[(&str, &str)]) -> bool {
    CASES.iter().all(|(topic, name, _)| cases.contains(&(*topic, *name)))
}
