//! Private keys under a passphrase: PKCS #8 `ENCRYPTED PRIVATE KEY` (RFC 8018, PBES2), as `openssl pkcs8` makes
//! and reads it.
//!
//! Owns the format and the choice of algorithms for what is written: PBKDF2 with HMAC-SHA-256 and AES-256-CBC,
//! which every openssl reads. Older ones (DES, RC2, PBES1) are refused.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::cipher::{
    AES_128, AES_256, Algorithm, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey,
    PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use super::material::pem_block;
use super::{Error, random};

/// What a key is sealed with. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// As it stands in a file or variable; the line's end is not part of it.
    pub fn new(text: Vec<u8>) -> Result<Self, Error> {
        let mut text = Zeroizing::new(text);
        while matches!(text.last(), Some(b'\n' | b'\r')) {
            text.pop();
        }
        if text.is_empty() || text.len() > 1024 {
            return Err(wrong("the passphrase must be of 1 to 1024 bytes"));
        }
        Ok(Self(text))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// The label of what is sealed.
const SEALED: &str = "ENCRYPTED PRIVATE KEY";
/// Rounds of PBKDF2 for what is written (OWASP's advice for HMAC-SHA-256).
const ROUNDS: u32 = 600_000;
/// Rounds that are worked through for what is read: a file must not keep us busy for ever.
const MOST_ROUNDS: u32 = 10_000_000;

const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
const HMAC_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x09];
const HMAC_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x0a];
const HMAC_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x0b];
const AES256_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a];
const AES128_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x02];

const SEQUENCE: u8 = 0x30;
const OBJECT: u8 = 0x06;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;

/// Whether `pem` holds a key that a passphrase is needed for.
pub fn is_sealed(pem: &str) -> bool {
    pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || pem.contains("Proc-Type: 4,ENCRYPTED")
}

/// The key in `pem`, opened with `passphrase` where it is sealed. PKCS #8, PKCS #1 and SEC 1.
pub(super) fn key_from_pem(
    pem: &str,
    passphrase: Option<&Passphrase>,
) -> Result<PrivateKeyDer<'static>, Error> {
    if !is_sealed(pem) {
        return PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| wrong("it holds no private key in PKCS #8, PKCS #1 or SEC 1"));
    }
    let passphrase = passphrase.ok_or_else(|| {
        wrong("it is under a passphrase: give that with --ca-passphrase-file or MESHCTL_CA_PASSPHRASE")
    })?;
    let sealed = sealed_block(pem)
        .ok_or_else(|| wrong("its encryption is of an old kind; `openssl pkcs8 -topk8 -v2 aes-256-cbc` makes a new one"))?;
    let opened = open(&sealed, passphrase)?;
    Ok(PrivateKeyDer::Pkcs8(opened.to_vec().into()))
}

/// `pkcs8` under `passphrase`, as PEM.
pub(super) fn seal(pkcs8: &[u8], passphrase: &Passphrase) -> Result<String, Error> {
    let salt: [u8; 16] = random()?;
    let iv: [u8; 16] = random()?;
    let failed = |_| wrong("the key cannot be sealed");
    let rounds = NonZeroU32::new(ROUNDS).ok_or_else(|| wrong("no rounds"))?;
    let mut key = Zeroizing::new([0; 32]);
    let mut body = Zeroizing::new(pkcs8.to_vec());
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        rounds,
        &salt,
        &passphrase.0,
        &mut *key,
    );
    let key = UnboundCipherKey::new(&AES_256, &*key).map_err(failed)?;
    let cipher = PaddedBlockEncryptingKey::cbc_pkcs7(key).map_err(failed)?;
    // What was plain stays in `body` only, which is wiped; the cipher pads and writes in place.
    body.reserve(16);
    cipher
        .less_safe_encrypt(&mut *body, EncryptionContext::Iv128(FixedLength::from(iv)))
        .map_err(failed)?;
    let kdf = [
        tlv(OCTETS, &salt),
        tlv(INTEGER, &whole(ROUNDS)),
        tlv(SEQUENCE, &[tlv(OBJECT, HMAC_SHA256), vec![5, 0]].concat()),
    ];
    let kdf = [tlv(OBJECT, PBKDF2), tlv(SEQUENCE, &kdf.concat())].concat();
    let cipher = [tlv(OBJECT, AES256_CBC), tlv(OCTETS, &iv)].concat();
    let parameters = [tlv(SEQUENCE, &kdf), tlv(SEQUENCE, &cipher)].concat();
    let how = [tlv(OBJECT, PBES2), tlv(SEQUENCE, &parameters)].concat();
    let all = [tlv(SEQUENCE, &how), tlv(OCTETS, &body)].concat();
    Ok(pem_block(SEALED, &tlv(SEQUENCE, &all)))
}

