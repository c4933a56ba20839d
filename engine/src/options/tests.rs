use super::*;
use crate::record::*;

#[test]
fn sizes_are_powers_of_1024() {
    for (text, bytes) in [
        ("0", 0),
        ("512", 512),
        ("64k", 65_536),
        ("1.5m", 1_572_864),
        ("2GB", 2 << 30),
        ("1gib", 1 << 30),
        ("1 m", 1 << 20),
    ] {
        assert_eq!(size(text).unwrap(), bytes, "{text}");
    }
    for text in ["", "m", "-1", "1x", "1.2.3", "99999999999p", "1mm"] {
        assert!(size(text).is_err(), "{text}");
    }
}

#[test]
fn swap_includes_memory() {
    assert_eq!(memory("64m").unwrap(), Some(64 << 20));
    assert!(memory("1m").is_err());
    assert_eq!(swap("-1", None).unwrap(), Some(-1));
    assert_eq!(swap("128m", Some(64 << 20)).unwrap(), Some(128 << 20));
    assert!(swap("32m", Some(64 << 20)).is_err());
    assert!(swap("32m", None).is_err());
}

#[test]
fn ulimits_cpusets_and_logs() {
    assert_eq!(ulimit("nofile=10:20").unwrap(), Ulimit { name: "nofile".into(), soft: 10, hard: 20 });
    assert_eq!(ulimit("core=-1").unwrap().hard, u64::MAX);
    for text in ["nofile", "nofile=a", "nofile=20:10", "files=1"] {
        assert!(ulimit(text).is_err(), "{text}");
    }
    assert!(cpuset("0-3,5").is_ok());
    for text in ["", "3-1", "a", "0,,1"] {
        assert!(cpuset(text).is_err(), "{text}");
    }
    let log = log_options(None, &["max-size=1m".into(), "max-file=2".into()]).unwrap();
    assert_eq!((log.max_size, log.max_files), (1 << 20, 2));
    assert!(!log_options(Some("none"), &[]).unwrap().enabled);
    assert!(log_options(Some("syslog"), &[]).is_err());
    assert!(log_options(None, &["max-file=0".into()]).is_err());
    assert!(log_options(None, &["tag=x".into()]).is_err());
}

#[test]
fn volumes_as_docker_writes_them() {
    let named = volume("data:/var/lib/x:ro,nocopy").unwrap();
    assert!(named.read_only);
    assert_eq!(named.target, "/var/lib/x");
    assert!(
        matches!(named.kind, MountKind::Volume { ref name, anonymous: false, no_copy: true, .. } if name == "data")
    );
    let bind = volume("/srv:/srv/:rslave,z").unwrap();
    assert_eq!(bind.target, "/srv");
    assert!(matches!(bind.kind, MountKind::Bind { ref propagation, .. } if propagation == "rslave"));
    assert!(matches!(volume("/data").unwrap().kind, MountKind::Volume { anonymous: true, .. }));
    for text in [
        "",
        ":/x",
        "a:b",
        "/a:/b:/c:/d",
        "data:/",
        "data:/a/../b",
        "/a:/b:what",
        "a b:/x",
        "/a:/b:nocopy",
        "data:/x:rslave",
    ] {
        assert!(volume(text).is_err(), "{text}");
    }
    let shared = volume("/a:/b:rshared").unwrap_err();
    assert!(matches!(shared, crate::Error::Runtime(rkvm_oci::Error::Unsupported { .. })), "{shared}");
}

