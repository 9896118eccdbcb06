//! `get`: configuration as it is stored.

use serde_json::Value;

use crate::api::resources::ResourceReport;
use crate::api::{Problem, Reason};
use crate::cli::client::path;
use crate::cli::cluster::objects;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::settings::Format;

/// Print configuration objects
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl get virtualservices
  meshctl get vs reviews -o yaml > reviews.yaml       can be applied again
  meshctl get dr/reviews -n shop
  meshctl get pa -o json

Kinds are taken in any case, singular or plural, and as kubectl's short names
(vs, dr, svc, deploy, pa).")]
pub(crate) struct Args {
    /// KIND or KIND/NAME
    #[arg(value_name = "KIND")]
    kind: String,
    /// Name of one object
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let (kind, name) = kind_and_name(&args.kind, args.name.as_deref())?;
    // A name without a namespace means the default one, as with kubectl; a list means all.
    let namespace = match name {
        Some(_) => Some(cx.settings.namespace()),
        None => cx.only_namespace(),
    };
    let query = path(
        &["resources", kind],
        &[("namespace", namespace), ("name", name)],
    );
    let found: Vec<ResourceReport> = match cx.client.mesh() {
        Some(mesh) => objects::get(mesh, kind, namespace, name).await?,
        None => cx.client.get(&query).await?,
    };
    if found.is_empty()
        && let Some(name) = name
    {
        return Err(CliError::Problem(
            Problem::new(
                Reason::NotFound,
                format!(
                    "there is no {kind}/{name} in namespace {}",
                    cx.settings.namespace()
                ),
            )
            .hint(format!("`meshctl get {kind}` lists all")),
        ));
    }
    if cx.out.format() == Format::Yaml {
        cx.out.data(&appliable(&found)?)?;
    } else {
        cx.out.report(&found)?;
    }
    Ok(Exit::Ok)
}

/// `KIND NAME` or `KIND/NAME`.
pub(crate) fn kind_and_name<'a>(
    kind: &'a str,
    name: Option<&'a str>,
) -> Result<(&'a str, Option<&'a str>), CliError> {
    match (kind.split_once('/'), name) {
        (None, name) => Ok((kind, name)),
        (Some((kind, name)), None) if !kind.is_empty() && !name.is_empty() => {
            Ok((kind, Some(name)))
        }
        (Some(_), Some(_)) => Err(CliError::usage(
            "name the object once: KIND NAME or KIND/NAME",
        )),
        (Some(_), None) => Err(CliError::usage(format!("{kind:?} is not KIND/NAME"))),
    }
}

/// The objects themselves, one document each.
fn appliable(found: &[ResourceReport]) -> Result<String, CliError> {
    let objects: Vec<&Value> = found.iter().map(|report| &report.object).collect();
    let mut text = String::new();
    for (at, object) in objects.iter().enumerate() {
        if at > 0 {
            text.push_str("---\n");
        }
        let document = serde_saphyr::to_string(object)
            .map_err(|error| CliError::failed(format!("cannot write YAML: {error}")))?;
        text.push_str(&document);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}
