use super::super::{Request, peer_id};
use super::*;
use crate::tls::material::Pems;
use proptest::prelude::*;

const NOW: UnixMillis = 1_800_000_000_500;
const HOUR: Duration = Duration::from_hours(1);

fn cart() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "cart")
}

#[test]
fn names_come_from_the_proof_and_not_from_the_request() {
    let ca = Authority::generate("cluster.local", NOW).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["admin.example.com".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI(
        "spiffe://cluster.local/ns/kube-system/sa/admin"
            .try_into()
            .unwrap(),
    ));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    let issued = ca.sign(&csr, &cart(), HOUR, NOW).unwrap();
    let leaf = certificates(issued.chain_pem.first().unwrap()).unwrap();
    assert_eq!(peer_id(&leaf), Some(cart()));
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf[0]).unwrap();
    assert!(!parsed.is_ca());
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert!(!parsed.key_usage().unwrap().unwrap().value.key_cert_sign());
}

#[test]
fn lives_are_bounded_and_begin_in_the_past() {
    let ca = Authority::generate("cluster.local", NOW).unwrap();
    let request = Request::new(&cart()).unwrap();
    let life = |lifetime, now| {
        let issued = ca.sign(request.pem(), &cart(), lifetime, now).unwrap();
        let leaf = certificates(&issued.chain_pem[0]).unwrap();
        let (not_before, not_after) = validity(&leaf[0]).unwrap();
        assert_eq!(not_before, (now - 120_000) / 1000 * 1000);
        assert_eq!(not_after, issued.not_after);
        not_after - now / 1000 * 1000
    };
    assert_eq!(life(Duration::ZERO, NOW), 86_400_000);
    assert_eq!(life(Duration::from_secs(10), NOW), 10_000);
    assert_eq!(life(HOUR * 24 * 365, NOW), 90 * 86_400_000);
    assert_eq!(life(HOUR * 24 * 365, ca.not_after() - 60_000), 60_000);
    assert!(
        ca.sign(request.pem(), &cart(), HOUR, ca.not_after())
            .is_err()
    );
}

#[test]
fn serials_differ_and_chains_end_in_the_root() {
    let ca = Authority::generate("cluster.local", NOW).unwrap();
    let request = Request::new(&cart()).unwrap();
    let one = ca.sign(request.pem(), &cart(), HOUR, NOW).unwrap();
    let two = ca.sign(request.pem(), &cart(), HOUR, NOW).unwrap();
    assert_ne!(one.serial, two.serial);
    assert_eq!(one.serial.len(), 32);
    assert_eq!(one.chain_pem.last(), Some(&ca.root_pem()));
    let material = request.material(&one.chain_pem, &[]).unwrap();
    material.check(NOW).unwrap();
    assert_eq!(material.chain.len(), 1);
}

#[test]
fn a_tampered_request_is_refused() {
    let ca = Authority::generate("cluster.local", NOW).unwrap();
    let request = Request::new(&cart()).unwrap();
    let mut der = certificates(&request.pem().replace(" REQUEST", "")).unwrap()[0].to_vec();
    // A byte of the public key.
    let at = der.len() / 3;
    der[at] ^= 1;
    let pem =
        certificate_pem(&CertificateDer::from(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST");
    assert!(matches!(
        ca.sign(&pem, &cart(), HOUR, NOW),
        Err(Error::Request { .. })
    ));
    assert!(ca.sign(&"x".repeat(20_000), &cart(), HOUR, NOW).is_err());
}

#[test]
fn an_authority_survives_its_pem_and_refuses_a_foreign_key() {
    let ca = Authority::generate("cluster.local", NOW).unwrap();
    let (cert, key) = ca.to_pem();
    let again = Authority::from_pem("cluster.local", &cert, &key).unwrap();
    assert_eq!(again.root_fingerprint(), ca.root_fingerprint());
    let issued = again.issue_pair(&cart(), HOUR, NOW).unwrap();
    let under_old = Material::new(
        issued.chain,
        issued.key.clone_key(),
        vec![ca.root().clone()],
    )
    .unwrap();
    under_old.check(NOW).unwrap();
    let (_, other) = Authority::generate("cluster.local", NOW).unwrap().to_pem();
    assert!(Authority::from_pem("cluster.local", &cert, &other).is_err());
    let leaf: Pems = ca.issue_pair(&cart(), HOUR, NOW).unwrap().to_pems();
    assert!(Authority::from_pem("cluster.local", &leaf.chain, &leaf.key).is_err());
    assert!(!format!("{ca:?}").contains("PRIVATE"));
    assert!(Authority::generate("not a domain", NOW).is_err());
}

proptest! {
    #[test]
    fn any_text_for_a_request_is_refused_without_panic(body in "[A-Za-z0-9+/=\n]{0,400}") {
        let ca = Authority::generate("cluster.local", NOW).unwrap();
        let pem = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"
        );
        prop_assert!(ca.sign(&pem, &cart(), HOUR, NOW).is_err());
        prop_assert!(ca.sign(&body, &cart(), HOUR, NOW).is_err());
    }

    #[test]
    fn damaged_requests_are_read_without_panic(at in 0_usize..400, bit in 0_u8..8) {
        let ca = Authority::generate("cluster.local", NOW).unwrap();
        let request = Request::new(&cart()).unwrap();
        let mut der = certificates(&request.pem().replace(" REQUEST", "")).unwrap()[0].to_vec();
        let at = at % der.len();
        der[at] ^= 1 << bit;
        let pem = certificate_pem(&CertificateDer::from(der))
            .replace("CERTIFICATE", "CERTIFICATE REQUEST");
        // Some bits outside the signed part carry no meaning; the name stays the proven one.
        if let Ok(issued) = ca.sign(&pem, &cart(), HOUR, NOW) {
            let leaf = certificates(&issued.chain_pem[0]).unwrap();
            prop_assert_eq!(peer_id(&leaf), Some(cart()));
        }
    }
}
