//! Which containers use which image.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::{Image, Store};
use crate::digest::Digest;
use crate::error::{Error, Result};

impl Store {
    /// Keeps `image` from being removed as long as the container's folder (`lib/containers/CONTAINER`) exists. The folder
    /// must exist already, so that a command killed right after this leaves nothing that would keep the image for ever.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the image was removed since it was resolved; or the store cannot be written.
    pub fn hold(&self, image: &Image, container: &str) -> Result<()> {
        let path = self.use_path(container);
        // Under the index' lock, as removal is: it sees the use, or this sees that the image is gone.
        self.change(|index| {
            if !index.images.iter().any(|record| record.id == image.id) {
                return Err(Error::NotFound { name: image.id.to_string() });
            }
            fs::write(&path, image.id.to_string()).map_err(Error::io("write", &path))
        })
    }

    /// The container needs its image no more. Not an error if it held none.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn release(&self, container: &str) -> Result<()> {
        let path = self.use_path(container);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Containers that exist, with the image that each holds.
    pub(crate) fn uses(&self) -> Result<Vec<(String, Digest)>> {
        let folder = self.root.join("uses");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(Error::io("read", folder)(error)),
        };
        let mut uses = vec![];
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &folder))?;
            let Ok(container) = entry.file_name().into_string() else { continue };
            if !self.containers.join(&container).exists() {
                // Its container was deleted by a command that was killed before it came here.
                self.release(&container)?;
                continue;
            }
            let image = fs::read_to_string(entry.path()).ok().and_then(|text| text.parse().ok());
            uses.extend(image.map(|image| (container, image)));
        }
        uses.sort();
        Ok(uses)
    }

    fn use_path(&self, container: &str) -> PathBuf {
        self.root.join("uses").join(container)
    }
}
