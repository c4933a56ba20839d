//! `ps --filter`: which containers are shown.

use std::collections::BTreeSet;
use std::time::SystemTime;

use regex_lite::Regex;

use super::{ports, ps};
use crate::engine::Engine;
use crate::error::Result;
use crate::format::{Filters, human};
use crate::record::{MountKind, Protocol};
use crate::store::Container;

/// Keys that `ps --filter` knows.
pub const KEYS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "id",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

const STATUSES: &[&str] = &["created", "running", "paused", "restarting", "exited", "dead"];

/// Filters of containers, ready to be asked.
#[derive(Debug)]
pub struct ContainerFilter {
    filters: Filters,
    names: Vec<Regex>,
    ids: Vec<Regex>,
    exit_codes: Vec<u8>,
    published: Vec<PortRange>,
    exposed: Vec<PortRange>,
    before: Vec<Container>,
    since: Vec<Container>,
}

/// `PORT[-PORT][/PROTOCOL]`.
#[derive(Debug, Clone, Copy)]
struct PortRange {
    first: u16,
    last: u16,
    protocol: Protocol,
}

impl PortRange {
    fn read(text: &str) -> std::result::Result<Self, String> {
        let wrong = || "give PORT or FIRST-LAST, with /tcp or /udp".to_owned();
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(wrong()),
        };
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
        Ok(Self { first: number(first)?, last: number(last)?, protocol })
    }

    fn has(self, port: u16, protocol: Protocol) -> bool {
        (self.first..=self.last).contains(&port) && self.protocol == protocol
    }
}

impl ContainerFilter {
    /// Reads the values of `--filter`. `before` and `since` name containers, which are looked up in `engine`.
    ///
    /// # Errors
    /// A key or value that does not exist, or a container that does not.
    pub fn parse<T: AsRef<str>>(engine: &Engine, texts: &[T]) -> Result<Self> {
        let filters = Filters::parse(texts, KEYS)?;
        filters.read("status", |value| match STATUSES.contains(&value) {
            true => Ok(()),
            false => Err(format!("choose from {}", STATUSES.join(", "))),
        })?;
        filters.read("isolation", |value| value.parse::<rkvm_oci::Isolation>())?;
        let exit_code =
            |value: &str| value.parse::<u8>().map_err(|_| "give an exit code, 0 to 255".to_owned());
        let look_up = |key| filters.get(key).iter().map(|name| engine.find(name)).collect::<Result<Vec<_>>>();
        Ok(Self {
            names: filters.patterns("name")?,
            ids: filters.patterns("id")?,
            exit_codes: filters.read("exited", exit_code)?,
            published: filters.read("publish", PortRange::read)?,
            exposed: filters.read("expose", PortRange::read)?,
            before: look_up("before")?,
            since: look_up("since")?,
            filters,
        })
    }

    /// Whether containers that do not run are asked for, so that `-a` is not needed.
    pub fn wants_stopped(&self) -> bool {
        !self.filters.get("status").is_empty() || !self.exit_codes.is_empty()
    }

    /// Whether `container` is to be shown.
    pub fn accepts(&self, container: &Container) -> bool {
        let record = &container.record;
        let state = &container.state;
        let none_or = |empty: bool, holds: bool| empty || holds;
        let name = container.name();
        // Docker's own names begin with a slash, and both forms are used in patterns such as `^/web$`.
        let named = |pattern: &Regex| pattern.is_match(name) || pattern.is_match(&format!("/{name}"));
        let exited = state.finished_at.is_some() && !state.status.is_active();
        none_or(self.names.is_empty(), self.names.iter().any(named))
            && none_or(self.ids.is_empty(), self.ids.iter().any(|pattern| pattern.is_match(&record.id)))
            && none_or(self.exit_codes.is_empty(), exited && self.exit_codes.contains(&state.exit_code))
            && self.filters.any("status", |status| *status == state.status.to_string())
            && self.filters.any("isolation", |isolation| *isolation == record.isolation.to_string())
            && self.filters.any("ancestor", |image| is_image(container, image))
            && self.filters.any("network", |network| *network == ps::network_name(&record.network.mode))
            && self.filters.any("volume", |volume| mounts(container, volume))
            && self.filters.labels_match(&record.labels)
            && none_or(self.published.is_empty(), self.publishes(container))
            && none_or(self.exposed.is_empty(), self.exposes(container))
            && self.before.iter().all(|other| record.created < other.record.created)
            && self.since.iter().all(|other| record.created > other.record.created)
    }

    fn publishes(&self, container: &Container) -> bool {
        let all = ports::published(container).iter().chain(&container.record.network.ports);
        let ports: BTreeSet<_> = all.map(|mapping| (mapping.container_port, mapping.protocol)).collect();
        ports.iter().any(|(port, protocol)| self.published.iter().any(|range| range.has(*port, *protocol)))
    }

    fn exposes(&self, container: &Container) -> bool {
        let exposed = ports::exposed(container);
        exposed.iter().any(|(port, protocol)| self.exposed.iter().any(|range| range.has(*port, *protocol)))
    }
}

