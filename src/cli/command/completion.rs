//! `completion`: scripts by which shells complete our command line.

use clap::ValueEnum;
use clap_complete::Shell;

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(meshctl completion bash)
  meshctl completion zsh > ~/.local/share/zsh/site-functions/_meshctl
  meshctl completion fish > ~/.config/fish/completions/meshctl.fish")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Choice,
}

/// Shells that are supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let shell = match args.shell {
        Choice::Bash => Shell::Bash,
        Choice::Zsh => Shell::Zsh,
        Choice::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "meshctl", &mut script);
    cx.out.data(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
