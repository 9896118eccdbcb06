//! Secrets for clients that get their certificates from the control plane.

use prost::Message as _;

use super::super::pb::{core, sockets};
use super::{CERTIFICATE, ROOTS};

/// The workload's certificate chain and key, as PEM: name and bytes of the secret `default`.
pub fn certificate(chain_pem: &str, key_pem: &str) -> (String, Vec<u8>) {
    secret(
        CERTIFICATE,
        sockets::secret::Type::TlsCertificate(sockets::TlsCertificate {
            certificate_chain: Some(inline(chain_pem)),
            private_key: Some(inline(key_pem)),
            ..Default::default()
        }),
    )
}

/// The roots of the mesh and what of them is revoked, as PEM: name and bytes of the secret `ROOTCA`.
pub fn roots(roots_pem: &str, revoked_pem: &str) -> (String, Vec<u8>) {
    secret(
        ROOTS,
        sockets::secret::Type::ValidationContext(sockets::CertificateValidationContext {
            trusted_ca: Some(inline(roots_pem)),
            crl: (!revoked_pem.is_empty()).then(|| inline(revoked_pem)),
            ..Default::default()
        }),
    )
}

fn secret(name: &str, content: sockets::secret::Type) -> (String, Vec<u8>) {
    let message = sockets::Secret {
        name: name.to_owned(),
        r#type: Some(content),
    };
    (name.to_owned(), message.encode_to_vec())
}

fn inline(pem: &str) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(pem.to_owned())),
        ..Default::default()
    }
}
