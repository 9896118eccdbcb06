//! `pod`: what the containers of a meshed pod run, beside the proxy.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;
use crate::net::capture::{self, CaptureSpec};
use crate::net::{self, ConnectOptions};

/// What containers of a meshed pod run; written by `inject`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Capture(Box<CaptureArgs>),
    Wait(WaitArgs),
}

/// Send a pod's connections to its proxy, with nftables
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl pod capture --exclude-outbound-ports 5432
  meshctl pod capture --only-outbound-ranges 10.96.0.0/12 --dry-run

It needs NET_ADMIN, and replaces its own table in the network namespace that
it runs in; IPv4 and IPv6 alike. Loopback gets ::6, from where the proxy calls
the application.")]
struct CaptureArgs {
    /// User of the proxy, whose own calls pass
    #[arg(long, value_name = "ID", default_value_t = 1337)]
    proxy_uid: u32,
    /// Group of the proxy, likewise
    #[arg(long, value_name = "ID", default_value_t = 1337)]
    proxy_gid: u32,
    /// Where calls to the application go
    #[arg(long, value_name = "PORT", default_value_t = 15_006)]
    inbound_port: u16,
    /// Where calls of the application go
    #[arg(long, value_name = "PORT", default_value_t = 15_001)]
    outbound_port: u16,
    /// Leave questions for names to the resolver
    #[arg(long)]
    no_dns: bool,
    /// Capture calls to these ports only; empty is none
    #[arg(long, value_name = "PORT,…", value_parser = list::<u16>)]
    only_inbound_ports: Option<List<u16>>,
    /// Leave calls to these ports alone
    #[arg(long, value_name = "PORT,…", value_parser = list::<u16>)]
    exclude_inbound_ports: Option<List<u16>>,
    /// Capture calls to these networks only; empty is none
    #[arg(long, value_name = "CIDR,…", value_parser = list::<IpNet>)]
    only_outbound_ranges: Option<List<IpNet>>,
    /// Leave calls to these networks alone
    #[arg(long, value_name = "CIDR,…", value_parser = list::<IpNet>)]
    exclude_outbound_ranges: Option<List<IpNet>>,
    /// Capture calls to these ports whatever the network
    #[arg(long, value_name = "PORT,…", value_parser = list::<u16>, requires = "only_outbound_ranges")]
    outbound_ports: Option<List<u16>>,
    /// Leave calls of the application to these ports alone
    #[arg(long, value_name = "PORT,…", value_parser = list::<u16>)]
    exclude_outbound_ports: Option<List<u16>>,
    /// Leave what comes in or goes out through these interfaces alone
    #[arg(long, value_name = "NAME,…", value_parser = list::<String>)]
    exclude_interfaces: Option<List<String>>,
    /// Print the rules for nft and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Wait until the pod's proxy is ready
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl pod wait --timeout 30s

A container with it as its postStart hook starts before those after it.")]
struct WaitArgs {
    /// Port of the proxy's admin endpoint
    #[arg(long, value_name = "PORT", default_value_t = 15_000)]
    admin_port: u16,
    /// How long at most
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse::duration)]
    timeout: Duration,
}

/// What stands between commas.
#[derive(Debug, Clone)]
struct List<T>(Vec<T>);

fn list<T>(text: &str) -> Result<List<T>, String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let read = |part: &str| part.parse().map_err(|error| format!("{part:?}: {error}"));
    parts.map(read).collect::<Result<_, _>>().map(List)
}

pub(crate) fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    match args.command {
        Command::Capture(args) => capture(*args, cx),
        Command::Wait(args) => wait(&args),
    }
}

fn capture(args: CaptureArgs, cx: &Context) -> Result<Exit, CliError> {
    fn items<T>(list: Option<List<T>>) -> Vec<T> {
        list.map(|list| list.0).unwrap_or_default()
    }
    let default = CaptureSpec::default();
    let mut exclude_inbound_ports = default.exclude_inbound_ports;
    for port in items(args.exclude_inbound_ports) {
        if !exclude_inbound_ports.contains(&port) {
            exclude_inbound_ports.push(port);
        }
    }
    let spec = CaptureSpec {
        outbound_port: args.outbound_port,
        inbound_port: args.inbound_port,
        dns_port: default.dns_port.filter(|_| !args.no_dns),
        proxy_uid: args.proxy_uid,
        proxy_gid: Some(args.proxy_gid),
        exclude_inbound_ports,
        exclude_outbound_ports: items(args.exclude_outbound_ports),
        exclude_outbound: items(args.exclude_outbound_ranges),
        only_inbound_ports: args.only_inbound_ports.map(|list| list.0),
        only_outbound: args.only_outbound_ranges.map(|list| list.0),
        outbound_ports: items(args.outbound_ports),
        exclude_interfaces: items(args.exclude_interfaces),
        // Without it in the kernel there is nothing to capture.
        ipv6: args.dry_run || capture::knows_ipv6(),
    };
    let rules = capture::ruleset(&spec);
    if args.dry_run {
        cx.out.data(&net::rules::render(&rules))?;
        return Ok(Exit::Ok);
    }
    if spec.ipv6
        && let Err(error) = capture::prepare()
    {
        // A node where IPv6 is switched off: its rules are there all the same, in case it is switched on.
        cx.out
            .note(&format!("the pod has no IPv6 on loopback: {error}"));
    }
    capture::apply(&rules).map_err(|error| {
        let failed = CliError::failed(format!("cannot change the rules of this network: {error}"));
        failed.hint("it needs the capability NET_ADMIN, and a kernel with nftables")
    })?;
    Ok(Exit::Ok)
}

fn wait(args: &WaitArgs) -> Result<Exit, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let at = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), args.admin_port);
    let ready = async {
        let mut again = tokio::time::interval(Duration::from_millis(100));
        loop {
            again.tick().await;
            if is_ready(at).await {
                return;
            }
        }
    };
    // Timers are made in the runtime.
    let waited = runtime.block_on(async { tokio::time::timeout(args.timeout, ready).await });
    waited.map(|()| Exit::Ok).map_err(|_| {
        CliError::failed(format!("the proxy at {at} is not ready"))
            .hint("its log says what it waits for, such as its first certificate")
    })
}

async fn is_ready(at: SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let options = ConnectOptions {
        timeout: Duration::from_secs(1),
        from: None,
    };
    let asked = async {
        let mut stream = net::connect(at, options).await?;
        stream
            .write_all(b"GET /healthz/ready HTTP/1.0\r\nHost: localhost\r\n\r\n")
            .await?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        std::io::Result::Ok(head.ends_with(b" 200"))
    };
    matches!(
        tokio::time::timeout(options.timeout, asked).await,
        Ok(Ok(true))
    )
}