fn open(der: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>, Error> {
    let read = || {
        let mut all = Der(Der(der).take(SEQUENCE)?);
        let mut how = Der(all.take(SEQUENCE)?);
        let sealed = all.take(OCTETS)?;
        (how.take(OBJECT)? == PBES2).then_some(())?;
        let mut parameters = Der(how.take(SEQUENCE)?);
        let mut kdf = Der(parameters.take(SEQUENCE)?);
        let mut cipher = Der(parameters.take(SEQUENCE)?);
        (kdf.take(OBJECT)? == PBKDF2).then_some(())?;
        let mut kdf = Der(kdf.take(SEQUENCE)?);
        let salt = kdf.take(OCTETS)?;
        let rounds = number(kdf.take(INTEGER)?)?;
        // The length of the key follows from the cipher.
        let _length = kdf.take(INTEGER);
        let hash = match Der(kdf.take(SEQUENCE)?).take(OBJECT)? {
            HMAC_SHA256 => pbkdf2::PBKDF2_HMAC_SHA256,
            HMAC_SHA384 => pbkdf2::PBKDF2_HMAC_SHA384,
            HMAC_SHA512 => pbkdf2::PBKDF2_HMAC_SHA512,
            _ => return None,
        };
        let aes: (&'static Algorithm, usize) = match cipher.take(OBJECT)? {
            AES256_CBC => (&AES_256, 32),
            AES128_CBC => (&AES_128, 16),
            _ => return None,
        };
        let iv: [u8; 16] = cipher.take(OCTETS)?.try_into().ok()?;
        Some((sealed, (salt, rounds, hash), aes, iv))
    };
    let (sealed, (salt, rounds, hash), (algorithm, length), iv) = read().ok_or_else(|| {
        wrong("its encryption is not PBKDF2 (SHA-2) with AES-CBC; `openssl pkcs8 -topk8 -v2 aes-256-cbc` makes it so")
    })?;
    let rounds = NonZeroU32::new(rounds)
        .filter(|rounds| rounds.get() <= MOST_ROUNDS)
        .ok_or_else(|| wrong("it was sealed with too many rounds"))?;
    let failed = |_| wrong("the passphrase is not the one that it was sealed with");
    let mut key = Zeroizing::new(vec![0; length]);
    pbkdf2::derive(hash, rounds, salt, &passphrase.0, &mut key);
    let key = UnboundCipherKey::new(algorithm, &key).map_err(failed)?;
    let cipher = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(failed)?;
    let mut body = Zeroizing::new(sealed.to_vec());
    let context = DecryptionContext::Iv128(FixedLength::from(iv));
    let length = cipher.decrypt(&mut body, context).map_err(failed)?.len();
    body.truncate(length);
    // By chance one in 256 wrong passphrases pads well, and leaves rubbish.
    (Der(&body).take(SEQUENCE).is_some())
        .then_some(body)
        .ok_or_else(|| wrong("the passphrase is not the one that it was sealed with"))
}

fn sealed_block(pem: &str) -> Option<Vec<u8>> {
    // The PEM reader has no kind of its own for it.
    let body = pem.split("-----BEGIN ENCRYPTED PRIVATE KEY-----").nth(1)?;
    let body = body.split("-----END").next()?;
    let text: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).ok()
}

/// A reader of definite-length DER.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next element, when it is of `tag`; else nothing is taken.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_first()?;
        (*first == tag).then_some(())?;
        let (length, rest) = rest.split_first()?;
        let (length, rest) = match usize::from(*length) {
            short @ 0..=0x7f => (short, rest),
            long @ 0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(long - 0x80)?;
                let length = bytes
                    .iter()
                    .fold(0, |all, byte| all << 8 | usize::from(*byte));
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    (!bytes.is_empty() && bytes.len() <= 5 && bytes.first().is_some_and(|first| *first < 0x80))
        .then_some(())?;
    let all = bytes
        .iter()
        .fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    u32::try_from(all).ok()
}

/// The shortest big-endian form that reads as positive.
fn whole(number: u32) -> Vec<u8> {
    let bytes = [&[0][..], &number.to_be_bytes()].concat();
    let needed = |pair: &[u8]| !matches!(pair, [0, next] if *next < 0x80);
    let start = bytes.windows(2).position(needed).unwrap_or(bytes.len() - 1);
    bytes.get(start..).unwrap_or_default().to_vec()
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    let length = length.get(zeros..).unwrap_or_default();
    let mut out = vec![tag];
    match length {
        [] => out.push(0),
        [short @ 0..=0x7f] => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).unwrap_or(0));
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

fn wrong(what: &str) -> Error {
    Error::Pem {
        what: format!("the private key: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_key_opens_with_its_passphrase_alone() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_der();
        let sealed = seal(&key, &passphrase("open sesame\n")).unwrap();
        assert!(is_sealed(&sealed) && !sealed.contains("-----BEGIN PRIVATE KEY"));
        let opened = key_from_pem(&sealed, Some(&passphrase("open sesame"))).unwrap();
        assert_eq!(opened.secret_der(), key);
        let wrong = key_from_pem(&sealed, Some(&passphrase("open"))).unwrap_err();
        assert!(wrong.to_string().contains("not the one"), "{wrong}");
        let none = key_from_pem(&sealed, None).unwrap_err();
        assert!(none.to_string().contains("--ca-passphrase-file"), "{none}");
        assert!(!format!("{:?}", passphrase("open sesame")).contains("sesame"));
        assert!(Passphrase::new(b"\n".to_vec()).is_err());
    }

    #[test]
    fn long_elements_are_read() {
        for length in [127, 128, 255, 256, 65_535, 65_536] {
            let (content, mut made) = (vec![7; length], Vec::new());
            made.extend(tlv(4, &content));
            let mut der = Der(&made);
            assert_eq!(der.take(4), Some(&content[..]), "{length}");
        }
    }

    proptest! {
        #[test]
        fn numbers_are_read_as_they_were_written(value in any::<u32>()) {
            let bytes = whole(value);
            prop_assert_eq!(number(&bytes), Some(value));
            prop_assert!(bytes.len() == 1 || bytes[0] != 0 || bytes[1] >= 0x80);
        }

        #[test]
        fn any_bytes_are_refused_in_peace(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&bytes, &passphrase("x")).is_err());
        }

        #[test]
        fn what_is_written_is_read(tag in 1_u8..0x40, content in proptest::collection::vec(any::<u8>(), 0..300)) {
            let made = tlv(tag, &content);
            let mut der = Der(&made);
            prop_assert_eq!(der.take(tag), Some(&content[..]));
            prop_assert!(der.0.is_empty());
        }
    }
}
