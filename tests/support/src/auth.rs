//! Who is asking: client certificates of our own authority, and tokens of service accounts.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

/// The audience of tokens for the API server itself, and the issuer of all tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A user as authorization sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Such as `system:serviceaccount:default:default`.
    pub name: String,
    /// Their groups.
    pub groups: Vec<String>,
    /// Of a service account.
    pub uid: String,
    /// Such as the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user by name and groups; every known user is also in `system:authenticated`.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        if name != "system:anonymous" {
            groups.push("system:authenticated".into());
        }
        Self {
            name: name.to_owned(),
            groups,
            uid: String::new(),
            extra: BTreeMap::new(),
        }
    }

    /// Who asks without any credential.
    pub fn anonymous() -> Self {
        Self::new("system:anonymous", &["system:unauthenticated"])
    }

    /// May do everything.
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", &["system:masters"])
    }

    /// As `UserInfo` in reviews.
    pub fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.clone().into();
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}

/// The cluster's authority and the key that signs tokens.
pub struct Keys {
    issuer: Issuer<'static, KeyPair>,
    ca: String,
    ca_der: CertificateDer<'static>,
    signer: EcdsaKeyPair,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// A certificate with its key, PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Keys {
    /// Makes new ones.
    pub fn new() -> Result<Self, Failed> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "kubernetes");
        let cert = params.self_signed(&key)?;
        Ok(Self {
            ca: cert.pem(),
            ca_der: cert.der().clone(),
            issuer: Issuer::new(params, key),
            signer: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?,
        })
    }

    /// The root, PEM.
    pub fn root(&self) -> &str {
        &self.ca
    }

    /// A client certificate for a user.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Pair, Failed> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        // A name holds one value per type here, and this type has two spellings.
        let spellings = [
            DnType::OrganizationName,
            DnType::CustomDnType(vec![2, 5, 4, 10]),
        ];
        if groups.len() > spellings.len() {
            return Err("a certificate of this crate holds two groups at most".into());
        }
        for (spelling, group) in spellings.into_iter().zip(groups) {
            params.distinguished_name.push(spelling, *group);
        }
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
        })
    }

    /// What serves TLS, and asks clients for a certificate without insisting.
    pub fn server(&self) -> Result<Arc<rustls::ServerConfig>, Failed> {
        let key = KeyPair::generate()?;
        let names = [
            "localhost",
            "127.0.0.1",
            "::1",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let params = CertificateParams::new(names.map(str::to_owned).to_vec())?;
        let cert = params.signed_by(&key, &self.issuer)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca_der.clone())?;
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            provider.clone(),
        )
        .allow_unauthenticated()
        .build()?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![cert.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Signs the claims of a token.
    pub fn token(&self, claims: &Value) -> Result<String, Failed> {
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": "1"});
        let text = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = self.signer.sign(&SystemRandom::new(), text.as_bytes())?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that we signed.
    pub fn claims(&self, token: &str) -> Option<Value> {
        let (text, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.signer.public_key().as_ref())
            .verify(text.as_bytes(), &signature)
            .ok()?;
        let (_, claims) = text.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    /// The public key, as `/openid/v1/jwks` shows it.
    pub fn jwks(&self) -> Value {
        let point = self.signer.public_key().as_ref();
        let x = URL_SAFE_NO_PAD.encode(point.get(1..33).unwrap_or_default());
        let y = URL_SAFE_NO_PAD.encode(point.get(33..65).unwrap_or_default());
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": "1", "crv": "P-256", "alg": "ES256", "x": x, "y": y}]})
    }
}

/// The user that a verified client certificate names: CN, and O for groups.
pub fn of_certificate(der: &[u8]) -> Option<User> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = cert.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<&str> = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .collect();
    Some(User::new(&name, &groups))
}

/// The claims of a service account's token.
pub fn claims(
    account: &Value,
    audiences: &[String],
    now: i64,
    seconds: i64,
    bound: Option<&Value>,
) -> Value {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let meta = &account["metadata"];
    let (namespace, name) = (text(&meta["namespace"]), text(&meta["name"]));
    let mut ours = json!({
        "namespace": namespace,
        "serviceaccount": {"name": name, "uid": meta["uid"]},
    });
    if let Some(pod) = bound {
        ours["pod"] = json!({"name": pod["name"], "uid": pod["uid"]});
    }
    json!({
        "aud": audiences, "exp": now + seconds, "iat": now, "nbf": now, "iss": ISSUER,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io": ours,
    })
}

/// The user of a service account's claims.
pub fn of_claims(claims: &Value) -> User {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let ours = &claims["kubernetes.io"];
    let namespace = text(&ours["namespace"]);
    let mut user = User::new(
        &text(&claims["sub"]),
        &[
            "system:serviceaccounts",
            &format!("system:serviceaccounts:{namespace}"),
        ],
    );
    user.uid = text(&ours["serviceaccount"]["uid"]);
    if ours["pod"].is_object() {
        for field in ["name", "uid"] {
            user.extra.insert(
                format!("authentication.kubernetes.io/pod-{field}"),
                vec![text(&ours["pod"][field])],
            );
        }
    }
    user
}
