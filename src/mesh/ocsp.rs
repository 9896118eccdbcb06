//! What an OCSP response says (RFC 6960): read strictly, and held against the certificate that it is to be
//! stapled to.
//!
//! That it was signed by somebody with a right to is for the callers to judge to whom it is shown.

/// Larger responses are none.
pub const MOST_BYTES: usize = 64 << 10;
/// Clocks may differ by this much, in milliseconds.
const SKEW_MS: u64 = 5 * 60 * 1_000;

/// Why a response is not stapled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Not in the form of RFC 6960.
    #[error("it is no OCSP response in DER")]
    Malformed,
    /// The responder says that it could not answer.
    #[error("its responder did not answer the question")]
    Unsuccessful,
    /// It tells of several certificates, or none.
    #[error("it does not tell of exactly one certificate")]
    NotOne,
    /// It tells of another certificate.
    #[error("it is for another certificate")]
    OtherCertificate,
    /// It does not say that the certificate is good.
    #[error("it does not say that the certificate is good")]
    NotGood,
    /// It does not say until when it holds.
    #[error("it does not say until when it holds")]
    Endless,
}

/// How an issuer is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameHash {
    /// SHA-1, as most responders have it.
    Sha1,
    /// SHA-256.
    Sha256,
    /// Something else, which is not held against anything.
    Other,
}

/// A good answer for one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staple {
    /// Number of the certificate, as its DER has it.
    pub serial: Vec<u8>,
    /// By what the next one was made.
    pub hash: NameHash,
    /// Hash of its issuer's name.
    pub issuer: Vec<u8>,
    /// From when it holds, in milliseconds since the epoch.
    pub from_unix_ms: u64,
    /// Until when.
    pub until_unix_ms: u64,
}

impl Staple {
    /// Reads `response`, which must say of exactly one certificate that it is good.
    pub fn read(response: &[u8]) -> Result<Self, Unusable> {
        if response.len() > MOST_BYTES {
            return Err(Unusable::Malformed);
        }
        read(response).ok_or(Unusable::Malformed)?
    }

    /// As [`Staple::read`], for the certificate with the DER `leaf`.
    pub fn for_certificate(response: &[u8], leaf: &[u8]) -> Result<Self, Unusable> {
        let staple = Self::read(response)?;
        match leaf_names(leaf) {
            Some(names) if names.serial == staple.serial => Ok(staple),
            _ => Err(Unusable::OtherCertificate),
        }
    }

    /// Whether it holds at a time.
    pub fn holds(&self, now_unix_ms: u64) -> bool {
        self.from_unix_ms <= now_unix_ms.saturating_add(SKEW_MS) && now_unix_ms < self.until_unix_ms
    }
}

/// What of a certificate a response names it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafNames<'c> {
    /// Number, as the DER has it.
    pub serial: &'c [u8],
    /// The issuer's name, in DER.
    pub issuer: &'c [u8],
}

/// The number and issuer of a certificate in DER.
pub fn leaf_names(certificate: &[u8]) -> Option<LeafNames<'_>> {
    let mut certificate = Der(Der(certificate).value(SEQUENCE)?);
    let mut body = Der(certificate.value(SEQUENCE)?);
    if body.next_is(context(0)) {
        body.value(context(0))?;
    }
    let serial = body.value(INTEGER)?;
    body.value(SEQUENCE)?;
    let issuer = body.whole(SEQUENCE)?;
    Some(LeafNames { serial, issuer })
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const ENUMERATED: u8 = 0x0A;
const TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;

/// `id-pkix-ocsp-basic`.
const BASIC: &[u8] = &[0x2B, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
const SHA1: &[u8] = &[0x2B, 0x0E, 0x03, 0x02, 0x1A];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];

/// A constructed tag of a context.
const fn context(number: u8) -> u8 {
    0xA0 | number
}

/// The rest of a row of DER values.
struct Der<'d>(&'d [u8]);

