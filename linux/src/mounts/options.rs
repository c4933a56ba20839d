//! Mount options (runtime-spec, "Mounts" and "Linux mount options"): one table.

use std::path::PathBuf;

use oci_spec::runtime::{LinuxIdMapping, Mount};
use rkvm_oci::{Error, Result};

use crate::sys::mount::{Depth, MountAttr, attr};

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file or folder of the host.
    Bind(PathBuf, Depth),
    /// A new instance of a file system of this type, with this source.
    Fs(String, String),
    /// The container's cgroup.
    Cgroup,
    /// Nothing new: the options of what is mounted there change.
    Remount,
}

/// Where the ids of an idmapped mount come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdMap {
    /// The container's own user namespace.
    Container(Depth),
    /// These mappings, container side to host side.
    Explicit(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>, Depth),
}

/// A mount of config.json, understood.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Place in `mounts`, for messages.
    pub index: usize,
    /// Where, as the container sees it.
    pub destination: PathBuf,
    /// What.
    pub source: Source,
    /// Attributes of the mount itself.
    pub attributes: MountAttr,
    /// Attributes of the mount and all below.
    pub recursive: MountAttr,
    /// Propagation changes, in order.
    pub propagation: Vec<(u64, Depth)>,
    /// Options of the file system.
    pub data: Vec<String>,
    /// Id mapping of the mount.
    pub idmap: Option<IdMap>,
    /// The files that the mount covers are copied into it (`tmpcopyup`).
    pub copy_up: bool,
}

/// Options that set and clear attributes of one mount; the same with `r` in front work on all below too.
const ATTRIBUTES: &[(&str, u64, u64)] = &[
    ("ro", attr::RDONLY, 0),
    ("rw", 0, attr::RDONLY),
    ("nosuid", attr::NOSUID, 0),
    ("suid", 0, attr::NOSUID),
    ("nodev", attr::NODEV, 0),
    ("dev", 0, attr::NODEV),
    ("noexec", attr::NOEXEC, 0),
    ("exec", 0, attr::NOEXEC),
    ("nodiratime", attr::NODIRATIME, 0),
    ("diratime", 0, attr::NODIRATIME),
    ("relatime", attr::RELATIME, attr::ATIME),
    ("norelatime", attr::STRICTATIME, attr::ATIME),
    ("noatime", attr::NOATIME, attr::ATIME),
    ("atime", attr::RELATIME, attr::ATIME),
    ("strictatime", attr::STRICTATIME, attr::ATIME),
    ("nostrictatime", attr::RELATIME, attr::ATIME),
    ("nosymfollow", attr::NOSYMFOLLOW, 0),
    ("symfollow", 0, attr::NOSYMFOLLOW),
];

/// Options of the superblock that the kernel takes by these names for every file system.
const SUPERBLOCK: &[&str] =
    &["sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand", "silent", "loud"];

/// Options without an effect of their own on Linux.
const IGNORED: &[&str] = &["defaults", "iversion", "noiversion"];

const PROPAGATION: &[(&str, u64, Depth)] = &[
    ("shared", libc::MS_SHARED, Depth::One),
    ("rshared", libc::MS_SHARED, Depth::Tree),
    ("slave", libc::MS_SLAVE, Depth::One),
    ("rslave", libc::MS_SLAVE, Depth::Tree),
    ("private", libc::MS_PRIVATE, Depth::One),
    ("rprivate", libc::MS_PRIVATE, Depth::Tree),
    ("unbindable", libc::MS_UNBINDABLE, Depth::One),
    ("runbindable", libc::MS_UNBINDABLE, Depth::Tree),
];

