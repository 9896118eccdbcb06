//! The shop's page for a browser on this machine, while the demo runs.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

use crate::cli::error::CliError;
use crate::net::{BindOptions, ConnectOptions, bind, connect};
use crate::rt::Tasks;

/// Takes `port` on loopback, before anything is started for it.
pub(super) fn claim(port: u16) -> Result<TcpListener, CliError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    bind(address, BindOptions::default()).map_err(|error| {
        CliError::failed(format!("cannot listen on {address}: {error}"))
            .hint("choose another --port, or leave it out")
    })
}

/// Carries connections of `listener` to `application` until `tasks` end. The browser is outside the
/// mesh, so it comes to the application itself; what that calls goes through the mesh.
pub(super) fn open(listener: TcpListener, application: SocketAddr, tasks: &Tasks) {
    let connections = tasks.clone();
    tasks.spawn("demo-window", async move {
        while let Ok((mut browser, _)) = listener.accept().await {
            connections.spawn("demo-browser", async move {
                if let Ok(mut page) = connect(application, ConnectOptions::default()).await {
                    // A browser that goes away is no error of ours.
                    drop(tokio::io::copy_bidirectional(&mut browser, &mut page).await);
                }
            });
        }
    });
}
