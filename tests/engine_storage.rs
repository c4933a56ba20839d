//! Write layer, volumes, host folders, and who owns what inside and outside.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::MetadataExt;

use rkvm_testing::{Isolation, Sandbox, in_both_isolations, wait};

in_both_isolations! {
    the_write_layer_lasts_as_long_as_the_container,
    volumes_and_binds_outlive_the_container,
    a_new_volume_has_the_images_content_with_its_owners,
    anonymous_volumes_go_with_rm_v_only,
    default_mounts_are_dockers,
    the_hosts_whole_tree_can_be_shared,
    shared_propagation_is_refused_with_its_reason,
}

fn sandbox(isolation: Isolation) -> Sandbox {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    sandbox
}

fn run(sandbox: &Sandbox, flags: &[&str], script: &str) -> rkvm_testing::Output {
    sandbox.rkvm(["run", "--rm", "--network", "none"]).args(flags).args(["busybox", "sh", "-c", script]).run()
}

fn the_write_layer_lasts_as_long_as_the_container(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let script = "echo x >> /kept; wc -l < /kept";
    sandbox.rkvm(["create", "--name", "box", "--network", "none", "busybox", "sh", "-c", script]).ok();
    assert_eq!(sandbox.rkvm(["start", "-a", "box"]).ok().text(), "1");
    assert_eq!(sandbox.rkvm(["start", "-a", "box"]).ok().text(), "2");
    sandbox.rkvm(["rm", "box"]).ok();
    assert_eq!(run(&sandbox, &[], script).text(), "1");
    // `--rm` forgets the container before it tells the end, and removes its files after.
    assert!(sandbox.rkvm(["ps", "-aq"]).ok().text().is_empty());
    let containers = sandbox.root().join("lib/containers");
    wait::until("the files of a removed container to go", || {
        (std::fs::read_dir(&containers).unwrap().count() == 0).then_some(())
    });
}

/// It has `/proc` in it, and others whose file systems cannot be idmapped, and the engine's own folder.
fn the_hosts_whole_tree_can_be_shared(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let host = sandbox.path().join("host");
    let below = host.join("with blank");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(host.join("file"), "seen").unwrap();
    std::os::unix::fs::chown(host.join("file"), Some(1000), Some(1000)).unwrap();
    let tmpfs = Mounted::tmpfs(&below);
    std::fs::write(below.join("below"), "seen too").unwrap();
    let place = |path: &std::path::Path| format!("'/host{}'", path.display());
    let script = format!(
        "cat {file} {below}; stat -c %u {file} {below}; ls -d /host/proc /host/sys; \
         grep -c processor /host/proc/cpuinfo; touch {file} || echo kept; touch {below} || echo kept",
        file = place(&host.join("file")),
        below = place(&below.join("below")),
    );
    let output = run(&sandbox, &["-v", "/:/host:ro"], &script).expect_code(0);
    let text = output.text();
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap().matches("processor").count();
    let expected = format!("seenseen too1000\n0\n/host/proc\n/host/sys\n{processors}\n");
    assert!(text.starts_with(&expected), "{text}");
    assert_eq!(text.matches("kept").count(), 2, "{text}");
    let script = format!("echo changed > {}", place(&below.join("below")));
    run(&sandbox, &["-v", "/:/host"], &script).expect_code(0);
    assert_eq!(std::fs::read_to_string(below.join("below")).unwrap(), "changed\n");
    drop(tmpfs);
}

/// A mount that ends with the test.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(place: &std::path::Path) -> Self {
        let none = None::<&str>;
        nix::mount::mount(Some("test"), place, Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
        Self(place.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn owners_are_the_containers_inside_and_on_disk() {
    let sandbox = sandbox(Isolation::Container);
    let host = sandbox.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("from-host"), "x").unwrap();
    std::os::unix::fs::chown(host.join("from-host"), Some(1000), Some(1000)).unwrap();
    let bind = format!("{}:/host", host.display());
    let script = "touch /host/root /vol/root; su user -c 'touch /tmp/user' ; \
                  chown 1000:2000 /host/root; stat -c %u:%g /host/from-host /host/root /vol/root /tmp/user /bin/busybox; \
                  cat /proc/self/uid_map";
    let output = run(&sandbox, &["-v", &bind, "-v", "named:/vol"], script).expect_code(0);
    let lines: Vec<String> =
        output.text().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines[..5], ["1000:1000", "1000:2000", "0:0", "1000:1000", "0:0"], "{output}");
    let map: Vec<u32> = lines[5].split(' ').map(|number| number.parse().unwrap()).collect();
    assert!(map[0] == 0 && map[1] >= 524_288 && map[1].is_multiple_of(65_536) && map[2] == 65_536, "{map:?}");
    let owner = |path: &std::path::Path| {
        let metadata = path.metadata().unwrap();
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(owner(&host.join("root")), (1000, 2000));
    assert_eq!(owner(&sandbox.root().join("lib/volumes/named/_data/root")), (0, 0));
    let whole =
        run(&sandbox, &["--userns", "host", "-v", &bind], "cat /proc/self/uid_map; stat -c %u /host/root");
    let words: Vec<String> = whole.text().split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["0", "0", "4294967295", "1000"]);
    sandbox.rkvm(["volume", "rm", "named"]).ok();
}

