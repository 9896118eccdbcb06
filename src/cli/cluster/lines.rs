//! Connections to replicas, and answers of theirs that go on as lines.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use futures_util::future::join_all;
use tokio_rustls::TlsConnector;

use super::{API_PORT, ClusterError, Mesh, PATIENCE, Role, Session};
use crate::cli::client::Wire;
use crate::cli::error::CliError;
use crate::cli::lines::{Lines, open};
use crate::tls;

impl Mesh {
    /// A connection to the API of one replica.
    pub(super) async fn reach(
        &self,
        session: &Session,
        pod: &str,
    ) -> Result<Pin<Box<dyn Wire>>, CliError> {
        let namespace = &self.place.system_namespace;
        let of_pod = |words: String| self.unreachable(io::Error::other(format!("{pod}: {words}")));
        let reached = async {
            let stream = session
                .cluster
                .dial(namespace, pod, API_PORT)
                .await
                .map_err(|error| match error {
                    error @ ClusterError::Refused { .. } => of_pod(error.to_string()),
                    error => self.failed(&format!("reach pod {pod}"), Role::Viewer, error),
                })?;
            let stream = TlsConnector::from(Arc::clone(&session.tls))
                .connect(session.server.clone(), stream)
                .await
                .map_err(|error| of_pod(tls::explain(&error)))?;
            let stream: Pin<Box<dyn Wire>> = Box::pin(stream);
            Ok(stream)
        };
        tokio::time::timeout(PATIENCE, reached)
            .await
            .map_err(|_| of_pod("it took too long to reach it".to_owned()))?
    }

    /// What every replica answers to `path`, as it comes. Those that are silent are remembered, and are an error when
    /// all are.
    pub(crate) async fn lines(&self, path: &str, role: Role) -> Result<Vec<Lines>, CliError> {
        let session = self.session().await?;
        let bearer = &self.bearer(session, role).await?;
        let opening = session.replicas.iter().map(|pod| async move {
            let stream = self.reach(session, pod).await?;
            let broken =
                |error: io::Error| self.unreachable(io::Error::other(format!("{pod}: {error}")));
            open(stream, (&session.host, Some(bearer)), path, &broken).await
        });
        let (mut lines, mut failed) = (Vec::new(), None);
        for (pod, opened) in session.replicas.iter().zip(join_all(opening).await) {
            match opened {
                Ok(opened) => lines.push(opened),
                Err(error @ CliError::Unreachable { .. }) => {
                    tracing::debug!(pod, error = %error.chain(), "a replica is silent");
                    let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
                    silent.insert(pod.clone());
                    failed.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) if lines.is_empty() => Err(error),
            _ => Ok(lines),
        }
    }
}
