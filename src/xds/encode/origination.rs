//! TLS to servers that are no peers of the mesh. Certificates are files of the proxy's machine.

use std::borrow::Cow;

use super::super::pb::{ads, any, core, matcher, sockets};
use super::mtls;
use crate::mesh::cluster::UpstreamProtocol;
use crate::mesh::origination::{
    Asks, KeyPair, NameKind, NameMatch, Named, Origination, Pem, Roots, Shown, Verify,
};
use crate::mesh::{Client, Cluster};

/// What `from` is secured with, as `client` is told. Of bytes Envoy knows no request that names a host,
/// so it is told the service's, which is what ours takes there.
pub(super) fn of(from: &Cluster, client: Client, bytes_only: bool) -> Option<Cow<'_, Origination>> {
    let how = from.origination.as_deref()?;
    let service = from.service.as_ref().map(|service| service.host.as_str());
    let named = service.filter(|host| !host.starts_with('*'));
    let (Some(host), Asks::Requested, Client::Envoy, true) = (named, &how.asks, client, bytes_only)
    else {
        return Some(Cow::Borrowed(how));
    };
    let mut told = how.clone();
    told.asks = Asks::Name(host.to_owned());
    if let Some(verify) = &mut told.verify
        && verify.names == Named::Asked
    {
        verify.names = Named::Any(vec![NameMatch::Exact(host.to_owned())]);
    }
    Some(Cow::Owned(told))
}

/// What of it depends on the request, which Envoy has beside the socket.
pub(super) fn by_request(from: &Origination) -> Option<core::UpstreamHttpProtocolOptions> {
    let named = |verify: &Verify| verify.names == Named::Asked;
    let options = core::UpstreamHttpProtocolOptions {
        auto_sni: from.asks == Asks::Requested,
        auto_san_validation: from.verify.as_ref().is_some_and(named),
        ..Default::default()
    };
    (options != core::UpstreamHttpProtocolOptions::default()).then_some(options)
}

pub(super) fn socket(
    from: &Origination,
    protocol: UpstreamProtocol,
    bytes_only: bool,
) -> core::TransportSocket {
    use sockets::common_tls_context::ValidationContextType as Type;
    let validation = from.verify.as_ref().map(validation).unwrap_or_default();
    mtls::socket(any(&sockets::UpstreamTlsContext {
        common_tls_context: Some(sockets::CommonTlsContext {
            // Envoy as a client stops at TLS 1.2 unless told.
            tls_params: Some(sockets::TlsParameters {
                tls_minimum_protocol_version: sockets::tls_parameters::TlsProtocol::TlSv12.into(),
                tls_maximum_protocol_version: sockets::tls_parameters::TlsProtocol::TlSv13.into(),
                ..Default::default()
            }),
            tls_certificates: match &from.certificate {
                Some(Shown::Pair(pair)) => vec![certificate(pair)],
                Some(Shown::Secret(_)) | None => Vec::new(),
            },
            tls_certificate_sds_secret_configs: from.secret().map(secret).into_iter().collect(),
            alpn_protocols: alpn(protocol, bytes_only),
            validation_context_type: Some(Type::ValidationContext(validation)),
            ..Default::default()
        }),
        sni: match &from.asks {
            Asks::Requested => String::new(),
            Asks::Name(name) => name.clone(),
        },
        ..Default::default()
    }))
}

/// What is offered must be what this cluster's pools speak.
fn alpn(protocol: UpstreamProtocol, bytes_only: bool) -> Vec<String> {
    let names: &[&str] = match protocol {
        _ if bytes_only => &[],
        UpstreamProtocol::Http2 => &["h2"],
        UpstreamProtocol::Http1 | UpstreamProtocol::Negotiated => &["http/1.1"],
        UpstreamProtocol::Downstream => &[],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn secret(name: &str) -> sockets::SdsSecretConfig {
    sockets::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ads()),
    }
}

fn certificate(from: &KeyPair) -> sockets::TlsCertificate {
    sockets::TlsCertificate {
        certificate_chain: Some(source(&from.chain)),
        private_key: Some(source(&from.key)),
        ..Default::default()
    }
}

fn validation(from: &Verify) -> sockets::CertificateValidationContext {
    let names: &[NameMatch] = match &from.names {
        Named::Asked => &[],
        Named::Any(names) => names,
    };
    sockets::CertificateValidationContext {
        trusted_ca: match &from.roots {
            Roots::System => None,
            Roots::Given(roots) => Some(source(roots)),
        },
        system_root_certs: (from.roots == Roots::System)
            .then(sockets::certificate_validation_context::SystemRootCerts::default),
        crl: from.revoked.as_ref().map(source),
        match_typed_subject_alt_names: names.iter().map(name).collect(),
        ..Default::default()
    }
}

fn name(from: &NameMatch) -> sockets::SubjectAltNameMatcher {
    use matcher::string_matcher::MatchPattern;
    use sockets::subject_alt_name_matcher::SanType;
    sockets::SubjectAltNameMatcher {
        san_type: match from.kind() {
            NameKind::Dns => SanType::Dns,
            NameKind::Uri => SanType::Uri,
            NameKind::Address(_) => SanType::IpAddress,
        }
        .into(),
        matcher: Some(matcher::StringMatcher {
            match_pattern: Some(match from {
                NameMatch::Exact(name) => MatchPattern::Exact(name.clone()),
                NameMatch::Prefix(begin) => MatchPattern::Prefix(begin.clone()),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn source(from: &Pem) -> core::DataSource {
    use core::data_source::Specifier;
    core::DataSource {
        specifier: Some(match from {
            Pem::File(path) => Specifier::Filename(path.clone()),
            Pem::Inline(text) => Specifier::InlineString(text.clone()),
        }),
        ..Default::default()
    }
}
