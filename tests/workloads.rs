//! What real images do is the same in both isolations: a shell and Python, made from Debian's packages by `dev/images.sh`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use rkvm_testing::{Isolation, Sandbox, binary, has_vms};

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
    let sandbox = sandbox(isolation, image);
    let run = ["run", "--rm", "--network", "none", "--hostname", "box", image];
    sandbox.rkvm(run).args(command).ok().text()
}

/// A place of its own with `image` in it.
fn sandbox(isolation: Isolation, image: &str) -> Sandbox {
    let sandbox = Sandbox::of(isolation);
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/images").join(format!("{image}.tar"));
    assert!(archive.exists(), "{} is missing: run dev/images.sh {image}", archive.display());
    sandbox.rkvm(["load", "-i"]).args([archive]).ok();
    sandbox
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
        sandbox.rkvm(["rm", "writer"]).ok();
    }
}

const SQL: &str = "
create table items (id serial primary key, name text not null, data jsonb);
insert into items (name, data) select 'item ' || n, jsonb_build_object('square', n * n) from generate_series(1, 300) n;
create index on items ((data ->> 'square'));
begin; delete from items where id > 10; rollback;
update items set name = upper(name) where id % 100 = 0;
select count(*), sum((data ->> 'square')::int), md5(string_agg(name, ',' order by id)) from items;
select name from items where data ->> 'square' = '40000';
";
const AGAIN: &str = "select count(*), max(name) from items;
insert into items (name) values ('later') returning id;";

/// What a database says to the same statements, before and after a restart. Making the cluster is left to a container: it is a second
/// there, and on a host whose traps are slow the better part of a minute in a microVM. So the volume also goes from one isolation to
/// the other.
fn database(isolation: Isolation) -> String {
    let sandbox = sandbox(isolation, "postgres");
    let volume = "data:/var/lib/postgresql/data";
    let make = ["run", "--rm", "--network", "none", "-v", volume, "--entrypoint", "initdb", "postgres"];
    let flags = ["--no-sync", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"];
    sandbox.command(binary("rkvm")).env("RKVM_ROOT", sandbox.root()).args(make).args(flags).ok();
    let run = ["run", "-d", "--name", "db", "--network", "none", "-m", "512m", "-v", volume, "postgres"];
    sandbox.rkvm(run).args(["-c", "log_statement=none"]).ok();
    // Each line by itself: psql sends one text as one transaction.
    let ask = |sql: &str| {
        let lines = sql.trim().lines().flat_map(|line| ["-c", line]);
        sandbox.rkvm(["exec", "db", "psql", "-U", "postgres", "-At"]).args(lines)
    };
    let ready = || {
        let begun = Instant::now();
        while !sandbox.rkvm(["logs", "db"]).run().stderr().contains("ready to accept connections")
            || ask("select 1").run().text() != "1"
        {
            assert!(begun.elapsed() < Duration::from_secs(90), "{}", sandbox.rkvm(["logs", "db"]).run());
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    ready();
    let first = ask(SQL).ok().text();
    sandbox.rkvm(["restart", "db"]).ok();
    ready();
    let second = ask(AGAIN).ok().text();
    assert!(sandbox.rkvm(["stop", "db"]).ok().text().contains("db"));
    let log = sandbox.rkvm(["logs", "db"]).run().stderr();
    assert_eq!(log.matches("database system is shut down").count(), 2, "{log}");
    sandbox.rkvm(["rm", "-v", "db"]).ok();
    format!("{first}\n{second}")
}

#[test]
fn postgresql_keeps_its_data_over_a_restart() {
    let container = database(Isolation::Container);
    assert!(container.contains("300|9045050|"), "{container}");
    assert!(container.ends_with("INSERT 0 1"), "{container}");
    if has_vms() {
        assert_eq!(database(Isolation::Vm), container);
    }
}

const LACKS: &str = r#"
import errno, fcntl, os, time
os.chdir("/share")
def fails(call, *args):
    try: call(*args)
    except OSError as error: return errno.errorcode[error.errno]
    return "works"
print(fails(os.open, ".", os.O_TMPFILE | os.O_RDWR))
print(fails(os.mknod, "device", 0o20600, os.makedev(1, 3)))
open("file", "w").write("x")
acl = bytes.fromhex("0200000001000600ffffffff04000400ffffffff20000400ffffffff")
print(fails(os.setxattr, "file", "system.posix_acl_access", acl))
print(fails(os.getxattr, "file", "system.posix_acl_access"))
# Twice as many of each as there are threads that serve the share.
held = open("lock", "w"); fcntl.flock(held, fcntl.LOCK_EX)
held2 = open("lock2", "w"); fcntl.lockf(held2, fcntl.LOCK_EX)
children = []
for n in range(8):
    os.mkfifo(f"fifo{n}")
    for wait in (lambda: open(f"fifo{n}"), lambda: fcntl.flock(open("lock"), fcntl.LOCK_EX), lambda: fcntl.lockf(open("lock2", "r+"), fcntl.LOCK_EX)):
        pid = os.fork()
        if pid == 0: wait(); os._exit(0)
        children.append(pid)
time.sleep(0.5)
open("served", "w").write("served"); print(open("served").read(), sorted(os.listdir("."))[:2])
print(sum(os.waitpid(pid, os.WNOHANG)[0] == 0 for pid in children), "wait")
for pid in children: os.kill(pid, 9); os.waitpid(pid, 0)
"#;

/// What a folder that is shared with a microVM cannot do is said with the error that programs expect, and what waits in the guest takes
/// no thread of the server.
#[test]
fn a_shared_folder_in_a_microvm() {
    if !has_vms() {
        return;
    }
    let sandbox = sandbox(Isolation::Vm, "python");
    let run = ["run", "--rm", "--network", "none", "-v", "share:/share", "python", "python3", "-c", LACKS];
    let text = sandbox.rkvm(run).ok().text();
    assert_eq!(text, "ENOTSUP\nEPERM\nENOTSUP\nENOTSUP\nserved ['fifo0', 'fifo1']\n24 wait");
}