impl<'d> Der<'d> {
    fn next_is(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// The next value, which must have this tag, without tag and length.
    fn value(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.take(tag).map(|(value, _)| value)
    }

    /// The same with tag and length.
    fn whole(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.take(tag).map(|(_, whole)| whole)
    }

    fn take(&mut self, tag: u8) -> Option<(&'d [u8], &'d [u8])> {
        let all = self.0;
        let (&found, rest) = all.split_first()?;
        if found != tag {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7F => (usize::from(first), rest),
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
                let length = digits
                    .iter()
                    .fold(0, |length, digit| length << 8 | usize::from(*digit));
                // The shortest form is the only one.
                if length < 0x80 || digits.first() == Some(&0) {
                    return None;
                }
                (length, rest)
            }
            _ => return None,
        };
        let (value, left) = rest.split_at_checked(length)?;
        let whole = all.get(..all.len() - left.len())?;
        self.0 = left;
        Some((value, whole))
    }
}

/// `None` is malformed.
fn read(response: &[u8]) -> Option<Result<Staple, Unusable>> {
    let mut outer = Der(response);
    let mut response = Der(outer.value(SEQUENCE)?);
    if !outer.0.is_empty() {
        return None;
    }
    if response.value(ENUMERATED)? != [0] {
        return Some(Err(Unusable::Unsuccessful));
    }
    let mut bytes = Der(Der(response.value(context(0))?).value(SEQUENCE)?);
    if bytes.value(OBJECT)? != BASIC {
        return None;
    }
    let mut basic = Der(Der(bytes.value(OCTETS)?).value(SEQUENCE)?);
    let mut data = Der(basic.value(SEQUENCE)?);
    basic.value(SEQUENCE)?;
    basic.value(BIT_STRING)?;
    if data.next_is(context(0)) {
        data.value(context(0))?;
    }
    // Whose answer it is: a name or the hash of a key.
    let by = if data.next_is(context(1)) { 1 } else { 2 };
    data.value(context(by))?;
    data.value(TIME)?;
    let mut answers = Der(data.value(SEQUENCE)?);
    let Some(answer) = answers.value(SEQUENCE) else {
        return answers.0.is_empty().then_some(Err(Unusable::NotOne));
    };
    if !answers.0.is_empty() {
        return Some(Err(Unusable::NotOne));
    }
    one(answer)
}

fn one(answer: &[u8]) -> Option<Result<Staple, Unusable>> {
    let mut answer = Der(answer);
    let mut id = Der(answer.value(SEQUENCE)?);
    let hash = match Der(id.value(SEQUENCE)?).value(OBJECT)? {
        SHA1 => NameHash::Sha1,
        SHA256 => NameHash::Sha256,
        _ => NameHash::Other,
    };
    let issuer = id.value(OCTETS)?.to_vec();
    id.value(OCTETS)?;
    let serial = id.value(INTEGER)?.to_vec();
    // good [0] IMPLICIT NULL; revoked [1] and unknown [2] are the others.
    let (&status, _) = answer.0.split_first()?;
    let good = status == 0x80 && answer.value(0x80)?.is_empty();
    if !good {
        return Some(Err(Unusable::NotGood));
    }
    let from_unix_ms = time(answer.value(TIME)?)?;
    if !answer.next_is(context(0)) {
        return Some(Err(Unusable::Endless));
    }
    let until_unix_ms = time(Der(answer.value(context(0))?).value(TIME)?)?;
    Some(Ok(Staple {
        serial,
        hash,
        issuer,
        from_unix_ms,
        until_unix_ms,
    }))
}

