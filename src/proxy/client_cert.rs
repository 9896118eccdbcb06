//! What `x-forwarded-client-cert` says of a caller's certificate, in Envoy's words and order.

use std::fmt::Write as _;

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};

use crate::mesh::http::ClientCertDetails;
use crate::tls::material::certificate_pem;

/// A certificate as PEM, escaped as in a URL.
pub(crate) fn text(certificate: &CertificateDer<'_>) -> String {
    escaped(&certificate_pem(certificate))
}

/// An element for the caller that showed `chain`; `by` is whom it called, `id` its own name, and either
/// may be empty.
pub(crate) fn element(
    chain: &[CertificateDer<'_>],
    (by, id): (&str, &str),
    details: ClientCertDetails,
) -> Option<Vec<u8>> {
    let leaf = chain.first()?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
    // Who shows a certificate of its own has no name in the mesh to be called by.
    let mut text = match by {
        "" => "Hash=".to_owned(),
        by => format!("By={by};Hash="),
    };
    for byte in digest.as_ref() {
        for nibble in [byte >> 4, byte & 0xf] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
    }
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

/// The subject as RFC 2253 writes it: the last part first.
fn subject(certificate: &X509Certificate<'_>) -> String {
    let mut parts: Vec<String> = certificate
        .subject()
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
