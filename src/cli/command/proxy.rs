//! `proxy`: a sidecar for one application, or a gateway.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;

use super::carry;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::{logging, parse, settings};
use crate::mesh::route::Share;
use crate::mesh::{self, Locality};
use crate::proxy::identity::TokenSource;
use crate::proxy::replicas::Replicas;
use crate::proxy::sidecar::{self, SidecarOptions};
use crate::proxy::{self, AccessLog};
use crate::rt::{self, Drain};
use crate::telemetry::LogFormat;

/// Run a sidecar for one application, or a gateway
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl proxy --service reviews --version v1 --app 127.0.0.1:9080
  MESHCTL_JOIN_TOKEN=… meshctl proxy --service cart --service-account cart \\
      --app 8080=127.0.0.1:18080 --control-plane mesh.example.com:15012
  meshctl proxy --gateway ingressgateway --listen 80=0.0.0.0:8080

Calls of the application go to the outbound port
(HTTP_PROXY=http://127.0.0.1:15001).
The sidecar starts from its last configuration when the control plane is away.
SIGTERM drains: what is under way is finished, nothing new is taken.")]
pub(crate) struct Args {
    /// The service that the application is part of: its label `app`
    #[arg(long, value_name = "NAME", value_parser = parse::name, required_unless_present_any = ["static_pair", "gateway"])]
    service: Option<String>,
    /// Version of the application: its label `version`
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Where the application listens; may be repeated. PORT alone is where its callers meant, with --capture
    /// transparent
    #[arg(long, value_name = "[PORT=]HOST:PORT", required_unless_present_any = ["static_pair", "gateway", "capture"], value_parser = parse::app)]
    app: Vec<(u16, SocketAddr)>,
    /// Serve the Gateways that choose it: by its label `istio`, which is NAME without `istio-`, or by `app`
    #[arg(long, value_name = "NAME", value_parser = parse::name, conflicts_with_all = ["service", "app", "static_pair", "capture"])]
    gateway: Option<String>,
    /// A port of Gateways that is served, and where; all of them, on --address, without it
    #[arg(long, value_name = "[PORT=][IP:]PORT", requires = "gateway", value_parser = parse::listen)]
    listen: Vec<parse::Listen>,
    /// Name of a port of --app, for services that target a name; may be repeated
    #[arg(long, value_name = "NAME=PORT", value_parser = parse::named_port)]
    port_name: Vec<(String, u16)>,
    /// What the application speaks, where its service does not say
    #[arg(long, value_enum, default_value_t, value_name = "PROTOCOL")]
    protocol: Protocol,
    /// Secret to join with, from `meshctl token create` [env: MESHCTL_JOIN_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    join: Option<String>,
    /// File with that secret, or with a service account's token for istio-ca; read anew each time
    #[arg(long, value_name = "FILE", conflicts_with = "join")]
    join_file: Option<PathBuf>,
    /// File with the mesh's root certificates, for tokens that do not name them
    #[arg(long, value_name = "FILE")]
    root_cert: Option<PathBuf>,
    /// Where the control plane listens with TLS; several, or a name of several addresses, are its replicas
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        default_value = "127.0.0.1:15012",
        value_delimiter = ','
    )]
    control_plane: Vec<String>,
    /// Port for calls to the application that are redirected here
    #[arg(long, value_name = "PORT", default_value_t = 15_006)]
    inbound_port: u16,
    /// Port for calls of the application
    #[arg(long, value_name = "PORT", default_value_t = 15_001)]
    outbound_port: u16,
    /// Port of the admin endpoint, on loopback
    #[arg(long, value_name = "PORT", default_value_t = 15_000)]
    admin_port: u16,
    /// Port of metrics, and of what is asked for the application
    #[arg(long, value_name = "PORT", default_value_t = 15_020)]
    status_port: u16,
    /// Name of this instance, unique in its namespace [default: the service, version and host name]
    #[arg(long, value_name = "NAME", value_parser = parse::name)]
    name: Option<String>,
    /// The account whose identity it carries [default: that of --gateway, or default]
    #[arg(long, value_name = "ACCOUNT")]
    service_account: Option<String>,
    /// More labels, which selectors and subsets read
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = parse::key_value)]
    labels: Vec<(String, String)>,
    /// File with labels, a line each as KEY="VALUE": a pod's own, by the downward API
    #[arg(long, value_name = "FILE")]
    labels_file: Option<PathBuf>,
    /// Where the application gives its metrics, which are then given with the proxy's
    #[arg(long, value_name = "PORT[/PATH]", value_parser = parse::app_metrics)]
    app_metrics: Option<proxy::Metrics>,
    /// Where it runs, for callers and endpoints that go by that
    #[arg(long, value_name = "REGION[/ZONE[/SUBZONE]]", value_parser = parse::locality)]
    locality: Option<Locality>,
    /// Addresses at which peers reach it, its own first
    #[arg(
        long,
        value_name = "IP,…",
        default_value = "127.0.0.1",
        value_delimiter = ','
    )]
    address: Vec<IpAddr>,
    /// It is a pod, whose cluster says whether it may be called; written by `inject`
    #[arg(long, requires = "capture")]
    pod: bool,
    /// Whether connections are redirected to it (by nftables) or made to it
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    capture: Capture,
    /// The root of identities
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domain: String,
    /// Life of its certificates; renewed at half of it [default: as the control plane gives, 24h]
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    certificate_ttl: Option<Duration>,
    /// Threads that carry traffic; 0 is one a core
    #[arg(long, value_name = "N", default_value_t = 0)]
    workers: usize,
    /// Log every request to standard output
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    access_log: LogForm,
    /// Percent of traces that begin here, whatever the configuration says
    #[arg(long, value_name = "PERCENT", value_parser = parse::percent)]
    trace_sampling: Option<Share>,
    /// How long requests may take to end after SIGTERM
    #[arg(long, value_name = "DURATION", default_value = "45s", value_parser = parse::duration)]
    drain: Duration,
    /// How long connections are still taken after SIGTERM, while `/ready` says 503
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse::duration)]
    drain_delay: Duration,
    /// Take over the sockets of the proxy that runs under this name, which then drains
    #[arg(long)]
    hot_restart: bool,
    #[command(flatten)]
    carry: carry::Args,
}

