//! The engine's verbs, one a file. Each file has its `Args` (flags documented beside their definition) and
//! `run(args, context)`, which returns the exit code.

use std::path::PathBuf;

use clap::{ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::context::Context;
use crate::output;

/// Declares each verb's module, its place in the command line and its call: one line a verb, sorted by name.
macro_rules! verbs {
    ($(#[doc = $about:literal] $variant:ident => $module:ident),* $(,)?) => {
        $(mod $module;)*

        #[derive(Debug, Subcommand)]
        enum Verb {
            $(#[doc = $about] $variant($module::Args),)*
        }

        impl Subcommand for Invoked {
            fn augment_subcommands(command: Command) -> Command {
                command$(.subcommand(Command::new(stringify!($module)).about($about.trim()).defer(|verb| {
                    // The type has a description too; what the list says counts, as it does in derived code.
                    <$module::Args as clap::Args>::augment_args(verb).about($about.trim()).long_about(None)
                })))*
            }

            fn augment_subcommands_for_update(command: Command) -> Command {
                Self::augment_subcommands(command)
            }

            fn has_subcommand(name: &str) -> bool {
                Verb::has_subcommand(name)
            }
        }

        fn dispatch(verb: Verb, context: &Context) -> anyhow::Result<u8> {
            match verb {
                $(Verb::$variant(args) => $module::run(args, context),)*
            }
        }
    };
}

verbs! {
    /// Run a workload once in each isolation and say what each would protect against, cost and break
    Advise => advise,
    /// Attach to a running container
    Attach => attach,
    /// Measure how long starts take in each isolation, or compare two measurements
    Compare => compare,
    /// Print the script with which a shell completes this command line
    Completion => completion,
    /// Work with containers
    Container => container,
    /// Copy files between a container and the host
    Cp => cp,
    /// Make a container without starting it
    Create => create,
    /// Show what a container changed in its root filesystem
    Diff => diff,
    /// Run another program in a running container
    Exec => exec,
    /// Show what each isolation backend supports
    Features => features,
    /// Work with images
    Image => image,
    /// List images
    Images => images,
    /// Show what this engine and this host are
    Info => info,
    /// Show everything that is known of containers, images or volumes, as JSON
    Inspect => inspect,
    /// Send a signal to containers
    Kill => kill,
    /// Load images from an archive or an OCI layout
    Load => load,
    /// Show what a container wrote
    Logs => logs,
    /// Freeze every process of containers
    Pause => pause,
    /// Show where published ports listen on the host
    Port => port,
    /// List containers
    Ps => ps,
    /// Fetch an image from its registry
    Pull => pull,
    /// Give a container another name
    Rename => rename,
    /// Stop containers and start them again
    Restart => restart,
    /// Remove containers
    Rm => rm,
    /// Remove images or names of images
    Rmi => rmi,
    /// Make a container and start it
    Run => run,
    /// Save images to an archive
    Save => save,
    /// Start containers
    Start => start,
    /// Show the resource use of containers
    Stats => stats,
    /// Stop containers
    Stop => stop,
    /// Work with the engine as a whole
    System => system,
    /// Give an image another name
    Tag => tag,
    /// List the processes of a container
    Top => top,
    /// Thaw every process of containers
    Unpause => unpause,
    /// Change limits and restart policies
    Update => update,
    /// Show the version
    Version => version,
    /// Work with volumes, which outlive containers
    Volume => volume,
    /// Wait until containers have ended and print their exit codes
    Wait => wait,
}

const EXAMPLES: &str = "\
Examples:
  rkvm run -d --name web -p 8080:80 nginx
  rkvm logs -f web
  rkvm exec -it web sh
  rkvm ps -a
  rkvm rm -f web

`rkvm COMMAND --help` explains each command. The words and flags are Docker's.";

/// A verb whose flags are described to the parser only when it is invoked: to describe those of all took a quarter of the time in which
/// `rkvm` starts, 0.3 ms that every measurement of a container had in it.
#[derive(Debug)]
struct Invoked(Verb);

impl FromArgMatches for Invoked {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Verb::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

/// A container runtime with two isolation backends: how much isolation can you afford, in milliseconds?
#[derive(Debug, Parser)]
#[command(name = "rkvm", version, disable_version_flag = true, after_help = EXAMPLES)]
struct Cli<V: Subcommand> {
    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
    /// Folder for all state, in place of /run/rkvm and /var/lib/rkvm
    #[arg(
        long,
        global = true,
        env = "RKVM_ROOT",
        hide_env_values = true,
        value_name = "DIR",
        help_heading = "Global options"
    )]
    root: Option<PathBuf>,
    #[command(subcommand)]
    verb: V,
}

/// Exit code of `run` and `create` when they could not do their work, and of a command line that cannot be understood
/// (Docker's convention: codes below belong to the container's program).
pub const EXIT_ENGINE: u8 = 125;
/// Exit code of every other command that could not do its work, or not all of it.
pub const EXIT_FAILURE: u8 = 1;

/// Parses the command line, runs the verb and gives the exit code back.
pub fn main() -> u8 {
    let parsed = Cli::<Invoked>::command().try_get_matches().and_then(|matches| {
        let failure = failure_code(&matches);
        Cli::<Invoked>::from_arg_matches(&matches).map(|cli| (cli, failure))
    });
    let (cli, failure) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { EXIT_ENGINE } else { 0 };
        }
    };
    let context = Context::new(cli.root);
    dispatch(cli.verb.0, &context).unwrap_or_else(|error| {
        output::complain(format_args!("rkvm: {error:#}"));
        exit_code(&error, failure)
    })
}

/// Exit code of a failure of the verb in `matches`.
fn failure_code(matches: &ArgMatches) -> u8 {
    match matches.subcommand() {
        Some(("run" | "create", _)) => EXIT_ENGINE,
        Some(("container", inner)) => failure_code(inner),
        _ => EXIT_FAILURE,
    }
}

/// Exit code of a command that ends with `error`: 126 or 127 for a program that cannot be executed, otherwise `failure`.
fn exit_code(error: &anyhow::Error, failure: u8) -> u8 {
    let code = match error.downcast_ref::<rkvm_oci::Error>() {
        Some(error) => error.exit_code(),
        None => error.downcast_ref().map_or(EXIT_ENGINE, rkvm_engine::Error::exit_code),
    };
    if code == EXIT_ENGINE { failure } else { code }
}
