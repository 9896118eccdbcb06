//! TLS contexts of the mesh, which has one kind: both sides show a certificate of the mesh, which comes
//! by its name. Everything else is refused, because passing over it would trust someone else; servers
//! outside the mesh are `origination`'s.

use super::super::encode::{CERTIFICATE, ROOTS};
use super::super::pb::{core, is, is_ads, matcher, sockets};
use super::fields::Fields;
use super::origination::is_outside;
use super::{Fault, server_tls, unpack};
use crate::mesh::SpiffeId;
use crate::mesh::cluster::ClientTls;
use crate::mesh::listener::ServerTls;

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&DOWNSTREAM, &UPSTREAM, &COMMON, &VALIDATION];

pub(super) const DOWNSTREAM: Fields = Fields {
    message: "DownstreamTlsContext",
    // Certificates of the mesh have no responder, so there is nothing to staple to them.
    understood: &[
        (1, "common_tls_context"),
        (2, "require_client_certificate"),
        (8, "ocsp_staple_policy"),
    ],
    tuning: &[
        (4, "session_ticket_keys"),
        (5, "session_ticket_keys_sds_secret_config"),
        (6, "session_timeout"),
        (7, "disable_stateless_session_resumption"),
        (9, "full_scan_certs_on_sni_mismatch"),
        (10, "disable_stateful_session_resumption"),
        (11, "prefer_client_ciphers"),
    ],
    refused: &[(3, "require_sni")],
};
const UPSTREAM: Fields = Fields {
    message: "UpstreamTlsContext",
    understood: &[(1, "common_tls_context"), (2, "sni")],
    tuning: &[
        (3, "allow_renegotiation"),
        (4, "max_session_keys"),
        (5, "enforce_rsa_key_usage"),
    ],
    refused: &[(6, "auto_host_sni"), (7, "auto_sni_san_validation")],
};
const COMMON: Fields = Fields {
    message: "CommonTlsContext",
    // Versions, ciphers and curves are ours to choose: never less than TLS 1.3.
    understood: &[
        (1, "tls_params"),
        (4, "alpn_protocols"),
        (6, "tls_certificate_sds_secret_configs"),
        (8, "combined_validation_context"),
    ],
    tuning: &[(15, "key_log")],
    refused: &[
        (2, "tls_certificates"),
        (3, "validation_context"),
        (7, "validation_context_sds_secret_config"),
        (9, "tls_certificate_certificate_provider"),
        (10, "validation_context_certificate_provider"),
        (11, "tls_certificate_certificate_provider_instance"),
        (12, "validation_context_certificate_provider_instance"),
        (13, "custom_handshaker"),
        (14, "tls_certificate_provider_instance"),
        (16, "custom_tls_certificate_selector"),
    ],
};
const VALIDATION: Fields = Fields {
    message: "CertificateValidationContext",
    understood: &[
        (9, "match_subject_alt_names"),
        (15, "match_typed_subject_alt_names"),
    ],
    tuning: &[
        (11, "watched_directory"),
        (16, "max_verify_depth"),
        (18, "suppress_client_ca_list"),
    ],
    refused: &[
        (1, "trusted_ca"),
        (2, "verify_certificate_hash"),
        (3, "verify_certificate_spki"),
        (6, "require_signed_certificate_timestamp"),
        (7, "crl"),
        (8, "allow_expired_certificate"),
        (10, "trust_chain_verification"),
        (12, "custom_validator_config"),
        (13, "ca_certificate_provider_instance"),
        (14, "only_verify_leaf_cert_crl"),
        (17, "system_root_certs"),
    ],
};

pub(super) fn server(
    socket: &core::TransportSocket,
    ignored: &mut Vec<String>,
) -> Result<ServerTls, Fault> {
    let context: sockets::DownstreamTlsContext = config(socket)?;
    let common_context = context.common_tls_context.as_ref();
    let own = common_context.is_some_and(|common| {
        let named = &common.tls_certificate_sds_secret_configs;
        !common.tls_certificates.is_empty() || named.iter().any(|secret| secret.name != CERTIFICATE)
    });
    if own {
        return server_tls::decode(&context, ignored);
    }
    DOWNSTREAM.audit(&context, ignored)?;
    if !context
        .require_client_certificate
        .is_some_and(|required| required.value)
    {
        return Err(Fault::Unsupported {
            message: "DownstreamTlsContext",
            field: "require_client_certificate: false".to_owned(),
        });
    }
    let (alpn, principals) = common(context.common_tls_context, ignored)?;
    if !principals.is_empty() {
        return Err(Fault::Unsupported {
            message: "CertificateValidationContext",
            field: "match_typed_subject_alt_names of a listener".to_owned(),
        });
    }
    Ok(ServerTls { alpn, own: None })
}

