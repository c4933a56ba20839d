//! `rkvm load`, `save`, `tag`, `rmi` and the listings.

use std::fs;

use rkvm_testing::{Entry, Sandbox, binary, docker_archive};
use serde_json::json;

use crate::fixture::{archive, assert_whole, id_of, names, snapshot, store};

#[test]
fn archives_of_every_form_give_the_same_image() {
    let sandbox = Sandbox::new();
    let docker = archive(&sandbox, "team/a:1", &[1, 2]);
    let loaded = sandbox.rkvm(["load", "-i"]).arg(&docker).ok();
    assert_eq!(loaded.stdout(), "Loaded image: team/a:1\n");
    let id = id_of(&sandbox, "team/a:1");
    let saved = sandbox.path().join("saved.tar");
    sandbox.rkvm(["save", "-o"]).arg(&saved).arg("team/a:1").ok();
    let bytes = fs::read(&saved).unwrap();
    let redirected = format!("{} save team/a:1 > redirected.tar", binary("rkvm").display());
    sandbox.command("sh").args(["-c", &redirected]).env("RKVM_ROOT", sandbox.root()).ok();
    assert!(
        fs::read(sandbox.path().join("redirected.tar")).unwrap() == bytes,
        "a file and standard output differ"
    );
    sandbox
        .command("skopeo")
        .args(["--insecure-policy", "copy", "-q"])
        .arg(format!("docker-archive:{}", saved.display()))
        .arg("oci:layout:team/b:2")
        .ok();
    sandbox.command("tar").args(["-cf", "layout.tar", "-C", "layout", "."]).ok();
    sandbox.command("gzip").args(["-k", "saved.tar"]).ok();
    for (source, name) in [
        ("saved.tar", "team/a:1"),
        ("saved.tar.gz", "team/a:1"),
        ("layout", "team/b:2"),
        ("layout.tar", "team/b:2"),
    ] {
        sandbox.rkvm(["image", "prune", "-a", "-f"]).ok();
        assert_eq!(names(&store(&sandbox).join("layers")).len(), 0);
        let loaded = sandbox.rkvm(["load", "-i"]).arg(sandbox.path().join(source)).ok();
        assert_eq!(loaded.stdout(), format!("Loaded image: {name}\n"), "{source}");
        assert_whole(&sandbox);
        if name == "team/a:1" {
            assert_eq!(id_of(&sandbox, name), id, "{source}");
        }
    }
    sandbox.rkvm(["image", "prune", "-a", "-f"]).ok();
    sandbox.rkvm(["load"]).stdin(bytes).ok();
    assert_eq!(id_of(&sandbox, "team/a:1"), id);
}

#[test]
fn names_move_and_images_go_with_their_last_name() {
    let sandbox = Sandbox::new();
    sandbox.rkvm(["load", "-i"]).arg(archive(&sandbox, "a:1", &[1])).ok();
    sandbox.rkvm(["load", "-i"]).arg(archive(&sandbox, "b:1", &[1, 2])).ok();
    let (a, b) = (id_of(&sandbox, "a:1"), id_of(&sandbox, "b:1"));
    sandbox.rkvm(["tag", "a:1", "localhost:5000/team/c"]).ok();
    assert_eq!(id_of(&sandbox, "localhost:5000/team/c:latest"), a);
    assert_eq!(id_of(&sandbox, &a), a);
    assert_eq!(id_of(&sandbox, &a["sha256:".len()..][..12]), a);
    assert_eq!(sandbox.rkvm(["rmi", "a:1"]).ok().stdout(), "Untagged: a:1\n");
    sandbox.rkvm(["tag", &b, "localhost:5000/team/c"]).ok();
    assert_eq!(id_of(&sandbox, "localhost:5000/team/c"), b);
    let none = sandbox.rkvm(["images", "-f", "dangling=true", "--no-trunc", "-q"]).ok();
    assert_eq!(none.stdout().trim(), a, "the image that lost its name is still there");
    let pruned = sandbox.rkvm(["image", "prune", "-f"]).ok();
    assert!(pruned.stdout().contains(&format!("Deleted: {a}")), "{pruned}");
    sandbox.rkvm(["rmi", &b]).fails("more than one repository");
    sandbox.rkvm(["rmi", "-f", &b]).ok();
    assert_eq!(sandbox.rkvm(["images", "-q"]).ok().stdout(), "");
    assert_eq!(snapshot(&sandbox).1, vec![Default::default(); 3], "content without an image is left");
    sandbox.rkvm(["rmi", "a:1"]).fails("no such image").expect_code(1);
}

#[test]
fn the_list_shows_what_docker_shows() {
    let sandbox = Sandbox::new();
    let empty = sandbox.rkvm(["images"]).ok();
    assert_eq!(empty.stdout(), "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n");
    sandbox.rkvm(["load", "-i"]).arg(archive(&sandbox, "team/a:1", &[1])).ok();
    sandbox.rkvm(["load", "-i"]).arg(archive(&sandbox, "b", &[2])).ok();
    let list = |args: &[&str]| {
        sandbox.rkvm(["images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}"]).args(args).ok().stdout()
    };
    assert_eq!(list(&["b"]), "b:latest 3.15MB\n");
    assert_eq!(list(&["team/*"]), "team/a:1 3.15MB\n");
    assert_eq!(list(&["-f", "label=seeds=[1]"]), "team/a:1 3.15MB\n");
    assert_eq!(list(&["-f", "label=other"]), "");
    assert_eq!(list(&["-f", "reference=*:latest"]), "b:latest 3.15MB\n");
    sandbox.rkvm(["images", "-f", "color=red"]).fails("color");
    let image = sandbox.rkvm(["image", "inspect", "b"]).ok().json();
    assert_eq!(image[0]["RepoTags"], json!(["b:latest"]));
    assert_eq!(image[0]["Config"]["Cmd"], json!(["/bin/x"]));
    sandbox.rkvm(["image", "inspect", "b", "nothing"]).fails("no such image: nothing").expect_code(1);
}

