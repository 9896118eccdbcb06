//! TLS that a listener terminates with certificates of its own, and their texts.

use super::super::pb::{core, matcher, sockets};
use super::Fault;
use super::fields::Fields;
use super::mtls::{DOWNSTREAM, has_source};
use crate::mesh::credential::{
    CertificateSource, ClientTrust, NameKind, RootsSource, Stapling, TlsVersion,
};
use crate::mesh::listener::ServerTls;
use crate::mesh::{OwnTls, Secret};

use sockets::common_tls_context::ValidationContextType as Validation;
use sockets::downstream_tls_context::OcspStaplePolicy;
use sockets::tls_parameters::TlsProtocol;

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&COMMON, &PARAMETERS, &CERTIFICATE, &CLIENTS];

const COMMON: Fields = Fields {
    message: "CommonTlsContext of a listener with certificates of its own",
    understood: &[
        (1, "tls_params"),
        (2, "tls_certificates"),
        (3, "validation_context"),
        (4, "alpn_protocols"),
        (6, "tls_certificate_sds_secret_configs"),
        (7, "validation_context_sds_secret_config"),
        (8, "combined_validation_context"),
    ],
    tuning: &[(15, "key_log")],
    refused: &[
        (9, "tls_certificate_certificate_provider"),
        (10, "validation_context_certificate_provider"),
        (11, "tls_certificate_certificate_provider_instance"),
        (12, "validation_context_certificate_provider_instance"),
        (13, "custom_handshaker"),
        (14, "tls_certificate_provider_instance"),
        (16, "custom_tls_certificate_selector"),
    ],
};
const PARAMETERS: Fields = Fields {
    message: "TlsParameters",
    understood: &[
        (1, "tls_minimum_protocol_version"),
        (2, "tls_maximum_protocol_version"),
        (3, "cipher_suites"),
    ],
    tuning: &[(4, "ecdh_curves"), (5, "signature_algorithms")],
    refused: &[(6, "compliance_policies")],
};
const CERTIFICATE: Fields = Fields {
    message: "TlsCertificate",
    understood: &[
        (1, "certificate_chain"),
        (2, "private_key"),
        (4, "ocsp_staple"),
    ],
    tuning: &[
        (5, "signed_certificate_timestamp"),
        (7, "watched_directory"),
    ],
    refused: &[(3, "password"), (6, "private_key_provider"), (8, "pkcs12")],
};
const CLIENTS: Fields = Fields {
    message: "CertificateValidationContext of a listener with certificates of its own",
    understood: &[
        (1, "trusted_ca"),
        (2, "verify_certificate_hash"),
        (3, "verify_certificate_spki"),
        (7, "crl"),
        (9, "match_subject_alt_names"),
        (10, "trust_chain_verification"),
        (15, "match_typed_subject_alt_names"),
    ],
    tuning: &[
        (11, "watched_directory"),
        (16, "max_verify_depth"),
        (18, "suppress_client_ca_list"),
    ],
    refused: &[
        (6, "require_signed_certificate_timestamp"),
        (8, "allow_expired_certificate"),
        (12, "custom_validator_config"),
        (13, "ca_certificate_provider_instance"),
        (14, "only_verify_leaf_cert_crl"),
        (17, "system_root_certs"),
    ],
};

