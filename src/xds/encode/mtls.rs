//! TLS contexts. Certificates and roots come by name over SDS: `default` and `ROOTCA`, as Istio's.

use super::super::pb::{ads, any, bool_value, core, matcher, sockets};
use super::server_tls;
use crate::mesh::SpiffeId;
use crate::mesh::cluster::ClientTls;
use crate::mesh::listener::ServerTls;

/// The workload's own certificate.
pub(crate) const CERTIFICATE: &str = "default";
/// The roots of the mesh.
pub const ROOTS: &str = "ROOTCA";
/// Envoy's name for its TLS.
pub(crate) const TLS: &str = "envoy.transport_sockets.tls";
/// Envoy's name for none.
pub(crate) const RAW: &str = "envoy.transport_sockets.raw_buffer";

pub(super) fn server(server: &ServerTls) -> core::TransportSocket {
    if let Some(own) = &server.own {
        return server_tls::encode(own, &server.alpn);
    }
    socket(any(&sockets::DownstreamTlsContext {
        common_tls_context: Some(common(server.alpn.clone(), &[])),
        require_client_certificate: bool_value(true),
        ..Default::default()
    }))
}

pub(super) fn client(client: &ClientTls, alpn: Vec<String>) -> core::TransportSocket {
    socket(any(&sockets::UpstreamTlsContext {
        common_tls_context: Some(common(alpn, &client.principals)),
        sni: client.sni.clone(),
        ..Default::default()
    }))
}

pub(super) fn raw() -> core::TransportSocket {
    core::TransportSocket {
        name: RAW.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(
            super::super::pb::Any {
                type_url:
                    "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
                        .to_owned(),
                value: Vec::new(),
            },
        )),
    }
}

pub(super) fn socket(config: super::super::pb::Any) -> core::TransportSocket {
    core::TransportSocket {
        name: TLS.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    }
}

fn common(alpn: Vec<String>, principals: &[SpiffeId]) -> sockets::CommonTlsContext {
    let secret = |name: &str| sockets::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ads()),
    };
    sockets::CommonTlsContext {
        // Envoy as a client stops at TLS 1.2 unless told.
        tls_params: Some(sockets::TlsParameters {
            tls_minimum_protocol_version: sockets::tls_parameters::TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: sockets::tls_parameters::TlsProtocol::TlSv13.into(),
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![secret(CERTIFICATE)],
        alpn_protocols: alpn,
        validation_context_type: Some(
            sockets::common_tls_context::ValidationContextType::CombinedValidationContext(
                sockets::common_tls_context::CombinedCertificateValidationContext {
                    default_validation_context: Some(sockets::CertificateValidationContext {
                        match_typed_subject_alt_names: principals.iter().map(principal).collect(),
                        ..Default::default()
                    }),
                    validation_context_sds_secret_config: Some(secret(ROOTS)),
                    ..Default::default()
                },
            ),
        ),
        ..Default::default()
    }
}

fn principal(id: &SpiffeId) -> sockets::SubjectAltNameMatcher {
    sockets::SubjectAltNameMatcher {
        san_type: sockets::subject_alt_name_matcher::SanType::Uri.into(),
        matcher: Some(matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(id.to_string())),
            ..Default::default()
        }),
        ..Default::default()
    }
}
