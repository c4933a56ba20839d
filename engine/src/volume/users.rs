//! Who uses a volume.

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::record::MountKind;
use crate::{ids, store};

impl Engine {
    /// Short ids of the containers, running or not, that mount volume `name`. Reads records only and takes no container's lock:
    /// it is asked under the volumes' lock.
    ///
    /// # Errors
    /// A record cannot be read: who may use the volume is not known then.
    pub fn volume_users(&self, name: &str) -> Result<Vec<String>> {
        let mut users = vec![];
        for id in store::ids(&self.paths)? {
            let container = match store::peek(&self.paths, &id) {
                Ok(container) => container,
                // Removed since the folder was read.
                Err(Error::NoSuchContainer(_)) => continue,
                Err(error) => return Err(error),
            };
            let mounts = &container.record.mounts;
            if mounts
                .iter()
                .any(|mount| matches!(&mount.kind, MountKind::Volume { name: used, .. } if used == name))
            {
                users.push(ids::short(&id).to_owned());
            }
        }
        Ok(users)
    }
}
