//! `ps`: the pods that run on this machine.

use crate::api::local::{ContainerState, ContainerStatus, LocalStatus};
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::render::{Cell, Column, Grid, Page, Render, Tone, mixed, number};

/// List the pods that `up` runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl ps
  meshctl ps -o wide        processes and how each last ended")]
pub(crate) struct Args {}

impl Render for LocalStatus {
    fn text(&self, page: &Page) -> String {
        let namespaces = page.wide || mixed(self.pods.iter().map(|pod| pod.namespace.as_str()));
        let mut grid = Grid::new([
            Column::text("NAMESPACE").when(namespaces),
            Column::long("NAME"),
            Column::text("READY"),
            Column::text("STATUS"),
            Column::number("RESTARTS"),
            Column::number("AGE"),
            Column::text("ADDRESS"),
            Column::long("PIDS").when(page.wide),
            Column::long("LAST EXIT").when(page.wide),
        ]);
        let mut row = |namespace: &str, name: &str, address: &str, all: &[ContainerStatus]| {
            let ready = all.iter().filter(|container| container.ready).count();
            let restarts: u32 = all.iter().map(|container| container.restarts).sum();
            let started = all
                .iter()
                .filter_map(|container| container.started_unix_ms)
                .max();
            let pids: Vec<String> = all
                .iter()
                .filter_map(|container| Some(format!("{}={}", container.name, container.pid?)))
                .collect();
            let exits: Vec<String> = all
                .iter()
                .filter_map(|c| Some(format!("{}: {}", c.name, c.last_exit.as_ref()?)))
                .collect();
            grid.row([
                Cell::or_dash(namespace),
                name.into(),
                crate::cli::render::registry::ready(ready, all.len()),
                state(all),
                restarts.to_string().into(),
                number::age(started.unwrap_or(0), page.now_unix_ms).into(),
                Cell::or_dash(address),
                Cell::or_dash(&pids.join(" ")),
                Cell::or_dash(&exits.join("; ")),
            ]);
        };
        if let Some(control) = &self.control_plane {
            row("", "control-plane", "", std::slice::from_ref(control));
        }
        for pod in &self.pods {
            row(&pod.namespace, &pod.name, &pod.address, &pod.containers);
        }
        grid.draw(page)
    }

    fn names(&self) -> Vec<String> {
        self.pods.iter().map(|pod| pod.name.clone()).collect()
    }
}

/// The least advanced state of the containers.
fn state(all: &[ContainerStatus]) -> Cell {
    let any = |state| all.iter().any(|container| container.state == state);
    if any(ContainerState::BackOff) {
        Cell::new("back-off", Tone::Bad)
    } else if any(ContainerState::Stopped) {
        Cell::new("stopped", Tone::Faint)
    } else if any(ContainerState::Pending) {
        Cell::new("pending", Tone::Warn)
    } else {
        "running".into()
    }
}

pub(crate) async fn run(_: Args, cx: &Context) -> Result<Exit, CliError> {
    let mut status = super::local::status(cx).await?;
    if let Some(namespace) = cx.only_namespace() {
        status.pods.retain(|pod| pod.namespace == namespace);
    }
    cx.out.report(&status)?;
    Ok(Exit::Ok)
}
