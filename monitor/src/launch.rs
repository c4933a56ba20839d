//! One start of a container: namespaces, root filesystem, network, configuration, sandbox, program.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rkvm_engine::layers::RootView;
use rkvm_engine::namespaces::{Namespaces, NetNamespace, UidRange};
use rkvm_engine::record::{ContainerRecord, NamespaceMode, NetworkMode};
use rkvm_engine::rootfs::{self, Owner};
use rkvm_engine::spec;
use rkvm_engine::state::NetworkState;
use rkvm_engine::volume::{VolumeStore, copy_up};
use rkvm_engine::{Container, Engine, Error, Result, network};
use rkvm_net::Reservation;
use rkvm_oci::runtime::{self, Beginning, CreateOptions};
use rkvm_oci::{BeginRequest, Bundle, Kernel, Link, LinkForm, Phase, Rootfs, RootfsForm, Timeline, Workload};

use rkvm_engine::stdio::{self, Streams, Wanted};

/// A container whose program has been executed.
pub struct Running {
    /// The backend's handle.
    pub workload: Box<dyn Workload>,
    /// Readable when the init process has ended.
    pub ended: OwnedFd,
    /// Its streams.
    pub streams: Streams,
    /// Its addresses.
    pub network: Option<NetworkState>,
    /// Host id of its user 0.
    pub uid_base: Option<u32>,
    /// The tap of a microVM once more. The kernel takes 10 to 20 ms to remove one with its last descriptor: as part of the process's end,
    /// whoever waits for that would wait for this too.
    pub tap: Option<OwnedFd>,
    // Held as long as it runs: the range and the host ports are taken.
    _range: Option<UidRange>,
    _reservation: Option<Reservation>,
}

/// What a start needs beside the container.
pub struct Launcher<'a> {
    /// The engine.
    pub engine: &'a Engine,
    /// Size of the first client's terminal.
    pub size: Option<(u16, u16)>,
}

/// Namespaces of other containers that this one joins.
#[derive(Default)]
struct Joined {
    pids: HashMap<String, i32>,
    user: Option<OwnedFd>,
    net: Option<OwnedFd>,
    uid_base: Option<u32>,
}