/// Every option that is understood, for `features`.
pub fn known() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().map(|(name, ..)| *name);
    let mut names: Vec<String> = attributes
        .clone()
        .map(str::to_owned)
        .chain(
            attributes
                .filter(|name| *name != "nosymfollow" && *name != "symfollow")
                .map(|name| format!("r{name}")),
        )
        .chain(SUPERBLOCK.iter().chain(IGNORED).map(|name| (*name).to_owned()))
        .chain(PROPAGATION.iter().map(|(name, ..)| (*name).to_owned()))
        .chain(["bind", "rbind", "remount", "idmap", "ridmap", "tmpcopyup"].map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// The propagation that `text` names (`rootfsPropagation` and mount options).
pub fn propagation(text: &str) -> Option<(u64, Depth)> {
    PROPAGATION.iter().find(|(name, ..)| *name == text).map(|(_, kind, depth)| (*kind, *depth))
}

fn apply(attributes: &mut MountAttr, set: u64, clear: u64) {
    // The last of two options that contradict each other wins.
    attributes.set = attributes.set & !clear | set;
    attributes.clear = attributes.clear & !(set & !attr::ATIME) | clear;
}

impl Plan {
    /// Understands `mounts[index]`. A relative bind source is relative to `bundle`.
    ///
    /// # Errors
    /// An option that a bind mount cannot have, a missing source, a relative destination that leaves the root.
    pub fn new(index: usize, mount: &Mount, bundle: &std::path::Path) -> Result<Self> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        let mut plan = Self {
            index,
            destination: mount.destination().clone(),
            source: Source::Remount,
            attributes: MountAttr::default(),
            recursive: MountAttr::default(),
            propagation: vec![],
            data: vec![],
            idmap: None,
            copy_up: false,
        };
        if mount.destination().as_os_str().is_empty() {
            return Err(Error::invalid_spec(field("destination"), "it is empty"));
        }
        let kind = mount.typ().as_deref().unwrap_or_default();
        let mut bind = (kind == "bind").then_some(Depth::One);
        let mut remount = false;
        let mut idmap = None;
        for option in mount.options().iter().flatten() {
            match option.as_str() {
                "bind" => bind = bind.or(Some(Depth::One)),
                "rbind" => bind = Some(Depth::Tree),
                "remount" => remount = true,
                "idmap" => idmap = Some(Depth::One),
                "ridmap" => idmap = Some(Depth::Tree),
                "tmpcopyup" => plan.copy_up = true,
                name => plan.option(name),
            }
        }
        let mapped = (mount.uid_mappings(), mount.gid_mappings());
        plan.idmap = match (mapped, idmap) {
            ((Some(uids), Some(gids)), depth) if !uids.is_empty() && !gids.is_empty() => {
                Some(IdMap::Explicit(uids.clone(), gids.clone(), depth.unwrap_or(Depth::One)))
            }
            ((None, None), depth) => depth.map(IdMap::Container),
            _ => {
                return Err(Error::invalid_spec(
                    field("uidMappings"),
                    "uidMappings and gidMappings must be given together",
                ));
            }
        };
        plan.source = if remount {
            Source::Remount
        } else if let Some(depth) = bind {
            let source = mount
                .source()
                .as_ref()
                .ok_or_else(|| Error::invalid_spec(field("source"), "missing, and a bind mount needs one"))?;
            Source::Bind(bundle.join(source), depth)
        } else if kind.is_empty() {
            return Err(Error::invalid_spec(field("type"), "missing, and it is no bind mount"));
        } else if matches!(kind, "cgroup" | "cgroup2") {
            Source::Cgroup
        } else {
            let source = mount.source().as_ref().map_or(kind.into(), |source| source.to_string_lossy());
            Source::Fs(kind.to_owned(), source.into_owned())
        };
        if plan.copy_up && !matches!(&plan.source, Source::Fs(kind, _) if kind == "tmpfs") {
            return Err(Error::invalid_spec(field("options"), "`tmpcopyup` is for tmpfs only"));
        }
        if plan.idmap.is_some() && !matches!(plan.source, Source::Bind(..)) {
            return Err(Error::invalid_spec(field("options"), "only bind mounts can be idmapped"));
        }
        if let (Source::Bind(..), Some(option)) = (&plan.source, plan.data.first()) {
            return Err(Error::invalid_spec(
                field("options"),
                format!("{option:?} is not an option of a bind mount"),
            ));
        }
        Ok(plan)
    }

    fn option(&mut self, name: &str) {
        let find = |name: &str| ATTRIBUTES.iter().find(|(known, ..)| *known == name);
        if let Some((_, set, clear)) = find(name) {
            apply(&mut self.attributes, *set, *clear);
        } else if let Some((kind, depth)) = propagation(name) {
            self.propagation.push((kind, depth));
        } else if let Some((_, set, clear)) = name.strip_prefix('r').and_then(find) {
            apply(&mut self.recursive, *set, *clear);
        } else if !IGNORED.contains(&name) {
            self.data.push(name.to_owned());
        }
    }

    /// Whether its ids are mapped into the container's own user namespace.
    pub fn wants_container_ids(&self) -> bool {
        matches!(self.idmap, Some(IdMap::Container(_)))
    }

    /// Whether it takes the mounts below along, and gives the host none of its own.
    pub(super) fn is_private_tree(&self) -> bool {
        matches!(self.source, Source::Bind(_, Depth::Tree))
            && !self.propagation.iter().any(|(kind, _)| *kind == libc::MS_SHARED)
    }

    /// Whether the mount itself is read-only.
    pub fn is_read_only(&self) -> bool {
        (self.attributes.set | self.recursive.set) & attr::RDONLY != 0
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn plan(json: serde_json::Value) -> Result<Plan> {
        Plan::new(0, &serde_json::from_value(json).unwrap(), Path::new("/b"))
    }

    #[test]
    fn the_last_of_contradicting_options_wins() {
        let plan = plan(serde_json::json!({"destination": "/x", "type": "tmpfs",
            "options": ["ro", "noexec", "rw", "noatime", "relatime", "rro", "size=1m", "rslave"]}))
        .unwrap();
        assert_eq!((plan.attributes.set, plan.attributes.clear), (attr::NOEXEC, attr::RDONLY | attr::ATIME));
        assert_eq!(plan.recursive.set, attr::RDONLY);
        assert_eq!(plan.propagation, [(libc::MS_SLAVE, Depth::Tree)]);
        assert_eq!(plan.data, ["size=1m"]);
    }

    #[test]
    fn what_cannot_be_a_mount_is_refused_with_its_field() {
        for (json, field) in [
            (serde_json::json!({"destination": "/x"}), "mounts[0].type"),
            (serde_json::json!({"destination": "/x", "type": "bind"}), "mounts[0].source"),
            (
                serde_json::json!({"destination": "/x", "type": "bind", "source": "/y", "options": ["size=1"]}),
                "mounts[0].options",
            ),
            (
                serde_json::json!({"destination": "/x", "type": "proc", "options": ["idmap"]}),
                "mounts[0].options",
            ),
            (serde_json::json!({"destination": "", "type": "proc"}), "mounts[0].destination"),
        ] {
            let error = plan(json).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn a_relative_source_is_relative_to_the_bundle() {
        let plan =
            plan(serde_json::json!({"destination": "/x", "source": "data", "options": ["rbind"]})).unwrap();
        assert_eq!(plan.source, Source::Bind("/b/data".into(), Depth::Tree));
    }
}