/// How requests are logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogForm {
    // Not at all
    #[default]
    Off,
    // Istio's line
    Text,
    // One object a line
    Json,
}

impl LogForm {
    /// As it is typed.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Text => "text",
            Self::Json => "json",
        }
    }

    fn format(self) -> Option<LogFormat> {
        match self {
            Self::Off => None,
            Self::Text => Some(LogFormat::Text),
            Self::Json => Some(LogFormat::Json),
        }
    }
}

/// What an application speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    // Found out from the first bytes
    #[default]
    Auto,
    Http,
    Http2,
    Grpc,
    GrpcWeb,
    Tls,
    Tcp,
}

/// How connections come to the sidecar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Capture {
    // It binds the ports of the application
    #[default]
    None,
    // nftables redirects
    Transparent,
}

/// What the command line and the environment come to.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own, as people set them"
)]
pub(crate) struct Options {
    /// Where configuration and certificates are kept for the next start.
    pub(crate) home: PathBuf,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) service: String,
    pub(crate) service_account: String,
    /// With `app` and `version`.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) locality: Locality,
    pub(crate) address: IpAddr,
    pub(crate) more_addresses: Vec<IpAddr>,
    pub(crate) pod: bool,
    /// It serves Gateways, and `apps` are their ports with where it listens for them.
    pub(crate) gateway: bool,
    /// Container port → where the application listens.
    pub(crate) apps: Vec<(u16, SocketAddr)>,
    pub(crate) port_names: BTreeMap<String, u16>,
    pub(crate) protocol: Protocol,
    pub(crate) join: Option<TokenSource>,
    pub(crate) root_file: Option<PathBuf>,
    pub(crate) control_plane: Vec<String>,
    pub(crate) inbound_port: u16,
    pub(crate) outbound_port: u16,
    pub(crate) admin_port: u16,
    pub(crate) status_port: u16,
    pub(crate) transparent: bool,
    pub(crate) trust_domain: String,
    pub(crate) certificate_lifetime: Duration,
    pub(crate) workers: usize,
    pub(crate) pages: proxy::AppPages,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) trace_sampling: Option<Share>,
    pub(crate) variables: Arc<BTreeMap<String, String>>,
    pub(crate) drain: Duration,
    pub(crate) drain_delay: Duration,
    pub(crate) hot_restart: bool,
}

