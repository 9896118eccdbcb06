//! Project Wycheproof's vectors, which hold what others got wrong, through our own key sets.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use wycheproof::TestResult;
use wycheproof::{ecdsa, eddsa, rsa_pkcs1_verify as pkcs1, rsa_pss_verify as pss};

use super::{Algorithm, Keys};

fn part(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// How many vectors held: good and bad.
#[derive(Default, PartialEq, Debug)]
struct Held {
    good: usize,
    bad: usize,
}

/// A vector: its number, what is signed, the signature, what is expected.
type Vector<'v> = (usize, &'v [u8], &'v [u8], TestResult);

impl Held {
    fn judge<'v>(
        &mut self,
        key: &Value,
        algorithm: Algorithm,
        vectors: impl Iterator<Item = Vector<'v>>,
    ) {
        let keys = Keys::parse(&json!({"keys": [key]}).to_string()).unwrap();
        assert!(keys.skipped.is_empty(), "{:?}: {key}", keys.skipped);
        for (number, signed, signature, expected) in vectors {
            let verified = keys
                .verify_signature((algorithm, None), signed, signature)
                .is_ok();
            match expected {
                TestResult::Valid => self.good += 1,
                TestResult::Invalid => self.bad += 1,
                // Fine for signatures, and whether for tokens is not asked here.
                TestResult::Acceptable => continue,
            }
            let name = algorithm.name();
            assert_eq!(verified, expected == TestResult::Valid, "{name} {number}");
        }
    }
}

#[test]
fn ecdsa_signatures() {
    use ecdsa::TestName as Name;
    for (name, algorithm, curve) in [
        (Name::EcdsaSecp256r1Sha256P1363, Algorithm::Es256, "P-256"),
        (Name::EcdsaSecp384r1Sha384P1363, Algorithm::Es384, "P-384"),
        (Name::EcdsaSecp521r1Sha512P1363, Algorithm::Es512, "P-521"),
    ] {
        let set = ecdsa::TestSet::load(name).unwrap();
        let mut held = Held::default();
        for group in &set.test_groups {
            let point: &[u8] = group.key.key.as_ref();
            let (x, y) = point[1..].split_at(point.len() / 2);
            let key = json!({"kty": "EC", "crv": curve, "x": part(x), "y": part(y)});
            let tests = group.tests.iter();
            let tests = tests.map(|of| (of.tc_id, of.msg.as_ref(), of.sig.as_ref(), of.result));
            held.judge(&key, algorithm, tests);
        }
        assert!(held.good > 50 && held.bad > 50, "{curve}: {held:?}");
    }
}

#[test]
fn eddsa_signatures() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let mut held = Held::default();
    for group in &set.test_groups {
        let key = json!({"kty": "OKP", "crv": "Ed25519", "x": part(&group.key.pk)});
        let tests = group.tests.iter();
        let tests = tests.map(|of| (of.tc_id, of.msg.as_ref(), of.sig.as_ref(), of.result));
        held.judge(&key, Algorithm::EdDsa, tests);
    }
    assert!(held.good > 50 && held.bad > 50, "{held:?}");
}

#[test]
fn rsa_signatures() {
    use Algorithm::{Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
    use pkcs1::TestName as Name;
    use pss::TestName as Salted;
    let mut held = Held::default();
    for (name, algorithm) in [
        (Name::Rsa2048Sha256, Rs256),
        (Name::Rsa2048Sha384, Rs384),
        (Name::Rsa2048Sha512, Rs512),
        (Name::Rsa3072Sha256, Rs256),
        (Name::Rsa3072Sha384, Rs384),
        (Name::Rsa3072Sha512, Rs512),
        (Name::Rsa4096Sha256, Rs256),
        (Name::Rsa4096Sha384, Rs384),
        (Name::Rsa4096Sha512, Rs512),
        (Name::Rsa8192Sha256, Rs256),
    ] {
        let set = pkcs1::TestSet::load(name).unwrap();
        for group in &set.test_groups {
            let key = json!({"kty": "RSA", "n": part(&group.key.n), "e": part(&group.key.e)});
            let tests = group.tests.iter();
            let tests = tests.map(|of| (of.tc_id, of.msg.as_ref(), of.sig.as_ref(), of.result));
            held.judge(&key, algorithm, tests);
        }
    }
    assert!(held.good > 50 && held.bad > 500, "{held:?}");
    // RFC 7518, 3.5: the salt is as long as the hash.
    let mut held = Held::default();
    for (name, algorithm) in [
        (Salted::RsaPss2048Sha256Mgf1SaltLen32, Ps256),
        (Salted::RsaPss2048Sha384Mgf1SaltLen48, Ps384),
        (Salted::RsaPss3072Sha256Mgf1SaltLen32, Ps256),
        (Salted::RsaPss4096Sha256Mgf1SaltLen32, Ps256),
        (Salted::RsaPss4096Sha384Mgf1SaltLen48, Ps384),
        (Salted::RsaPss4096Sha512Mgf1SaltLen64, Ps512),
    ] {
        let set = pss::TestSet::load(name).unwrap();
        for group in &set.test_groups {
            let key = json!({"kty": "RSA", "n": part(&group.key.n), "e": part(&group.key.e)});
            let tests = group.tests.iter();
            let tests = tests.map(|of| (of.tc_id, of.msg.as_ref(), of.sig.as_ref(), of.result));
            held.judge(&key, algorithm, tests);
        }
    }
    assert!(held.good > 50 && held.bad > 100, "{held:?}");
    // Another salt is another algorithm.
    for (name, algorithm) in [
        (Salted::RsaPss2048Sha256Mgf1SaltLen0, Ps256),
        (Salted::RsaPss4096Sha512Mgf1SaltLen32, Ps512),
    ] {
        let set = pss::TestSet::load(name).unwrap();
        for group in &set.test_groups {
            let key = json!({"kty": "RSA", "n": part(&group.key.n), "e": part(&group.key.e)});
            let keys = Keys::parse(&json!({"keys": [key]}).to_string()).unwrap();
            // What is bad there may be so for a salt of ours.
            let valid = group
                .tests
                .iter()
                .filter(|of| of.result == TestResult::Valid);
            for of in valid {
                let claims = (algorithm, None);
                let verified = keys.verify_signature(claims, of.msg.as_ref(), of.sig.as_ref());
                assert!(verified.is_err(), "{}", of.tc_id);
            }
        }
    }
}
