//! `proxy --static`: a proxy between two addresses, without a control plane, for measuring.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::cli::error::CliError;
use crate::cli::logging;
use crate::proxy::handover::{self, Restart};
use crate::proxy::{self, Side, SideProtocol};
use crate::rt::disk::private_dir;
use crate::rt::{self, Drain, Published};
use crate::telemetry::Registry;
use crate::tls::material::{Material, Pems};

/// What is carried from where to where.
#[derive(Debug, clap::Args)]
// The command's own arguments have the group that is named by default.
#[group(id = "carried")]
pub(crate) struct Args {
    /// Carry everything from one address to another, without a control plane
    #[arg(id = "static_pair", long = "static", value_name = "LISTEN=UPSTREAM", hide = true, conflicts_with_all = ["service", "app"])]
    pub(super) pair: Option<String>,
    /// What callers speak: http1, http2 or tcp, and `+mtls`
    #[arg(long = "static-in", value_name = "PROTOCOL", hide = true, requires = "static_pair", value_parser = side, default_value = "http1")]
    accepted: Side,
    /// What the upstream speaks
    #[arg(long = "static-out", value_name = "PROTOCOL", hide = true, requires = "static_pair", value_parser = side, default_value = "http1")]
    called: Side,
    /// Files of a certificate with its chain, its key, and the roots of peers
    #[arg(
        long = "static-identity",
        value_name = "CHAIN,KEY,ROOTS",
        hide = true,
        requires = "static_pair",
        value_delimiter = ','
    )]
    identity: Vec<PathBuf>,
}

fn side(text: &str) -> Result<Side, String> {
    let (name, mtls) = match text.strip_suffix("+mtls") {
        Some(name) => (name, true),
        None => (text, false),
    };
    let protocol = match name {
        "http1" => SideProtocol::Http1,
        "http2" => SideProtocol::Http2,
        "tcp" => SideProtocol::Tcp,
        _ => return Err("expected http1, http2 or tcp, with or without +mtls".to_owned()),
    };
    Ok(Side { protocol, mtls })
}

/// Carries by `pair` until it is asked to end. With a home, a later process can take over, and this one
/// does so from an earlier one.
pub(super) fn run(
    pair: &str,
    args: &Args,
    (options, home): (proxy::Options, Option<&Path>),
) -> Result<(), CliError> {
    let wrong = || CliError::usage(format!("{pair:?} is not LISTEN=UPSTREAM"));
    let (listen, upstream) = pair.split_once('=').ok_or_else(wrong)?;
    let (listen, upstream): (SocketAddr, SocketAddr) = (
        listen.parse().map_err(|_| wrong())?,
        upstream.parse().map_err(|_| wrong())?,
    );
    let dir = home.map(|home| {
        let name = listen.to_string().replace([':', '[', ']'], "-");
        home.join("proxy").join(format!("static-{name}"))
    });
    let (inside, outside) = (args.accepted, args.called);
    if (inside.protocol == SideProtocol::Tcp) != (outside.protocol == SideProtocol::Tcp) {
        return Err(CliError::usage("tcp is carried on both sides or on none"));
    }
    let identity = identity(args)?;
    if identity.is_none() && (inside.mtls || outside.mtls) {
        return Err(CliError::usage("mTLS needs --static-identity"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    runtime.block_on(async {
        let view = Published::new(proxy::static_view((listen, inside), (upstream, outside)));
        let identity = Published::new(identity.map(Arc::new));
        let (drain, signal) = Drain::new();
        let restart = match dir {
            Some(dir) => Some(before(&dir).await?),
            None => None,
        };
        let registry = Arc::new(Registry::new(&options.cluster_id));
        let readers = (view.reader(), identity.reader());
        let serving = proxy::run_after(options, registry, readers, signal, restart);
        tokio::pin!(serving);
        tokio::select! {
            result = &mut serving => result,
            () = logging::asked_to_end() => {
                drain.start();
                serving.await
            }
        }
        .map_err(|error| {
            let failed = CliError::failed(rt::chain(&error));
            match error.hint() {
                Some(hint) => failed.hint(hint),
                None => failed,
            }
        })
    })
}

/// The sockets of the process that runs with `dir`, if there is one.
async fn before(dir: &Path) -> Result<Restart, CliError> {
    private_dir(dir).map_err(CliError::file("make", dir))?;
    let socket = dir.join("restart.sock");
    let taken = handover::take(&socket).await.map_err(|error| {
        let at = socket.display();
        CliError::failed(format!(
            "cannot take over from the process at {at}: {error}"
        ))
    })?;
    Ok(Restart {
        socket,
        taken,
        more: Vec::new(),
        replaced: CancellationToken::new(),
    })
}

fn identity(args: &Args) -> Result<Option<Material>, CliError> {
    let [chain, key, roots] = match args.identity.as_slice() {
        [] => return Ok(None),
        [chain, key, roots] => [chain, key, roots],
        _ => return Err(CliError::usage("--static-identity is CHAIN,KEY,ROOTS")),
    };
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path)
            .map_err(|error| CliError::failed(format!("{}: {error}", path.display())))
    };
    let pems = Pems {
        chain: read(chain)?,
        key: read(key)?,
        roots: read(roots)?,
    };
    Material::from_pems(&pems)
        .map(Some)
        .map_err(|error| CliError::failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_read() {
        let is = |text, protocol, mtls| assert_eq!(side(text), Ok(Side { protocol, mtls }));
        is("http1", SideProtocol::Http1, false);
        is("http2+mtls", SideProtocol::Http2, true);
        is("tcp+mtls", SideProtocol::Tcp, true);
        assert!(side("http3").is_err() && side("+mtls").is_err());
    }
}
