//! `analyze`: what is wrong with manifests and with what runs, without applying anything.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::api::analysis::{AnalysisReport, AnalyzeRequest, CodeReport};
use crate::api::resources::SourceText;
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::render::{analysis::counted, sarif};
use crate::cli::settings::Format;
use crate::mesh::{Finding, Severity};
use crate::resource::{self, Instances, Objects, codes};

use super::manifests;

/// Validate manifests and what runs, without applying anything
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl analyze                                  what the control plane runs
  meshctl analyze route.yaml                       the file over what runs
  meshctl analyze -R manifests/ --use-control-plane=false
  meshctl analyze -f - --failure-threshold warning < route.yaml
  meshctl analyze route.yaml --suppress 'IST0130=VirtualService *.shop'
  meshctl analyze -R . -o sarif > findings.sarif   for code scanners

Exit code 1 says that a finding reached the threshold. An object's annotation
galley.istio.io/analyze-suppress: CODE,CODE silences codes for it.")]
pub(crate) struct Args {
    /// File, directory, or - for standard input
    #[arg(value_name = "FILE", conflicts_with = "list_analyzers")]
    files: Vec<PathBuf>,
    /// The same, as `apply` takes it; may be repeated
    #[arg(
        short,
        long = "filename",
        value_name = "FILE",
        num_args = 1..,
        conflicts_with = "list_analyzers"
    )]
    file: Vec<PathBuf>,
    /// Also read the directories below a directory
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Look at the files over what the control plane runs; =false looks at files alone
    #[arg(
        short = 'k',
        long,
        alias = "use-kube",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set,
        hide_possible_values = true
    )]
    use_control_plane: bool,
    /// Exit with 1 when a finding is at least this bad: error, warning or info
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        default_value_t = Level::Error,
        value_name = "LEVEL",
        hide_possible_values = true
    )]
    failure_threshold: Level,
    /// Print findings that are at least this bad
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        default_value_t = Level::Info,
        value_name = "LEVEL",
        hide_possible_values = true
    )]
    output_threshold: Level,
    /// Leave out a code for an object, CODE=KIND NAME.NAMESPACE; * stands for any text
    #[arg(short = 'S', long, value_name = "CODE=OBJECT", value_parser = suppression)]
    suppress: Vec<Suppression>,
    /// Print every code that findings may carry, and what it means
    #[arg(short = 'L', long)]
    list_analyzers: bool,
}

/// A severity, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    Error,
    Warning,
    Info,
}

impl Level {
    fn severity(self) -> Severity {
        match self {
            Self::Error => Severity::Error,
            Self::Warning => Severity::Warning,
            Self::Info => Severity::Info,
        }
    }
}

/// A code that is not to be heard of for some objects.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Suppression {
    code: String,
    /// `VirtualService reviews.default`, with `*` for any text.
    object: String,
}

fn suppression(text: &str) -> Result<Suppression, String> {
    let (code, object) = text
        .split_once('=')
        .ok_or("write it as CODE=KIND NAME.NAMESPACE")?;
    if code != "*" && codes::find(code).is_none() {
        return Err(format!(
            "{code:?} is no code; `meshctl analyze --list-analyzers` lists them"
        ));
    }
    Ok(Suppression {
        code: code.to_owned(),
        object: object.trim().to_owned(),
    })
}