#[test]
fn long_mounts() {
    let bind = mount("type=bind,src=/a,dst=/b,readonly,bind-propagation=slave").unwrap();
    assert!(bind.read_only);
    let tmpfs = mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700").unwrap();
    assert_eq!(tmpfs.kind, MountKind::Tmpfs { options: vec!["size=1048576".into(), "mode=700".into()] });
    assert!(matches!(mount("dst=/b").unwrap().kind, MountKind::Volume { anonymous: true, .. }));
    for text in [
        "",
        "type=bind,dst=/b",
        "type=nfs,dst=/b",
        "type=bind,src=/a",
        "type=tmpfs,src=/a,dst=/b",
        "dst=b",
        "type=bind,src=/a,dst=/b,volume-nocopy",
        "type=bind,src=/a,dst=/b,readonly=maybe",
        "dst=/b,what=1",
        "src=v,dst=/b,volume-subpath=../x",
        "type=bind,src=/a,dst=/b,bind-propagation=rshared",
    ] {
        assert!(mount(text).is_err(), "{text}");
    }
    assert!(tmpfs_ok("/run:rw,size=64k,mode=1777"));
    assert!(!tmpfs_ok("/run:size=lots") && !tmpfs_ok("run") && !tmpfs_ok("/run:upperdir=/x"));
    let twice = [mount("dst=/b").unwrap(), volume("x1:/b").unwrap()];
    assert!(check_targets(&twice).is_err());
}

fn tmpfs_ok(text: &str) -> bool {
    tmpfs(text).is_ok()
}

#[test]
fn restart_policies() {
    assert_eq!(restart("on-failure:3").unwrap(), RestartPolicy::OnFailure { max_retries: 3 });
    assert_eq!(restart("unless-stopped").unwrap(), RestartPolicy::UnlessStopped);
    for text in ["sometimes", "always:3", "on-failure:x", "on-failure:-1"] {
        assert!(restart(text).is_err(), "{text}");
    }
}

#[test]
fn sysctls_of_the_host_are_refused() {
    let own = |text| sysctl(text, &NetworkMode::Bridge, &NamespaceMode::Private);
    assert_eq!(own("net.ipv4.ip_forward=1").unwrap().0, "net.ipv4.ip_forward");
    assert!(own("kernel.shmmax=1").is_ok() && own("fs.mqueue.msg_max=1").is_ok());
    assert!(own("kernel.panic=1").is_err() && own("vm.swappiness=1").is_err() && own("net.x").is_err());
    assert!(sysctl("net.core.somaxconn=1", &NetworkMode::Host, &NamespaceMode::Private).is_err());
    assert!(sysctl("kernel.shmmax=1", &NetworkMode::Bridge, &NamespaceMode::Host).is_err());
}

#[test]
fn devices_networks_and_security_options() {
    assert_eq!(device("/dev/null:/dev/x:r").unwrap().permissions, "r");
    assert_eq!(device("/dev/null:rw").unwrap().container.to_str(), Some("/dev/null"));
    for text in ["null", "/dev/no-such-device", "/dev/null:/dev/x:q", "/dev/null::::"] {
        assert!(device(text).is_err(), "{text}");
    }
    let resolve = |name: &str| Ok(format!("id-of-{name}"));
    assert_eq!(network_mode("container:web", resolve).unwrap(), NetworkMode::Container("id-of-web".into()));
    assert!(network_mode("my-net", resolve).is_err());
    assert!(namespace_mode("uts mode", "container:web", resolve).is_err());
    let mut security = Security::default();
    for text in [
        "no-new-privileges",
        "seccomp=unconfined",
        "systempaths=unconfined",
        "label=type:x",
        "apparmor:unconfined",
    ] {
        security_option(text, &mut security).unwrap();
    }
    assert!(security.no_new_privileges && security.unmasked && security.seccomp == Seccomp::Unconfined);
    for text in ["nonsense", "seccomp=/no/such/file", "no-new-privileges=maybe"] {
        assert!(security_option(text, &mut security).is_err(), "{text}");
    }
}

#[test]
fn env_files_have_comments_and_bare_names() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "# comment\n\nA=1\n  B=x y\nRKVM_NOT_SET_ANYWHERE\nPATH\n").unwrap();
    let lines = env_file(file.path()).unwrap();
    assert_eq!(lines[..2], ["A=1", "B=x y"]);
    assert!(lines[2].starts_with("PATH=") && lines.len() == 3);
    assert!(env("=x").is_err() && env("A B=1").is_err());
    assert!(env_file(std::path::Path::new("/no/such/file")).is_err());
}
