//! `support-bundle`: what somebody who helps wants to see, in one file, without secrets.
//!
//! What cannot be had is named in the file, so that a thin bundle does not look like a quiet mesh. Secrets are not
//! asked for; and as a second line every text goes through [`clean`] before it is written.

mod clean;
mod tar;

use std::path::PathBuf;

use http::Method;
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::local::LogsQuery;
use crate::cli::client::path;
use crate::cli::cluster::Mesh;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::progress::Progress;
use crate::cli::render::{Page, Render};
use crate::inject::PROXY;
use crate::resource;
use crate::rt::disk::write_private;
use tar::Archive;

/// Lines of each log.
const LINES: u32 = 5_000;

/// Collect what helps somebody else to help, without secrets
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl support-bundle
  meshctl support-bundle -f mesh.tar.gz --pods
  meshctl --context prod support-bundle

In it: versions, checks, configuration (no Secrets), services, endpoints,
proxies and what each was sent, numbers, the audit log, logs, events, metrics.
Look through it before you give it away: it names services, hosts and accounts.

Exits 5 when some of it could not be had; the file errors.txt in it says what.")]
pub(crate) struct Args {
    /// Where it is written [default: meshctl-support-TIME.tar.gz]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Also the logs of the mesh's pods, their sidecars included
    #[arg(long)]
    pods: bool,
}

/// What was collected.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    file: PathBuf,
    /// Names in it.
    entries: Vec<String>,
    /// What could not be had.
    errors: Vec<String>,
}

struct Collector<'a> {
    cx: &'a Context,
    archive: Archive,
    entries: Vec<String>,
    errors: Vec<String>,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let at = cx.wall.millis() / 1_000;
    let file = args
        .file
        .unwrap_or_else(|| PathBuf::from(format!("meshctl-support-{at}.tar.gz")));
    let progress = Progress::new(&cx.out);
    let mut all = Collector {
        cx,
        archive: Archive::new(at),
        entries: Vec::new(),
        errors: Vec::new(),
    };
    let step = progress.step("the control plane".to_owned());
    all.control_plane().await?;
    step.done("");
    let step = progress.step("proxies".to_owned());
    all.proxies().await;
    step.done("");
    let step = progress.step("logs".to_owned());
    match cx.client.mesh() {
        Some(mesh) => all.of_cluster(mesh, args.pods).await,
        None => all.of_machine(args.pods).await,
    }
    step.done("");
    if !all.errors.is_empty() {
        let text = all.errors.join("\n") + "\n";
        all.put("errors.txt", &text);
    }
    let Collector {
        archive,
        entries,
        errors,
        ..
    } = all;
    let bytes = archive
        .finish()
        .map_err(|error| CliError::failed(format!("cannot pack the bundle: {error}")))?;
    write_private(&file, &bytes).map_err(CliError::file("write", file.clone()))?;
    let exit = if errors.is_empty() {
        Exit::Ok
    } else {
        Exit::Partly
    };
    for error in &errors {
        cx.out.warn(error);
    }
    cx.out.report(&Bundle {
        file,
        entries,
        errors,
    })?;
    Ok(exit)
}