impl Launcher<'_> {
    /// Starts the container. What has been made when it fails is left for [`Engine::clean`].
    ///
    /// # Errors
    /// Anything that keeps the program from being executed.
    pub fn start(&self, container: &Container, timeline: &mut Timeline) -> Result<Running> {
        let record = &container.record;
        let files = &container.paths;
        let backend = self.engine.backend(record.isolation)?;
        let needs = backend.needs();
        let joined = self.join(record)?;
        let range = match (record.security.userns == NamespaceMode::Private, joined.pids.is_empty()) {
            (true, true) => Some(UidRange::take(&self.engine.paths, container.id())?),
            _ => None,
        };
        let net = match (needs.link, &record.network.mode) {
            (LinkForm::Veth, NetworkMode::Bridge | NetworkMode::None) => NetNamespace::New,
            (LinkForm::Veth, NetworkMode::Host | NetworkMode::Container(_)) | (LinkForm::Tap, _) => {
                NetNamespace::Shared
            }
        };
        let made = Namespaces::new(range.as_ref().map(UidRange::base), net)?;
        let uid_base = range.as_ref().map(UidRange::base).or(joined.uid_base);
        let user = made.user.or(joined.user);
        let net = made.net.or(joined.net);
        let volumes = VolumeStore::new(&self.engine.paths.lib);
        let owner = user.as_ref().zip(uid_base).map(|(userns, uid_base)| Owner { userns, uid_base });
        let me = std::process::id();
        let path = |fd: &OwnedFd| PathBuf::from(format!("/proc/{me}/fd/{}", fd.as_raw_fd()));
        let own_program = std::env::current_exe()
            .map_err(|source| Error::file("find the program of", "/proc/self", source))?;
        let store = self.engine.paths.runtime();
        let link = needs.link == LinkForm::Tap && record.network.mode == NetworkMode::Bridge;
        let begin = |root: &RootView, image: Option<&Path>| -> Result<(Bundle, Beginning<'_>)> {
            let spec = spec::build(&spec::Inputs {
                record,
                files,
                network_files: true,
                uid_base,
                user_namespace: user.as_ref().map(path),
                net_namespace: net.as_ref().map(path),
                joined: &joined.pids,
                volume_path: &|name| volumes.path(name),
                init_program: &own_program,
                kernel: needs.kernel,
                root,
            })?;
            let bundle = write_bundle(files.bundle(), spec)?;
            let request = BeginRequest { id: container.id(), bundle: &bundle, image, link };
            let beginning = runtime::begin(backend.as_ref(), &store, request)?;
            Ok((bundle, beginning))
        };
        let (begun, form) = match needs.rootfs {
            RootfsForm::Mounted => {
                rootfs::mount_overlay(files, &record.image.layers, owner)?;
                copy_up::fill(&volumes, record, uid_base, || Ok(files.rootfs()))?;
                (None, Rootfs::Bundle)
            }
            RootfsForm::Layers => {
                let image = self.engine.image_file(&record.image)?;
                let begun = begin(&RootView::layers(files, &record.image.layers), Some(&image))?;
                self.prepare_layers(container, &volumes)?;
                (Some(begun), Rootfs::Image { image, write_layer: files.overlay() })
            }
        };
        timeline.mark(Phase::Rootfs);
        let (reservation, link) = self.connect(record, needs.link, net.as_ref())?;
        network::write_files(
            record,
            files,
            reservation.as_ref().map(|held| IpAddr::V4(held.lease().address)),
            reservation.as_ref().map(|held| IpAddr::V4(held.lease().gateway)),
        )?;
        timeline.mark(Phase::Network);
        let (bundle, beginning) = match begun {
            Some(begun) => begun,
            None => begin(&RootView::Mounted(files.rootfs()), None)?,
        };
        let uid = bundle.spec.process().as_ref().map_or(0, |process| process.user().uid());
        let streams_failed = |source| Error::file("make the streams of", files.dir(), source);
        let wanted = Wanted { tty: record.process.tty, stdin: record.process.open_stdin };
        let (stdio, mut streams) = stdio::make(wanted).map_err(streams_failed)?;
        if let Some(uid_base) = uid_base {
            stdio::give(&stdio, uid_base + uid).map_err(streams_failed)?;
        }
        let tap = link.as_ref().map(|link| link.tap.try_clone()).transpose();
        let tap = tap.map_err(|source| Error::file("keep the link of", files.dir(), source))?;
        let options = CreateOptions {
            id: container.id(),
            bundle: &bundle,
            rootfs: form,
            link,
            stdio,
            preserve_fds: 0,
            no_pivot: false,
            keyring: rkvm_oci::Keyring::New,
            at_once: true,
        };
        let workload = beginning.create(options, timeline)?;
        streams
            .connect(self.size)
            .map_err(|source| Error::file("take the terminal of", files.dir(), source))?;
        let ended = stdio::watch_end(workload.pid())
            .map_err(|source| Error::file("watch", format!("/proc/{}", workload.pid()), source))?;
        match workload.executed() {
            Some(executed) => timeline.mark_at(Phase::Exec, executed),
            None => drop(runtime::open(backend.as_ref(), &store, container.id())?.start(timeline)?),
        }
        Ok(Running {
            workload,
            ended,
            streams,
            network: reservation.as_ref().map(|held| network::state(held.lease(), &self.engine.paths.lib)),
            uid_base,
            tap,
            _range: range,
            _reservation: reservation,
        })
    }

    /// Makes the write layer and what else a backend is given that joins it to the image itself. Only a volume that takes its first content
    /// from the image needs a mount, for a moment.
    fn prepare_layers(&self, container: &Container, volumes: &VolumeStore) -> Result<()> {
        let (record, files) = (&container.record, &container.paths);
        rootfs::prepare(files)?;
        // Owners on disk are the container's ids already.
        copy_up::fill(volumes, record, None, || {
            rootfs::mount_image(files, &record.image.layers)?;
            Ok(files.rootfs())
        })?;
        crate::unmount(container);
        let transfer = files.transfer();
        match fs::remove_dir_all(&transfer) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", transfer, error));
            }
            _ => {}
        }
        fs::create_dir(&transfer).map_err(|source| Error::file("create", transfer, source))
    }

    /// The namespaces of the containers that `record` names.
    fn join(&self, record: &ContainerRecord) -> Result<Joined> {
        let security = &record.security;
        let mut joined = Joined::default();
        let by_mode = [&security.pid, &security.ipc].into_iter().filter_map(|mode| match mode {
            NamespaceMode::Container(id) => Some(id),
            _ => None,
        });
        let net = match &record.network.mode {
            NetworkMode::Container(id) => Some(id),
            _ => None,
        };
        for id in by_mode.chain(net) {
            let other = self.engine.find(id)?;
            if !other.state.status.has_processes() {
                return Err(Error::WrongState {
                    verb: "join a namespace of",
                    name: other.name().to_owned(),
                    status: other.state.status,
                    hint: Some("start it first"),
                });
            }
            if self.engine.backend(other.record.isolation)?.needs().kernel == Kernel::Own {
                return Err(rkvm_oci::Error::unsupported(
                    format!("joining a namespace of {}", other.name()),
                    "it is a microVM, whose kernel shares no namespace with the host",
                )
                .into());
            }
            let pid = other.state.pid;
            let open = |name: &str| {
                let path = format!("/proc/{pid}/ns/{name}");
                File::open(&path).map(OwnedFd::from).map_err(|source| Error::file("open", path, source))
            };
            // A namespace can be used, mounts of its file systems included, only from within the user namespace that owns it.
            if other.state.uid_base.is_some() && joined.user.is_none() {
                joined.user = Some(open("user")?);
                joined.uid_base = other.state.uid_base;
            }
            if joined.uid_base != other.state.uid_base {
                return Err(Error::Invalid {
                    what: "namespace mode",
                    value: format!("container:{}", other.name()),
                    reason: "the containers whose namespaces are joined have different user namespaces"
                        .to_owned(),
                });
            }
            if net == Some(id) {
                joined.net = Some(open("net")?);
            }
            joined.pids.insert(id.clone(), pid);
        }
        Ok(joined)
    }

    fn connect(
        &self,
        record: &ContainerRecord,
        form: LinkForm,
        net: Option<&OwnedFd>,
    ) -> Result<(Option<Reservation>, Option<Link>)> {
        if record.network.mode == NetworkMode::None {
            if let Some(net) = net {
                rkvm_net::loopback_up(net.as_fd())?;
            }
            return Ok((None, None));
        }
        if record.network.mode != NetworkMode::Bridge {
            return Ok((None, None));
        }
        let network = self.engine.network();
        let ports = network::requested_ports(&record.network)?;
        let reservation = network.reserve(&record.id, &record.name, &ports)?;
        let link = match (form, net) {
            (LinkForm::Veth, Some(net)) => {
                network.connect(net.as_fd(), &reservation)?;
                None
            }
            (LinkForm::Veth, None) => None,
            (LinkForm::Tap, _) => {
                Some(network::link(reservation.lease(), network.connect_tap(&reservation)?))
            }
        };
        Ok((Some(reservation), link))
    }
}

/// Writes config.json, for whoever wants to see it; what is used is `spec` itself.
fn write_bundle(path: PathBuf, spec: oci_spec::runtime::Spec) -> Result<Bundle> {
    match fs::create_dir(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::file("create", path, error));
        }
        _ => {}
    }
    let config = path.join("config.json");
    let text = serde_json::to_vec(&spec).map_err(|source| Error::Damaged { path: config.clone(), source })?;
    fs::write(&config, text).map_err(|source| Error::file("write", config, source))?;
    Ok(Bundle { path, spec })
}
