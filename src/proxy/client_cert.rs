//! What `x-forwarded-client-cert` says of a caller's certificate, in Envoy's words and order.

use std::fmt::Write as _;
use std::net::IpAddr;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::x509::X509Name;

use crate::mesh::http::ClientCertDetails;
use crate::telemetry::Shown;
use crate::tls::material::certificate_pem;

/// A certificate as PEM, escaped as in a URL.
pub(crate) fn text(certificate: &CertificateDer<'_>) -> String {
    escaped(&certificate_pem(certificate))
}

/// What logs tell of the first certificate of `chain`; nothing where it cannot be read.
pub(crate) fn shown(chain: &[CertificateDer<'_>]) -> Option<Shown> {
    let leaf = chain.first()?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
    let all = |pick: fn(&GeneralName<'_>) -> Option<String>| -> String {
        let picked: Vec<String> = names.iter().filter_map(pick).collect();
        picked.join(",")
    };
    let of_chain = |say: fn(&CertificateDer<'_>) -> String| -> String {
        let said: Vec<String> = chain.iter().map(say).collect();
        said.join(",")
    };
    let millis = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000);
    let sha1 = |leaf: &CertificateDer<'_>| {
        hex(aws_lc_rs::digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, leaf).as_ref())
    };
    let sha256 = |leaf: &CertificateDer<'_>| hex(aws_lc_rs::digest::digest(&SHA256, leaf).as_ref());
    Some(Shown {
        subject: subject(&parsed),
        issuer: name(parsed.issuer()),
        serial: serial(leaf),
        fingerprint_1: sha1(leaf),
        fingerprint_256: sha256(leaf),
        pem: text(leaf),
        begins: millis(parsed.validity().not_before.timestamp()),
        ends: millis(parsed.validity().not_after.timestamp()),
        uris: all(|name| match name {
            GeneralName::URI(name) => Some((*name).to_owned()),
            _ => None,
        }),
        dns: all(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        }),
        ips: all(|name| match name {
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        }),
        emails: all(|name| match name {
            GeneralName::RFC822Name(name) => Some((*name).to_owned()),
            _ => None,
        }),
        chain_fingerprints_1: of_chain(sha1),
        chain_fingerprints_256: of_chain(sha256),
        chain_serials: of_chain(serial),
    })
}

fn address(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let sixteen = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    let address = four.or_else(|_| sixteen()).ok()?;
    Some(address.to_string())
}

/// Without the bytes in front that say nothing.
fn serial(certificate: &CertificateDer<'_>) -> String {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.map_or_else(
        |_| String::new(),
        |(_, parsed)| {
            let bytes = parsed.raw_serial();
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            hex(bytes.get(zeros..).unwrap_or_default())
        },
    )
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits
        .map(|nibble| char::from_digit(u32::from(nibble), 16).unwrap_or('0'))
        .collect()
}