/// Whether `wanted` means the image of `container`: its reference, with or without `:latest`, or the begin of its id.
fn is_image(container: &Container, wanted: &str) -> bool {
    let image = &container.record.image;
    let plain = |text: &str| {
        let text = text.strip_prefix("docker.io/").unwrap_or(text);
        let text = text.strip_prefix("library/").unwrap_or(text);
        text.strip_suffix(":latest").unwrap_or(text).to_owned()
    };
    let digits = |text: &str| text.strip_prefix("sha256:").unwrap_or(text).to_owned();
    let hex = digits(wanted);
    let is_id = hex.len() >= 4 && hex.chars().all(|c| c.is_ascii_hexdigit());
    plain(&image.reference) == plain(wanted) || (is_id && digits(&image.id).starts_with(&hex))
}

/// Whether `container` mounts the volume or host path `wanted`, or mounts something there.
fn mounts(container: &Container, wanted: &str) -> bool {
    container.record.mounts.iter().any(|mount| {
        let source = match &mount.kind {
            MountKind::Bind { source, .. } => source.to_str() == Some(wanted),
            MountKind::Volume { name, .. } => name == wanted,
            MountKind::Tmpfs { .. } => false,
        };
        source || mount.target == wanted
    })
}

/// Filters of `prune`, ready to be asked.
#[derive(Debug)]
pub struct PruneFilter {
    filters: Filters,
    until: Vec<SystemTime>,
}

impl PruneFilter {
    /// Reads the values of `prune --filter`; `until` is a moment or a duration before `now`.
    ///
    /// # Errors
    /// A key or value that does not exist.
    pub fn parse<T: AsRef<str>>(texts: &[T], now: SystemTime) -> Result<Self> {
        let filters = Filters::parse(texts, &["label", "label!", "until"])?;
        let until = filters.read("until", |value| {
            human::parse_moment(value, now).ok_or_else(|| {
                "give a duration such as 24h or a time such as 2026-01-31T12:00:00Z".to_owned()
            })
        })?;
        Ok(Self { filters, until })
    }

    /// Whether `container` may be removed.
    pub fn accepts(&self, container: &Container) -> bool {
        let created = human::parse_time(&container.record.created);
        let old_enough = |until: &SystemTime| created.is_some_and(|created| created < *until);
        self.filters.labels_match(&container.record.labels) && self.until.iter().all(old_enough)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ps::tests::container;
    use super::*;
    use crate::paths::Paths;
    use crate::record::PortMapping;
    use crate::state::ContainerStatus;

    fn accepts(container: &Container, filters: &[&str]) -> bool {
        parse(filters).unwrap().accepts(container)
    }

    fn parse(filters: &[&str]) -> Result<ContainerFilter> {
        let none = |_| Err(rkvm_oci::Error::unsupported("backend", "test"));
        let engine = Engine::new(Paths::new("/nonexistent/run", "/nonexistent/lib"), none);
        ContainerFilter::parse(&engine, filters)
    }

    #[test]
    fn each_key() {
        let mut web = container("web-1");
        web.state.status = ContainerStatus::Exited;
        web.state.exit_code = 3;
        web.state.finished_at = Some("1970-01-01T00:00:00Z".to_owned());
        web.record.labels.insert("tier".to_owned(), "front".to_owned());
        web.record.network.exposed = vec!["443/tcp".to_owned()];
        web.record.network.ports =
            vec![PortMapping { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp }];
        web.record.mounts = vec![crate::record::MountConfig {
            kind: MountKind::Volume {
                name: "data".to_owned(),
                anonymous: false,
                no_copy: false,
                subpath: String::new(),
            },
            target: "/srv".to_owned(),
            read_only: false,
        }];
        for yes in [
            &["name=web"][..],
            &["name=^/web-1$"],
            &["name=^web-1$"],
            &["name=nope", "name=w.b"],
            &["id=^7777"],
            &["exited=3"],
            &["status=exited"],
            &["status=running", "status=exited"],
            &["ancestor=nginx"],
            &["ancestor=docker.io/library/nginx:latest"],
            &["ancestor=sha256:feed"],
            &["volume=data"],
            &["volume=/srv"],
            &["network=bridge"],
            &["label=tier"],
            &["label=tier=front"],
            &["label!=other"],
            &["publish=80"],
            &["publish=79-81/tcp"],
            &["expose=443"],
            &["isolation=container"],
            &["name=web", "exited=3", "label=tier"],
        ] {
            assert!(accepts(&web, yes), "{yes:?}");
        }
        for no in [
            &["name=db"][..],
            &["name=^eb"],
            &["id=8888"],
            &["exited=0"],
            &["status=running"],
            &["ancestor=nginx:1.25"],
            &["ancestor=fee"],
            &["volume=dat"],
            &["network=host"],
            &["label=tier=back"],
            &["label!=tier"],
            &["publish=80/udp"],
            &["publish=8080"],
            &["expose=80"],
            &["isolation=vm"],
            &["name=web", "exited=0"],
        ] {
            assert!(!accepts(&web, no), "{no:?}");
        }
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        for (filter, part) in [
            ("status=up", "running"),
            ("exited=x", "exit code"),
            ("publish=x", "PORT"),
            ("isolation=box", "container"),
            ("name=(", "regular expression"),
            ("before=nobody", "nobody"),
            ("color=red", "color"),
            ("status", "KEY=VALUE"),
        ] {
            let error = parse(&[filter]).unwrap_err().to_string();
            assert!(error.contains(part), "{filter}: {error}");
        }
    }
}
