//! Messages of `istio.v1.auth.IstioCertificateService` (Istio API, `security/v1alpha1/ca.proto`).

use envoy_types::pb::google::protobuf::Struct;

/// The service's full name.
pub const SERVICE: &str = "istio.v1.auth.IstioCertificateService";
/// The path of its one method.
pub const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// Optional request header of ours: the SPIFFE id that the caller expects, so that a token for
/// another identity is refused before it is spent.
pub const WANTED_IDENTITY: &str = "meshctl-identity";

/// Metadata of Istio's: for whom a trusted caller asks in another's place.
pub const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

/// Asks for a certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateRequest {
    /// PKCS #10 in PEM.
    #[prost(string, tag = "1")]
    pub csr: String,
    /// Wanted life in seconds; 0 leaves it to the authority.
    #[prost(int64, tag = "3")]
    pub validity_duration: i64,
    /// Wishes such as `CertSigner` or `ImpersonatedIdentity`.
    #[prost(message, optional, tag = "4")]
    pub metadata: Option<Struct>,
}

/// The certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CertificateResponse {
    /// PEM, leaf first, root last.
    #[prost(string, repeated, tag = "1")]
    pub cert_chain: Vec<String>,
}
