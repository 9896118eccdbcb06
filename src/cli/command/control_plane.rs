//! `control-plane`: runs the control plane in the foreground.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::authority::AuthorityArgs;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::home::Installed;
use crate::cli::logging;
use crate::cli::parse;
use crate::control::cluster::Membership;
use crate::control::serve_api::ApiOptions;
use crate::control::trust::CaOptions;
use crate::control::{self, Catalogue, ControlOptions};
use crate::inject::InjectConfig;
use crate::install;
use crate::rt::{Drain, Wall};
use crate::source::kubernetes::Access;
use crate::source::{consul, dns};

/// Run the control plane in the foreground
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl control-plane
  meshctl control-plane --source files=./manifests
  meshctl control-plane --source kubernetes   follows a cluster
  meshctl control-plane --source consul=https://consul:8501 \\
    --consul-token-file token                 follows Consul
  meshctl control-plane --source dns=_http._tcp.example.com   follows a name
  meshctl control-plane --listen 0.0.0.0      for proxies on other machines
  meshctl control-plane --ca-certs ./cacerts  signs below your own root
  meshctl control-plane --ca-signer istiod.istio-system.svc:15012 \\
    --ca-signer-root root.pem --ca-signer-token token   has another CA sign
  meshctl control-plane --api-address 0.0.0.0:15443   serves the API, too

It is ready when `meshctl check` says so.
Ctrl-C or SIGTERM ends it; proxies go on with what they have.")]
pub(crate) struct Args {
    /// Address to listen on; xDS without TLS stays on loopback [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<IpAddr>,
    /// Port for xDS without TLS [default: 15010]
    #[arg(long, value_name = "PORT")]
    xds_port: Option<u16>,
    /// Port for xDS and the CA over TLS [default: 15012]
    #[arg(long, value_name = "PORT")]
    tls_port: Option<u16>,
    /// Port on loopback that answers /ready; the API itself is a Unix socket [default: 15080]
    #[arg(long, value_name = "PORT")]
    api_port: Option<u16>,
    /// Serve the API over TLS, too, for who was let in with `meshctl access`
    /// [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    api_address: Option<SocketAddr>,
    /// A name by which the API is asked for, besides addresses; may be repeated
    #[arg(long, value_name = "NAME", value_parser = crate::cli::parse::name)]
    api_name: Vec<String>,
    /// Port on loopback for metrics [default: 15014]
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
    /// Where configuration and services come from besides `meshctl apply`: files=DIR,
    /// kubernetes[=CONTEXT], consul=URL or dns=NAME[:PORT]; may be repeated
    #[arg(long, value_name = "SOURCE", value_parser = source)]
    source: Vec<Source>,
    /// File with the token for Consul, which is read anew for each question
    #[arg(long, value_name = "FILE", requires = "source")]
    consul_token_file: Option<PathBuf>,
    /// Roots of Consul's certificate, as PEM [default: those of this machine]
    #[arg(long, value_name = "FILE", requires = "source")]
    consul_ca_file: Option<PathBuf>,
    /// How long keys of token issuers stay in force that cannot be fetched any more;
    /// then their tokens are refused
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse::duration)]
    key_set_grace: Duration,
    /// How long a connection to the TLS port may last on which no certificate is shown:
    /// joiners ask for theirs once, and come back with it
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = join_timeout)]
    join_timeout: Duration,
    /// Most memory for numbers of proxies, and as much on disk; what finds no room is put
    /// together, oldest and finest first, and `meshctl check` says so
    #[arg(long, value_name = "MIB", default_value = "128", value_parser = clap::value_parser!(u32).range(64..=65_536))]
    numbers_memory: u32,
    /// It is a replica of the control plane in the cluster that it follows, in the pod
    /// POD_NAME of POD_NAMESPACE: shares the authority, serves webhooks, writes roots
    #[arg(long, requires = "source")]
    in_cluster: bool,
    /// Which installation in the cluster it is of
    #[arg(long, value_name = "NAME", default_value = "default", requires = "in_cluster", value_parser = parse::name)]
    revision: String,
    /// Port where the cluster asks about pods and configuration, with --in-cluster
    #[arg(long, value_name = "PORT", default_value_t = crate::install::WEBHOOK_PORT)]
    webhook_port: u16,
    /// Port on loopback for `meshctl` elsewhere, which comes by port-forward, with
    /// --in-cluster
    #[arg(long, value_name = "PORT", default_value_t = crate::install::API_PORT)]
    forward_port: u16,
    /// File with the settings of the installation [default: that in the home]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    #[command(flatten)]
    authority: AuthorityArgs,
}

/// Where configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A directory that is watched.
    Files(PathBuf),
    /// A cluster that is followed, by the context of the kubeconfig.
    Kubernetes(Option<String>),
    /// A catalogue outside.
    Catalogue(Box<Catalogue>),
}

