//! `context`: which meshes there are, and which one is meant.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::contexts::{self, AtAddress, DEFAULT, InCluster, Saved, Where};
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::home::Installed;
use crate::cli::parse;
use crate::cli::render::{Cell, Column, Grid, Page, Render, Tone};
use crate::install::SYSTEM_NAMESPACE;

/// List the meshes that commands can be about, and choose one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl context list
  meshctl context add prod --kube-context prod-eu --use
  meshctl context add ci --api mesh.example.com:15443 --api-token-file ci.token
  meshctl context use default       the mesh on this machine
  meshctl --context prod services   once

Without a choice the mesh on this machine is meant; where there is none, that
in the cluster of the kubeconfig's current context.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Add(Box<Add>),
    Use(Use),
    Remove(Remove),
}

/// List them: saved ones, those on this machine, and contexts of the kubeconfig
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl context list
  meshctl context list -o json")]
struct List {}

/// Save a mesh under a name
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl context add prod --kube-context prod-eu
  meshctl context add next --kube-context prod-eu --revision next
  meshctl context add ci --api mesh.example.com:15443 --api-token-file ci.token")]
struct Add {
    /// Name for --context; one of that name is replaced
    #[arg(value_name = "NAME")]
    name: String,
    /// It is in the cluster of this context of the kubeconfig
    #[arg(long, value_name = "CONTEXT")]
    kube_context: Option<String>,
    /// File of the kubeconfig, when KUBECONFIG is not to say it; may be repeated
    #[arg(long, value_name = "FILE", requires = "kube_context")]
    kubeconfig: Vec<PathBuf>,
    /// Namespace of its control plane [default: meshctl-system]
    #[arg(long, value_name = "NAMESPACE", value_parser = parse::name, requires = "kube_context")]
    system_namespace: Option<String>,
    /// Which installation in that cluster [default: default]
    #[arg(long, value_name = "NAME", value_parser = parse::name, requires = "kube_context")]
    revision: Option<String>,
    /// Have commands mean it from now on
    #[arg(long = "use")]
    choose: bool,
}

/// Have commands mean this one from now on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl context use prod
  meshctl context use default   the mesh on this machine")]
struct Use {
    /// A name of `meshctl context list`
    #[arg(value_name = "NAME")]
    name: String,
}

/// Forget a saved one; the mesh itself stays
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl context remove prod")]
struct Remove {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
}

pub(crate) fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    match args.command {
        Command::List(List {}) => {
            cx.out.report(&listed(cx)?)?;
            Ok(Exit::Ok)
        }
        Command::Add(add) => self::add(*add, cx),
        Command::Use(choice) => choose(&choice.name, cx),
        Command::Remove(gone) => remove(&gone.name, cx),
    }
}

/// One mesh.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    /// It is what commands mean now.
    current: bool,
    /// `saved`, `home` (installed on this machine) or `kubeconfig`.
    from: &'static str,
    #[serde(flatten)]
    place: Where,
}

