//! `tag`: names of revisions in a cluster.

use serde::Serialize;

use super::cluster::{ClusterArgs, tag};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;
use crate::cli::render::{Cell, Column, Grid, Page, Render};

/// Give revisions in a cluster names that namespaces choose
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl tag set prod --revision blue
  kubectl label namespace shop istio.io/rev=prod
  meshctl install --target kubernetes --revision green --wait
  meshctl tag set prod --revision green --overwrite   pods that start are green
  meshctl tag list")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Set(SetArgs),
    List(ListArgs),
    Remove(RemoveArgs),
}

/// Have a name mean a revision
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl tag set prod --revision blue
  meshctl tag set prod --revision green --overwrite")]
struct SetArgs {
    /// The name
    #[arg(value_name = "TAG", value_parser = parse::name)]
    tag: String,
    /// Also when it means another revision
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Show revisions and their names
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl tag list
  meshctl tag list -o json")]
struct ListArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Have a name mean nothing any more
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl tag remove prod")]
struct RemoveArgs {
    /// The name
    #[arg(value_name = "TAG", value_parser = parse::name)]
    tag: String,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A revision.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) revision: String,
    pub(crate) version: String,
    pub(crate) tags: Vec<String>,
}

impl Render for Vec<Row> {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::text("REVISION"),
            Column::text("VERSION"),
            Column::long("TAGS"),
        ]);
        for row in self {
            grid.row([
                row.revision.as_str().into(),
                row.version.as_str().into(),
                Cell::or_dash(&row.tags.join(", ")),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|row| row.revision.clone()).collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.is_empty().then_some("Nothing is installed there")
    }
}

/// What became of a tag.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    tag: String,
    /// What it means now.
    revision: Option<String>,
    /// What it meant before.
    before: Option<String>,
}

impl Render for Report {
    fn text(&self, _: &Page) -> String {
        let tag = &self.tag;
        match (&self.revision, &self.before) {
            (Some(now), Some(before)) => {
                format!("{tag} means revision {now}, and no longer {before}\n")
            }
            (Some(now), None) => format!("{tag} means revision {now}\n"),
            (None, Some(before)) => format!("{tag} means nothing any more; it meant {before}\n"),
            (None, None) => format!("{tag} means nothing\n"),
        }
    }

    fn names(&self) -> Vec<String> {
        vec![self.tag.clone()]
    }
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let report = match args.command {
        Command::List(args) => {
            cx.out.report(&tag::list(&args.cluster, cx).await?)?;
            return Ok(Exit::Ok);
        }
        Command::Set(args) => Report {
            before: tag::set(&args.cluster, &args.tag, args.overwrite, cx).await?,
            revision: Some(args.cluster.revision().to_owned()),
            tag: args.tag,
        },
        Command::Remove(args) => Report {
            before: Some(tag::remove(&args.cluster, &args.tag, cx).await?),
            revision: None,
            tag: args.tag,
        },
    };
    cx.out.report(&report)?;
    Ok(Exit::Ok)
}
