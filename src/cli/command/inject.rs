//! `inject`: adds the sidecar to manifests, offline.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::api::{Problem, Reason};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;
use crate::cli::render::number;
use crate::cli::settings::Format;
use crate::inject::{self, InjectConfig};
use crate::mesh::Finding;

use super::manifests;

/// Add the sidecar to manifests; asks no control plane
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl inject -f deployment.yaml | kubectl apply -f -
  kubectl get deploy -o yaml | meshctl inject | kubectl apply -f -
  meshctl inject --uninject -f meshed.yaml > plain.yaml

Everything but pods passes through as it is; a pod that has its sidecar is
made as it would be today. YAML goes out; with -o json an object or a List.")]
pub(crate) struct Args {
    /// File, directory, or - for standard input (the default); may be repeated
    #[arg(short, long = "filename", value_name = "FILE", num_args = 1.., default_value = "-")]
    file: Vec<PathBuf>,
    /// Also read the directories below a directory
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Take the sidecar out instead
    #[arg(long)]
    uninject: bool,
    /// Image of the sidecar [default: meshctl:VERSION]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Where the control plane listens with TLS, as pods reach it
    #[arg(long, value_name = "HOST:PORT")]
    control_plane: Option<String>,
    /// Version of the cluster, which says whether it has native sidecars (1.29)
    #[arg(long, value_name = "MAJOR.MINOR", value_parser = version)]
    kubernetes: Option<(u16, u16)>,
    /// Which revision of the mesh injects
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = parse::name)]
    revision: String,
}

fn version(text: &str) -> Result<(u16, u16), String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts = text.split('.').map(|part| part.parse().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => Err("expected MAJOR.MINOR, as 1.33".to_owned()),
    }
}

pub(crate) fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let sources = manifests::read(&args.file, args.recursive)?;
    let texts = sources
        .iter()
        .map(|source| (source.text.as_str(), source.name.as_str()));
    let proxies =
        inject::proxy_configs(texts).map_err(|(name, findings)| refused(&name, findings))?;
    let config = InjectConfig {
        proxies,
        image: args.image.unwrap_or_else(|| InjectConfig::default().image),
        control_plane: args
            .control_plane
            .unwrap_or_else(|| InjectConfig::default().control_plane),
        kubernetes: args.kubernetes,
        revision: args.revision,
        ..InjectConfig::default()
    };
    let mut text = String::new();
    let mut changed = 0;
    for source in &sources {
        let done = if args.uninject {
            inject::uninject(&source.text, &source.name)
        } else {
            inject::inject(&source.text, &source.name, &config)
        };
        let done = done.map_err(|findings| refused(&source.name, findings))?;
        for finding in &done.findings {
            cx.out.finding(finding);
        }
        for remark in &done.left_alone {
            let (origin, why) = (&remark.origin, &remark.why);
            cx.out.note(&format!("{origin}: no sidecar, as {why}"));
        }
        changed += done.changed;
        if !text.is_empty() {
            if !text.ends_with('\n') {
                text.push('\n');
            }
            if !done.text.starts_with("---") {
                text.push_str("---\n");
            }
        }
        text.push_str(&done.text);
    }
    // Written only when every file was understood: half a stream applied is worse than none.
    if cx.out.format() == Format::Json {
        cx.out.structure(&list(&text)?)?;
    } else {
        cx.out.data(&text)?;
    }
    let verb = if args.uninject { "without" } else { "with" };
    cx.out.note(&format!(
        "{} now {verb} a sidecar",
        number::count(changed, "pod")
    ));
    Ok(Exit::Ok)
}

/// The manifests as `kubectl -o json` gives them: one object, or a List.
fn list(text: &str) -> Result<Value, CliError> {
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| CliError::failed(format!("cannot write the manifests: {error}")))?;
    objects.retain(|object| !object.is_null());
    Ok(match objects.len() {
        1 => objects.remove(0),
        _ => json!({ "apiVersion": "v1", "kind": "List", "items": objects }),
    })
}

fn refused(name: &str, findings: Vec<Finding>) -> CliError {
    let mut problem = Problem::new(Reason::Invalid, format!("{name} cannot be read"));
    problem.findings = findings;
    CliError::Problem(problem)
}
