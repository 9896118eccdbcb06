//! `tap`: calls as they happen.

use std::os::fd::AsFd as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::api::access::Role;
use crate::api::tap::Call;
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::render::tap::line;
use crate::cli::settings::Format;
use crate::cli::{logging, parse};

/// Show calls as they happen, a line each
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl tap
  meshctl tap reviews                               calls from and to reviews
  meshctl tap --from productpage-v1 --to reviews
  meshctl tap reviews --status 5xx -o json | jq .path
  meshctl tap --path /cart --min-latency 100ms --max 20
  meshctl tap --show-header x-user --query          for operators, and noted

Each call is told once, by the caller's sidecar where it has one. Queries of
paths and fields of requests may hold secrets: they are shown when asked for
only, to operators, and the audit log says so. Calls beyond --rate are left
out.")]
pub(crate) struct Args {
    /// NAME or NAME.NAMESPACE of a service or workload at either end
    #[arg(value_name = "SERVICE")]
    service: Option<String>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Leave after so many calls
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Calls a second at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Show this field of requests; can be given several times
    #[arg(long, value_name = "NAME")]
    show_header: Vec<String>,
    /// Show paths with their queries
    #[arg(long)]
    query: bool,
}

/// Which calls.
#[derive(Debug, Default, Clone, clap::Args)]
pub(crate) struct Filter {
    /// Only calls from this service or workload
    #[arg(long, value_name = "WORKLOAD")]
    pub(crate) from: Option<String>,
    /// Only calls to this service or workload
    #[arg(long, value_name = "SERVICE")]
    pub(crate) to: Option<String>,
    /// Only paths that begin so
    #[arg(long, value_name = "PREFIX")]
    pub(crate) path: Option<String>,
    /// Only this method
    #[arg(long, value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// Only these: 503, 5xx or 200-299
    #[arg(long, value_name = "STATUS")]
    pub(crate) status: Option<String>,
    /// Only requests with this field, as NAME:VALUE
    #[arg(long, value_name = "K:V")]
    pub(crate) header: Option<String>,
    /// Only calls that take this long or longer
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    pub(crate) min_latency: Option<Duration>,
}

/// What is asked of the API.
#[derive(Debug, Default, Clone)]
pub(crate) struct Asked {
    pub(crate) service: Option<String>,
    pub(crate) filter: Filter,
    pub(crate) rate: u32,
    pub(crate) show: Vec<String>,
    pub(crate) query: bool,
}

impl Asked {
    /// Below the API's prefix.
    pub(crate) fn path(&self, cx: &Context) -> String {
        let least = self
            .filter
            .min_latency
            .map(|least| least.as_millis().max(1).to_string());
        let (rate, show) = (self.rate.to_string(), self.show.join(","));
        path(
            &["tap"],
            &[
                ("service", self.service.as_deref()),
                ("namespace", Some(cx.settings.namespace())),
                ("from", self.filter.from.as_deref()),
                ("to", self.filter.to.as_deref()),
                ("path", self.filter.path.as_deref()),
                ("method", self.filter.method.as_deref()),
                ("status", self.filter.status.as_deref()),
                ("header", self.filter.header.as_deref()),
                ("minLatencyMs", least.as_deref()),
                ("rate", Some(&rate)),
                ("headers", (!show.is_empty()).then_some(&show)),
                ("query", self.query.then_some("true")),
            ],
        )
    }

    /// The least that may ask for it.
    pub(crate) fn role(&self) -> Role {
        if self.query || !self.show.is_empty() || self.filter.header.is_some() {
            Role::Operator
        } else {
            Role::Viewer
        }
    }
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let asked = Asked {
        service: args.service,
        filter: args.filter,
        rate: args.rate,
        show: args.show_header,
        query: args.query,
    };
    let end = logging::asked_to_end();
    tokio::pin!(end);
    let path = asked.path(cx);
    let opening = cx.client.lines(&path, asked.role());
    let mut lines = tokio::select! {
        lines = opening => lines?,
        () = &mut end => return Ok(Exit::Ok),
    };
    let mut left = args.max;
    while left != Some(0) {
        let read = tokio::select! {
            biased;
            () = &mut end => break,
            read = lines.next() => read,
        };
        let bytes = match read {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => return Err(error),
            None => break,
        };
        if bytes.is_empty() {
            // Whoever read our output may have gone without a call that would show it.
            if closed() {
                return Err(CliError::ClosedPipe);
            }
            continue;
        }
        let call = read_call(&bytes)?;
        cx.out.data(&text(&call, &bytes, cx)?)?;
        left = left.map(|left| left - 1);
    }
    Ok(Exit::Ok)
}

/// A line of the answer.
pub(crate) fn read_call(bytes: &[u8]) -> Result<Call, CliError> {
    serde_json::from_slice(bytes).map_err(|error| CliError::Answer {
        request: "GET /tap".to_owned(),
        reason: error.to_string(),
    })
}

fn text(call: &Call, bytes: &[u8], cx: &Context) -> Result<String, CliError> {
    let mut text = match cx.out.format() {
        // As it came, so that what a newer control plane says more is not lost.
        Format::Json | Format::Sarif => String::from_utf8_lossy(bytes).into_owned(),
        Format::Yaml => {
            let yaml = serde_saphyr::to_string(call)
                .map_err(|error| CliError::failed(format!("cannot write the call: {error}")))?;
            format!("---\n{}", yaml.trim_end())
        }
        Format::Name => call.service.clone(),
        Format::Table => line(call, false, cx.out.page().paint),
        Format::Wide => line(call, true, cx.out.page().paint),
    };
    text.push('\n');
    Ok(text)
}

/// Whether nobody reads standard output any more.
fn closed() -> bool {
    let stdout = std::io::stdout();
    let mut asked = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let polled = poll(&mut asked, PollTimeout::ZERO).is_ok();
    let [stdout] = asked;
    let gone = stdout
        .revents()
        .is_some_and(|events| events.intersects(PollFlags::POLLERR));
    polled && gone
}