impl Collector<'_> {
    fn put(&mut self, name: &str, text: &str) {
        let text = clean::text(text);
        if let Err(error) = self.archive.add(name, text.as_bytes()) {
            self.errors.push(format!("{name}: {error}"));
            return;
        }
        self.entries.push(name.to_owned());
    }

    fn keep(&mut self, name: &str, value: &Value) {
        match serde_json::to_string_pretty(&clean::value(value)) {
            Ok(text) => self.put(name, &(text + "\n")),
            Err(error) => self.errors.push(format!("{name}: {error}")),
        }
    }

    fn missed(&mut self, name: &str, why: &str) {
        self.errors.push(format!("{name}: {why}"));
    }

    /// Asks the API for `name`.
    async fn ask(&mut self, name: &str, asked: &str) -> Option<Value> {
        match self.cx.client.get::<Value>(asked).await {
            Ok(value) => {
                self.keep(name, &value);
                Some(value)
            }
            Err(error) => {
                self.missed(name, &error.chain());
                None
            }
        }
    }

    /// What the API answers. One that does not answer at all is no bundle of a control plane, but logs and events
    /// may tell why.
    async fn control_plane(&mut self) -> Result<(), CliError> {
        let client = json!({
            "client": env!("CARGO_PKG_VERSION"),
            "context": self.cx.settings.meant.name,
        });
        self.keep("client.json", &client);
        match self.cx.client.get::<Value>(&path(&["version"], &[])).await {
            Ok(version) => self.keep("control-plane.json", &version),
            Err(error @ CliError::Unreachable { .. }) => {
                self.missed("control-plane.json", &error.chain());
                return Ok(());
            }
            // Who may not ask is told so, rather than given an empty file.
            Err(error) => return Err(error),
        }
        for (name, asked) in [
            ("check.json", "/check"),
            ("findings.json", "/findings"),
            ("services.json", "/services"),
            ("endpoints.json", "/endpoints"),
            ("routes.json", "/routes"),
            ("canaries.json", "/canaries"),
            ("faults.json", "/faults"),
            ("stats.json", "/stats?window=300&by=version"),
            ("edges.json", "/edges?window=300"),
            ("trust.json", "/trust"),
            ("audit.json", "/audit"),
            ("instances.json", "/registry/instances"),
        ] {
            self.ask(name, asked).await;
        }
        if self.cx.client.mesh().is_none() {
            self.ask("history.json", "/history?limit=200").await;
        }
        for kind in resource::kinds() {
            // Not even their names are anybody's business.
            if kind == "Secret" {
                continue;
            }
            let asked = path(&["resources", kind], &[]);
            match self.cx.client.get::<Value>(&asked).await {
                Ok(Value::Array(list)) if list.is_empty() => {}
                Ok(found) => self.keep(&format!("configuration/{kind}.json"), &found),
                Err(error) => self.missed(&format!("configuration/{kind}.json"), &error.chain()),
            }
        }
        Ok(())
    }

    async fn proxies(&mut self) {
        let asked = path(&["proxies"], &[]);
        let Some(Value::Array(rows)) = self.ask("proxies.json", &asked).await else {
            return;
        };
        for row in rows {
            let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
            let name = format!("{}.{}", text("name"), text("namespace"));
            let asked = path(&["proxies", &name, "config", "all"], &[]);
            self.ask(&format!("proxies/{name}.json"), &asked).await;
        }
    }

    /// Logs and metrics of a mesh on this machine.
    async fn of_machine(&mut self, pods: bool) {
        match self.cx.client.text(Method::GET, "/metrics").await {
            Ok(text) => self.put("metrics.txt", &text),
            Err(error) => self.missed("metrics.txt", &error.chain()),
        }
        let names = if pods {
            vec![
                (None, "logs/pods.txt"),
                (Some("proxy"), "logs/sidecars.txt"),
            ]
        } else {
            Vec::new()
        };
        let own = (
            Some("control-plane".to_owned()),
            None,
            "logs/control-plane.txt",
        );
        let wanted = names
            .into_iter()
            .map(|(container, file)| (None, container.map(str::to_owned), file));
        for (name, container, file) in std::iter::once(own).chain(wanted) {
            let query = LogsQuery {
                name,
                container,
                follow: false,
                tail: usize::try_from(LINES).ok(),
            };
            let mut text = String::new();
            let read = crate::cli::command::local::logs(self.cx, query, |line| {
                let whose = format!("{}/{}", line.pod, line.container);
                text.push_str(&format!("{} {whose} {}\n", line.time, line.line));
                true
            });
            match read.await {
                Ok(()) => self.put(file, &text),
                Err(error) => self.missed(file, &error.chain()),
            }
        }
    }

    /// Logs, events and metrics of one in a cluster.
    async fn of_cluster(&mut self, mesh: &Mesh, pods: bool) {
        match mesh.each("/metrics").await {
            Ok(answers) => {
                for (pod, answer) in answers {
                    let name = format!("metrics/{pod}.txt");
                    match answer {
                        Ok((status, body)) if status.is_success() => {
                            self.put(&name, &String::from_utf8_lossy(&body));
                        }
                        Ok((status, _)) => self.missed(&name, &format!("status {status}")),
                        Err(error) => self.missed(&name, &error.chain()),
                    }
                }
            }
            Err(error) => self.missed("metrics", &error.chain()),
        }
        match crate::cli::command::cluster::health::report(mesh, self.cx).await {
            Ok(report) => self.keep("cluster-check.json", &json!(report)),
            Err(error) => self.missed("cluster-check.json", &error.chain()),
        }
        let cluster = match mesh.connect().await {
            Ok(cluster) => cluster,
            Err(error) => return self.missed("logs", &error.chain()),
        };
        let namespace = &mesh.installed().system_namespace;
        let events = format!("/api/v1/namespaces/{namespace}/events?limit=500");
        match cluster.get_path(&events).await {
            Ok(found) => self.keep("events.json", &found.unwrap_or_default()),
            Err(error) => self.missed("events.json", &error.to_string()),
        }
        let listed = cluster
            .list("Pod", if pods { None } else { Some(namespace) }, "")
            .await;
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => return self.missed("logs", &error.to_string()),
        };
        for pod in listed {
            let text = |pointer: &str| {
                let text = pod.pointer(pointer).and_then(Value::as_str);
                text.unwrap_or_default().to_owned()
            };
            let (of, name) = (text("/metadata/namespace"), text("/metadata/name"));
            let mut containers: Vec<&str> = ["containers", "initContainers"]
                .iter()
                .filter_map(|list| pod.get("spec")?.get(*list)?.as_array())
                .flatten()
                .filter_map(|container| container.get("name")?.as_str())
                .collect();
            // Of others than the mesh's nothing is looked at.
            if of != *namespace {
                containers.retain(|name| [PROXY, "istio-proxy"].contains(name));
            }
            containers.sort_unstable();
            for container in containers {
                let file = format!("logs/{of}/{name}/{container}.txt");
                match cluster.log(&of, &name, Some(container), LINES).await {
                    Ok(text) => self.put(&file, &text),
                    Err(error) => self.missed(&file, &error.to_string()),
                }
            }
        }
    }
}

impl Render for Bundle {
    fn text(&self, _: &Page) -> String {
        format!("{} ({} files)\n", self.file.display(), self.entries.len())
    }

    fn names(&self) -> Vec<String> {
        vec![self.file.display().to_string()]
    }
}