impl Suppression {
    fn covers(&self, finding: &Finding) -> bool {
        let origin = &finding.origin;
        let object = match (origin.namespace.as_str(), origin.name.as_str()) {
            ("", name) => format!("{} {name}", origin.kind),
            (namespace, name) => format!("{} {name}.{namespace}", origin.kind),
        };
        (self.code == "*" || self.code == finding.code) && fits(&self.object, object.trim())
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    text.strip_prefix(head).is_some_and(|text| {
        // The tail may begin anywhere behind the head.
        text.char_indices()
            .map(|(at, _)| at)
            .chain([text.len()])
            .any(|at| text.get(at..).is_some_and(|tail| fits(rest, tail)))
    })
}

pub(crate) async fn run(mut args: Args, cx: &Context) -> Result<Exit, CliError> {
    if args.list_analyzers {
        if cx.out.format() == Format::Sarif {
            return Err(CliError::usage(
                "SARIF is for findings, and this lists codes",
            ));
        }
        cx.out.report(&known())?;
        return Ok(Exit::Ok);
    }
    args.files.append(&mut args.file);
    if args.files.is_empty() && !args.use_control_plane {
        return Err(CliError::usage("there is nothing to analyze")
            .hint("name files, or leave out --use-control-plane=false"));
    }
    let sources = manifests::read(&args.files, args.recursive)?;
    let namespace = cx.settings.namespace().to_owned();
    let mut report: AnalysisReport = if args.use_control_plane {
        let request = AnalyzeRequest { sources, namespace };
        let asked = cx.client.post(&path(&["analyze"], &[]), &request).await;
        asked.map_err(|error| match error {
            CliError::Unreachable { .. } if !args.files.is_empty() => {
                cx.out
                    .note("--use-control-plane=false looks at the files alone");
                error
            }
            error => error,
        })?
    } else {
        alone(&sources, &namespace)
    };
    let before = report.findings.len();
    report.findings.retain(|finding| {
        let silenced = args.suppress.iter().any(|each| each.covers(finding));
        let elsewhere = cx.only_namespace().is_some_and(|namespace| {
            !finding.origin.namespace.is_empty() && finding.origin.namespace != namespace
        });
        !silenced && !elsewhere
    });
    report.suppressed += before - report.findings.len();
    let failed = report
        .findings
        .iter()
        .any(|finding| finding.severity >= args.failure_threshold.severity());
    report
        .findings
        .retain(|finding| finding.severity >= args.output_threshold.severity());
    if cx.out.format() == Format::Sarif {
        cx.out.structure(&sarif::document(&report.findings))?;
    } else {
        cx.out.report(&report)?;
    }
    cx.out.note(&counted(&report));
    Ok(if failed { Exit::Problem } else { Exit::Ok })
}

/// The files by themselves, without anything that runs.
fn alone(sources: &[SourceText], namespace: &str) -> AnalysisReport {
    let texts = sources
        .iter()
        .map(|source| (source.name.as_str(), source.text.as_str()));
    let analysis = resource::analyze(texts, namespace, &Objects::new(), Instances::default());
    let (findings, suppressed) = analysis.findings();
    AnalysisReport {
        findings,
        suppressed,
        files: sources.len(),
        objects: analysis.objects.len(),
    }
}

fn known() -> Vec<CodeReport> {
    codes::ALL
        .iter()
        .map(|known| CodeReport {
            code: known.code.to_owned(),
            name: known.name.to_owned(),
            severity: known.severity,
            about: known.about.to_owned(),
            help: known.help.to_owned(),
            forced: known.forced,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::Origin;

    #[test]
    fn suppressions_name_a_code_and_objects() {
        let finding = |kind: &str, namespace: &str, name: &str| {
            let origin = Origin {
                kind: kind.to_owned(),
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                ..Origin::default()
            };
            Finding::new(Severity::Warning, "IST0130", &origin, "x")
        };
        let reviews = finding("VirtualService", "shop", "reviews");
        for (text, covers) in [
            ("IST0130=VirtualService reviews.shop", true),
            ("IST0130=VirtualService *.shop", true),
            ("IST0130=VirtualService rev*.s*p", true),
            ("*=*", true),
            ("IST0130=VirtualService reviews.shopping", false),
            ("IST0130=VirtualService reviews.default", false),
            ("IST0130=DestinationRule reviews.shop", false),
            ("IST0101=VirtualService reviews.shop", false),
        ] {
            assert_eq!(
                suppression(text).unwrap().covers(&reviews),
                covers,
                "{text}"
            );
        }
        let space = finding("Namespace", "", "shop");
        assert!(
            suppression("IST0130=Namespace shop")
                .unwrap()
                .covers(&space)
        );
        assert!(suppression("IST9999=x").is_err());
        assert!(suppression("IST0130").is_err());
    }
}
