//! What this host is and can do.

use std::fs;

/// The machine's architecture in Go's words, which images use.
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The kernel's release, e.g. `6.1.0-13-amd64`.
pub fn kernel_release() -> String {
    read_trimmed("/proc/sys/kernel/osrelease")
}

/// A small file's text without the space around it; empty when it cannot be read.
pub(crate) fn read_trimmed(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
