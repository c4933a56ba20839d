//! `rkvm-oci create`.

use std::collections::HashMap;
use std::path::PathBuf;

use rkvm_oci::backend::Kernel;
use rkvm_oci::runtime::{self, CreateOptions};
use rkvm_oci::{Bundle, Keyring, Result, Rootfs, Stdio, Timeline, Workload};

use rkvm_vmm::artifacts;

use super::{Context, stdio};

/// Flags of `create`, which `run` has too.
#[derive(Debug, Clone, clap::Args)]
pub struct CreateArgs {
    /// Folder of the bundle
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Unix socket to which the terminal's master is sent
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Unix socket to which the container's pidfd is sent
    #[arg(long, value_name = "SOCKET")]
    pub pidfd_socket: Option<PathBuf>,
    /// File for the process id of the container's first process
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Do without pivot_root (the host's root is an initramfs)
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Pass this many descriptors, from 3 on, to the container
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    #[command(flatten)]
    pub guest: GuestArgs,
    /// The container's id
    pub id: String,
}

/// What a microVM boots, in place of what comes with this program.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "MicroVM (--isolation=vm)")]
pub struct GuestArgs {
    /// Guest kernel: an ELF vmlinux or a bzImage
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initramfs of the guest, with this program's init in it
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Words to add to the guest kernel's command line
    #[arg(long, value_name = "WORDS")]
    cmdline: Option<String>,
    /// Whether the machine goes on where another one had booted to: auto (if there is such a template) or never
    #[arg(long, value_name = "WHEN", value_parser = ["auto", "never"], hide_possible_values = true)]
    template: Option<String>,
}

impl GuestArgs {
    /// The annotations of config.json that say the same.
    fn annotations(&self) -> Result<HashMap<String, String>> {
        let absolute = |path: &PathBuf| -> Result<String> {
            let path = std::path::absolute(path)
                .map_err(|source| rkvm_oci::Error::failed("use", path.display(), source))?;
            Ok(path.display().to_string())
        };
        let mut all = HashMap::new();
        for (key, path) in [(artifacts::KERNEL, &self.kernel), (artifacts::INITRD, &self.initrd)] {
            if let Some(path) = path {
                all.insert(key.to_owned(), absolute(path)?);
            }
        }
        all.extend(self.cmdline.clone().map(|words| (artifacts::CMDLINE.to_owned(), words)));
        all.extend(self.template.clone().map(|when| (artifacts::TEMPLATE.to_owned(), when)));
        Ok(all)
    }
}

/// Flags of `rkvm-oci create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    create: CreateArgs,
}

/// Makes the container.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let bundle = Bundle::load(&args.create.bundle)?;
    let stdio = stdio::of(bundle.spec.process().as_ref(), args.create.console_socket.as_deref())?;
    create(&args.create, context, &bundle, stdio)?;
    Ok(0)
}

/// Makes the container of `args` from a bundle that has been read, with these streams.
pub fn create(
    args: &CreateArgs,
    context: &Context,
    bundle: &Bundle,
    stdio: Stdio,
) -> Result<Box<dyn Workload>> {
    let activation = stdio::listen_fds();
    let preserve_fds = args.preserve_fds.saturating_add(activation);
    stdio::check_preserved(preserve_fds)?;
    let activated = with_listen_fds(bundle, activation);
    let bundle = activated.as_ref().unwrap_or(bundle);
    let guest = args.guest.annotations()?;
    let given = !guest.is_empty();
    let annotated = with_annotations(bundle, guest);
    let bundle = annotated.as_ref().unwrap_or(bundle);
    let backend = context.backend_for(bundle)?;
    if given && backend.needs().kernel == Kernel::Host {
        return Err(rkvm_oci::Error::unsupported(
            "--kernel, --initrd or --cmdline",
            "the container runs on the host's kernel; use --isolation=vm",
        ));
    }
    let options = CreateOptions {
        id: &args.id,
        bundle,
        rootfs: Rootfs::Bundle,
        link: None,
        stdio,
        preserve_fds,
        no_pivot: args.no_pivot,
        keyring: if args.no_new_keyring { Keyring::Inherited } else { Keyring::New },
        at_once: false,
    };
    let mut workload = runtime::create(&*backend, &context.store, options, &mut Timeline::begin())?;
    let told = stdio::write_pid_file(args.pid_file.as_deref(), workload.pid())
        .and_then(|()| stdio::send_pidfd(args.pidfd_socket.as_deref(), workload.pid()));
    if let Err(error) = told {
        // Nobody would ever delete a container that its caller knows nothing of.
        workload.delete()?;
        context.store.open(&args.id)?.remove()?;
        return Err(error);
    }
    Ok(workload)
}

/// The bundle with these annotations, when there are any.
fn with_annotations(bundle: &Bundle, more: HashMap<String, String>) -> Option<Bundle> {
    if more.is_empty() {
        return None;
    }
    let mut bundle = bundle.clone();
    let mut all = bundle.spec.annotations().clone().unwrap_or_default();
    all.extend(more);
    bundle.spec.set_annotations(Some(all));
    Some(bundle)
}

/// The bundle with the variables of socket activation, when there are any descriptors of it.
fn with_listen_fds(bundle: &Bundle, count: u32) -> Option<Bundle> {
    if count == 0 {
        return None;
    }
    let mut bundle = bundle.clone();
    let process = bundle.spec.process_mut().as_mut()?;
    let mut env = process.env().clone().unwrap_or_default();
    // The program is process 1 of its own pid namespace.
    env.extend([format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()]);
    process.set_env(Some(env));
    Some(bundle)
}
