//! What `version` shows.

use std::fmt;

use serde::Serialize;

use crate::host;

/// Newest version of runtime-spec whose fields are understood.
pub const RUNTIME_SPEC: &str = "1.2.1";
/// Newest version of image-spec that is read.
pub const IMAGE_SPEC: &str = "1.1.1";

/// Versions of every part.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Versions {
    client: Part,
    /// There is no daemon: the engine is in the same program.
    server: Part,
    guest: Guest,
    #[serde(rename = "OCI")]
    oci: Oci,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Part {
    version: String,
    os: &'static str,
    arch: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_version: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Guest {
    /// Empty where no guest has been built.
    version: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Oci {
    runtime_spec: &'static str,
    image_spec: &'static str,
}

impl Versions {
    /// The versions of this build, which calls itself `version`, on this host.
    pub fn new(version: &str) -> Self {
        let part = |kernel_version| Part {
            version: version.to_owned(),
            os: std::env::consts::OS,
            arch: host::go_architecture(),
            kernel_version,
        };
        Self {
            client: part(None),
            server: part(Some(host::kernel_release())),
            guest: Guest { version: String::new() },
            oci: Oci { runtime_spec: RUNTIME_SPEC, image_spec: IMAGE_SPEC },
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guest = if self.guest.version.is_empty() { "not built yet" } else { &self.guest.version };
        writeln!(f, "Client:")?;
        writeln!(f, " Version:         {}", self.client.version)?;
        writeln!(f, " OS/Arch:         {}/{}", self.client.os, self.client.arch)?;
        writeln!(f, "\nEngine:")?;
        writeln!(f, " Version:         {}", self.server.version)?;
        writeln!(f, " OS/Arch:         {}/{}", self.server.os, self.server.arch)?;
        writeln!(f, " Kernel Version:  {}", self.server.kernel_version.as_deref().unwrap_or("unknown"))?;
        writeln!(f, "\nGuest (--isolation=vm):")?;
        writeln!(f, " Version:         {guest}")?;
        writeln!(f, "\nOCI:")?;
        writeln!(f, " Runtime Spec:    {}", self.oci.runtime_spec)?;
        writeln!(f, " Image Spec:      {}", self.oci.image_spec)
    }
}
