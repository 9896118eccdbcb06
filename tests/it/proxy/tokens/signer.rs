//! Somebody who issues tokens, honest or not.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self as sig, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

/// Keys of all kinds.
pub(super) struct Signer {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ec384: EcdsaKeyPair,
    ec521: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

pub(super) fn part(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn curve(of: &'static sig::EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    EcdsaKeyPair::generate(of).unwrap()
}

impl Signer {
    pub(super) fn new() -> Self {
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            ec: curve(&sig::ECDSA_P256_SHA256_FIXED_SIGNING),
            ec384: curve(&sig::ECDSA_P384_SHA384_FIXED_SIGNING),
            ec521: curve(&sig::ECDSA_P521_SHA512_FIXED_SIGNING),
            ed: Ed25519KeyPair::generate().unwrap(),
        }
    }

    /// The public key for `alg`, which is its `kid` too.
    pub(super) fn key(&self, alg: &str) -> Value {
        let ec = |name: &str, pair: &EcdsaKeyPair| {
            let point = &pair.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kty": "EC", "crv": name, "x": part(x), "y": part(y)})
        };
        let mut key = match alg {
            "ES256" => ec("P-256", &self.ec),
            "ES384" => ec("P-384", &self.ec384),
            "ES512" => ec("P-521", &self.ec521),
            "EdDSA" => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": part(self.ed.public_key())})
            }
            _ => {
                // RSAPublicKey of 2048 bits: what stands before the modulus is always as long.
                let der = self.rsa.public_key().as_ref();
                json!({"kty": "RSA", "n": part(&der[9..265]), "e": "AQAB"})
            }
        };
        key["kid"] = alg.into();
        key["use"] = "sig".into();
        key
    }

    /// All of them.
    pub(super) fn keys(&self) -> String {
        let names = ["RS256", "ES256", "ES384", "ES512", "EdDSA"];
        let mut keys: Vec<Value> = names.iter().map(|alg| self.key(alg)).collect();
        for key in &mut keys {
            // One RSA key is for all its algorithms.
            if key["kty"] == "RSA" {
                key["kid"] = "RSA".into();
            }
        }
        json!({"keys": keys}).to_string()
    }

    pub(super) fn signature(&self, alg: &str, text: &str) -> Vec<u8> {
        let random = SystemRandom::new();
        let text = text.as_bytes();
        let rsa = |how: &'static dyn RsaEncoding| {
            let mut out = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(how, &random, text, &mut out).unwrap();
            out
        };
        let ec = |pair: &EcdsaKeyPair| pair.sign(&random, text).unwrap().as_ref().to_vec();
        match alg {
            "RS256" => rsa(&sig::RSA_PKCS1_SHA256),
            "RS384" => rsa(&sig::RSA_PKCS1_SHA384),
            "RS512" => rsa(&sig::RSA_PKCS1_SHA512),
            "PS256" => rsa(&sig::RSA_PSS_SHA256),
            "PS384" => rsa(&sig::RSA_PSS_SHA384),
            "PS512" => rsa(&sig::RSA_PSS_SHA512),
            "ES256" => ec(&self.ec),
            "ES384" => ec(&self.ec384),
            "ES512" => ec(&self.ec521),
            "EdDSA" => self.ed.sign(text).as_ref().to_vec(),
            other => panic!("{other}"),
        }
    }

    /// A token with this header and this payload, whatever they say, signed as `alg`.
    pub(super) fn text(&self, alg: &str, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", part(header), part(payload));
        let signature = part(self.signature(alg, &signed));
        format!("{signed}.{signature}")
    }

    /// An honest token.
    pub(super) fn token(&self, alg: &str, claims: &Value) -> String {
        self.with(alg, json!({}), claims)
    }

    /// One whose header says more.
    pub(super) fn with(&self, alg: &str, more: Value, claims: &Value) -> String {
        let rsa = alg.starts_with("RS") || alg.starts_with("PS");
        let kid = if rsa { "RSA" } else { alg };
        let mut header: Map<String, Value> = Map::new();
        header.insert("alg".to_owned(), alg.into());
        header.insert("kid".to_owned(), kid.into());
        if let Value::Object(more) = more {
            header.extend(more);
        }
        self.text(alg, &Value::Object(header).to_string(), &claims.to_string())
    }
}
