//! TLS to servers that are no peers of the mesh.
//!
//! What is not said to be believed is refused, unless somebody said that anybody is. Istio names files
//! as if they were secrets of its agent, `file-root:PATH` and `file-cert:CHAIN~KEY`; these are read as
//! the files they are. Any other name is that of a secret of the control plane.

use super::super::pb::{core, matcher, sockets, upstream};
use super::fields::Fields;
use super::{Fault, server_tls};
use crate::mesh::origination::{
    Asks, KeyPair, NameKind, NameMatch, Named, Origination, Pem, Roots, Shown, Verify,
};

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&COMMON, &CERTIFICATE, &VALIDATION, &BY_REQUEST];

const COMMON: Fields = Fields {
    message: "CommonTlsContext (to servers outside the mesh)",
    // Versions, ciphers and curves are ours to choose: never less than TLS 1.2.
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
const CERTIFICATE: Fields = Fields {
    message: "TlsCertificate (to servers outside the mesh)",
    understood: &[(1, "certificate_chain"), (2, "private_key")],
    tuning: &[
        (4, "ocsp_staple"),
        (5, "signed_certificate_timestamp"),
        (7, "watched_directory"),
    ],
    refused: &[(3, "password"), (6, "private_key_provider"), (8, "pkcs12")],
};
const VALIDATION: Fields = Fields {
    message: "CertificateValidationContext (to servers outside the mesh)",
    understood: &[
        (1, "trusted_ca"),
        (7, "crl"),
        (9, "match_subject_alt_names"),
        (15, "match_typed_subject_alt_names"),
        (17, "system_root_certs"),
    ],
    tuning: &[
        (11, "watched_directory"),
        (16, "max_verify_depth"),
        (18, "suppress_client_ca_list"),
    ],
    refused: &[
        (2, "verify_certificate_hash"),
        (3, "verify_certificate_spki"),
        (6, "require_signed_certificate_timestamp"),
        (8, "allow_expired_certificate"),
        (10, "trust_chain_verification"),
        (12, "custom_validator_config"),
        (13, "ca_certificate_provider_instance"),
        (14, "only_verify_leaf_cert_crl"),
    ],
};
const BY_REQUEST: Fields = Fields {
    message: "UpstreamHttpProtocolOptions",
    understood: &[(1, "auto_sni"), (2, "auto_san_validation")],
    tuning: &[],
    refused: &[(3, "override_auto_sni_header")],
};

/// Istio's prefixes of files that its agent reads.
const FILE_ROOT: &str = "file-root:";
const FILE_CERT: &str = "file-cert:";
/// Istio's word for the roots of the machine.
const SYSTEM: &str = "system";

/// Whether the socket's certificates are others than those of the mesh.
pub(super) fn is_outside(from: &sockets::CommonTlsContext, mesh: (&str, &str)) -> bool {
    use sockets::common_tls_context::ValidationContextType as Type;
    let certificates = &from.tls_certificate_sds_secret_configs;
    let own = certificates.iter().any(|secret| secret.name == mesh.0);
    let roots = match &from.validation_context_type {
        Some(Type::CombinedValidationContext(both)) => {
            both.validation_context_sds_secret_config.as_ref()
        }
        Some(Type::ValidationContextSdsSecretConfig(secret)) => Some(secret),
        _ => None,
    };
    let meshs_roots = roots.is_some_and(|secret| secret.name == mesh.1);
    let says_whom = from.validation_context_type.is_some();
    says_whom && !own && !meshs_roots
}

/// `http` says what of it depends on the request.
pub(super) fn decode(
    context: sockets::UpstreamTlsContext,
    http: Option<&upstream::HttpProtocolOptions>,
    ignored: &mut Vec<String>,
) -> Result<Origination, Fault> {
    let common = context.common_tls_context.unwrap_or_default();
    COMMON.audit(&common, ignored)?;
    let automatic = http.and_then(|http| http.upstream_http_protocol_options.clone());
    let automatic = automatic.unwrap_or_default();
    BY_REQUEST.audit(&automatic, ignored)?;
    if automatic.auto_san_validation && !automatic.auto_sni {
        return Err(Fault::Unsupported {
            message: "UpstreamHttpProtocolOptions",
            field: "auto_san_validation without auto_sni".to_owned(),
        });
    }
    let certificate = certificate(&common, ignored)?;
    let verify = verify(&common, automatic.auto_san_validation, ignored)?;
    Ok(Origination {
        asks: if automatic.auto_sni && context.sni.is_empty() {
            Asks::Requested
        } else {
            Asks::Name(context.sni)
        },
        verify,
        certificate,
    })
}

fn certificate(
    common: &sockets::CommonTlsContext,
    ignored: &mut Vec<String>,
) -> Result<Option<Shown>, Fault> {
    let unsupported = |field: &str| Fault::Unsupported {
        message: COMMON.message,
        field: field.to_owned(),
    };
    match (
        common.tls_certificates.as_slice(),
        common.tls_certificate_sds_secret_configs.as_slice(),
    ) {
        ([], []) => Ok(None),
        ([own], []) => {
            CERTIFICATE.audit(own, ignored)?;
            let chain = source(own.certificate_chain.as_ref(), "certificate_chain")?;
            let key = source(own.private_key.as_ref(), "private_key")?;
            // It would be shown wherever a configuration is.
            if matches!(key, Pem::Inline(_)) {
                return Err(unsupported(
                    "tls_certificates with a private_key that is no file",
                ));
            }
            Ok(Some(Shown::Pair(KeyPair { chain, key })))
        }
        ([], [secret]) => {
            let Some(pair) = secret.name.strip_prefix(FILE_CERT) else {
                return server_tls::named(secret).map(|name| Some(Shown::Secret(name)));
            };
            let (chain, key) = pair
                .split_once('~')
                .ok_or_else(|| unsupported(&format!("certificate {:?}", secret.name)))?;
            Ok(Some(Shown::Pair(KeyPair {
                chain: Pem::File(chain.to_owned()),
                key: Pem::File(key.to_owned()),
            })))
        }
        _ => Err(unsupported("several certificates")),
    }
}

fn verify(
    common: &sockets::CommonTlsContext,
    asked: bool,
    ignored: &mut Vec<String>,
) -> Result<Option<Verify>, Fault> {
    use sockets::common_tls_context::ValidationContextType as Type;
    let (context, secret) = match &common.validation_context_type {
        Some(Type::ValidationContext(context)) => (Some(context), None),
        Some(Type::ValidationContextSdsSecretConfig(secret)) => (None, Some(secret)),
        Some(Type::CombinedValidationContext(both)) => (
            both.default_validation_context.as_ref(),
            both.validation_context_sds_secret_config.as_ref(),
        ),
        _ => {
            return Err(Fault::Invalid(
                "TLS without a validation context would believe anyone".to_owned(),
            ));
        }
    };
    let context = context.cloned().unwrap_or_default();
    VALIDATION.audit(&context, ignored)?;
    let given = context
        .trusted_ca
        .as_ref()
        .map(|roots| source(Some(roots), "trusted_ca"))
        .transpose()?;
    let named = secret.map(roots).transpose()?;
    let system = context.system_root_certs.map(|_| Roots::System);
    let mut found = [given.map(Roots::Given), named, system]
        .into_iter()
        .flatten();
    let roots = found.next();
    if found.next().is_some() {
        return Err(Fault::Invalid(
            "there are several sources of roots".to_owned(),
        ));
    }
    let names = names(&context)?;
    let revoked = context.crl.as_ref();
    let revoked = revoked
        .map(|revoked| source(Some(revoked), "crl"))
        .transpose()?;
    let Some(roots) = roots else {
        // Envoy looks at names without looking at who says them; nobody means that.
        if names.is_empty() && revoked.is_none() && !asked {
            return Ok(None);
        }
        return Err(Fault::Invalid(
            "names in certificates count only with roots that issue them".to_owned(),
        ));
    };
    Ok(Some(Verify {
        roots,
        revoked,
        names: match (asked, names.is_empty()) {
            (true, true) => Named::Asked,
            // Envoy takes the request's name in place of the others.
            (true, false) => {
                return Err(Fault::Unsupported {
                    message: BY_REQUEST.message,
                    field: "auto_san_validation beside match_typed_subject_alt_names".to_owned(),
                });
            }
            (false, _) => Named::Any(names),
        },
    }))
}

fn roots(secret: &sockets::SdsSecretConfig) -> Result<Roots, Fault> {
    match secret.name.strip_prefix(FILE_ROOT) {
        Some(SYSTEM) => Ok(Roots::System),
        Some(path) => Ok(Roots::Given(Pem::File(path.to_owned()))),
        None => Err(Fault::Unsupported {
            message: COMMON.message,
            field: format!("roots {:?} (only files are known)", secret.name),
        }),
    }
}

fn names(context: &sockets::CertificateValidationContext) -> Result<Vec<NameMatch>, Fault> {
    use sockets::subject_alt_name_matcher::SanType;
    let unsupported = || Fault::Unsupported {
        message: VALIDATION.message,
        field: "subject names by other than exact or prefix of DNS names, URIs and addresses"
            .to_owned(),
    };
    let typed = context.match_typed_subject_alt_names.iter().map(|typed| {
        let name = name(typed.matcher.as_ref()).ok_or_else(unsupported)?;
        let wanted = match name.kind() {
            NameKind::Dns => SanType::Dns,
            NameKind::Uri => SanType::Uri,
            NameKind::Address(_) => SanType::IpAddress,
        };
        let same = typed.san_type == i32::from(wanted);
        same.then_some(name).ok_or_else(unsupported)
    });
    #[expect(deprecated, reason = "Istio still sends it")]
    let untyped = context.match_subject_alt_names.iter();
    let untyped = untyped.map(|matcher| name(Some(matcher)).ok_or_else(unsupported));
    typed.chain(untyped).collect()
}

fn name(from: Option<&matcher::StringMatcher>) -> Option<NameMatch> {
    use matcher::string_matcher::MatchPattern;
    let from = from.filter(|from| !from.ignore_case)?;
    match from.match_pattern.as_ref()? {
        MatchPattern::Exact(name) => Some(NameMatch::Exact(name.clone())),
        MatchPattern::Prefix(begin) => Some(NameMatch::Prefix(begin.clone())),
        _ => None,
    }
}

fn source(from: Option<&core::DataSource>, field: &str) -> Result<Pem, Fault> {
    use core::data_source::Specifier;
    let specifier = from.and_then(|from| from.specifier.as_ref());
    match specifier {
        Some(Specifier::Filename(path)) => Ok(Pem::File(path.clone())),
        Some(Specifier::InlineString(text)) => Ok(Pem::Inline(text.clone())),
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.clone())
            .map(Pem::Inline)
            .map_err(|_| Fault::Invalid(format!("{field} is no PEM"))),
        Some(Specifier::EnvironmentVariable(_)) | None => Err(Fault::Unsupported {
            message: "DataSource",
            field: format!("{field} that is neither a file nor inline"),
        }),
    }
}