pub(super) fn decode(
    context: &sockets::DownstreamTlsContext,
    ignored: &mut Vec<String>,
) -> Result<ServerTls, Fault> {
    DOWNSTREAM.audit(context, ignored)?;
    let common = context.common_tls_context.clone().unwrap_or_default();
    COMMON.audit(&common, ignored)?;
    let parameters = common.tls_params.clone().unwrap_or_default();
    PARAMETERS.audit(&parameters, ignored)?;
    let mut certificates = Vec::new();
    for certificate in &common.tls_certificates {
        CERTIFICATE.audit(certificate, ignored)?;
        certificates.push(CertificateSource::Files {
            chain: file(certificate.certificate_chain.as_ref(), "certificate_chain")?,
            key: file(certificate.private_key.as_ref(), "private_key")?,
            staple: certificate
                .ocsp_staple
                .as_ref()
                .map(|staple| file(Some(staple), "ocsp_staple"))
                .transpose()?,
        });
    }
    for secret in &common.tls_certificate_sds_secret_configs {
        certificates.push(CertificateSource::Secret(named(secret)?));
    }
    if certificates.is_empty() {
        return Err(Fault::Invalid("TLS without a certificate".to_owned()));
    }
    let required = context
        .require_client_certificate
        .is_some_and(|required| required.value);
    let clients = common
        .validation_context_type
        .map(|validation| clients(validation, !required, ignored))
        .transpose()?;
    if required && clients.is_none() {
        return Err(Fault::Invalid(
            "client certificates without roots would let anyone in".to_owned(),
        ));
    }
    let (min, max) = (
        parameters.tls_minimum_protocol_version,
        parameters.tls_maximum_protocol_version,
    );
    Ok(ServerTls {
        alpn: common.alpn_protocols,
        own: Some(Box::new(OwnTls {
            certificates,
            clients,
            min_version: version(min)?.unwrap_or_default(),
            max_version: version(max)?,
            cipher_suites: parameters.cipher_suites,
            stapling: match OcspStaplePolicy::try_from(context.ocsp_staple_policy) {
                Ok(OcspStaplePolicy::LenientStapling) => Stapling::Lenient,
                Ok(OcspStaplePolicy::StrictStapling) => Stapling::Strict,
                Ok(OcspStaplePolicy::MustStaple) => Stapling::Must,
                Err(_) => {
                    return Err(Fault::Unsupported {
                        message: DOWNSTREAM.message,
                        field: format!("ocsp_staple_policy {}", context.ocsp_staple_policy),
                    });
                }
            },
        })),
    })
}

fn version(from: i32) -> Result<Option<TlsVersion>, Fault> {
    match TlsProtocol::try_from(from) {
        Ok(TlsProtocol::TlsAuto) => Ok(None),
        Ok(TlsProtocol::TlSv12) => Ok(Some(TlsVersion::V12)),
        Ok(TlsProtocol::TlSv13) => Ok(Some(TlsVersion::V13)),
        other => Err(Fault::Unsupported {
            message: "TlsParameters",
            field: format!("{other:?} (1.2 is the least)"),
        }),
    }
}

fn clients(
    from: Validation,
    optional: bool,
    ignored: &mut Vec<String>,
) -> Result<ClientTrust, Fault> {
    let (context, secret) = match from {
        Validation::ValidationContext(context) => (context, None),
        Validation::ValidationContextSdsSecretConfig(secret) => (
            sockets::CertificateValidationContext::default(),
            Some(secret),
        ),
        Validation::CombinedValidationContext(combined) => (
            combined.default_validation_context.unwrap_or_default(),
            combined.validation_context_sds_secret_config,
        ),
        // COMMON has refused the rest.
        _ => return Err(Fault::Invalid("unknown validation".to_owned())),
    };
    CLIENTS.audit(&context, ignored)?;
    let roots = match secret {
        Some(secret) => {
            if context.trusted_ca.is_some() || context.crl.is_some() {
                return Err(Fault::Unsupported {
                    message: "CombinedCertificateValidationContext",
                    field: "roots beside those of the secret".to_owned(),
                });
            }
            RootsSource::Secret(named(&secret)?)
        }
        None => RootsSource::File {
            path: file(context.trusted_ca.as_ref(), "trusted_ca")?,
            crl: context
                .crl
                .as_ref()
                .map(|crl| file(Some(crl), "crl"))
                .transpose()?,
        },
    };
    Ok(ClientTrust {
        roots,
        optional,
        unverified: match context.trust_chain_verification {
            0 => false,
            1 => true,
            other => {
                return Err(Fault::Unsupported {
                    message: CLIENTS.message,
                    field: format!("trust_chain_verification {other}"),
                });
            }
        },
        names: names(&context)?,
        certificate_hashes: context.verify_certificate_hash,
        key_hashes: context.verify_certificate_spki,
    })
}

