use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::super::{Authority, Request};
use super::*;

const NOW: UnixMillis = 1_800_000_000_000;
const HOUR: Duration = Duration::from_hours(1);

fn cart() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "cart")
}

/// A root by rcgen, so that leaves can be made that our authority refuses to make.
struct Root {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

fn root() -> Root {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "a root");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let der = params.self_signed(&key).unwrap().der().clone();
    Root {
        issuer: Issuer::new(params, key),
        der,
    }
}

/// What a good signer would put in.
fn good() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(cart().to_string().try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(NOW - 60_000);
    params.not_after = epoch + Duration::from_millis(NOW + 3_600_000);
    params
}

fn judged(change: impl FnOnce(&mut CertificateParams)) -> Result<Answer, Unfit> {
    let (root, key) = (root(), KeyPair::generate().unwrap());
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let mut params = good();
    change(&mut params);
    let leaf = params.signed_by(&key, &root.issuer).unwrap().pem();
    let csr = csr.pem().unwrap();
    let id = cart();
    let dns = ["cart.shop".to_owned()];
    let asked = Asked {
        csr: &csr,
        id: &id,
        dns: &dns,
        ips: &[],
        lifetime: HOUR,
    };
    let root_pem = certificate_pem(&root.der);
    Answer::judge(
        &[leaf, root_pem],
        &asked,
        (&[root.der], &Revoked::default()),
        NOW,
    )
}

#[test]
fn what_was_asked_for_is_handed_out_with_its_root_last() {
    let answer = judged(|_| {}).unwrap();
    assert_eq!((answer.chain.len(), answer.not_after), (1, NOW + 3_600_000));
    let issued = answer.issued();
    assert_eq!(issued.chain_pem.len(), 2);
    assert_eq!(
        issued.chain_pem.last(),
        Some(&certificate_pem(&answer.root))
    );
    // Names that were asked for may stand beside the identity.
    let name = SanType::DnsName("cart.shop".try_into().unwrap());
    let answer = judged(|params| params.subject_alt_names.push(name)).unwrap();
    assert_eq!(answer.names, ["cart.shop"]);
}

#[test]
fn an_authority_of_ours_answers_what_is_asked() {
    let ca = Authority::generate("cluster.local", NOW).unwrap();
    let request = Request::new(&cart()).unwrap();
    let issued = ca.sign(request.pem(), &cart(), HOUR, NOW).unwrap();
    let id = cart();
    let asked = Asked {
        csr: request.pem(),
        id: &id,
        dns: &[],
        ips: &[],
        lifetime: HOUR,
    };
    let (roots, revoked) = (ca.roots(), Revoked::default());
    let trust = (roots.as_slice(), &revoked);
    let answer = Answer::judge(&issued.chain_pem, &asked, trust, NOW).unwrap();
    assert_eq!(answer.issued(), issued);
    // The same for another key, or for another caller, is refused.
    let other = Request::new(&cart()).unwrap();
    let wrong = Answer::judge(
        &issued.chain_pem,
        &Asked {
            csr: other.pem(),
            ..asked
        },
        trust,
        NOW,
    );
    assert_eq!(wrong.unwrap_err(), Unfit::OtherKey);
    let pay = SpiffeId::new("cluster.local", "shop", "pay");
    let wrong = Answer::judge(&issued.chain_pem, &Asked { id: &pay, ..asked }, trust, NOW);
    assert!(matches!(wrong, Err(Unfit::OtherNames { .. })), "{wrong:?}");
}

#[test]
fn names_powers_and_times_beyond_what_was_asked_are_refused() {
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let name = |text: &str| SanType::DnsName(text.try_into().unwrap());
    let names = |add: SanType| judged(|params| params.subject_alt_names.push(add)).unwrap_err();
    for extra in [
        uri("spiffe://cluster.local/ns/shop/sa/pay"),
        uri(&cart().to_string()),
        uri("https://cart.shop"),
        name("pay.shop"),
        SanType::IpAddress(IpAddr::from([127_u8, 0, 0, 1])),
        SanType::Rfc822Name("root@cart.shop".try_into().unwrap()),
    ] {
        let said = names(extra.clone());
        assert!(
            matches!(said, Unfit::OtherNames { .. }),
            "{extra:?}: {said}"
        );
    }
    let said = judged(|params| params.subject_alt_names = vec![name("cart.shop")]);
    assert!(matches!(said, Err(Unfit::OtherNames { .. })));
    assert!(matches!(
        judged(|params| params.subject_alt_names.clear()),
        Err(Unfit::OtherNames { .. })
    ));

    let authority = judged(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(matches!(authority, Err(Unfit::TooMuch(_))));
    let signs = judged(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign));
    assert!(matches!(signs, Err(Unfit::TooMuch(_))));
    let more = judged(|params| {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::Any);
    });
    assert!(matches!(more, Err(Unfit::TooMuch(_))));
    let less = judged(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    assert!(matches!(less, Err(Unfit::TooLittle(_))));
    let less = judged(|params| drop(params.extended_key_usages.pop()));
    assert!(matches!(less, Err(Unfit::TooLittle(_))));

    let at = |millis| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(millis);
    let over = judged(|params| params.not_after = at(NOW - 1_000));
    assert!(matches!(over, Err(Unfit::NotNow(..))));
    let early = judged(|params| params.not_before = at(NOW + 60_000));
    assert!(matches!(early, Err(Unfit::NotNow(..))));
    let long = judged(|params| params.not_after = at(NOW + 2 * 3_600_000));
    assert!(matches!(long, Err(Unfit::TooLong(_))));
}

#[test]
fn answers_of_other_roots_and_of_nothing_are_refused() {
    let (ca, foreign) = (
        Authority::generate("cluster.local", NOW).unwrap(),
        Authority::generate("cluster.local", NOW).unwrap(),
    );
    let (request, id) = (Request::new(&cart()).unwrap(), cart());
    let asked = Asked {
        csr: request.pem(),
        id: &id,
        dns: &[],
        ips: &[],
        lifetime: HOUR,
    };
    let roots = ca.roots();
    let judge = |texts: &[String]| Answer::judge(texts, &asked, (&roots, &Revoked::default()), NOW);
    let issued = foreign.sign(request.pem(), &id, HOUR, NOW).unwrap();
    assert!(matches!(judge(&issued.chain_pem), Err(Unfit::Foreign(_))));
    assert_eq!(judge(&[]).unwrap_err(), Unfit::Empty);
    assert!(matches!(
        judge(&["no PEM".to_owned()]),
        Err(Unfit::Unreadable(_))
    ));
    let good = ca.sign(request.pem(), &id, HOUR, NOW).unwrap();
    let many = vec![good.chain_pem.concat(); MOST_CERTIFICATES];
    assert_eq!(judge(&many).unwrap_err(), Unfit::TooMany);
    // A list of the signer is heeded here, too.
    let list = ca
        .revocation_list(&[(good.serial.clone(), NOW)], 1, NOW)
        .unwrap();
    let revoked = Revoked::from_pem(&list).unwrap();
    let said = Answer::judge(&good.chain_pem, &asked, (&roots, &revoked), NOW);
    assert!(matches!(said, Err(Unfit::Foreign(_))), "{said:?}");
}
