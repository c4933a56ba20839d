//! Tells the crate from which commit it is built. Works without git and from an archive: then the commit is unknown, or what
//! `RKVM_COMMIT` says.

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn main() {
    println!("cargo:rerun-if-env-changed=RKVM_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    let given = std::env::var("RKVM_COMMIT").ok().filter(|commit| !commit.is_empty());
    // An archive that lies inside of another repository must not be given that one's commit.
    let is_ours = || git(&["ls-files", "--error-unmatch", "build.rs"]).is_some();
    let commit = given.or_else(|| {
        is_ours().then(|| {
            for file in ["HEAD", "logs/HEAD", "index"] {
                if let Some(path) = git(&["rev-parse", "--git-path", file]) {
                    println!("cargo:rerun-if-changed={path}");
                }
            }
            let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
            let is_dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some();
            Some(if is_dirty { format!("{commit}-dirty") } else { commit })
        })?
    });
    println!("cargo:rustc-env=RKVM_MEASURE_COMMIT={}", commit.unwrap_or_default());
}
