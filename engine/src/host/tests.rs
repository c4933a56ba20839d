use super::*;

#[test]
fn how_cgroups_are_mounted() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(CgroupMode::of(root.path()), CgroupMode::None);
    fs::create_dir_all(root.path().join("memory")).unwrap();
    assert_eq!(CgroupMode::of(root.path()), CgroupMode::V1);
    fs::create_dir(root.path().join("unified")).unwrap();
    fs::write(root.path().join("unified/cgroup.controllers"), "").unwrap();
    assert_eq!(CgroupMode::of(root.path()), CgroupMode::Hybrid);
    fs::write(root.path().join("cgroup.controllers"), "").unwrap();
    assert_eq!(CgroupMode::of(root.path()), CgroupMode::V2);
}

#[test]
fn the_deepest_mount_decides() {
    let mountinfo = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     2 1 0:5 / /var rw shared:1 - xfs /dev/sdb rw\n\
                     3 2 0:6 / /var/lib\\040x rw - tmpfs none rw";
    for (path, kind) in
        [("/etc", "ext4"), ("/var/lib", "xfs"), ("/var/lib x/a", "tmpfs"), ("/variable", "ext4")]
    {
        assert_eq!(type_at(mountinfo, Path::new(path)), kind, "{path}");
    }
    assert_eq!(type_at("", Path::new("/")), "unknown");
}
