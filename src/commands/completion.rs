//! `rkvm completion`.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::context::Context;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  source <(rkvm completion bash)                                     now
  rkvm completion bash > /etc/bash_completion.d/rkvm                 always
  rkvm completion fish > ~/.config/fish/completions/rkvm.fish";

/// Flags of `rkvm completion`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the script with which a shell completes rkvm's command line.
pub fn run(args: Args, _context: &Context) -> Result<u8> {
    let mut script = Vec::new();
    generate(args.shell, &mut super::Cli::<super::Verb>::command(), "rkvm", &mut script);
    output::print(&String::from_utf8(script)?)?;
    Ok(0)
}
