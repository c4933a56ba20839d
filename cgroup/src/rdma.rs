//! `linux.resources.rdma`, the same file on v1 and v2.

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::LinuxRdma;
use rkvm_oci::Result;

use super::file;

/// Limits each named device.
///
/// # Errors
/// The kernel refuses a device or value.
pub(super) fn set(dir: &Path, devices: &HashMap<String, LinuxRdma>) -> Result<()> {
    for (device, limits) in devices {
        let mut line = device.clone();
        for (key, value) in [("hca_handle", limits.hca_handles()), ("hca_object", limits.hca_objects())] {
            if let Some(value) = value {
                line += &format!(" {key}={value}");
            }
        }
        file::set(dir, "rdma.max", line, "rdma")?;
    }
    Ok(())
}