fn source(text: &str) -> Result<Source, String> {
    match text.split_once('=') {
        Some(("files", dir)) if !dir.is_empty() => Ok(Source::Files(dir.into())),
        Some(("kubernetes", context)) if !context.is_empty() => {
            Ok(Source::Kubernetes(Some(context.to_owned())))
        }
        None if text == "kubernetes" => Ok(Source::Kubernetes(None)),
        Some(("consul", url)) => {
            let options = consul::Options::parse(url)?;
            Ok(Source::Catalogue(Box::new(Catalogue::Consul(options))))
        }
        Some(("dns", name)) => {
            let options = dns::Options::parse(name)?;
            Ok(Source::Catalogue(Box::new(Catalogue::Dns(options))))
        }
        _ => Err(format!(
            "{text:?} is none of files=DIR, kubernetes[=CONTEXT], consul=URL, dns=NAME[:PORT]"
        )),
    }
}

/// Long enough for a join over a slow line, and never for good.
const JOIN_TIMEOUT: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_mins(10);

fn join_timeout(text: &str) -> Result<Duration, String> {
    let time = parse::duration(text)?;
    let fits = JOIN_TIMEOUT.contains(&time).then_some(time);
    fits.ok_or_else(|| format!("{text:?} is not between 1s and 10m"))
}

/// What the command line and the installation come to.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) home: PathBuf,
    pub(crate) trust_domain: String,
    pub(crate) listen: IpAddr,
    pub(crate) xds_port: u16,
    pub(crate) tls_port: u16,
    pub(crate) api_port: u16,
    pub(crate) metrics_port: u16,
    /// Where the API is served over TLS.
    pub(crate) api: Option<ApiOptions>,
    /// Workloads refuse plaintext unless a policy says otherwise.
    pub(crate) strict: bool,
    pub(crate) sources: Vec<Source>,
    /// Files of the kubeconfig.
    pub(crate) kubeconfig: Vec<PathBuf>,
    /// Which authority signs.
    pub(crate) ca: CaOptions,
    /// The installation in the cluster that it is a replica of.
    pub(crate) membership: Option<Membership>,
    /// Where `/ready` and metrics are answered.
    pub(crate) told_at: IpAddr,
    /// How long keys of token issuers outlast their issuer.
    pub(crate) key_grace: Duration,
    /// How long who shows no certificate may stay.
    pub(crate) join_timeout: Duration,
    /// Most bytes for numbers of proxies.
    pub(crate) numbers_bytes: usize,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    let installed = match &args.settings {
        Some(file) => Installed::read(file)?,
        None => Installed::load(&cx.settings.home)?,
    };
    let installed = installed.ok_or_else(|| {
        CliError::failed(format!(
            "nothing is installed in {}",
            cx.settings.home.display()
        ))
        .hint("run `meshctl install` first")
    })?;
    logging::start(cx, installed.value("logLevel").unwrap_or("info"));
    let port = |typed: Option<u16>, key: &str, default: u16| {
        typed.or_else(|| installed.port(key)).unwrap_or(default)
    };
    let listen = args
        .listen
        .or_else(|| installed.value("listen")?.parse().ok())
        .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    if args.key_set_grace < Duration::from_secs(1) {
        return Err(CliError::usage("--key-set-grace is at least 1s"));
    }
    let membership = args
        .in_cluster
        .then(|| membership(&args, listen, &installed, cx));
    let membership = membership.transpose()?;
    let options = Options {
        // Probes and Prometheus come to the pod's address.
        told_at: if membership.is_some() {
            listen
        } else {
            IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)
        },
        membership,
        key_grace: args.key_set_grace,
        join_timeout: args.join_timeout,
        numbers_bytes: usize::try_from(args.numbers_memory)
            .unwrap_or(usize::MAX)
            .saturating_mul(1 << 20),
        home: cx.settings.home.clone(),
        trust_domain: installed
            .value("trustDomain")
            .unwrap_or("cluster.local")
            .to_owned(),
        listen,
        xds_port: port(args.xds_port, "xdsPort", 15_010),
        tls_port: port(args.tls_port, "tlsPort", 15_012),
        api_port: port(args.api_port, "apiPort", 15_080),
        metrics_port: port(args.metrics_port, "metricsPort", 15_014),
        api: api(args.api_address, args.api_name, &installed),
        strict: installed.value("mtls") == Some("strict"),
        sources: sources(args.source, args.consul_token_file, args.consul_ca_file)?,
        kubeconfig: cx.settings.environment.kubeconfig.clone(),
        ca: args
            .authority
            .options(&installed, cx.settings.environment.ca_passphrase.as_ref())?,
    };
    // It is large, and there is one.
    Box::pin(serve(options, logging::asked_to_end())).await?;
    Ok(Exit::Ok)
}

/// The sources, with the files that Consul's secrets are in.
fn sources(
    sources: Vec<Source>,
    token: Option<PathBuf>,
    roots: Option<PathBuf>,
) -> Result<Vec<Source>, CliError> {
    let is_consul = |source: &Source| match source {
        Source::Catalogue(catalogue) => matches!(**catalogue, Catalogue::Consul(_)),
        _ => false,
    };
    if !sources.iter().any(is_consul) && (token.is_some() || roots.is_some()) {
        return Err(CliError::usage(
            "--consul-token-file and --consul-ca-file need --source consul=URL",
        ));
    }
    let complete = |source| match source {
        Source::Catalogue(catalogue) => match *catalogue {
            Catalogue::Consul(options) => {
                let options = options.with_files(token.clone(), roots.clone());
                let options = options.map_err(CliError::usage)?;
                Ok(Source::Catalogue(Box::new(Catalogue::Consul(options))))
            }
            dns @ Catalogue::Dns(_) => Ok(Source::Catalogue(Box::new(dns))),
        },
        other => Ok(other),
    };
    sources.into_iter().map(complete).collect()
}

