//! Rows of `ps`.

use std::time::SystemTime;

use super::{ports, status};
use crate::format::{Column, Listing, Row, human};
use crate::record::{MountKind, NetworkMode};
use crate::store::Container;
use crate::{ids, usage};

/// What `ps` can show.
pub const LISTING: Listing = Listing {
    columns: COLUMNS,
    default: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
};

/// What `ps --size` can show.
pub const LISTING_WITH_SIZE: Listing = Listing {
    columns: COLUMNS,
    default: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}",
};

const COLUMNS: &[Column] = &[
    Column { field: "ID", header: "CONTAINER ID" },
    Column { field: "Names", header: "NAMES" },
    Column { field: "Image", header: "IMAGE" },
    Column { field: "Command", header: "COMMAND" },
    Column { field: "CreatedAt", header: "CREATED AT" },
    Column { field: "RunningFor", header: "CREATED" },
    Column { field: "Ports", header: "PORTS" },
    Column { field: "State", header: "STATE" },
    Column { field: "Status", header: "STATUS" },
    Column { field: "Size", header: "SIZE" },
    Column { field: "Labels", header: "LABELS" },
    Column { field: "Mounts", header: "MOUNTS" },
    Column { field: "LocalVolumes", header: "LOCAL VOLUMES" },
    Column { field: "Networks", header: "NETWORKS" },
    Column { field: "Platform", header: "PLATFORM" },
    Column { field: "Isolation", header: "ISOLATION" },
];

/// Whether long values are shown whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Ids, commands and mounts are cut.
    Short,
    /// Everything is shown (`--no-trunc`).
    Full,
}

/// Whether the write layer is measured, which reads all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// No: `Size` says so.
    Skip,
    /// Yes (`--size`).
    Size,
}

/// The row of `container`.
pub fn row(container: &Container, width: Width, measure: Measure, now: SystemTime) -> Row {
    let record = &container.record;
    let created = human::parse_time(&record.created).unwrap_or(now);
    let command = command(container);
    let cut = |text: &str, length| match width {
        Width::Short => ellipsis(text, length),
        Width::Full => text.to_owned(),
    };
    let id = if width == Width::Short { ids::short(container.id()) } else { container.id() };
    let size = match measure {
        Measure::Skip => "N/A".to_owned(),
        Measure::Size => {
            let (written, whole) = sizes(container);
            format!("{} (virtual {})", human::size(written), human::size(whole))
        }
    };
    let mounts: Vec<String> = mount_names(container).iter().map(|name| cut(name, 15)).collect();
    let volumes = record.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Volume { .. })).count();
    Row::default()
        .with("ID", id)
        .with("Names", container.name())
        .with("Image", record.image.reference.as_str())
        .with("Command", format!("{:?}", cut(&command, 20)))
        .with("CreatedAt", record.created.as_str())
        .with("RunningFor", human::ago(created, now))
        .with("Ports", ports::phrase(container))
        .with("State", container.state.status.to_string())
        .with("Status", status::phrase(&container.state, now))
        .with("Size", size)
        .with_labels(&record.labels)
        .with("Mounts", mounts.join(","))
        .with("LocalVolumes", volumes.to_string())
        .with("Networks", network_name(&record.network.mode))
        .with("Platform", "linux/amd64")
        .with("Isolation", record.isolation.to_string())
}

/// Bytes of the write layer, and of it and the image together.
pub fn sizes(container: &Container) -> (u64, u64) {
    let written = usage::content_bytes(&container.paths.overlay().join("upper"));
    let image: u64 = container.record.image.layers.iter().map(|layer| usage::content_bytes(layer)).sum();
    (written, written + image)
}

/// The command line, arguments with spaces in quotes.
pub fn command(container: &Container) -> String {
    let quote = |arg: &String| {
        if arg.contains(' ') && container.record.process.args().next() != Some(arg) {
            format!("'{arg}'")
        } else {
            arg.clone()
        }
    };
    container.record.process.args().map(quote).collect::<Vec<_>>().join(" ")
}

/// What each mount but those of memory is known by: the volume's name or the host's path.
pub fn mount_names(container: &Container) -> Vec<String> {
    let name = |kind: &MountKind| match kind {
        MountKind::Bind { source, .. } => Some(source.display().to_string()),
        MountKind::Volume { name, .. } => Some(name.clone()),
        MountKind::Tmpfs { .. } => None,
    };
    container.record.mounts.iter().filter_map(|mount| name(&mount.kind)).collect()
}

/// `bridge`, `none`, `host`, `container:ID`.
pub fn network_name(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Bridge => "bridge".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Container(id) => format!("container:{id}"),
    }
}

