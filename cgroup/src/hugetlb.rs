//! `linux.resources.hugepageLimits`, whose files differ between v1 and v2 only in their last part.

use std::path::Path;

use oci_spec::runtime::LinuxHugepageLimit;
use rkvm_oci::{Error, Result};

use super::file;

/// Limits pages of one size; reservations too where the kernel counts them (Linux 5.7), as runtime-spec asks.
///
/// # Errors
/// The page size is malformed or not one of this host's.
pub(super) fn set(dir: &Path, limit: &LinuxHugepageLimit, suffix: &str) -> Result<()> {
    let size = limit.page_size();
    // The size becomes part of a file name.
    if size.is_empty() || !size.chars().all(|c| c.is_ascii_alphanumeric()) {
        let reason = format!("{size:?}; write it like 64KB, 2MB or 1GB");
        return Err(Error::invalid_spec("linux.resources.hugepageLimits.pageSize", reason));
    }
    let field = format!("hugepageLimits ({size})");
    file::set(dir, &format!("hugetlb.{size}.{suffix}"), limit.limit(), &field)?;
    let reserved = format!("hugetlb.{size}.rsvd.{suffix}");
    if dir.join(&reserved).exists() {
        file::set(dir, &reserved, limit.limit(), &field)?;
    }
    Ok(())
}
