//! Who asks: on the API's socket the kernel says, over TCP a token or a certificate, never the request.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::unistd::{Uid, User};

use crate::api::access::Role;
use crate::net::pages::OwnersOnly;

/// The user of the process that connected, the bearer of a token, or an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    name: String,
    role: Role,
}

impl Connected<IncomingStream<'_, OwnersOnly>> for Peer {
    fn connect_info(stream: IncomingStream<'_, OwnersOnly>) -> Self {
        // Without credentials (there are always some on Linux) nobody is named.
        let uid = stream.io().peer_cred().map(|peer| peer.uid());
        let name = uid.map_or_else(|_| "unknown".to_owned(), name);
        Self::new(&name, Role::Owner)
    }
}

/// The name of a user, or the number of one without.
fn name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

impl Peer {
    /// Who has proven to be `name`.
    pub fn new(name: &str, role: Role) -> Self {
        Self {
            name: name.to_owned(),
            role,
        }
    }

    /// What they may do.
    pub(super) fn role(&self) -> Role {
        self.role
    }

    /// Who it is, and for whom it says that it asks, if that is another.
    pub(super) fn for_whom(&self, claimed: &str) -> String {
        let claimed: String = claimed
            .chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect();
        if claimed.is_empty() || claimed == self.name {
            self.name.clone()
        } else {
            format!("{} for {claimed}", self.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_never_takes_the_place_of_what_is_proven() {
        let peer = Peer::new("root", Role::Owner);
        assert_eq!(peer.for_whom(""), "root");
        assert_eq!(peer.for_whom("root"), "root");
        assert_eq!(peer.for_whom("anna\n"), "root for anna");
        assert_eq!(name(0), "root");
    }
}
