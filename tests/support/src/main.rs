//! `cluster [ADDRESS] [KUBECONFIG] [NAMESPACE/SERVICE:PORT=ADDRESS…]`: serves until it is stopped, and writes the
//! admin's kubeconfig. The last say where Services are reached, for webhooks.

use std::process::ExitCode;

use cluster::{Cluster, Failed};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&format!("cluster: {error}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the program's one voice")]
fn report(line: &str) {
    eprintln!("{line}");
}

async fn run() -> Result<(), Failed> {
    let mut words = std::env::args().skip(1);
    let address = words.next().unwrap_or_else(|| "127.0.0.1:0".into());
    let file = words.next().unwrap_or_else(|| "kubeconfig".into());
    let mut cluster = Cluster::start_at(address.parse()?, "v1.36.0").await?;
    for route in words {
        let wrong = || format!("{route:?} is not NAMESPACE/SERVICE:PORT=ADDRESS");
        let (service, address) = route.split_once('=').ok_or_else(wrong)?;
        let (service, port) = service.split_once(':').ok_or_else(wrong)?;
        let (namespace, name) = service.split_once('/').ok_or_else(wrong)?;
        cluster.route(namespace, name, port.parse()?, address.parse()?);
    }
    cluster.control(cluster::controllers::Settings::default());
    write_private(&file, &cluster.admin()?)?;
    report(&format!(
        "serving on https://{}; export KUBECONFIG={file}",
        cluster.address()
    ));
    tokio::signal::ctrl_c().await?;
    Ok(())
}

/// The file holds a key.
fn write_private(path: &str, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}
