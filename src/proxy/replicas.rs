//! Where the control plane is: one address or several, of which each is a replica that can do everything.
//!
//! Every connection begins with another of them, and goes on to the next when one does not answer: so a fleet
//! spreads over the replicas, and who has lost his own finds another at once. Names are resolved anew each
//! time, as replicas come and go; what was found last is kept for the time when nobody resolves.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tracing::debug;

use super::control_link::{Caller, ControlStream, connect_control};
use crate::mesh::SpiffeId;
use crate::net::{ConnectOptions, connect_any};
use crate::tls;

/// One of several gets no longer than this, so that callers, who wait for 10 s, get to the next.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long a name may take; then what was found last is good enough.
const RESOLVE: Duration = Duration::from_secs(3);

/// Places of the control plane's TLS port. Clones share whose turn it is.
#[derive(Clone)]
pub struct Replicas(Arc<Inner>);

struct Inner {
    places: Vec<Place>,
    turn: AtomicUsize,
}

struct Place {
    /// As it was given, `HOST:PORT`.
    text: String,
    /// What it was when it was resolved last.
    known: Mutex<Vec<SocketAddr>>,
}

impl fmt::Display for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, place) in self.0.places.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}", place.text)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replicas({self})")
    }
}

impl From<SocketAddr> for Replicas {
    fn from(address: SocketAddr) -> Self {
        Self::new([address.to_string()])
    }
}

impl Replicas {
    /// Those at `places`, each `HOST:PORT`, where a host may be a name of several addresses.
    pub fn new(places: impl IntoIterator<Item = String>) -> Self {
        let places = places.into_iter().map(|text| Place {
            text,
            known: Mutex::default(),
        });
        Self(Arc::new(Inner {
            places: places.collect(),
            // Proxies that start together shall not all come to the same one.
            turn: AtomicUsize::new(fastrand::usize(..)),
        }))
    }

    /// Connects to the first that answers and proves to be `server`, as [`connect_control`] does.
    pub async fn connect(
        &self,
        server: &SpiffeId,
        caller: Caller<'_>,
    ) -> io::Result<ControlStream> {
        let mut addresses = self.addresses().await?;
        let Some(last) = addresses.pop() else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        for address in addresses {
            let connecting = connect_control(address, server, caller);
            match tokio::time::timeout(ATTEMPT, connecting).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => {
                    let reason = tls::explain(&error);
                    debug!(%address, %reason, "a replica cannot be used; trying the next");
                }
                Err(_) => debug!(%address, "a replica does not answer; trying the next"),
            }
        }
        connect_control(last, server, caller).await
    }

    /// Connects to the first that answers, without TLS.
    pub async fn connect_plain(&self) -> io::Result<TcpStream> {
        connect_any(&self.addresses().await?, ConnectOptions::default()).await
    }

    /// All addresses, beginning with the one whose turn it is; at least one.
    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let mut all = Vec::new();
        let mut failed = None;
        for place in &self.0.places {
            match place.resolve().await {
                Ok(found) => all.extend(found),
                Err(error) => failed = Some(error),
            }
        }
        // Name servers change the order by themselves; turns need one that stays.
        all.sort_unstable();
        all.dedup();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        match turn.checked_rem(all.len()) {
            Some(first) => all.rotate_left(first),
            None => return Err(failed.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())),
        }
        Ok(all)
    }
}

impl Place {
    async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = self.text.parse() {
            return Ok(vec![address]);
        }
        let found = tokio::time::timeout(RESOLVE, tokio::net::lookup_host(&self.text)).await;
        let (found, reason) = match found {
            Ok(Ok(found)) => (found.collect(), "no such name".to_owned()),
            Ok(Err(error)) => (Vec::new(), error.to_string()),
            Err(_) => (Vec::new(), "no answer in 3 s".to_owned()),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !found.is_empty() {
            known.clone_from(&found);
        } else if known.is_empty() {
            return Err(io::Error::other(format!(
                "{} has no address: {reason}",
                self.text
            )));
        }
        Ok(known.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(places: &[&str]) -> Replicas {
        Replicas::new(places.iter().map(|text| (*text).to_owned()))
    }

    #[tokio::test]
    async fn each_connection_begins_with_another_replica() {
        let places = ["127.0.0.1:1", "127.0.0.2:1", "127.0.0.3:1"];
        let replicas = replicas(&places);
        assert_eq!(replicas.to_string(), places.join(","));
        let mut first = Vec::new();
        for _ in 0..3 {
            let order = replicas.addresses().await.unwrap();
            assert_eq!(order.len(), 3);
            first.push(order[0].to_string());
        }
        first.sort();
        assert_eq!(first, places);
    }

    #[tokio::test]
    async fn a_name_is_all_of_its_addresses_and_what_was_known_lasts() {
        let named = replicas(&["localhost:7", "127.0.0.1:7"]);
        let order = named.addresses().await.unwrap();
        // Whether localhost is ::1 too is the machine's affair; what comes twice is one.
        let here: SocketAddr = "127.0.0.1:7".parse().unwrap();
        assert_eq!(order.iter().filter(|one| **one == here).count(), 1);

        let gone = replicas(&["nobody.invalid:7"]);
        let error = gone.addresses().await.unwrap_err().to_string();
        assert!(
            error.starts_with("nobody.invalid:7 has no address: "),
            "{error}"
        );
        *gone.0.places[0].known.lock().unwrap() = vec![here];
        assert_eq!(gone.addresses().await.unwrap(), [here]);
        // One that has no address does not hide another.
        let both = replicas(&["nobody.invalid:7", "127.0.0.1:7"]);
        assert_eq!(both.addresses().await.unwrap(), [here]);
    }
}
