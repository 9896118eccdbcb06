//! `logs`: what the pods said.

use crate::api::local::{LogLine, LogsQuery};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::settings::Format;

/// Print the logs of pods that `up` runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl logs reviews-v1
  meshctl logs -f productpage -c proxy        the access log of its sidecar
  meshctl logs control-plane --tail 20
  meshctl logs -o json | jq .line")]
pub(crate) struct Args {
    /// A pod, a workload, a service or control-plane; all pods without it
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Go on as lines come
    #[arg(short, long)]
    follow: bool,
    /// Only this container; the sidecar is `proxy`
    #[arg(short, long, value_name = "CONTAINER")]
    container: Option<String>,
    /// Only the last lines of each container
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Begin each line with its time
    #[arg(long)]
    timestamps: bool,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let query = LogsQuery {
        name: args.name,
        container: args.container,
        follow: args.follow,
        tail: args.tail,
    };
    let mut outcome = Ok(());
    super::local::logs(cx, query, |line| {
        outcome = text(&line, args.timestamps, cx).and_then(|text| cx.out.data(&text));
        outcome.is_ok()
    })
    .await?;
    outcome?;
    Ok(Exit::Ok)
}

/// One line; JSON lines for programs, so that they can be read while they come.
fn text(line: &LogLine, timestamps: bool, cx: &Context) -> Result<String, CliError> {
    let wrong = |reason: String| CliError::failed(format!("cannot write the line: {reason}"));
    Ok(match cx.out.format() {
        Format::Json | Format::Sarif => {
            let text = serde_json::to_string(line).map_err(|error| wrong(error.to_string()))?;
            format!("{text}\n")
        }
        Format::Yaml => {
            let text = serde_saphyr::to_string(line).map_err(|error| wrong(error.to_string()))?;
            format!("---\n{}\n", text.trim_end())
        }
        Format::Name => format!("{}\n", line.pod),
        Format::Table | Format::Wide => {
            let time = if timestamps {
                format!("{} ", line.time)
            } else {
                String::new()
            };
            let whose = format!("{}/{}", line.pod, line.container);
            format!("{time}{} {}\n", cx.out.page().paint.hint(whose), line.line)
        }
    })
}
