//! `rkvm-oci --version`, in the lines that callers look for.

/// runtime-spec version that this runtime implements.
pub const SPEC: &str = "1.2.1";

/// The version as runc prints it.
pub fn text() -> String {
    let commit = option_env!("RKVM_COMMIT").unwrap_or("unknown");
    format!("rkvm-oci version {}\ncommit: {commit}\nspec: {SPEC}\n", env!("CARGO_PKG_VERSION"))
}
