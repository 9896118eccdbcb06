//! Who is at the other end of the API's socket: the kernel says, not the request.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::unistd::{Uid, User};

use crate::net::pages::OwnersOnly;

/// The user of the process that connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer(String);

impl Connected<IncomingStream<'_, OwnersOnly>> for Peer {
    fn connect_info(stream: IncomingStream<'_, OwnersOnly>) -> Self {
        // Without credentials (there are always some on Linux) nobody is named.
        let uid = stream.io().peer_cred().map(|peer| peer.uid());
        Self(uid.map_or_else(|_| "unknown".to_owned(), name))
    }
}

/// The name of a user, or the number of one without.
fn name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

impl Peer {
    /// Who it is, and for whom it says that it asks, if that is another.
    pub(super) fn for_whom(&self, claimed: &str) -> String {
        let claimed: String = claimed
            .chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect();
        if claimed.is_empty() || claimed == self.0 {
            self.0.clone()
        } else {
            format!("{} for {claimed}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_never_takes_the_place_of_what_is_proven() {
        let peer = Peer("root".to_owned());
        assert_eq!(peer.for_whom(""), "root");
        assert_eq!(peer.for_whom("root"), "root");
        assert_eq!(peer.for_whom("anna\n"), "root for anna");
        assert_eq!(name(0), "root");
    }
}