/// An element for the caller that showed `chain`; `by` is whom it called, `id` its own name, and either
/// may be empty.
pub(crate) fn element(
    chain: &[CertificateDer<'_>],
    (by, id): (&str, &str),
    details: ClientCertDetails,
) -> Option<Vec<u8>> {
    let leaf = chain.first()?;
    let digest = aws_lc_rs::digest::digest(&SHA256, leaf);
    // Who shows a certificate of its own has no name in the mesh to be called by.
    let mut text = match by {
        "" => "Hash=".to_owned(),
        by => format!("By={by};Hash="),
    };
    text.push_str(&hex(digest.as_ref()));
    // Only parsed where it is asked for what rustls has not told already.
    let parsed = (details.subject || details.dns || (details.uri && id.is_empty()))
        .then(|| x509_parser::parse_x509_certificate(leaf).ok())
        .flatten()
        .map(|(_, parsed)| parsed);
    if details.subject {
        let subject = parsed.as_ref().map(subject).unwrap_or_default();
        let _infallible = write!(text, ";Subject=\"{}\"", quoted(&subject));
    }
    if details.cert {
        let _infallible = write!(text, ";Cert=\"{}\"", escaped(&certificate_pem(leaf)));
    }
    if details.chain {
        let all: String = chain.iter().map(|one| certificate_pem(one)).collect();
        let _infallible = write!(text, ";Chain=\"{}\"", escaped(&all));
    }
    if details.uri && !id.is_empty() {
        let _infallible = write!(text, ";URI={id}");
    } else if details.uri {
        for name in parsed.as_ref().map(uris).unwrap_or_default() {
            let _infallible = write!(text, ";URI={name}");
        }
    }
    if details.dns {
        for name in parsed.as_ref().map(dns_names).unwrap_or_default() {
            let _infallible = write!(text, ";DNS={name}");
        }
    }
    Some(text.into_bytes())
}

fn subject(certificate: &X509Certificate<'_>) -> String {
    name(certificate.subject())
}

/// A name as RFC 2253 writes it: the last part first.
fn name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter()
        .map(|part| {
            let attributes: Vec<String> = part
                .iter()
                .map(|attribute| {
                    let oid = attribute.attr_type();
                    let name = oid2abbrev(oid, oid_registry())
                        .map_or_else(|_| oid.to_id_string(), str::to_owned);
                    format!("{name}={}", rfc2253(attribute.as_str().unwrap_or_default()))
                })
                .collect();
            attributes.join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

/// A value with what means something in a name escaped.
fn rfc2253(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, letter) in value.chars().enumerate() {
        let at_end = at == 0 || at == last;
        if matches!(letter, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (at == 0 && letter == '#')
            || (at_end && letter == ' ')
        {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        // What would begin another part, or another element, is no name.
        .filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._*".contains(&b)))
        .collect()
}

fn uris(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::URI(name) => Some((*name).to_owned()),
            _ => None,
        })
        // As above.
        .filter(|name| name.bytes().all(|b| b.is_ascii_graphic() && !b"\",;=".contains(&b)))
        .collect()
}

/// Fit for a quoted value of a field: a certificate is somebody else's text.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars().filter(|letter| !letter.is_control()) {
        if matches!(letter, '"' | '\\') {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

/// PEM in URL encoding, as Envoy does it.
fn escaped(pem: &str) -> String {
    let mut out = String::with_capacity(pem.len() * 11 / 10);
    for letter in pem.chars() {
        match letter {
            '\n' => out.push_str("%0A"),
            '\r' => out.push_str("%0D"),
            ' ' => out.push_str("%20"),
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn certificate() -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Acme, \"Inc\"");
        name.push(DnType::CommonName, "shop\r\nX: y");
        params.distinguished_name = name;
        params.subject_alt_names = vec![
            SanType::DnsName("shop.example".try_into().unwrap()),
            SanType::DnsName("a;URI=forged".try_into().unwrap()),
        ];
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn with(details: ClientCertDetails) -> String {
        let chain = [certificate()];
        let ids = ("spiffe://td/ns/a/sa/b", "spiffe://td/ns/c/sa/d");
        String::from_utf8(element(&chain, ids, details).unwrap()).unwrap()
    }

    #[test]
    fn only_what_is_asked_for_is_told() {
        let none = with(ClientCertDetails::default());
        assert!(none.starts_with("By=spiffe://td/ns/a/sa/b;Hash="), "{none}");
        assert_eq!(none.split(';').count(), 2);
        assert_eq!(none.rsplit('=').next().unwrap().len(), 64);
        let uri = with(ClientCertDetails {
            uri: true,
            ..ClientCertDetails::default()
        });
        assert!(uri.ends_with(";URI=spiffe://td/ns/c/sa/d"), "{uri}");
    }

    #[test]
    fn a_certificate_cannot_break_out_of_its_quotes() {
        let text = with(ClientCertDetails {
            subject: true,
            dns: true,
            ..ClientCertDetails::default()
        });
        assert!(
            text.contains(r#";Subject="CN=shopX: y,O=Acme\\, \\\"Inc\\\"";DNS=shop.example"#),
            "{text}"
        );
        assert!(!text.contains("forged"), "{text}");
    }

    #[test]
    fn logs_tell_what_openssl_says_of_a_certificate() {
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Acme");
        name.push(DnType::CommonName, "shop");
        params.distinguished_name = name;
        params.serial_number = Some(vec![0, 0x0a, 0xbc].into());
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        params.not_after = rcgen::date_time_ymd(2027, 1, 2);
        params.subject_alt_names = vec![
            SanType::URI("spiffe://td/ns/a/sa/b".try_into().unwrap()),
            SanType::DnsName("a.example".try_into().unwrap()),
            SanType::DnsName("b.example".try_into().unwrap()),
            SanType::IpAddress("192.0.2.1".parse().unwrap()),
            SanType::Rfc822Name("a@b.example".try_into().unwrap()),
        ];
        let key = KeyPair::generate().unwrap();
        let one = params.self_signed(&key).unwrap().der().clone();
        let shown = shown(&[one.clone(), certificate()]).unwrap();
        assert_eq!(shown.subject, "CN=shop,O=Acme");
        assert_eq!(shown.issuer, shown.subject);
        assert_eq!(shown.serial, "0abc");
        assert_eq!(shown.uris, "spiffe://td/ns/a/sa/b");
        assert_eq!(shown.dns, "a.example,b.example");
        assert_eq!(shown.ips, "192.0.2.1");
        assert_eq!(shown.emails, "a@b.example");
        assert_eq!(shown.begins, 1_767_312_000_000);
        assert_eq!(shown.ends, 1_798_848_000_000);
        assert_eq!(shown.fingerprint_1.len(), 40);
        assert_eq!(shown.fingerprint_256.len(), 64);
        assert!(
            shown
                .chain_fingerprints_256
                .starts_with(&format!("{},", shown.fingerprint_256))
        );
        assert!(shown.chain_serials.starts_with("0abc,"));
        assert!(shown.pem.starts_with("-----BEGIN%20CERTIFICATE-----%0A"));
        assert!(super::shown(&[]).is_none());
    }

    #[test]
    fn certificates_are_told_in_url_encoding() {
        let text = with(ClientCertDetails {
            cert: true,
            chain: true,
            ..ClientCertDetails::default()
        });
        assert!(
            text.contains(";Cert=\"-----BEGIN%20CERTIFICATE-----%0A"),
            "{text}"
        );
        assert!(
            text.contains(";Chain=\"-----BEGIN%20CERTIFICATE-----%0A"),
            "{text}"
        );
        assert!(!text.contains(['\n', ' ', '+']), "{text}");
    }
}
