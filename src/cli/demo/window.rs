//! The shop's page for a browser on this machine, while the demo runs.

use std::net::{Ipv4Addr, SocketAddr};

use crate::cli::error::CliError;
use crate::net::{BindOptions, ConnectOptions, bind, connect};
use crate::rt::Tasks;

/// Carries connections from `port` on loopback to `application` until `tasks` end. The browser is
/// outside the mesh, so it comes to the application itself; what that calls goes through the mesh.
pub(super) fn open(port: u16, application: SocketAddr, tasks: &Tasks) -> Result<(), CliError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = bind(address, BindOptions::default()).map_err(|error| {
        CliError::failed(format!("cannot listen on {address}: {error}"))
            .hint("choose another --port, or leave it out")
    })?;
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
    Ok(())
}