/// The context of `socket`, and whether it is for servers outside the mesh.
pub(super) fn upstream(
    socket: &core::TransportSocket,
    ignored: &mut Vec<String>,
) -> Result<(sockets::UpstreamTlsContext, bool), Fault> {
    let context: sockets::UpstreamTlsContext = config(socket)?;
    UPSTREAM.audit(&context, ignored)?;
    let common = context.common_tls_context.as_ref();
    let outside = common.is_some_and(|common| is_outside(common, (CERTIFICATE, ROOTS)));
    Ok((context, outside))
}

/// `required` is left false.
pub(super) fn client(
    context: sockets::UpstreamTlsContext,
    ignored: &mut Vec<String>,
) -> Result<ClientTls, Fault> {
    let (_, principals) = common(context.common_tls_context, ignored)?;
    Ok(ClientTls {
        sni: context.sni,
        principals,
        required: false,
    })
}

/// Whether `socket` is none at all.
pub(super) fn is_raw(socket: Option<&core::TransportSocket>) -> bool {
    socket.is_none_or(|socket| {
        socket.name == super::super::encode::RAW
            || matches!(
                &socket.config_type,
                Some(core::transport_socket::ConfigType::TypedConfig(any))
                    if any.type_url.ends_with(".raw_buffer.v3.RawBuffer")
            )
    })
}

fn config<M: prost::Message + Default + prost::Name>(
    socket: &core::TransportSocket,
) -> Result<M, Fault> {
    match &socket.config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) if is::<M>(any) => unpack(any),
        _ => Err(Fault::Unsupported {
            message: "TransportSocket",
            field: socket.name.clone(),
        }),
    }
}

fn common(
    from: Option<sockets::CommonTlsContext>,
    ignored: &mut Vec<String>,
) -> Result<(Vec<String>, Vec<SpiffeId>), Fault> {
    use sockets::common_tls_context::ValidationContextType as Type;
    let from = from.unwrap_or_default();
    COMMON.audit(&from, ignored)?;
    let named = |secret: Option<&sockets::SdsSecretConfig>, wanted: &str, field: &str| match secret
    {
        Some(secret) if secret.name == wanted && has_source(secret) => Ok(()),
        found => Err(Fault::Unsupported {
            message: "CommonTlsContext",
            field: format!(
                "{field} {:?} (only {wanted:?} is known)",
                found.map(|secret| secret.name.as_str()).unwrap_or_default()
            ),
        }),
    };
    let certificates = &from.tls_certificate_sds_secret_configs;
    named(certificates.first(), CERTIFICATE, "certificate")?;
    if certificates.len() > 1 {
        return Err(Fault::Unsupported {
            message: "CommonTlsContext",
            field: "tls_certificate_sds_secret_configs with several".to_owned(),
        });
    }
    let Some(Type::CombinedValidationContext(combined)) = from.validation_context_type else {
        return Err(Fault::Invalid(
            "TLS without the roots of the mesh would trust anyone".to_owned(),
        ));
    };
    named(
        combined.validation_context_sds_secret_config.as_ref(),
        ROOTS,
        "roots",
    )?;
    let validation = combined.default_validation_context.unwrap_or_default();
    VALIDATION.audit(&validation, ignored)?;
    let typed = validation.match_typed_subject_alt_names.iter().map(|name| {
        (name.san_type == i32::from(sockets::subject_alt_name_matcher::SanType::Uri))
            .then_some(name.matcher.as_ref())
            .flatten()
    });
    #[expect(deprecated, reason = "older control planes still send it")]
    let untyped = validation.match_subject_alt_names.iter().map(Some);
    let principals = typed
        .chain(untyped)
        .map(principal)
        .collect::<Result<_, _>>()?;
    Ok((from.alpn_protocols, principals))
}

/// Istio has an agent of its own for secrets; what counts is that there is a source.
pub(super) fn has_source(secret: &sockets::SdsSecretConfig) -> bool {
    is_ads(secret.sds_config.as_ref()) || secret.sds_config.is_some()
}

fn principal(matcher: Option<&matcher::StringMatcher>) -> Result<SpiffeId, Fault> {
    use matcher::string_matcher::MatchPattern;
    match matcher.and_then(|matcher| matcher.match_pattern.as_ref()) {
        Some(MatchPattern::Exact(id)) => id
            .parse()
            .map_err(|error| Fault::Invalid(format!("principal: {error}"))),
        _ => Err(Fault::Unsupported {
            message: "CertificateValidationContext",
            field: "subject names other than exact URIs".to_owned(),
        }),
    }
}
