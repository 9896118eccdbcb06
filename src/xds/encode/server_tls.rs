//! TLS that a listener terminates with certificates of its own, and their texts.

use super::super::pb::{ads, any, bool_value, core, matcher, sockets};
use super::mtls::socket;
use crate::mesh::credential::{
    CertificateSource, ClientTrust, NameKind, RootsSource, Stapling, TlsVersion,
};
use crate::mesh::{OwnTls, Secret};

use sockets::certificate_validation_context::TrustChainVerification;
use sockets::common_tls_context::ValidationContextType as Validation;
use sockets::downstream_tls_context::OcspStaplePolicy;
use sockets::tls_parameters::TlsProtocol;

pub(super) fn encode(own: &OwnTls, alpn: &[String]) -> core::TransportSocket {
    let mut common = sockets::CommonTlsContext {
        tls_params: Some(sockets::TlsParameters {
            tls_minimum_protocol_version: version(own.min_version).into(),
            tls_maximum_protocol_version: own
                .max_version
                .map_or(TlsProtocol::TlsAuto, version)
                .into(),
            cipher_suites: own.cipher_suites.clone(),
            ..Default::default()
        }),
        alpn_protocols: alpn.to_vec(),
        validation_context_type: own.clients.as_ref().map(validation),
        ..Default::default()
    };
    for source in &own.certificates {
        match source {
            CertificateSource::Secret(name) => {
                common.tls_certificate_sds_secret_configs.push(secret(name));
            }
            CertificateSource::Files { chain, key, staple } => {
                common.tls_certificates.push(sockets::TlsCertificate {
                    certificate_chain: Some(file(chain)),
                    private_key: Some(file(key)),
                    ocsp_staple: staple.as_deref().map(file),
                    ..Default::default()
                });
            }
        }
    }
    socket(any(&sockets::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: bool_value(
            own.clients
                .as_ref()
                .is_some_and(|clients| !clients.optional),
        ),
        ocsp_staple_policy: match own.stapling {
            Stapling::Lenient => OcspStaplePolicy::LenientStapling,
            Stapling::Strict => OcspStaplePolicy::StrictStapling,
            Stapling::Must => OcspStaplePolicy::MustStaple,
        }
        .into(),
        ..Default::default()
    }))
}

fn version(from: TlsVersion) -> TlsProtocol {
    match from {
        TlsVersion::V12 => TlsProtocol::TlSv12,
        TlsVersion::V13 => TlsProtocol::TlSv13,
    }
}

fn validation(clients: &ClientTrust) -> Validation {
    let mut context = sockets::CertificateValidationContext {
        match_typed_subject_alt_names: clients.names.iter().map(|name| subject(name)).collect(),
        verify_certificate_hash: clients.certificate_hashes.clone(),
        verify_certificate_spki: clients.key_hashes.clone(),
        trust_chain_verification: if clients.unverified {
            TrustChainVerification::AcceptUntrusted
        } else {
            TrustChainVerification::VerifyTrustChain
        }
        .into(),
        ..Default::default()
    };
    match &clients.roots {
        RootsSource::Secret(name) => Validation::CombinedValidationContext(
            sockets::common_tls_context::CombinedCertificateValidationContext {
                default_validation_context: Some(context),
                validation_context_sds_secret_config: Some(secret(name)),
                ..Default::default()
            },
        ),
        RootsSource::File { path, crl } => {
            context.trusted_ca = Some(file(path));
            context.crl = crl.as_deref().map(file);
            Validation::ValidationContext(context)
        }
    }
}

fn subject(name: &str) -> sockets::SubjectAltNameMatcher {
    use sockets::subject_alt_name_matcher::SanType;
    let kind = match NameKind::of(name) {
        NameKind::Uri => SanType::Uri,
        NameKind::Email => SanType::Email,
        NameKind::Address => SanType::IpAddress,
        NameKind::Dns => SanType::Dns,
    };
    sockets::SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(
                name.to_owned(),
            )),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn secret(name: &str) -> sockets::SdsSecretConfig {
    sockets::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ads()),
    }
}

fn file(path: &str) -> core::DataSource {
    core::DataSource {
        specifier: Some(core::data_source::Specifier::Filename(path.to_owned())),
        ..Default::default()
    }
}

/// The text of a credential, as a secret of this name.
pub(super) fn text(name: &str, of: &Secret) -> sockets::Secret {
    let inline = |pem: &str| core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(pem.to_owned())),
        ..Default::default()
    };
    let content = match of {
        Secret::Certificate { chain, key, staple } => {
            sockets::secret::Type::TlsCertificate(sockets::TlsCertificate {
                certificate_chain: Some(inline(chain)),
                private_key: Some(inline(key)),
                ocsp_staple: (!staple.is_empty()).then(|| core::DataSource {
                    specifier: Some(core::data_source::Specifier::InlineBytes(staple.clone())),
                    ..Default::default()
                }),
                ..Default::default()
            })
        }
        Secret::Roots { certificates, crl } => {
            sockets::secret::Type::ValidationContext(sockets::CertificateValidationContext {
                trusted_ca: Some(inline(certificates)),
                crl: (!crl.is_empty()).then(|| inline(crl)),
                ..Default::default()
            })
        }
    };
    sockets::Secret {
        name: name.to_owned(),
        r#type: Some(content),
    }
}