pub(crate) fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    logging::start(cx, "info");
    if let Some(pair) = &args.carry.pair {
        let options = proxy::Options {
            workers: args.workers,
            drain: args.drain,
            drain_delay: args.drain_delay,
            ..proxy::Options::default()
        };
        let home = args.hot_restart.then_some(cx.settings.home.as_path());
        carry::run(pair, &args.carry, (options, home))?;
        return Ok(Exit::Ok);
    }
    serve(options(args, cx)?)?;
    Ok(Exit::Ok)
}

fn options(args: Args, cx: &Context) -> Result<Options, CliError> {
    let port_ok = |place: &str| {
        let parts = place.rsplit_once(':');
        parts.is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0)
        })
    };
    if let Some(place) = args.control_plane.iter().find(|place| !port_ok(place)) {
        return Err(CliError::usage(format!(
            "{place:?} is not HOST:PORT of a control plane"
        )));
    }
    // The parser sees to it: only `--static` goes without, and has gone elsewhere.
    let service = args.service.or(args.gateway.clone()).unwrap_or_default();
    let mut labels = match &args.labels_file {
        Some(path) => labels_of(path)?,
        None => BTreeMap::new(),
    };
    labels.extend(args.labels);
    let probes = cx.settings.environment.app_probes.as_deref();
    let pages = proxy::AppPages::new(probes, args.app_metrics)
        .map_err(|error| CliError::usage(format!("MESHCTL_APP_PROBES: {error}")))?;
    if let Some(name) = &args.gateway {
        let short = name.strip_prefix("istio-").unwrap_or(name);
        labels
            .entry("istio".to_owned())
            .or_insert_with(|| short.to_owned());
        labels
            .entry("gateway.networking.k8s.io/gateway-name".to_owned())
            .or_insert_with(|| name.clone());
    }
    // There is a default.
    let mut addresses = args.address.into_iter();
    let address = addresses.next().unwrap_or(Ipv4Addr::LOCALHOST.into());
    let transparent = args.capture == Capture::Transparent;
    let nowhere = |(_, at): &&(u16, SocketAddr)| at.ip().is_unspecified();
    if let Some((port, _)) = args.app.iter().find(nowhere).filter(|_| !transparent) {
        let message = format!("--app {port} does not say where the application listens");
        return Err(CliError::usage(message).hint(format!("--app {port}=127.0.0.1:{port}")));
    }
    let ports = if args.gateway.is_some() {
        let at = |listen: &parse::Listen| {
            let ip = listen.ip.unwrap_or(address);
            (listen.port, SocketAddr::new(ip, listen.own))
        };
        args.listen.iter().map(at).collect()
    } else {
        args.app
    };
    labels
        .entry("app".to_owned())
        .or_insert_with(|| service.clone());
    if let Some(version) = &args.version {
        labels
            .entry("version".to_owned())
            .or_insert_with(|| version.clone());
    }
    for (name, port) in &args.port_name {
        if ports.iter().all(|(own, _)| own != port) {
            return Err(CliError::usage(format!(
                "--port-name {name}={port} names a port that no --app has"
            )));
        }
    }
    let name = match args.name {
        Some(name) => name,
        None => instance_name(&service, args.version.as_deref()),
    };
    Ok(Options {
        home: cx.settings.home.clone(),
        name,
        namespace: cx.settings.namespace().to_owned(),
        service,
        service_account: args
            .service_account
            .or(args.gateway.clone())
            .unwrap_or_else(|| "default".to_owned()),
        labels,
        locality: args.locality.unwrap_or_default(),
        more_addresses: addresses.filter(|other| *other != address).collect(),
        address,
        pod: args.pod,
        apps: ports,
        gateway: args.gateway.is_some(),
        port_names: args.port_name.into_iter().collect(),
        protocol: args.protocol,
        join: match args.join_file {
            Some(path) => Some(TokenSource::File(path)),
            None => args
                .join
                .or_else(|| cx.settings.environment.join_token.clone())
                .map(TokenSource::Value),
        },
        root_file: args.root_cert,
        control_plane: args.control_plane,
        inbound_port: args.inbound_port,
        outbound_port: args.outbound_port,
        admin_port: args.admin_port,
        status_port: args.status_port,
        transparent,
        trust_domain: args.trust_domain,
        certificate_lifetime: args.certificate_ttl.unwrap_or_default(),
        workers: args.workers,
        pages,
        access_log: args
            .access_log
            .format()
            .map(|format| AccessLog { format, path: None }),
        trace_sampling: args.trace_sampling,
        variables: Arc::new(settings::variables()),
        drain: args.drain,
        drain_delay: args.drain_delay,
        hot_restart: args.hot_restart,
    })
}

