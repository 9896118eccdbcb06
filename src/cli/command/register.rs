//! `register`: tells the registry of an instance that runs somewhere.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;

use crate::api::registry::{InstanceReport, Lease, Registration};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::logging;
use crate::cli::render::{Page, Render, number};
use crate::cli::{parse, settings};
use crate::mesh::{Health, Instance, Locality};

/// Register an instance of a workload that runs without a sidecar
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl register db-1 --service db --address 10.0.0.7 --port 5432
  meshctl register cart-1 --service cart --version v2 --address 10.0.0.8 \\
      --port 8080 --ttl 30s --keep-alive
  meshctl register --list

A sidecar (`meshctl proxy`) registers its application by itself.")]
pub(crate) struct Args {
    /// Name of the instance, unique in its namespace
    #[arg(value_name = "NAME", value_parser = parse::name, required_unless_present = "list")]
    name: Option<String>,
    /// The service that it belongs to: its label `app`
    #[arg(long, value_name = "SERVICE", required_unless_present_any = ["list", "label"])]
    service: Option<String>,
    /// Its label `version`
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Another label; may be repeated
    #[arg(short = 'l', long, value_name = "KEY=VALUE", value_parser = parse::key_value)]
    label: Vec<(String, String)>,
    /// Where it runs, for callers that go by that
    #[arg(long, value_name = "REGION[/ZONE[/SUBZONE]]", value_parser = parse::locality)]
    locality: Option<Locality>,
    /// Its address
    #[arg(long, value_name = "IP", required_unless_present = "list")]
    address: Option<IpAddr>,
    /// A port, with the address that peers connect to when it is another; may be repeated
    #[arg(long, value_name = "PORT[=ADDRESS:PORT]", value_parser = parse::port_map)]
    port: Vec<(u16, Option<SocketAddr>)>,
    /// Name of a port, for services that target a name; may be repeated
    #[arg(long, value_name = "NAME=PORT", value_parser = parse::named_port)]
    port_name: Vec<(String, u16)>,
    /// The workload that it is one of [default: the service with the version]
    #[arg(long, value_name = "WORKLOAD")]
    workload: Option<String>,
    /// The account whose identity it uses
    #[arg(long, value_name = "ACCOUNT", default_value = "default")]
    service_account: String,
    /// Relative share of requests
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=128))]
    weight: u32,
    /// Peers speak the mesh's mTLS to it
    #[arg(long)]
    mtls: bool,
    /// How long it stays without a sign of life; 0 is for ever
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = parse::duration)]
    ttl: Duration,
    /// Stay, give signs of life, and deregister at the end (Ctrl-C)
    #[arg(long)]
    keep_alive: bool,
    /// List what is registered instead
    #[arg(long, conflicts_with_all = ["name", "service", "address"])]
    list: bool,
}

/// What was registered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    instance: String,
    namespace: String,
    expires_unix_ms: u64,
}

impl Render for Report {
    fn text(&self, page: &Page) -> String {
        let until = match self.expires_unix_ms {
            0 => String::new(),
            then => format!(
                ", for {} without a sign of life",
                number::until(then, page.now_unix_ms)
            ),
        };
        format!("instance/{} registered{until}\n", self.instance)
    }

    fn names(&self) -> Vec<String> {
        vec![format!("{}.{}", self.instance, self.namespace)]
    }
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    if args.list {
        let mut found: Vec<InstanceReport> = cx
            .client
            .get(&path(&["registry", "instances"], &[]))
            .await?;
        if let Some(namespace) = cx.only_namespace() {
            found.retain(|report| report.instance.namespace == namespace);
        }
        cx.out.report(&found)?;
        return Ok(Exit::Ok);
    }
    let ttl = u32::try_from(args.ttl.as_secs())
        .map_err(|_| CliError::usage("the time to live is too long"))?;
    if args.ttl > Duration::ZERO && ttl == 0 {
        return Err(CliError::usage("the time to live is at least 1s"));
    }
    if args.keep_alive && ttl == 0 {
        return Err(CliError::usage(
            "--keep-alive needs a --ttl, such as --ttl 30s",
        ));
    }
    let instance = instance(&args, cx)?;
    let (name, namespace) = (instance.name.clone(), instance.namespace.clone());
    let registration = Registration {
        instance,
        pod: false,
        ttl_seconds: ttl,
    };
    let target = path(&["registry", "instances"], &[]);
    let lease: Lease = cx.client.post(&target, &registration).await?;
    cx.out.report(&Report {
        instance: name.clone(),
        namespace: namespace.clone(),
        expires_unix_ms: lease.expires_unix_ms,
    })?;
    if args.keep_alive {
        keep_alive(cx, &registration, Duration::from_secs(ttl.into()) / 3).await?;
        let target = path(
            &["registry", "instances", &namespace, &name],
            &[("who", Some(&settings::who()))],
        );
        cx.client.delete::<serde_json::Value>(&target).await?;
        cx.out.note(&format!("instance/{name} deregistered"));
    }
    Ok(Exit::Ok)
}

fn instance(args: &Args, cx: &Context) -> Result<Instance, CliError> {
    // clap has seen to it that both are there.
    let (Some(name), Some(address)) = (args.name.clone(), args.address) else {
        return Err(CliError::usage("an instance needs a name and an --address"));
    };
    let mut labels: BTreeMap<String, String> = args.label.iter().cloned().collect();
    for (key, value) in [("app", &args.service), ("version", &args.version)] {
        if let Some(value) = value {
            labels.insert(key.to_owned(), value.clone());
        }
    }
    let workload = match (&args.workload, &args.service, &args.version) {
        (Some(workload), _, _) => workload.clone(),
        (None, Some(service), Some(version)) => format!("{service}-{version}"),
        (None, Some(service), None) => service.clone(),
        (None, None, _) => name.clone(),
    };
    Ok(Instance {
        name,
        namespace: cx.settings.namespace().to_owned(),
        workload,
        service_account: args.service_account.clone(),
        labels,
        locality: args.locality.clone().unwrap_or_default(),
        address,
        also_at: Vec::new(),
        ports: args
            .port
            .iter()
            .filter_map(|(port, reach)| Some((*port, (*reach)?)))
            .collect(),
        port_names: args.port_name.iter().cloned().collect(),
        service_ports: BTreeMap::new(),
        weight: args.weight,
        health: Health::Healthy,
        mtls: args.mtls,
    })
}

/// Renews the lease until asked to end. A control plane that restarts has forgotten nothing, but one
/// that was away for longer than the lease has evicted us: then we register again.
async fn keep_alive(
    cx: &Context,
    registration: &Registration,
    every: Duration,
) -> Result<(), CliError> {
    let instance = &registration.instance;
    let heartbeat = path(
        &[
            "registry",
            "instances",
            &instance.namespace,
            &instance.name,
            "heartbeat",
        ],
        &[],
    );
    let end = logging::asked_to_end();
    tokio::pin!(end);
    let mut away = false;
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            () = tokio::time::sleep(every) => {}
        }
        let renewed = match cx.client.put::<Lease>(&heartbeat).await {
            Err(CliError::Problem(_)) => {
                let target = path(&["registry", "instances"], &[]);
                cx.client.post::<_, Lease>(&target, registration).await
            }
            other => other,
        };
        match renewed {
            Ok(_) if away => {
                away = false;
                cx.out.note("the control plane is back");
            }
            Ok(_) => {}
            Err(error @ CliError::Unreachable { .. }) => {
                if !away {
                    cx.out.warn(&format!("{}; trying again", error.chain()));
                }
                away = true;
            }
            Err(error) => return Err(error),
        }
    }
}
