//! A control plane without ports and without a store on the disk, for tests and for fuzzing of its API.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use super::index::Index;
use super::push::Hub;
use super::rollouts::Rollouts;
use super::series::{BYTES, Numbers};
use super::trust::{self, Trust};
use super::{Control, ControlError, hub_options, serve_api, traces};
use crate::rt::{Tasks, Wall};
use crate::source::store::{OpenReport, Store, StoreError};

impl Control {
    /// Keeps nothing but the authority's files, which go to `dir`. Runs until `tasks` end; needs a runtime.
    pub fn in_memory(dir: &Path, wall: Wall, tasks: &Tasks) -> Result<Arc<Self>, ControlError> {
        let failed = |source: StoreError| ControlError::Store {
            path: dir.to_owned(),
            source,
        };
        let store = Store::memory();
        let index = Arc::new(Index::open(store.clone(), wall.clone()).map_err(failed)?);
        let numbers = Numbers::open(store.clone(), wall.clone(), BYTES, true).map_err(failed)?;
        let rollouts = Rollouts::open(store.clone(), tasks).map_err(failed)?;
        let ca = trust::CaOptions::default();
        let trust = Arc::new(Trust::open(store, dir, "cluster.local", &ca, wall.clone())?);
        let hub = Hub::start(hub_options(&index, &trust, &wall), index.reader(), tasks);
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Ok(Arc::new(Self {
            index,
            hub,
            trust,
            numbers,
            taps: super::tap::Taps::default(),
            traces: traces::Kept::default(),
            rollouts,
            started_unix_ms: wall.millis(),
            wall,
            opened: OpenReport::default(),
            kubernetes: None,
            catalogues: Vec::new(),
            complete: watch::channel(true).1,
            gate: serve_api::Gate::default(),
            cluster: None,
            peers: super::cluster::peers::Peers::default(),
            membership: None,
            xds_address: nowhere,
            tls_address: nowhere,
            api_address: None,
        }))
    }
}