/// Labels as the kubelet writes them: `KEY="VALUE"`, the value as in Go.
fn labels_of(path: &std::path::Path) -> Result<BTreeMap<String, String>, CliError> {
    let text = std::fs::read_to_string(path).map_err(CliError::file("read", path))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let read = |line: &str| {
        let (key, value) = line.split_once('=')?;
        let value: String = serde_json::from_str(value).ok()?;
        Some((key.to_owned(), value))
    };
    lines
        .map(|line| {
            read(line).ok_or_else(|| {
                CliError::failed(format!("{}: {line:?} is not KEY=\"VALUE\"", path.display()))
            })
        })
        .collect()
}

/// `reviews-v1-laptop`: the same at every start, so that a restart is no new instance.
fn instance_name(service: &str, version: Option<&str>) -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|host| host.into_string().ok())
        .unwrap_or_default();
    let parts: Vec<&str> = [service, version.unwrap_or_default(), &host]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    let plain: String = parts
        .join("-")
        .to_ascii_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .take(253)
        .collect();
    plain.trim_matches(['-', '.']).to_owned()
}

/// Serves until the process is asked to end, then drains.
fn serve(options: Options) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    runtime.block_on(async {
        let (drain, signal) = Drain::new();
        let serving = sidecar::run(sidecar_options(options), signal);
        tokio::pin!(serving);
        let result = tokio::select! {
            result = &mut serving => result,
            () = logging::asked_to_end() => {
                drain.start();
                serving.await
            }
        };
        result.map_err(|error| {
            let failed = CliError::failed(rt::chain(&error));
            match error.hint() {
                Some(hint) => failed.hint(hint),
                None => failed,
            }
        })
    })
}

fn sidecar_options(options: Options) -> SidecarOptions {
    let version = options.labels.get("version");
    SidecarOptions {
        workload: match version {
            Some(version) => format!("{}-{version}", options.service),
            None => options.service.clone(),
        },
        dir: options.home.join("proxy").join(&options.name),
        name: options.name,
        namespace: options.namespace,
        service_account: options.service_account,
        labels: options.labels,
        locality: options.locality,
        address: options.address,
        more_addresses: options.more_addresses,
        pod: options.pod,
        gateway: options.gateway,
        applications: options.apps,
        port_names: options.port_names,
        protocol: match options.protocol {
            Protocol::Auto => mesh::Protocol::Auto,
            Protocol::Http => mesh::Protocol::Http,
            Protocol::Http2 => mesh::Protocol::Http2,
            Protocol::Grpc => mesh::Protocol::Grpc,
            Protocol::GrpcWeb => mesh::Protocol::GrpcWeb,
            Protocol::Tls => mesh::Protocol::Tls,
            Protocol::Tcp => mesh::Protocol::Tcp,
        },
        transparent: options.transparent,
        inbound_port: options.inbound_port,
        outbound_port: options.outbound_port,
        admin_port: options.admin_port,
        status_port: options.status_port,
        token: options.join,
        root_file: options.root_file,
        control_plane: Replicas::new(options.control_plane),
        trust_domain: options.trust_domain,
        certificate_lifetime: options.certificate_lifetime,
        workers: options.workers,
        pages: options.pages,
        access_log: options.access_log,
        trace_sampling: options.trace_sampling,
        variables: options.variables,
        drain: options.drain,
        drain_delay: options.drain_delay,
        hot_restart: options.hot_restart,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{Args, instance_name};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_static_proxy_needs_no_service_and_any_other_does() {
        let line = |words: &[&str]| Line::try_parse_from([&["proxy"], words].concat());
        let pair = line(&["--static", "127.0.0.1:1=127.0.0.1:2"]).ok().unwrap();
        assert!(pair.args.carry.pair.is_some() && pair.args.service.is_none());
        let files = [
            "--static",
            "127.0.0.1:1=127.0.0.1:2",
            "--static-identity",
            "c,k,r",
        ];
        assert!(line(&files).is_ok());
        assert!(line(&["--app", "127.0.0.1:9080"]).is_err());
        assert!(line(&["--app", "127.0.0.1:9080", "--service", "a"]).is_ok());
    }

    #[test]
    fn an_instance_is_named_after_its_service_and_host() {
        let name = instance_name("reviews", Some("V_1"));
        assert!(name.starts_with("reviews-v-1"), "{name}");
        assert!(crate::cli::parse::name(&name).is_ok());
    }
}