/// A `GeneralizedTime` as DER has it, `YYYYMMDDHHMMSSZ`, in milliseconds since the epoch.
fn time(text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    if digits.len() != 14 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let part = |from: usize, to: usize| -> Option<i64> {
        std::str::from_utf8(digits.get(from..to)?)
            .ok()?
            .parse()
            .ok()
    };
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    let valid = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !valid {
        return None;
    }
    // Days since the epoch, in years that begin in March (Howard Hinnant's `days_from_civil`).
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    u64::try_from(seconds).ok()?.checked_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let mut out = vec![tag];
        match body.len() {
            short @ 0..0x80 => out.push(u8::try_from(short).unwrap()),
            long => {
                out.push(0x82);
                out.extend(u16::try_from(long).unwrap().to_be_bytes());
                if long < 0x100 {
                    let at = out.len();
                    out.splice(at - 3.., [0x81, u8::try_from(long).unwrap()]);
                }
            }
        }
        out.extend(body);
        out
    }

    fn answer(status: &[u8], next: bool) -> Vec<u8> {
        let id = der(
            SEQUENCE,
            &[
                &der(SEQUENCE, &[&der(OBJECT, &[SHA1])]),
                &der(OCTETS, &[&[7; 20]]),
                &der(OCTETS, &[&[8; 20]]),
                &der(INTEGER, &[&[0x12, 0x34]]),
            ],
        );
        let next = if next {
            der(context(0), &[&der(TIME, &[b"20300101000000Z"])])
        } else {
            Vec::new()
        };
        der(
            SEQUENCE,
            &[&id, status, &der(TIME, &[b"20240229120000Z"]), &next],
        )
    }

    fn response(answers: &[&[u8]]) -> Vec<u8> {
        let data = der(
            SEQUENCE,
            &[
                &der(context(2), &[&der(OCTETS, &[&[1; 20]])]),
                &der(TIME, &[b"20240229120000Z"]),
                &der(SEQUENCE, answers),
            ],
        );
        let basic = der(
            SEQUENCE,
            &[
                &data,
                &der(SEQUENCE, &[&der(OBJECT, &[SHA256])]),
                &der(BIT_STRING, &[&[0; 65]]),
            ],
        );
        let bytes = der(SEQUENCE, &[&der(OBJECT, &[BASIC]), &der(OCTETS, &[&basic])]);
        der(
            SEQUENCE,
            &[&der(ENUMERATED, &[&[0]]), &der(context(0), &[&bytes])],
        )
    }

    const GOOD: &[u8] = &[0x80, 0x00];

    #[test]
    fn a_good_answer_says_when_and_for_what() {
        let staple = Staple::read(&response(&[&answer(GOOD, true)])).unwrap();
        assert_eq!(staple.serial, [0x12, 0x34]);
        assert_eq!((staple.hash, staple.issuer.len()), (NameHash::Sha1, 20));
        assert_eq!(staple.from_unix_ms, 1_709_208_000_000);
        assert_eq!(staple.until_unix_ms, 1_893_456_000_000);
        assert!(staple.holds(staple.from_unix_ms - SKEW_MS));
        assert!(!staple.holds(staple.from_unix_ms - SKEW_MS - 1));
        assert!(!staple.holds(staple.until_unix_ms));
    }

    #[test]
    fn what_is_not_one_good_answer_is_refused() {
        let revoked = der(context(1), &[&der(TIME, &[b"20240101000000Z"])]);
        let good = answer(GOOD, true);
        for (bytes, expected) in [
            (response(&[&answer(&revoked, true)]), Unusable::NotGood),
            (response(&[&answer(&[0x82, 0], true)]), Unusable::NotGood),
            (response(&[&answer(GOOD, false)]), Unusable::Endless),
            (response(&[]), Unusable::NotOne),
            (response(&[&good, &good]), Unusable::NotOne),
            (
                der(SEQUENCE, &[&der(ENUMERATED, &[&[6]])]),
                Unusable::Unsuccessful,
            ),
            (b"not DER".to_vec(), Unusable::Malformed),
            (Vec::new(), Unusable::Malformed),
            (vec![0x30; MOST_BYTES + 1], Unusable::Malformed),
        ] {
            assert_eq!(Staple::read(&bytes), Err(expected));
        }
    }

    #[test]
    fn no_beginning_and_no_broken_byte_is_taken_for_a_whole_answer() {
        let whole = response(&[&answer(GOOD, true)]);
        for end in 0..whole.len() {
            assert!(Staple::read(whole.get(..end).unwrap()).is_err());
        }
        // Only what it says may change, never whether it can be read without harm.
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut broken = whole.clone();
                broken[at] ^= 1 << bit;
                let _said = Staple::read(&broken);
            }
        }
    }

    #[test]
    fn days_that_are_none_are_no_times() {
        assert_eq!(time(b"19700101000000Z"), Some(0));
        assert_eq!(time(b"20000229235959Z"), Some(951_868_799_000));
        for bad in [
            &b"20241301000000Z"[..],
            b"20240100000000Z",
            b"20240101240000Z",
            b"20240101000000",
            b"2024010100000+Z",
            b"19691231235959Z",
        ] {
            assert_eq!(time(bad), None);
        }
    }
}
