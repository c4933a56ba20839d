//! Unpacking: `rkvm load`, which copies the blobs into the store, verifies and unpacks them, against `umoci unpack`, which
//! verifies and unpacks them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rkvm_testing::{Sandbox, binary};

use crate::stats::{Random, Samples};

/// Unpacks `image` (default: `./x images`' python, the largest of several layers) `runs` times with both.
pub fn race(
    sandbox: &Sandbox,
    image: Option<&Path>,
    runs: usize,
    random: &mut Random,
) -> Vec<(String, Samples)> {
    let default = PathBuf::from(".cache/images/python.tar");
    let archive = image.unwrap_or(&default);
    assert!(archive.exists(), "{} is missing: `./x images python` makes it", archive.display());
    let layout = sandbox.path().join("layout");
    fs::create_dir_all(&layout).expect("folder");
    let done = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&layout).status().expect("run tar");
    assert!(done.success(), "cannot extract {}", archive.display());
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).expect("index.json")).expect("JSON");
    let annotations = &index["manifests"][0]["annotations"];
    let tag = annotations["org.opencontainers.image.ref.name"].as_str().expect("a tagged image").to_owned();
    let bytes: u64 = fs::read_dir(layout.join("blobs/sha256"))
        .expect("blobs")
        .map(|entry| entry.expect("entry").metadata().expect("metadata").len())
        .sum();
    println!("\nImage: {} ({:.1} MB of blobs)", archive.display(), bytes as f64 / 1e6);

    let mut samples = [Samples::default(), Samples::default()];
    let mut order = [0, 1];
    for round in 0..=runs {
        random.shuffle(&mut order);
        for index in order {
            let target = sandbox.path().join(format!("unpack-{round}-{index}"));
            let mut command = if index == 0 {
                let mut command = Command::new(binary("rkvm"));
                command.env("RKVM_ROOT", &target).args(["load", "-i"]).arg(&layout);
                command
            } else {
                let mut command = Command::new("umoci");
                command.arg("unpack").arg("--image").arg(format!("{}:{tag}", layout.display())).arg(&target);
                command
            };
            // What the contestant before left to write would be written at this one's cost.
            nix::unistd::sync();
            let start = Instant::now();
            let output = command.stdin(Stdio::null()).output().expect("run the contestant");
            let time = start.elapsed().as_nanos() as u64;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            fs::remove_dir_all(&target).expect("remove what was unpacked");
            if round > 0 {
                samples[index].add(vec![("all", time)]);
            }
        }
    }
    ["rkvm load", "umoci unpack"].map(str::to_owned).into_iter().zip(samples).collect()
}
