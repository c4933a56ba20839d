//! Kernel modules for a distribution's kernel, as an archive that is put behind our initramfs: the kernel unpacks one after the other, and
//! init loads `/modules/NN-name.ko` in the order of the names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::Archive;
use crate::error::{Error, Result};

/// Folder of the modules in the initramfs.
pub const FOLDER: &str = "modules";
/// What a machine of ours needs of its kernel, by module name; a kernel may have any of them built in.
pub const WANTED: [&str; 11] = [
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "virtio_balloon",
    "virtio-rng",
    "vmw_vsock_virtio_transport",
    "overlay",
    "erofs",
    "fuse",
    "virtiofs",
];

/// An archive of the modules `wanted` and of those that they need, dependencies first, from `folder` (`/lib/modules/VERSION`).
///
/// # Errors
/// The folder has no module list (depmod(8)), or neither a module nor a built-in part of one of the names.
pub fn archive(folder: &Path, wanted: &[&str]) -> Result<Vec<u8>> {
    let dependencies = Dependencies::read(folder)?;
    let mut order = Vec::new();
    for name in wanted {
        dependencies.visit(&plain(name), &mut order)?;
    }
    let failed = |source| Error::Read { path: folder.into(), source };
    let mut archive = Archive::new(Vec::new());
    archive.folder(FOLDER, 0o755).map_err(failed)?;
    for (index, path) in order.iter().enumerate() {
        let path = folder.join(path);
        let content = fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("{FOLDER}/{index:02}-{file}"), 0o644, &content).map_err(failed)?;
    }
    archive.finish().map_err(failed)
}

/// The initramfs `base` with the modules of `folder` that a machine of ours [`WANTED`] behind it.
///
/// # Errors
/// As [`archive`].
pub fn append(base: &[u8], folder: &Path) -> Result<Vec<u8>> {
    let mut joined = base.to_vec();
    // Each archive begins at a multiple of four bytes; zeros between them are skipped.
    joined.resize(joined.len().next_multiple_of(4), 0);
    joined.extend(archive(folder, &WANTED)?);
    Ok(joined)
}

/// A module's name as the kernel has it: no path, no suffix, no hyphen.
fn plain(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

struct Dependencies {
    folder: PathBuf,
    /// Name to path and the paths of what it needs, as modules.dep has them.
    modules: BTreeMap<String, (String, Vec<String>)>,
    /// Text of modules.builtin.
    builtin: Vec<String>,
}

impl Dependencies {
    fn read(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|source| Error::Read { path, source })
        };
        let modules = read("modules.dep")?
            .lines()
            .filter_map(|line| {
                let (path, needs) = line.split_once(':')?;
                let needs = needs.split_whitespace().map(ToOwned::to_owned).collect();
                Some((plain(path), (path.to_owned(), needs)))
            })
            .collect();
        let builtin = read("modules.builtin")?.lines().map(plain).collect();
        Ok(Self { folder: folder.into(), modules, builtin })
    }

    /// Puts the module and what it needs into `order`, each once, behind what it needs itself.
    fn visit(&self, name: &str, order: &mut Vec<String>) -> Result<()> {
        let Some((path, needs)) = self.modules.get(name) else {
            if self.builtin.iter().any(|builtin| builtin == name) {
                return Ok(());
            }
            return Err(Error::MissingModule { name: name.to_owned(), folder: self.folder.clone() });
        };
        if order.contains(path) {
            return Ok(());
        }
        // depmod lists all that a module needs, in the order in which they are to be removed.
        for need in needs.iter().rev() {
            if !order.contains(need) {
                order.push(need.clone());
            }
        }
        order.push(path.clone());
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn modules_come_behind_what_they_need_and_built_in_ones_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("kernel")).unwrap();
        for name in ["ring", "virtio", "virtio-blk", "fuse"] {
            fs::write(folder.path().join(format!("kernel/{name}.ko.zst")), name).unwrap();
        }
        fs::write(
            folder.path().join("modules.dep"),
            "kernel/virtio-blk.ko.zst: kernel/virtio.ko.zst kernel/ring.ko.zst\nkernel/virtio.ko.zst: kernel/ring.ko.zst\n\
             kernel/ring.ko.zst:\nkernel/fuse.ko.zst:\n",
        )
        .unwrap();
        fs::write(folder.path().join("modules.builtin"), "kernel/overlay.ko\n").unwrap();
        let archive = archive(folder.path(), &["virtio_blk", "overlay", "fuse", "virtio"]).unwrap();
        let text = String::from_utf8_lossy(&archive);
        let at = |name: &str| text.find(name).unwrap_or_else(|| panic!("{name} is not in the archive"));
        assert!(at("modules/00-ring.ko.zst") < at("modules/01-virtio.ko.zst"));
        assert!(at("modules/02-virtio-blk.ko.zst") < at("modules/03-fuse.ko.zst"));
        assert!(!text.contains("modules/04"));
        let error = super::archive(folder.path(), &["erofs"]).unwrap_err().to_string();
        assert!(error.contains("no module erofs"), "{error}");
    }
}
