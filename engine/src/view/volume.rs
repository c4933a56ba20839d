//! Volumes as `volume ls` and `volume inspect` show them.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde::Serialize;

use super::ps::Measure;
use crate::error::Result;
use crate::format::filter::{Filters, truth};
use crate::format::{Column, Listing, Row, human};
use crate::volume::{Naming, Volume, VolumeStore};

/// What `volume ls` can show.
pub const LISTING: Listing = Listing {
    columns: &[
        Column { field: "Driver", header: "DRIVER" },
        Column { field: "Name", header: "VOLUME NAME" },
        Column { field: "Scope", header: "SCOPE" },
        Column { field: "Mountpoint", header: "MOUNTPOINT" },
        Column { field: "Labels", header: "LABELS" },
        Column { field: "Size", header: "SIZE" },
    ],
    default: "{{.Driver}}\t{{.Name}}",
};

/// The row of `volume`.
pub fn row(store: &VolumeStore, volume: &Volume, measure: Measure) -> Row {
    let size = match measure {
        Measure::Skip => "N/A".to_owned(),
        Measure::Size => human::size(store.size_bytes(&volume.name)),
    };
    Row::default()
        .with("Driver", "local")
        .with("Name", volume.name.as_str())
        .with("Scope", "local")
        .with("Mountpoint", store.path(&volume.name).display().to_string())
        .with_labels(&volume.labels)
        .with("Size", size)
}

/// What `volume inspect` prints of one volume, in Docker's shape.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspect {
    created_at: String,
    driver: &'static str,
    labels: Option<BTreeMap<String, String>>,
    mountpoint: String,
    name: String,
    options: Option<BTreeMap<String, String>>,
    scope: &'static str,
    anonymous: bool,
}

impl Inspect {
    /// What is known of `volume`.
    pub fn new(store: &VolumeStore, volume: &Volume) -> Self {
        Self {
            created_at: volume.created.clone(),
            driver: "local",
            labels: (!volume.labels.is_empty()).then(|| volume.labels.clone()),
            mountpoint: store.path(&volume.name).display().to_string(),
            name: volume.name.clone(),
            options: None,
            scope: "local",
            anonymous: volume.naming == Naming::Anonymous,
        }
    }
}

/// Filters of volumes, ready to be asked.
#[derive(Debug)]
pub struct VolumeFilter {
    filters: Filters,
    names: Vec<Regex>,
    dangling: Vec<bool>,
    all: Vec<bool>,
}

impl VolumeFilter {
    /// Reads the values of `volume ls --filter`.
    ///
    /// # Errors
    /// A key or value that does not exist.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self> {
        Self::read(Filters::parse(texts, &["dangling", "driver", "label", "label!", "name"])?)
    }

    /// Reads the values of `volume prune --filter`.
    ///
    /// # Errors
    /// A key or value that does not exist.
    pub fn parse_prune<T: AsRef<str>>(texts: &[T]) -> Result<Self> {
        Self::read(Filters::parse(texts, &["all", "label", "label!"])?)
    }

    fn read(filters: Filters) -> Result<Self> {
        Ok(Self {
            names: filters.patterns("name")?,
            dangling: filters.read("dangling", truth)?,
            all: filters.read("all", truth)?,
            filters,
        })
    }

    /// Whether `all=true` was given.
    pub fn takes_all(&self) -> bool {
        self.all.contains(&true)
    }

    /// Whether the labels of `volume` are as asked for.
    pub fn labels_match(&self, volume: &Volume) -> bool {
        self.filters.labels_match(&volume.labels)
    }

    /// Whether `volume` is to be shown. `users` is only asked where it matters.
    ///
    /// # Errors
    /// What `users` gives.
    pub fn accepts(&self, volume: &Volume, users: impl FnOnce() -> Result<Vec<String>>) -> Result<bool> {
        let shown = self.labels_match(volume)
            && self.filters.any("driver", |driver| driver == "local")
            && (self.names.is_empty() || self.names.iter().any(|pattern| pattern.is_match(&volume.name)));
        Ok(shown && (self.dangling.is_empty() || self.dangling.contains(&users()?.is_empty())))
    }
}