fn names(context: &sockets::CertificateValidationContext) -> Result<Vec<String>, Fault> {
    use sockets::subject_alt_name_matcher::SanType;
    let exact = |matcher: Option<&matcher::StringMatcher>| match matcher {
        Some(matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(name)),
            ignore_case: false,
        }) => Ok(name.clone()),
        _ => Err(Fault::Unsupported {
            message: "SubjectAltNameMatcher",
            field: "names other than exact ones".to_owned(),
        }),
    };
    let mut names = Vec::new();
    for typed in &context.match_typed_subject_alt_names {
        let name = exact(typed.matcher.as_ref())?;
        let kind = match SanType::try_from(typed.san_type) {
            Ok(SanType::Uri) => Some(NameKind::Uri),
            Ok(SanType::Email) => Some(NameKind::Email),
            Ok(SanType::IpAddress) => Some(NameKind::Address),
            Ok(SanType::Dns) => Some(NameKind::Dns),
            _ => None,
        };
        if kind != Some(NameKind::of(&name)) {
            return Err(Fault::Unsupported {
                message: "SubjectAltNameMatcher",
                field: format!("san_type of {name:?}"),
            });
        }
        names.push(name);
    }
    #[expect(deprecated, reason = "Istio still sends it")]
    for untyped in &context.match_subject_alt_names {
        names.push(exact(Some(untyped))?);
    }
    Ok(names)
}

/// The name of a secret of the control plane.
pub(super) fn named(secret: &sockets::SdsSecretConfig) -> Result<String, Fault> {
    if !has_source(secret) || secret.name.is_empty() {
        return Err(Fault::Unsupported {
            message: "SdsSecretConfig",
            field: "a secret without a name or source".to_owned(),
        });
    }
    Ok(secret.name.clone())
}

fn file(from: Option<&core::DataSource>, field: &str) -> Result<String, Fault> {
    match from.and_then(|from| from.specifier.as_ref()) {
        Some(core::data_source::Specifier::Filename(path)) => Ok(path.clone()),
        _ => Err(Fault::Unsupported {
            message: "DataSource",
            field: format!("{field} other than a file"),
        }),
    }
}

/// The text of a credential; `None` for secrets of other kinds, which nothing here names.
pub(super) fn text(from: sockets::Secret) -> Result<Option<Secret>, Fault> {
    let inline = |from: Option<core::DataSource>| {
        use core::data_source::Specifier;
        let text = match from.and_then(|from| from.specifier) {
            Some(Specifier::InlineString(text)) => Some(text),
            Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes).ok(),
            _ => None,
        };
        text.ok_or_else(|| Fault::Unsupported {
            message: "DataSource",
            field: "a secret other than inline PEM".to_owned(),
        })
    };
    let raw = |from: core::DataSource| match from.specifier {
        Some(core::data_source::Specifier::InlineBytes(bytes)) => Ok(bytes),
        _ => Err(Fault::Unsupported {
            message: "DataSource",
            field: "ocsp_staple other than inline bytes".to_owned(),
        }),
    };
    match from.r#type {
        Some(sockets::secret::Type::TlsCertificate(certificate)) => {
            CERTIFICATE.audit(&certificate, &mut Vec::new())?;
            Ok(Some(Secret::Certificate {
                chain: inline(certificate.certificate_chain)?,
                key: inline(certificate.private_key)?,
                staple: certificate.ocsp_staple.map_or(Ok(Vec::new()), raw)?,
            }))
        }
        Some(sockets::secret::Type::ValidationContext(context)) => {
            CLIENTS.audit(&context, &mut Vec::new())?;
            Ok(Some(Secret::Roots {
                certificates: inline(context.trusted_ca)?,
                crl: context
                    .crl
                    .map_or(Ok(String::new()), |crl| inline(Some(crl)))?,
            }))
        }
        _ => Ok(None),
    }
}
