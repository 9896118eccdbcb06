//! `dashboard`: the web page over the mesh that is meant, for the browser on this machine.
//!
//! The page's requests go where those of every other command go, and with the same proof of who asks. What lets the
//! page in is in the link alone: a file that only its user can read leads the browser there, since arguments of
//! programs are everybody's to read.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::{fs, io};

use axum::Json;
use axum::body::Body;
use axum::response::IntoResponse as _;
use http::{Method, Response, StatusCode};
use serde_json::json;

use crate::api::access::Role;
use crate::api::{PREFIX, Problem, Reason};
use crate::cli::client::{Asked, Client};
use crate::cli::cluster::{self, edit};
use crate::cli::context::Context;
use crate::cli::contexts::Where;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::logging;
use crate::dashboard::{self, About, Question, Relay, Secret};
use crate::net::{BindOptions, bind};
use crate::rt::disk::write_private;
use crate::tls;

/// Where it is served when that is free, so that links into it last.
const USUAL_PORT: u16 = 15_050;

/// Open the web page over the mesh
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl dashboard
  meshctl dashboard --no-browser --port 8080
  meshctl --context production dashboard --read-only

It is served on loopback, to whoever has the link that is printed, until it is
ended with ^C. Who has the link may do what you may; --read-only lets it look.")]
pub(crate) struct Args {
    /// Port on loopback; 0 is any free one [default: 15050, else any free one]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Only print the link
    #[arg(long)]
    no_browser: bool,
    /// Let the page change nothing
    #[arg(long)]
    read_only: bool,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let told = logging::asked_to_end();
    logging::start(cx, "warn");
    // Who cannot reach the mesh is told so here rather than by an empty page.
    let _version: serde_json::Value = cx.client.get("/version").await?;
    let listener = listen(args.port)?;
    let address = listener.local_addr().map_err(no_port)?;
    let random = tls::random().map_err(|error| CliError::failed(error.to_string()))?;
    let secret = Secret::new(random);
    let link = format!("http://{address}/#session={}", secret.reveal());
    let about = About {
        context: cx.settings.meant.name.clone(),
        place: cx.client.name(),
        flags: flags(cx),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        read_only: args.read_only,
        in_cluster: cx.client.mesh().is_some(),
    };
    if cx.out.for_people() {
        cx.out.data(&format!("{link}\n"))?;
        cx.out
            .note("the link is for you alone: who has it may do here what you may; ^C ends it");
    } else {
        let told = json!({"url": link, "address": address.to_string(), "readOnly": args.read_only});
        cx.out.data(&format!("{told}\n"))?;
    }
    let door = (!args.no_browser && cx.settings.stdout_terminal)
        .then(|| Door::open(cx, &link, address.port()))
        .flatten();
    let relay = ToApi(cx.client.clone());
    let serving = dashboard::serve(listener, relay, about, secret);
    let ended = tokio::select! {
        ended = serving => ended,
        () = told => Ok(()),
    };
    drop(door);
    ended.map_err(no_port)?;
    Ok(Exit::Ok)
}

fn no_port(source: io::Error) -> CliError {
    CliError::failed(format!("cannot serve the dashboard: {source}"))
}

fn listen(port: Option<u16>) -> Result<tokio::net::TcpListener, CliError> {
    let on = |port| {
        bind(
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            BindOptions::default(),
        )
    };
    match port {
        Some(port) => on(port).map_err(|source| {
            CliError::failed(format!("cannot serve on 127.0.0.1:{port}: {source}"))
                .hint("another --port, or none for any that is free")
        }),
        None => on(USUAL_PORT).or_else(|_taken| on(0)).map_err(no_port),
    }
}

/// What the commands that the page shows need in front, to mean this mesh.
fn flags(cx: &Context) -> String {
    let meant = &cx.settings.meant;
    if meant.name == "default" || meant.guessed {
        return String::new();
    }
    match meant.place {
        Where::Home | Where::Cluster(_) | Where::Address(_) => format!("--context {}", meant.name),
    }
}

/// A file that leads a browser to the link; gone when it is dropped.
struct Door(PathBuf);

impl Door {
    fn open(cx: &Context, link: &str, port: u16) -> Option<Self> {
        let path = cx.settings.base.join(format!("dashboard-{port}.html"));
        let page = format!(
            "<!doctype html><meta charset=\"utf-8\"><title>meshctl</title><script>location.replace(\"{link}\")</script>\n"
        );
        let written = write_private(&path, page.as_bytes());
        let door = Self(path);
        let shown = written.is_ok() && browser(&door.0);
        if !shown {
            cx.out
                .note("no browser could be started; open the link yourself");
        }
        shown.then_some(door)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // A file that is gone already leads nowhere.
        let _gone = fs::remove_file(&self.0).is_ok();
    }
}

fn browser(page: &Path) -> bool {
    let opener = if cfg!(target_os = "macos") {
        "open"
    } else {
        "xdg-open"
    };
    std::process::Command::new(opener)
        .arg(page)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .is_ok()
}

/// The API of the mesh that is meant.
struct ToApi(Client);

impl Relay for ToApi {
    fn ask(&self, question: Question) -> Pin<Box<dyn Future<Output = Response<Body>> + Send + '_>> {
        Box::pin(async move {
            let (method, path) = (&question.method, question.path.as_str());
            if let Some(told) = edit::answer(&self.0, (method, path, &question.body)).await {
                return match told {
                    Ok(value) => Json(value).into_response(),
                    Err(error) => refused(&error),
                };
            }
            let asked = Asked {
                method: question.method,
                path: question.path.into(),
                body: (!question.body.is_empty()).then(|| question.body.to_vec()),
            };
            match self.0.open(&asked).await {
                Ok(response) => response,
                Err(error) => refused(&error),
            }
        })
    }

    fn looks(&self, method: &Method, path: &str) -> bool {
        let path = path.strip_prefix(PREFIX).unwrap_or(path);
        matches!(*method, Method::GET | Method::HEAD)
            || cluster::rule_of(method, path).is_some_and(|rule| rule.role == Role::Viewer)
    }
}

/// What went wrong on the way, as the API would say it.
fn refused(error: &CliError) -> Response<Body> {
    let (status, problem) = match error {
        CliError::Problem(problem) => (
            StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::BAD_GATEWAY),
            problem.clone(),
        ),
        CliError::Timeout { .. } | CliError::Late { .. } => (
            StatusCode::GATEWAY_TIMEOUT,
            Problem::new(Reason::Unknown, error.to_string()),
        ),
        _ => (
            StatusCode::BAD_GATEWAY,
            Problem::new(Reason::Unknown, error.chain()),
        ),
    };
    (status, Json(problem)).into_response()
}
