//! Identities on the wire: SPIFFE verification, keys and certificates, issuing, rotation.