fn listed(cx: &Context) -> Result<Vec<Row>, CliError> {
    let base = &cx.settings.base;
    let saved = Saved::load(base)?;
    let mut rows: BTreeMap<String, (&'static str, Where)> = BTreeMap::new();
    for name in contexts::contexts(&cx.settings.environment)
        .unwrap_or_default()
        .names
    {
        let place = Where::Cluster(InCluster::usual(Some(name.clone())));
        rows.insert(name, ("kubeconfig", place));
    }
    for name in homes(cx) {
        rows.insert(name, ("home", Where::Home));
    }
    for (name, place) in saved.contexts {
        rows.insert(name, ("saved", place));
    }
    let meant = &cx.settings.meant;
    Ok(rows
        .into_iter()
        .map(|(name, (from, place))| Row {
            current: name == meant.name,
            name,
            from,
            place,
        })
        .collect())
}

/// Installations on this machine.
fn homes(cx: &Context) -> Vec<String> {
    let base = &cx.settings.base;
    let installed = |name: &str| Installed::path(&contexts::home_of(base, name)).is_file();
    let below = fs::read_dir(base.join("contexts")).into_iter().flatten();
    let below = below.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    std::iter::once(DEFAULT.to_owned())
        .chain(below)
        .filter(|name| installed(name))
        .collect()
}

fn add(add: Add, cx: &Context) -> Result<Exit, CliError> {
    if add.name == DEFAULT || add.name.is_empty() || add.name.chars().any(char::is_whitespace) {
        return Err(
            CliError::usage(format!("{:?} cannot be the name of a context", add.name))
                .hint("`default` is the mesh on this machine; any other word will do"),
        );
    }
    let flags = &cx.settings.remote;
    let absolute = |path: &PathBuf| {
        std::path::absolute(path).map_err(|error| CliError::file("use", path.clone())(error))
    };
    // What the context in use says is not typed.
    let typed =
        |api: &&String| !matches!(&cx.settings.meant.place, Where::Address(at) if at.api == **api);
    let place = match (add.kube_context, flags.api.as_ref().filter(typed)) {
        (Some(_), Some(_)) => {
            return Err(CliError::usage(
                "a mesh is in a cluster or at an address, not both",
            ));
        }
        (None, None) => {
            return Err(CliError::usage("nothing says where this mesh is")
                .hint("give --kube-context, or --api with --api-token-file"));
        }
        (Some(context), None) => {
            let kubeconfig = add.kubeconfig.iter().map(absolute);
            Where::Cluster(InCluster {
                kube_context: Some(context),
                kubeconfig: kubeconfig.collect::<Result<_, _>>()?,
                system_namespace: add
                    .system_namespace
                    .unwrap_or_else(|| SYSTEM_NAMESPACE.to_owned()),
                revision: add.revision.unwrap_or_else(|| "default".to_owned()),
            })
        }
        (None, Some(api)) => Where::Address(AtAddress {
            api: api.clone(),
            ca: flags.api_ca.as_ref().map(absolute).transpose()?,
            token_file: flags.api_token_file.as_ref().map(absolute).transpose()?,
            identity: flags.api_identity.as_ref().map(absolute).transpose()?,
        }),
    };
    let base = &cx.settings.base;
    let mut saved = Saved::load(base)?;
    saved.contexts.insert(add.name.clone(), place);
    if add.choose {
        saved.current = Some(add.name.clone());
    }
    saved.store(base)?;
    cx.out.note(&format!("context {} is saved", add.name));
    Ok(Exit::Ok)
}

fn choose(name: &str, cx: &Context) -> Result<Exit, CliError> {
    let base = &cx.settings.base;
    let mut saved = Saved::load(base)?;
    let there = listed(cx)?;
    let found = there.iter().find(|row| row.name == name);
    match found {
        // Its name alone would mean a home.
        Some(row) if row.from == "kubeconfig" => {
            saved.contexts.insert(name.to_owned(), row.place.clone());
        }
        None if name != DEFAULT => {
            let names: Vec<&str> = there.iter().map(|row| row.name.as_str()).collect();
            return Err(
                CliError::failed(format!("there is no context {name:?}")).hint(
                    if names.is_empty() {
                        "save one with `meshctl context add`".to_owned()
                    } else {
                        format!("there are {}", names.join(", "))
                    },
                ),
            );
        }
        _ => {}
    }
    saved.current = Some(name.to_owned());
    saved.store(base)?;
    cx.out.note(&format!("commands are about {name} now"));
    Ok(Exit::Ok)
}

fn remove(name: &str, cx: &Context) -> Result<Exit, CliError> {
    let base = &cx.settings.base;
    let mut saved = Saved::load(base)?;
    if saved.contexts.remove(name).is_none() {
        return Err(
            CliError::failed(format!("no context {name:?} is saved")).hint(
                "`meshctl context list` has those that are; `meshctl uninstall` removes a mesh",
            ),
        );
    }
    if saved.current.as_deref() == Some(name) {
        saved.current = None;
    }
    saved.store(base)?;
    cx.out.note(&format!("context {name} is forgotten"));
    Ok(Exit::Ok)
}

impl Render for Vec<Row> {
    fn text(&self, page: &Page) -> String {
        let mut grid = Grid::new([
            Column::text(""),
            Column::long("NAME"),
            Column::text("TYPE"),
            Column::long("PLACE"),
            Column::text("FROM").when(page.wide),
        ]);
        for row in self {
            let (kind, place) = match &row.place {
                Where::Home => ("home", String::new()),
                Where::Cluster(at) => {
                    let context = at.kube_context.as_deref().unwrap_or("current context");
                    let mut place = context.to_owned();
                    if at.system_namespace != SYSTEM_NAMESPACE {
                        place.push_str(&format!(", namespace {}", at.system_namespace));
                    }
                    if at.revision != "default" {
                        place.push_str(&format!(", revision {}", at.revision));
                    }
                    ("cluster", place)
                }
                Where::Address(at) => ("address", at.api.clone()),
            };
            let mark = if row.current {
                Cell::new("*", Tone::Good)
            } else {
                "".into()
            };
            grid.row([
                mark,
                row.name.as_str().into(),
                kind.into(),
                Cell::or_dash(&place),
                row.from.into(),
            ]);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.iter().map(|row| row.name.clone()).collect()
    }

    fn empty(&self) -> Option<&'static str> {
        self.is_empty()
            .then_some("There is no mesh yet: `meshctl install`, or `meshctl context add`.")
    }
}
