//! The end of a container's network, and of the network itself.

use super::Network;
use crate::error::{Error, Result};
use crate::lease::{self, Lease, Leases};
use crate::link;

impl Network {
    /// Closes the container's published ports; its link and address stay. Quick, unlike [`Network::release`], which is to follow when
    /// nobody waits any more.
    ///
    /// # Errors
    /// The kernel refuses a request.
    pub fn close_ports(&self, container_id: &str) -> Result<()> {
        let Some(leases) = Leases::lock_existing(&self.dir)? else { return Ok(()) };
        match leases.find(container_id)? {
            Some(mut lease) if !lease.ports.is_empty() => {
                self.withdraw(&lease.ports)?;
                lease.ports.clear();
                leases.write(&lease)
            }
            _ => Ok(()),
        }
    }

    /// Removes the container's port rules and link and frees its address. Does nothing when it has none, so any process may call
    /// it at any time. Takes 10 to 50 ms where the link is still there: the kernel waits for RCU grace periods.
    ///
    /// # Errors
    /// The kernel refuses a request; the lease then stays, so that the next call tries again.
    pub fn release(&self, container_id: &str) -> Result<()> {
        self.release_if(container_id, |_| true)
    }

    /// As [`Network::release`], unless another process has reserved for the container since: the last act of a monitor whose
    /// container may already be started again.
    ///
    /// # Errors
    /// As [`Network::release`].
    pub fn release_own(&self, container_id: &str) -> Result<()> {
        self.release_if(container_id, |lease| lease.owner_pid == std::process::id())
    }

    fn release_if(&self, container_id: &str, wanted: impl Fn(&Lease) -> bool) -> Result<()> {
        let Some(leases) = Leases::lock_existing(&self.dir)? else { return Ok(()) };
        let Some(mut lease) = leases.find(container_id)?.filter(wanted) else { return Ok(()) };
        if !lease.ports.is_empty() {
            self.withdraw(&lease.ports)?;
            lease.ports.clear();
            leases.write(&lease)?;
        }
        let link = self.route(|socket| link::find(socket, &lease.host_link))?;
        // Other containers need not wait for the kernel's grace periods: the lease keeps the address meanwhile.
        let _under_way = leases.begin_release()?;
        drop(leases);
        if let Some(index) = link {
            self.route(|socket| link::delete_index(socket, index, &lease.host_link))?;
        }
        let Some(leases) = Leases::lock_existing(&self.dir)? else { return Ok(()) };
        match leases.find(container_id)? {
            Some(now) if now == lease => leases.remove(&lease),
            // Reserved anew since.
            _ => Ok(()),
        }
    }

    /// Releases every container that `is_alive` denies, and gives their leases back.
    ///
    /// # Errors
    /// As [`Network::release`].
    pub fn repair(&self, mut is_alive: impl FnMut(&Lease) -> bool) -> Result<Vec<Lease>> {
        let mut dead = self.leases()?;
        dead.retain(|lease| !is_alive(lease));
        for lease in &dead {
            self.release(&lease.container_id)?;
        }
        Ok(dead)
    }

    /// Releases containers whose monitor is gone, and removes the network when no other has a lease.
    ///
    /// # Errors
    /// The kernel refuses a request.
    pub fn prune(&self) -> Result<()> {
        self.repair(Lease::has_owner)?;
        match self.remove() {
            Err(Error::InUse { .. }) => Ok(()),
            result => result,
        }
    }

    /// Removes the bridge, the rules and the state folder: nothing of the network is left on the host.
    ///
    /// # Errors
    /// [`Error::InUse`] when a container has a lease.
    pub fn remove(&self) -> Result<()> {
        // A container that has just ended is not in the way.
        lease::wait_for_releases(&self.dir)?;
        let Some(leases) = Leases::lock_existing(&self.dir)? else { return Ok(()) };
        leases.settings()?;
        let count = leases.addresses()?.len();
        if count > 0 {
            return Err(Error::InUse { name: self.name.clone(), count });
        }
        self.unmake()?;
        leases.remove_all()
    }
}