#[test]
fn bad_archives_are_refused_and_leave_the_store_as_it_was() {
    let sandbox = Sandbox::new();
    sandbox.rkvm(["load", "-i"]).arg(archive(&sandbox, "good:1", &[1])).ok();
    let before = snapshot(&sandbox);
    let refused = |content: Vec<u8>, text: &str| {
        let path = sandbox.path().join("bad.tar");
        fs::write(&path, content).unwrap();
        sandbox.rkvm(["load", "-i"]).arg(&path).fails(text);
        assert_eq!(snapshot(&sandbox), before, "{text}: something was left");
    };
    refused(vec![], "neither an index.json");
    refused(b"hello".repeat(1000), "broken archive");
    let good = fs::read(archive(&sandbox, "good:2", &[1, 3])).unwrap();
    refused(good[..good.len() / 3].to_vec(), "ends in the middle");
    let hostile = |layer: Vec<Entry>| {
        let path = sandbox.path().join("hostile.tar");
        docker_archive(&path, "hostile:1", &[layer], json!({}));
        fs::read(path).unwrap()
    };
    let through = vec![Entry::Link("out".into(), "/tmp".into()), Entry::file("out/rkvm-escape", "x")];
    refused(hostile(through), "out/rkvm-escape");
    assert!(!std::path::Path::new("/tmp/rkvm-escape").exists());
    // One flipped bit in a layer: the diff id does not fit any more.
    let mut flipped = good.clone();
    let at = flipped.windows(5).position(|window| window == b"3 299").unwrap();
    flipped[at] ^= 1;
    refused(flipped, "is not what it should be");
    let bomb = sandbox.path().join("bomb.tar");
    docker_archive(&bomb, "bomb:1", &[vec![Entry::file("zeros", vec![0; 8 << 20])]], json!({}));
    sandbox.rkvm(["load", "--max-layer-size", "1m", "-i"]).arg(&bomb).fails("limit");
    assert_eq!(snapshot(&sandbox), before);
    sandbox.rkvm(["load", "-i", "/no/such/file"]).fails("/no/such/file");
    sandbox.rkvm(["load", "-i", "/tmp"]).fails("index.json");
    assert_whole(&sandbox);
}

#[test]
fn another_platform_is_refused_by_name() {
    let sandbox = Sandbox::new();
    let path = sandbox.path().join("arm.tar");
    docker_archive(&path, "arm:1", &[vec![Entry::file("x", "y")]], json!({}));
    // As long as the name it replaces, so that the archive stays valid; the configuration's name is not a digest there.
    let text = String::from_utf8(fs::read(&path).unwrap()).unwrap();
    fs::write(&path, text.replace("\"amd64\"", "\"arm64\"")).unwrap();
    sandbox.rkvm(["load", "-i"]).arg(&path).fails("no image for linux/amd64; it has: linux/arm64");
    assert_eq!(snapshot(&sandbox).1, vec![Default::default(); 3]);
}

#[test]
fn a_folder_without_an_entry_shows_what_the_layer_below_says() {
    let sandbox = Sandbox::new();
    let path = sandbox.path().join("implied.tar");
    let below = vec![
        Entry::Folder("tmp".into(), 0o1777),
        Entry::Folder("var".into(), 0o700),
        Entry::Folder("var/gone".into(), 0o711),
        Entry::Folder("plain".into(), 0o750),
    ];
    let middle = vec![
        Entry::file("tmp/x", "1"),
        Entry::file("var/.wh.gone", ""),
        Entry::Folder("plain".into(), 0o755),
    ];
    let above =
        vec![Entry::file("var/gone/y", "2"), Entry::file("tmp/deep/z", "3"), Entry::file("plain/w", "4")];
    docker_archive(&path, "implied:1", &[below, middle, above], json!({}));
    sandbox.rkvm(["load", "-i"]).arg(&path).ok();
    let image = sandbox.rkvm(["image", "inspect", "implied:1"]).ok().json();
    let layers: Vec<&str> = image[0]["GraphDriver"]["Data"]["Layers"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|l| l.as_str().unwrap())
        .collect();
    assert_eq!(layers.len(), 4);
    assert_eq!(image[0]["RootFS"]["Layers"].as_array().unwrap().len(), 3);
    // overlayfs itself says what a container sees; the mount ends with its namespace.
    let script = format!(
        "mkdir m && mount -t overlay -o ro,lowerdir={} overlay m && cd m && stat -c '%a %n' tmp tmp/deep var var/gone plain && cat tmp/x tmp/deep/z",
        layers.join(":")
    );
    let seen = sandbox.command("unshare").args(["-m", "sh", "-c", &script]).ok();
    assert_eq!(seen.stdout(), "1777 tmp\n755 tmp/deep\n700 var\n755 var/gone\n755 plain\n13");
    sandbox.rkvm(["rmi", "implied:1"]).ok();
    assert_eq!(snapshot(&sandbox).1, vec![Default::default(); 3]);
}