/// Which installation it is a replica of, as the pod says.
fn membership(
    args: &Args,
    listen: IpAddr,
    installed: &Installed,
    cx: &Context,
) -> Result<Membership, CliError> {
    let followed = args
        .source
        .iter()
        .any(|source| matches!(source, Source::Kubernetes(_)));
    if !followed {
        return Err(CliError::usage("--in-cluster needs --source kubernetes"));
    }
    let pod = &cx.settings.environment.pod;
    let (Some(replica), Some(namespace)) = (&pod.name, &pod.namespace) else {
        return Err(CliError::usage(
            "--in-cluster needs POD_NAME and POD_NAMESPACE in the environment",
        )
        .hint("the manifests of `meshctl install --target kubernetes` set them"));
    };
    let usual = InjectConfig::default();
    let (service, roots) = (install::NAME, install::ROOTS);
    let of_revision = |name| install::of_revision(name, &args.revision);
    let mut own: Vec<String> = usual.system_namespaces.clone();
    own.push(namespace.clone());
    own.dedup();
    let set = |key: &str| installed.value(key).map(str::to_owned);
    let injection = InjectConfig {
        image: set("image").unwrap_or(usual.image.clone()),
        image_pull_policy: set("imagePullPolicy"),
        control_plane: format!("{}.{namespace}.svc:15012", of_revision(service)),
        root_config_map: of_revision(roots),
        trust_domain: set("trustDomain").unwrap_or(usual.trust_domain.clone()),
        revision: args.revision.clone(),
        system_namespaces: own,
        ..usual
    };
    let note = match &args.settings {
        Some(file) => std::fs::read_to_string(file).ok(),
        None => None,
    };
    // An older note, or none: as the default profile has it.
    let noted = note.as_deref().and_then(install::Settings::noted);
    let mut settings = noted.unwrap_or_else(|| install::Settings::new(install::Profile::Default));
    settings.namespace.clone_from(namespace);
    settings.revision.clone_from(&args.revision);
    settings.image.clone_from(&injection.image);
    if let Some(policy) = &injection.image_pull_policy {
        settings.pull_policy.clone_from(policy);
    }
    Ok(Membership {
        settings,
        injection,
        namespace: namespace.clone(),
        revision: args.revision.clone(),
        replica: replica.clone(),
        webhooks: SocketAddr::new(listen, args.webhook_port),
        api: SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), args.forward_port),
    })
}

/// Where the API is served over TLS, as flags and settings say.
fn api(typed: Option<SocketAddr>, names: Vec<String>, installed: &Installed) -> Option<ApiOptions> {
    let set = || installed.value("apiAddress")?.parse().ok();
    let names = match (names.is_empty(), installed.value("apiNames")) {
        (true, Some(set)) => set.split(',').map(str::to_owned).collect(),
        _ => names,
    };
    let address = typed.or_else(set)?;
    Some(ApiOptions { address, names })
}

/// Serves until `end` resolves.
async fn serve(options: Options, end: impl Future<Output = ()>) -> Result<(), CliError> {
    let (mut directories, mut clusters) = (Vec::new(), Vec::new());
    let mut catalogues = Vec::new();
    for source in options.sources {
        match source {
            Source::Files(directory) => directories.push(directory),
            Source::Catalogue(catalogue) => catalogues.push(*catalogue),
            Source::Kubernetes(context) => clusters.push(Access {
                context,
                kubeconfig: options.kubeconfig.clone(),
            }),
        }
    }
    if clusters.len() > 1 {
        return Err(CliError::usage("one control plane follows one cluster"));
    }
    let (drain, signal) = Drain::new();
    let control = ControlOptions {
        home: options.home,
        listen: options.listen,
        xds_port: options.xds_port,
        tls_port: options.tls_port,
        metrics_port: options.metrics_port,
        health_port: options.api_port,
        api: options.api,
        trust_domain: options.trust_domain,
        strict: options.strict,
        sources: directories,
        kubernetes: clusters.pop(),
        catalogues,
        membership: options.membership,
        told_at: options.told_at,
        ca: options.ca,
        key_grace: options.key_grace,
        strangers: options.join_timeout,
        numbers_bytes: options.numbers_bytes,
        wall: Wall::System,
    };
    let serving = control::run(control, signal, |_| {});
    tokio::pin!(serving);
    let result = tokio::select! {
        result = &mut serving => result,
        () = end => {
            drain.start();
            serving.await
        }
    };
    result.map_err(|error| {
        let hint = error.hint();
        let wrapped = CliError::failed(error.to_string());
        match hint {
            Some(hint) => wrapped.hint(hint),
            None => wrapped,
        }
    })
}
