//! Flags of what runs.

use std::path::PathBuf;

use anyhow::{Result, bail};
use oci_spec::image::Config;
use rkvm_engine::options;
use rkvm_engine::record::ProcessConfig;
use rkvm_engine::spec::merge_env;
use rkvm_oci::Signal;

use super::Attachment;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct ProcessFlags {
    /// Give the container a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Set an environment variable, NAME=value, or NAME to pass on the client's
    #[arg(short, long = "env", value_name = "VARIABLE")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long = "env-file", value_name = "FILE")]
    env_files: Vec<PathBuf>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User (and group), names or numbers: USER[:GROUP]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Add a group, name or number
    #[arg(long = "group-add", value_name = "GROUP")]
    group_add: Vec<String>,
    /// Host name in the container
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Domain name in the container
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// Run this in place of the image's entry point; "" is none
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Signal that `stop` sends
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<Signal>,
    /// Seconds that `stop` waits before it kills; -1 is without end
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    stop_timeout: Option<i64>,
    /// Run a small init as pid 1 that reaps processes and passes signals on
    #[arg(long)]
    init: bool,
}

impl ProcessFlags {
    /// Joins these flags and the image's configuration.
    pub(super) fn apply(
        &self,
        process: &mut ProcessConfig,
        image: &Config,
        command: &[String],
        attachment: Attachment,
    ) -> Result<()> {
        process.entrypoint = match &self.entrypoint {
            Some(program) if program.is_empty() => vec![],
            Some(program) => vec![program.clone()],
            None => image.entrypoint().clone().unwrap_or_default(),
        };
        // As Docker: another entry point makes the image's command meaningless.
        process.cmd = match (command, &self.entrypoint) {
            ([], None) => image.cmd().clone().unwrap_or_default(),
            (command, _) => command.to_vec(),
        };
        if process.args().next().is_none() {
            bail!(
                "nothing to run: the image has neither entry point nor command; give a command after the image"
            );
        }
        process.env = image.env().clone().unwrap_or_default();
        for file in &self.env_files {
            merge_env(&mut process.env, &options::env_file(file)?);
        }
        for text in &self.env {
            match options::env(text)? {
                Some(variable) => merge_env(&mut process.env, &[variable]),
                // Not set here: not set there.
                None => merge_env(&mut process.env, std::slice::from_ref(text)),
            }
        }
        let workdir = self.workdir.as_ref().or(image.working_dir().as_ref()).cloned().unwrap_or_default();
        if !workdir.is_empty() && !workdir.starts_with('/') {
            bail!("the working directory {workdir:?} is not an absolute path");
        }
        process.working_dir = if workdir.is_empty() { "/".to_owned() } else { workdir };
        process.user = self.user.as_ref().or(image.user().as_ref()).cloned().unwrap_or_default();
        process.group_add.clone_from(&self.group_add);
        process.hostname = name(self.hostname.as_deref(), "host name")?;
        process.domainname = name(self.domainname.as_deref(), "domain name")?;
        process.tty = self.tty;
        process.open_stdin = self.interactive;
        process.stdin_once = self.interactive && attachment == Attachment::Foreground;
        process.stop_signal = match (&self.stop_signal, image.stop_signal()) {
            (Some(signal), _) => Some(*signal),
            (None, Some(text)) => Some(text.parse()?),
            (None, None) => None,
        };
        if self.stop_timeout.is_some_and(|seconds| seconds < -1) {
            bail!("--stop-timeout must be -1 (without end), 0 or more seconds");
        }
        process.stop_timeout = self.stop_timeout;
        process.init = self.init;
        Ok(())
    }
}

/// A host or domain name (RFC 1123), not longer than the kernel takes.
fn name(text: Option<&str>, what: &str) -> Result<String> {
    let Some(text) = text else { return Ok(String::new()) };
    let legal = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    if text.len() > 64 || !text.split('.').all(legal) {
        bail!("{text:?} is not a {what}: letters, digits, `-` and `.`, at most 64");
    }
    Ok(text.to_owned())
}
