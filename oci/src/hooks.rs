//! Hooks (runtime-spec, "POSIX-platform Hooks"): programs run at fixed points of a container's life, with its state
//! on their standard input.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::Hook;

use crate::error::{Error, Result};
use crate::lifecycle::Status;
use crate::state::Record;

/// How much of a failed hook's standard error is kept for the message, bytes.
const STDERR_KEPT: u64 = 4096;

/// The state that hooks read on standard input, and that the `state` command prints (runtime-spec, "State").
pub fn state_json(record: &Record, status: Status) -> serde_json::Value {
    let mut state = serde_json::json!({
        "ociVersion": record.oci_version,
        "id": record.id,
        "status": status,
        "pid": if status == Status::Stopped { 0 } else { record.pid },
        "bundle": record.bundle,
    });
    if !record.annotations.is_empty() {
        state["annotations"] = serde_json::json!(record.annotations);
    }
    state
}

/// Runs `hooks` in order, each with `state` on standard input and nothing else of the caller's environment.
///
/// # Errors
/// The first hook that cannot be run, exits non-zero or does not end within its `timeout` seconds (it is killed
/// then). Later hooks are not run.
pub fn run(kind: &'static str, hooks: Option<&Vec<Hook>>, state: &serde_json::Value) -> Result<()> {
    let Some(hooks) = hooks else { return Ok(()) };
    hooks.iter().try_for_each(|hook| run_one(kind, hook, state))
}

/// Runs `hooks` in order like [`run`], but goes on after a failure and gives all errors back: what runtime-spec asks for
/// `poststart` and `poststop`, whose failures are only warnings.
pub fn run_all(kind: &'static str, hooks: Option<&Vec<Hook>>, state: &serde_json::Value) -> Vec<Error> {
    hooks.into_iter().flatten().filter_map(|hook| run_one(kind, hook, state).err()).collect()
}

fn run_one(kind: &'static str, hook: &Hook, state: &serde_json::Value) -> Result<()> {
    let error = |reason: String| Error::Hook { kind: kind.into(), path: hook.path().clone(), reason };
    let mut command = Command::new(hook.path());
    if let Some((name, args)) = hook.args().as_ref().and_then(|args| args.split_first()) {
        command.arg0(name).args(args);
    }
    command.env_clear();
    for variable in hook.env().iter().flatten() {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.env(name, value);
    }
    // Files in memory, not pipes: a hook may neither read its input nor close its output, nor may a child that it leaves. A
    // pipe would need threads for that, which the container's own process, where some hooks run, must not have when it goes on.
    let io_error = |source: std::io::Error| error(format!("cannot be run ({source})"));
    let stdin = memory_file(state.to_string().as_bytes()).map_err(io_error)?;
    let mut stderr = memory_file(b"").map_err(io_error)?;
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(stderr.try_clone().map_err(io_error)?)
        // A group of its own, so that a hook that does not end can be killed with its children.
        .process_group(0)
        .spawn()
        .map_err(io_error)?;
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let status = wait(&mut child, limit).map_err(|source| error(source.to_string()))?;
    let Some(status) = status else {
        let group = nix::unistd::Pid::from_raw(-(child.id() as i32));
        let _ = nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL);
        let _ = child.wait();
        return Err(error(format!(
            "it did not end within {} s and was killed",
            limit.unwrap_or_default().as_secs()
        )));
    };
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    // The descriptor's offset is where the hook stopped writing.
    let _ = stderr.rewind().and_then(|()| stderr.take(STDERR_KEPT).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let end = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    };
    Err(error(if text.is_empty() { end } else { format!("{end}: {text}") }))
}

/// An anonymous file that holds `content` and is read from its beginning.
fn memory_file(content: &[u8]) -> std::io::Result<File> {
    let mut file = File::from(memfd_create("hook", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

/// Waits for `child`, at most for `limit`; `None` when time is up.
fn wait(child: &mut std::process::Child, limit: Option<Duration>) -> std::io::Result<Option<ExitStatus>> {
    let Some(limit) = limit else { return child.wait().map(Some) };
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        std::thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::HookBuilder;

    use super::*;

    fn shell(script: &str, timeout: Option<i64>) -> Hook {
        let mut hook = HookBuilder::default()
            .path("/bin/sh")
            .args(vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()])
            .build()
            .unwrap();
        hook.set_timeout(timeout);
        hook
    }

    #[test]
    fn state_arrives_on_standard_input() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let hook = shell(&format!("cat > {}", path.display()), None);
        run("prestart", Some(&vec![hook]), &serde_json::json!({"id": "x"})).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), r#"{"id":"x"}"#);
    }

    #[test]
    fn failure_names_code_and_stderr_and_a_hook_that_hangs_is_killed() {
        let state = serde_json::json!({});
        let failed = run("prestart", Some(&vec![shell("echo bad >&2; exit 3", None)]), &state).unwrap_err();
        assert!(failed.to_string().contains("exit code 3: bad"), "{failed}");
        let begun = Instant::now();
        let hung = run("prestart", Some(&vec![shell("sleep 60 & sleep 60", Some(1))]), &state).unwrap_err();
        assert!(hung.to_string().contains("within 1 s"), "{hung}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn poststop_goes_on_after_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ran");
        let hooks = vec![shell("exit 1", None), shell(&format!("touch {}", path.display()), None)];
        assert_eq!(run_all("poststop", Some(&hooks), &serde_json::json!({})).len(), 1);
        assert!(path.exists());
    }
}