fn volumes_and_binds_outlive_the_container(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let host = sandbox.path().join("made-by-v");
    let bind = format!("{}:/host", host.display());
    run(&sandbox, &["-v", &bind, "-v", "data:/data"], "echo kept | tee /host/a > /data/a").expect_code(0);
    assert_eq!(std::fs::read_to_string(host.join("a")).unwrap(), "kept\n");
    assert_eq!(
        run(&sandbox, &["-v", "data:/d:ro"], "cat /d/a; touch /d/b || echo read-only").text(),
        "kept\nread-only"
    );
    assert_eq!(
        run(&sandbox, &["-v", &format!("{bind}:ro")], "touch /host/b || echo read-only").text(),
        "read-only"
    );
    sandbox.rkvm(["volume", "rm", "data"]).ok();
}

fn a_new_volume_has_the_images_content_with_its_owners(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    assert_eq!(
        run(&sandbox, &["-v", "www:/www"], "cat /www/index.html; echo changed > /www/index.html").text(),
        "it works"
    );
    assert_eq!(run(&sandbox, &["-v", "www:/www"], "cat /www/index.html").text(), "changed");
    assert_eq!(
        run(&sandbox, &["--mount", "type=volume,src=bare,dst=/www,volume-nocopy"], "ls /www").text(),
        ""
    );
    sandbox.rkvm(["volume", "rm", "www", "bare"]).ok();
}

fn anonymous_volumes_go_with_rm_v_only(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let volumes = || sandbox.rkvm(["volume", "ls", "-q"]).ok().text().lines().count();
    for name in ["one", "two"] {
        sandbox.rkvm(["run", "--network", "none", "--name", name, "-v", "/data", "busybox", "true"]).ok();
    }
    assert_eq!(volumes(), 2);
    sandbox.rkvm(["rm", "one"]).ok();
    assert_eq!(volumes(), 2);
    sandbox.rkvm(["rm", "-v", "two"]).ok();
    assert_eq!(volumes(), 1);
    run(&sandbox, &["-v", "/data"], "true").expect_code(0);
    assert_eq!(volumes(), 1);
}

fn default_mounts_are_dockers(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let output = run(
        &sandbox,
        &["--tmpfs", "/t:size=1m,mode=700", "--shm-size", "8m"],
        "
        df -k /dev/shm | tail -1 | awk '{print $2}'
        df -k /t | tail -1 | awk '{print $2}'; stat -c %a /t /dev/shm
        touch /sys/x 2>&1 | grep -c Read-only
        echo 1 2>&1 > /proc/sys/kernel/panic | grep -c Read-only
        cat /proc/keys | wc -c; ls /dev/mqueue /dev/pts/ptmx
        hostname; cat /etc/hostname",
    );
    let lines: Vec<String> = output.text().lines().map(str::to_owned).collect();
    assert_eq!(lines[..7], ["8192", "1024", "700", "1777", "1", "1", "0"].map(str::to_owned), "{output}");
    assert_eq!(lines[lines.len() - 1], lines[lines.len() - 2], "host name and its file: {output}");
    assert_eq!(
        run(&sandbox, &["--read-only"], "touch /x || echo no; touch /dev/shm/x && echo yes").text(),
        "no\nyes"
    );
}

fn shared_propagation_is_refused_with_its_reason(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let bind = format!("{}:/host:rshared", sandbox.path().display());
    assert!(run(&sandbox, &["-v", &bind], "true").expect_code(125).stderr().contains("not supported"));
}