/// `text` in at most `length` characters, the last of them an ellipsis where something is missing.
fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length.saturating_sub(1)).chain(['\u{2026}']).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::format::Format;
    use crate::paths::Paths;
    use crate::record::{
        ContainerRecord, ImageUse, Limits, LogConfig, MountConfig, NetworkConfig, ProcessConfig,
        RestartPolicy, Security,
    };
    use crate::state::{ContainerState, ContainerStatus};

    pub(crate) const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    /// A container `name` that was just created, its id made of the name's first letter.
    pub(crate) fn container(name: &str) -> Container {
        let digit = format!("{:02x}", name.bytes().next().unwrap_or(0));
        let id = digit.repeat(32);
        let record = ContainerRecord {
            id: id.clone(),
            name: name.to_owned(),
            created: "1970-01-01T00:00:00Z".to_owned(),
            image: ImageUse {
                reference: "nginx".to_owned(),
                id: "sha256:feed".to_owned(),
                ..ImageUse::default()
            },
            isolation: rkvm_oci::Isolation::Container,
            process: ProcessConfig {
                entrypoint: vec!["/docker-entrypoint.sh".to_owned()],
                cmd: vec!["nginx".to_owned(), "-g".to_owned(), "daemon off;".to_owned()],
                ..ProcessConfig::default()
            },
            network: NetworkConfig::default(),
            mounts: vec![],
            limits: Limits::default(),
            boot: crate::record::Boot::default(),
            security: Security::default(),
            restart: RestartPolicy::No,
            auto_remove: false,
            log: LogConfig::default(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        };
        let paths = Paths::new("/nonexistent/run", "/nonexistent/lib").container(&id);
        Container { record, state: ContainerState::default(), paths }
    }

    fn print(container: &Container, width: Width, format: Option<&str>) -> String {
        let now = NOW + Duration::from_secs(125);
        let rows = [row(container, width, Measure::Skip, now)];
        Format::parse(format, &LISTING).unwrap().print(&LISTING, &rows).unwrap()
    }

    #[test]
    fn the_table_looks_like_dockers() {
        let mut web = container("web");
        web.state.status = ContainerStatus::Running;
        web.state.started_at = Some("1970-01-01T00:00:05Z".to_owned());
        assert_eq!(
            print(&web, Width::Short, None),
            "CONTAINER ID   IMAGE     COMMAND                  CREATED         STATUS         PORTS     NAMES\n\
             777777777777   nginx     \"/docker-entrypoint.\u{2026}\"   2 minutes ago   Up 2 minutes             web\n"
        );
        let full = print(&web, Width::Full, Some("{{.ID}} {{.Command}}"));
        assert_eq!(full, format!("{} \"/docker-entrypoint.sh nginx -g 'daemon off;'\"\n", "77".repeat(32)));
    }

    #[test]
    fn every_column_has_a_value_and_every_value_a_column() {
        let row = row(&container("web"), Width::Short, Measure::Size, NOW);
        for column in COLUMNS {
            let template = format!("{{{{.{}}}}}", column.field);
            let format = Format::parse(Some(&template), &LISTING).unwrap();
            let text = format.print(&LISTING, std::slice::from_ref(&row)).unwrap();
            assert!(!text.contains("<no value>"), "{template}: {text}");
        }
        let json = Format::parse(Some("json"), &LISTING).unwrap().print(&LISTING, &[row]).unwrap();
        let json: BTreeMap<String, String> = serde_json::from_str(&json).unwrap();
        let mut names: Vec<_> = COLUMNS.iter().map(|column| column.field.to_owned()).collect();
        names.sort();
        assert_eq!(json.into_keys().collect::<Vec<_>>(), names);
    }

    #[test]
    fn mounts_are_named_and_cut() {
        let mut db = container("db");
        let volume = |name: &str| MountConfig {
            kind: MountKind::Volume {
                name: name.to_owned(),
                anonymous: false,
                no_copy: false,
                subpath: String::new(),
            },
            target: "/data".to_owned(),
            read_only: false,
        };
        let bind = MountConfig {
            kind: MountKind::Bind {
                source: PathBuf::from("/srv"),
                propagation: String::new(),
                recursive: true,
            },
            target: "/srv".to_owned(),
            read_only: true,
        };
        db.record.mounts = vec![volume("a-very-long-volume-name"), bind];
        assert_eq!(
            print(&db, Width::Short, Some("{{.Mounts}} {{.LocalVolumes}}")),
            "a-very-long-vo\u{2026},/srv 1\n"
        );
    }
}
