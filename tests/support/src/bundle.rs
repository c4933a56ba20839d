//! OCI bundles: a busybox root filesystem and a config.json that tests change as plain JSON, so that they can also
//! write what a typed builder would refuse.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

/// The six namespaces that every engine container has anew, beside the cgroup namespace.
pub const NAMESPACES: [&str; 6] = ["pid", "network", "mount", "uts", "ipc", "user"];

/// A bundle on disk.
#[derive(Debug)]
pub struct Bundle {
    /// The bundle's folder.
    pub path: PathBuf,
    /// config.json; call [`Bundle::write`] after a change.
    pub config: Value,
}

impl Bundle {
    /// A bundle in folder `path` (in place of an older one there) with a busybox root filesystem, whose program is `args`, and whose cgroup is
    /// `cgroup` (absolute, as in `linux.cgroupsPath`).
    ///
    /// # Panics
    /// Files cannot be written.
    pub fn new(path: &Path, cgroup: &str, args: &[&str]) -> Self {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                panic!("remove an older bundle: {error}")
            }
            _ => {}
        }
        busybox_rootfs(&path.join("rootfs"));
        let bundle = Self { path: path.to_owned(), config: default_config(cgroup, args) };
        bundle.write();
        bundle
    }

    /// The root filesystem.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// Writes config.json.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write(&self) {
        fs::write(self.path.join("config.json"), self.config.to_string()).expect("write config.json");
    }

    /// Changes the configuration and writes it.
    pub fn change(&mut self, change: impl FnOnce(&mut Value)) -> &mut Self {
        change(&mut self.config);
        self.write();
        self
    }

    /// Sets `process.args` to a shell script.
    pub fn script(&mut self, script: &str) -> &mut Self {
        self.change(|config| config["process"]["args"] = json!(["sh", "-c", script]))
    }

    /// Sets `process.args`.
    pub fn args(&mut self, args: &[&str]) -> &mut Self {
        self.change(|config| config["process"]["args"] = json!(args))
    }

    /// Adds a mount.
    pub fn mount(&mut self, mount: Value) -> &mut Self {
        self.change(|config| config["mounts"].as_array_mut().expect("mounts").push(mount))
    }

    /// Adds a namespace, in place of one of the same type.
    pub fn namespace(&mut self, namespace: Value) -> &mut Self {
        let kind = namespace["type"].as_str().expect("type of namespace").to_owned();
        self.without_namespace(&kind);
        self.change(|config| {
            config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(namespace);
        })
    }

    /// Leaves a namespace out: the host's is kept.
    pub fn without_namespace(&mut self, kind: &str) -> &mut Self {
        self.change(|config| {
            config["linux"]["namespaces"]
                .as_array_mut()
                .expect("namespaces")
                .retain(|one| one["type"] != kind);
        })
    }

    /// Adds a user namespace that maps 65536 ids from `host` on; the root filesystem is given to that root.
    ///
    /// # Panics
    /// The owner of a file cannot be changed.
    pub fn map_users(&mut self, host: u32) -> &mut Self {
        self.namespace(json!({ "type": "user" }));
        self.change(|config| {
            let mapping = json!([{ "containerID": 0, "hostID": host, "size": 65536 }]);
            config["linux"]["uidMappings"] = mapping.clone();
            config["linux"]["gidMappings"] = mapping;
        });
        chown_all(&self.rootfs(), host);
        // The way down to it must be searchable for that user.
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o755)).expect("chmod");
        self
    }
}

fn chown_all(path: &Path, owner: u32) {
    std::os::unix::fs::lchown(path, Some(owner), Some(owner)).expect("chown");
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).expect("read folder") {
            chown_all(&entry.expect("folder entry").path(), owner);
        }
    }
}

/// Makes a root filesystem of Debian's static busybox in the new folder `path`.
///
/// # Panics
/// busybox-static is not installed, or files cannot be written.
pub fn busybox_rootfs(path: &Path) {
    for folder in ["bin", "dev", "etc", "home", "mnt", "proc", "root", "run", "sys", "tmp", "usr/bin", "var"]
    {
        fs::create_dir_all(path.join(folder)).expect("folder of the root filesystem");
    }
    fs::set_permissions(path.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod /tmp");
    fs::copy("/bin/busybox", path.join("bin/busybox")).expect("copy /bin/busybox (package busybox-static)");
    for applet in applets() {
        symlink("busybox", path.join("bin").join(applet)).expect("link of an applet");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\n";
    fs::write(path.join("etc/passwd"), passwd).expect("write passwd");
    fs::write(path.join("etc/group"), "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n").expect("write group");
}

/// Names of busybox's applets, without its own.
pub(crate) fn applets() -> &'static [String] {
    static APPLETS: OnceLock<Vec<String>> = OnceLock::new();
    APPLETS.get_or_init(|| {
        let output = Command::new("/bin/busybox").arg("--list").output().expect("run busybox --list");
        let text = String::from_utf8(output.stdout).expect("names of applets");
        text.lines().filter(|name| *name != "busybox").map(str::to_owned).collect()
    })
}

fn default_config(cgroup: &str, args: &[&str]) -> Value {
    let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": false },
        "hostname": "conformance",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] }
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }
            ],
            "maskedPaths": ["/proc/kcore", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}
