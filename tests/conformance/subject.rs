//! What a case works with: one runtime, one sandbox.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rkvm_testing::{Bundle, Cmd, Output, Sandbox, binary, reap, wait};
use serde_json::Value;

/// An OCI runtime under test.
pub struct Runtime {
    program: PathBuf,
    flags: &'static [&'static str],
    #[expect(dead_code, reason = "held until the case is over")]
    slot: Option<Slot>,
}

/// One of the machines that may run at a time.
struct Slot;

/// Most machines at a time.
const MAX_MACHINES: usize = 4;

static MACHINES: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Slot {
    fn take() -> Self {
        let (count, freed) = &MACHINES;
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count >= MAX_MACHINES {
            count = freed.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
        *count += 1;
        Self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let (count, freed) = &MACHINES;
        *count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        freed.notify_one();
    }
}

impl Runtime {
    /// Ours, with namespaces and cgroups.
    pub fn rkvm() -> Self {
        Self { program: binary("rkvm-oci"), flags: &[], slot: None }
    }

    /// Ours, with a machine and a kernel of its own. At most a few at a time: each has memory of its own, and takes a processor
    /// while it boots.
    pub fn vm() -> Self {
        Self { program: binary("rkvm-oci"), flags: &["--isolation", "vm"], slot: Some(Slot::take()) }
    }

    /// The oracle.
    pub fn runc() -> Self {
        Self { program: "runc".into(), flags: &[], slot: None }
    }
}

/// One runtime in one sandbox. When it is dropped, whatever the case left running is deleted, and then everything else that is
/// left is a failure.
pub struct Subject {
    runtime: Runtime,
    /// The sandbox.
    pub sandbox: Sandbox,
    detached: RefCell<Vec<i32>>,
}

impl Subject {
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime, sandbox: Sandbox::new(), detached: RefCell::default() }
    }

    /// `RUNTIME --root STORE ARGS`.
    pub fn cmd<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Cmd {
        let store = self.sandbox.oci_root();
        self.sandbox
            .command(&self.runtime.program)
            .arg("--root")
            .arg(store)
            .args(self.runtime.flags)
            .args(args)
    }

    /// `RUNTIME GLOBAL-FLAGS --root STORE`, to which a verb is added.
    pub fn global(&self, flags: &[&str]) -> Cmd {
        let store = self.sandbox.oci_root();
        let command = self.sandbox.command(&self.runtime.program).args(self.runtime.flags);
        command.args(flags).arg("--root").arg(store)
    }

    /// Adds the runtime with its global flags to a shell command, which calls it as `"$@"`.
    pub fn append_runtime(&self, command: Cmd) -> Cmd {
        command.arg(&self.runtime.program).arg("--root").arg(self.sandbox.oci_root()).args(self.runtime.flags)
    }

    /// The runtime's own binary.
    pub fn runtime_binary(&self) -> PathBuf {
        let search = std::env::var_os("PATH").expect("PATH");
        std::env::split_paths(&search)
            .map(|folder| folder.join(&self.runtime.program))
            .find(|path| path.exists())
            .expect("the runtime's binary")
    }

    /// The id of the case's one container.
    pub fn id(&self) -> String {
        self.sandbox.id("c")
    }

    /// Its bundle, new.
    pub fn bundle(&self, args: &[&str]) -> Bundle {
        self.sandbox.bundle("c", args)
    }

    /// Its bundle, running a shell script.
    pub fn script(&self, script: &str) -> Bundle {
        self.bundle(&["sh", "-c", script])
    }

    /// `run` in the foreground, with output on files.
    pub fn run(&self, bundle: &Bundle) -> Output {
        self.cmd(["run", "--bundle"]).arg(&bundle.path).arg(self.id()).run()
    }

    /// Runs and expects success; standard output without white space at its ends.
    #[track_caller]
    pub fn says(&self, bundle: &Bundle) -> String {
        self.run(bundle).expect_code(0).text()
    }

    /// Runs `script` with the standard bundle; standard output without white space at its ends.
    #[track_caller]
    pub fn says_script(&self, script: &str) -> String {
        self.says(&self.script(script))
    }

    /// Expects `run` to fail with a message containing `text`, and to leave no container behind.
    #[track_caller]
    pub fn run_fails(&self, bundle: &Bundle, text: &str) {
        self.cmd(["run", "--bundle"]).arg(&bundle.path).arg(self.id()).fails(text);
        assert_eq!(self.list(), Vec::<String>::new(), "a container is left");
    }

    /// `create`, and the process id of its init. Output of the container is in the returned output.
    #[track_caller]
    pub fn create(&self, bundle: &Bundle) -> (i32, Output) {
        let pid_file = self.sandbox.path().join("pid");
        let output = self
            .cmd(["create", "--bundle"])
            .arg(&bundle.path)
            .arg("--pid-file")
            .arg(&pid_file)
            .arg(self.id())
            .ok();
        let pid = fs::read_to_string(&pid_file).expect("pid file").trim().parse().expect("a process id");
        (pid, output)
    }

    /// `start`.
    #[track_caller]
    pub fn start(&self) {
        self.cmd(["start"]).arg(self.id()).ok();
    }

    /// `create` and `start` a container that stays up; its init's process id.
    #[track_caller]
    pub fn up(&self, bundle: &Bundle) -> i32 {
        let (pid, _) = self.create(bundle);
        self.start();
        pid
    }

    /// Creates and starts a container that sleeps.
    #[track_caller]
    pub fn sleeper(&self) -> i32 {
        self.up(&self.bundle(&["sleep", "1000"]))
    }

    /// `exec ARGS` in the container.
    pub fn exec(&self, args: &[&str]) -> Cmd {
        self.cmd(["exec"]).arg(self.id()).args(args)
    }

    /// `exec --detach ARGS`; the process is killed and reaped with the subject: as long as a zombie is left in its pid
    /// namespace, an init cannot end.
    #[track_caller]
    pub fn exec_detached(&self, args: &[&str]) -> i32 {
        let pid_file = self.sandbox.path().join("exec-pid");
        self.cmd(["exec", "--detach", "--pid-file"]).arg(&pid_file).arg(self.id()).args(args).ok();
        let pid = fs::read_to_string(&pid_file).expect("pid file").trim().parse().expect("a process id");
        self.detached.borrow_mut().push(pid);
        pid
    }

    /// `state`.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.cmd(["state"]).arg(self.id()).ok().json()
    }

    /// `status` of `state`.
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().expect("status").to_owned()
    }

    /// `kill ID SIGNAL`.
    #[track_caller]
    pub fn kill(&self, signal: &str) {
        self.cmd(["kill"]).arg(self.id()).arg(signal).ok();
    }

    /// Kills and waits; the exit code.
    #[track_caller]
    pub fn end(&self, pid: i32) -> i32 {
        self.kill("KILL");
        reap::wait_for(pid)
    }

    /// `delete`.
    #[track_caller]
    pub fn delete(&self) {
        self.cmd(["delete"]).arg(self.id()).ok();
    }

    /// Ids of `list -q`.
    #[track_caller]
    pub fn list(&self) -> Vec<String> {
        self.cmd(["list", "-q"]).ok().stdout().lines().map(str::to_owned).collect()
    }

    /// Waits until `output` contains `text`.
    #[track_caller]
    pub fn wait_for_output(&self, output: &Output, text: &str) {
        wait::until(&format!("{text:?} from the container"), || output.stdout().contains(text).then_some(()));
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        for pid in self.detached.take() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(pid), None);
        }
        // Cases delete what they are about themselves; a sleeping bystander is deleted here.
        let store = fs::read_dir(self.sandbox.oci_root()).into_iter().flatten().flatten();
        for id in store.map(|entry| entry.file_name()) {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.cmd(["delete", "--force"]).arg(id).run();
            }));
        }
    }
}

/// Lines of `/proc/PID/status` as a value: `Uid`, `CapEff`...
pub fn proc_status(pid: i32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("status of a process");
    let line =
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).expect("key of status");
    line.trim().to_owned()
}

/// `/proc/PID/ns/KIND` as text.
pub fn namespace(pid: &str, kind: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("namespace link").display().to_string()
}
