//! What real images do is the same in both isolations: a shell and Python, made from Debian's packages by `dev/images.sh`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use rkvm_testing::{Isolation, Sandbox, has_vms};

const SHELL: &str = "set -e; cd /tmp; seq 1 200 | sort -rn | head -3 | tr '\\n' ' '; mkdir -p a/b; echo text > a/b/c; \
    tar -c a | tar -x -O a/b/c; (sleep 0.1; echo late) & wait; ln -s a/b/c link; readlink link; id -u; hostname; \
    false || echo $?; sh -c 'kill -TERM $$' || echo $?";

const PYTHON: &str = r#"
import hashlib, json, os, re, socket, subprocess, tempfile, threading, zlib
print(subprocess.run(["sh", "-c", "cat; exit 3"], input=b"piped", capture_output=True))
total = []
threads = [threading.Thread(target=lambda n=n: total.append(n * n)) for n in range(8)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
print(sorted(total))
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
peer, _ = server.accept()
client.sendall(b"hello"); client.close()
print(peer.makefile("rb").read())
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "file")
    with open(path, "wb") as file: file.write(bytes(range(256)) * 4096); os.fsync(file.fileno())
    os.rename(path, path + "2")
    print(os.listdir(folder), hashlib.sha256(open(path + "2", "rb").read()).hexdigest())
pid = os.fork()
if pid == 0: os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), json.dumps({"crc": zlib.crc32(b"x")}), re.sub("a+", "b", "caat"))
"#;

/// What the program prints in one isolation.
fn printed(isolation: Isolation, image: &str, command: &[&str]) -> String {
    let sandbox = Sandbox::of(isolation);
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/images").join(format!("{image}.tar"));
    assert!(archive.exists(), "{} is missing: run dev/images.sh {image}", archive.display());
    sandbox.rkvm(["load", "-i"]).args([archive]).ok();
    let run = ["run", "--rm", "--network", "none", "--hostname", "box", image];
    sandbox.rkvm(run).args(command).ok().text()
}

fn alike(image: &str, command: &[&str], expected: &[&str]) {
    let container = printed(Isolation::Container, image, command);
    for part in expected {
        assert!(container.contains(part), "{part} is not in\n{container}");
    }
    if has_vms() {
        assert_eq!(printed(Isolation::Vm, image, command), container);
    }
}

#[test]
fn a_shell_script() {
    alike("busybox", &["sh", "-c", SHELL], &["200 199 198", "text\nlate\na/b/c\n0\nbox\n1\n143"]);
}

#[test]
fn python_with_processes_threads_sockets_and_files() {
    let expected = [
        "returncode=3, stdout=b'piped'",
        "[0, 1, 4, 9, 16, 25, 36, 49]",
        "b'hello'",
        "['file2']",
        "\n7 {",
        "cbt",
    ];
    alike("python", &["python3", "-c", PYTHON], &expected);
}

/// Stores to shared mappings and last words of a process that ends at once, in the write layer and in a volume.
const WRITER: &str = r#"
import mmap, os
kept = []
for name in ("/layer", "/volume/file"):
    file = open(name, "w+b"); file.truncate(1 << 20); memory = mmap.mmap(file.fileno(), 1 << 20)
    for at in range(0, 1 << 20, 4096): memory[at:at + 4] = b"seen"
    kept.append((file, memory))
    with open(name + ".last", "wb") as last: last.write(b"words")
os._exit(7)
"#;

#[test]
fn what_a_program_wrote_is_on_the_host_when_its_end_is_reported() {
    for isolation in [Isolation::Container, Isolation::Vm] {
        if isolation == Isolation::Vm && !has_vms() {
            continue;
        }
        let sandbox = Sandbox::of(isolation);
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/images/python.tar");
        sandbox.rkvm(["load", "-i"]).args([archive]).ok();
        let folder = tempfile::tempdir().unwrap();
        let volume = format!("{}:/volume", folder.path().display());
        let run = ["run", "--name", "writer", "--network", "none", "-v", &volume, "python"];
        sandbox.rkvm(run).args(["python3", "-c", WRITER]).run().expect_code(7);
        for name in ["layer", "layer.last"] {
            let from = format!("writer:/{name}");
            sandbox.rkvm(["cp", &from]).args([folder.path()]).ok();
        }
        for name in ["layer", "file"] {
            let text = std::fs::read(folder.path().join(name)).unwrap();
            assert_eq!(text.len(), 1 << 20, "{isolation:?} {name}");
            assert!(text.chunks(4096).all(|page| page.starts_with(b"seen")), "{isolation:?} {name}");
            assert_eq!(std::fs::read(folder.path().join(name.to_owned() + ".last")).unwrap(), b"words");
        }
    }
}
