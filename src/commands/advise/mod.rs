//! `rkvm advise`.

mod text;
mod trial;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rkvm_engine::record::{ContainerRecord, Seccomp};
use rkvm_engine::{seccomp, spec};
use rkvm_image::{Image, Store};
use rkvm_measure::budget;
use rkvm_measure::interrupt;
use rkvm_measure::observe::Policy;
use rkvm_measure::probe::Probe;
use rkvm_measure::session::Session;
use rkvm_oci::Isolation;

use crate::commands::compare::session;
use crate::context::Context;
use crate::flags::pull::{self, PullPolicy};
use crate::flags::{Attachment, ContainerFlags};
use crate::output;
use crate::pulling::Show;
use trial::Trial;

const EXAMPLES: &str = "\
Examples:
  rkvm advise nginx --ready http:80
  rkvm advise busybox --ready exit -- sh -c 'wget -O- http://10.0.0.1/'

It is run three times: once in a container while each of its system calls is looked at, which takes longer, and then once in each
isolation as it is, for what a start costs. What was not seen is not spoken of.";

/// Flags of `rkvm advise`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Image
    image: String,
    /// When a start is done: exit | exec | http:PORT[/path] | tcp:PORT | log:REGEX
    #[arg(long, default_value = "exec", value_name = "PROBE")]
    ready: String,
    /// How long it is watched after that
    #[arg(long = "for", default_value = "2s", value_name = "TIME")]
    watch: String,
    /// When a start has failed
    #[arg(long, default_value = "60s", value_name = "TIME")]
    timeout: String,
    /// Flag for `rkvm run`, e.g. --run-flag=--cap-add=NET_ADMIN
    #[arg(long = "run-flag", value_name = "FLAG", allow_hyphen_values = true)]
    run_flags: Vec<String>,
    /// What to run in place of the image's command
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Exit code after SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

/// What is tried.
struct Order {
    image: String,
    command: Vec<String>,
    run_flags: Vec<String>,
    probe: Probe,
    watch: Duration,
    timeout: Duration,
}

/// Runs the workload in each isolation and prints what was seen.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let order = Order {
        probe: args.ready.parse()?,
        watch: budget::duration("--for", &args.watch)?,
        timeout: budget::duration("--timeout", &args.timeout)?,
        image: args.image,
        command: args.command,
        run_flags: args.run_flags,
    };
    let image =
        pull::image(&Store::open(&context.lib_dir), &order.image, PullPolicy::Missing, Show::Stderr)?;
    let policy = policy(&order, context, &image)?;
    session::clean_up(context).context("a killed measurement left something that cannot be removed")?;
    let session = Session::begin(&session::folder(context))?;
    interrupt::watch();
    let seen = trials(&order, context, &session, policy);
    session::remove_all(context, |name| name == session.name())?;
    let Some((observed, container, vm)) = seen? else { return Ok(EXIT_INTERRUPTED) };
    output::print(&text::advice(&order, &observed, &container, &vm))?;
    // Without a single start there is nothing that could be advised.
    Ok(if container.outcome.is_err() && vm.outcome.is_err() { crate::commands::EXIT_FAILURE } else { 0 })
}

type Seen = (trial::Watched, Trial, Trial);

/// The three runs; `None`: the user ended them.
fn trials(order: &Order, context: &Context, session: &Session, policy: Policy) -> Result<Option<Seen>> {
    output::complain(format_args!("watching its system calls in a container"));
    let observed = trial::watched(order, context, session, policy)?;
    let mut trials = vec![];
    for isolation in [Isolation::Container, Isolation::Vm] {
        if interrupt::requested() {
            return Ok(None);
        }
        output::complain(format_args!("starting it with --isolation={isolation}"));
        trials.push(trial::plain(order, context, session, isolation)?);
    }
    match (trials.pop(), trials.pop()) {
        _ if interrupt::requested() => Ok(None),
        (Some(vm), Some(container)) => Ok(Some((observed, container, vm))),
        _ => Ok(None),
    }
}

/// The filter that the workload would have, which the watched run decides by.
fn policy(order: &Order, context: &Context, image: &Image) -> Result<Policy> {
    let mut words = vec!["advise"];
    words.extend(order.run_flags.iter().map(String::as_str));
    words.push(&order.image);
    words.extend(order.command.iter().map(String::as_str));
    let flags = ContainerFlags::parse_words(&words)?;
    let record = flags.record(&context.engine(), image, Attachment::Detached, rkvm_engine::ids::random()?)?;
    Ok(Policy::new(profile(&record)?))
}

fn profile(record: &ContainerRecord) -> Result<Option<oci_spec::runtime::LinuxSeccomp>> {
    let security = &record.security;
    let own_user_namespace = security.userns == rkvm_engine::record::NamespaceMode::Private;
    let capabilities = spec::capability_names(record, own_user_namespace);
    Ok(match &security.seccomp {
        _ if security.privileged => None,
        Seccomp::Unconfined => None,
        Seccomp::Default => Some(seccomp::default_profile(&capabilities)),
        Seccomp::Profile(text) => {
            let profile = seccomp::load_profile(text, &capabilities)?;
            if profile.listener_path().is_some() {
                bail!("the seccomp profile names a listener of its own: leave it out to be advised");
            }
            Some(profile)
        }
    })
}
