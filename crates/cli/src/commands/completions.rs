//! `muster completions SHELL`.

use clap::Args;
use clap_complete::Shell;

use crate::failure::{Failure, exit};
use crate::present::Out;

const EXAMPLES: &str = "\
Examples:
  muster completions bash > /etc/bash_completion.d/muster
  muster completions zsh > ~/.zfunc/_muster
  muster completions fish > ~/.config/fish/completions/muster.fish";

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, out: &mut Out) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::args::command(), "muster", &mut script);
    out.raw(&script)?;
    Ok(exit::DONE)
}
