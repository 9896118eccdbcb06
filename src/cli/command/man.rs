//! `man`: manual pages, made from the same definition as `--help`.

use std::fs;
use std::path::PathBuf;

use clap_mangen::Man;

use crate::cli::args;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;

/// Print the manual page, or write the pages of all commands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl man | man -l -
  meshctl man canary set | man -l -
  meshctl man --dir ~/.local/share/man/man1")]
pub(crate) struct Args {
    /// The page of this command, such as: canary set
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Vec<String>,
    /// Write all pages into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let mut pages = Vec::new();
    collect(&args::command(), "", &mut pages);
    if let Some(dir) = &args.dir {
        fs::create_dir_all(dir).map_err(CliError::file("make", dir))?;
        for (name, page) in &pages {
            let file = dir.join(format!("{name}.1"));
            fs::write(&file, render(page)?).map_err(CliError::file("write", file))?;
        }
        cx.out.note(&format!(
            "{} pages written to {}",
            pages.len(),
            dir.display()
        ));
        return Ok(Exit::Ok);
    }
    let wanted = std::iter::once("meshctl")
        .chain(args.command.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join("-");
    let (_, page) = pages
        .iter()
        .find(|(name, _)| *name == wanted)
        .ok_or_else(|| {
            CliError::usage(format!("there is no command {:?}", args.command.join(" ")))
                .hint("`meshctl --help` lists them")
        })?;
    cx.out.data(&String::from_utf8_lossy(&render(page)?))?;
    Ok(Exit::Ok)
}

/// Every command with the name of its page, `meshctl-canary-set`.
fn collect(command: &clap::Command, parent: &str, pages: &mut Vec<(String, clap::Command)>) {
    let typed = format!("{parent} {}", command.get_name()).trim().to_owned();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        collect(sub, &typed, pages);
    }
    let name = typed.replace(' ', "-");
    let page = command
        .clone()
        .name(name.clone())
        .display_name(name.clone())
        .bin_name(typed);
    pages.push((name, page));
}

fn render(page: &clap::Command) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    Man::new(page.clone())
        .render(&mut text)
        .map_err(CliError::Output)?;
    Ok(text)
}
