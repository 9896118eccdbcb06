//! What an answer changes in a head: which fields it may, and how.

use std::fmt::Write as _;

use super::super::super::filter::cors::Granted;
use super::super::answer::Answer;
use super::super::fields::{MAX_FIELDS, MAX_HEAD, Name, classify};
use super::super::h2::block::is_field;

/// Changes that one answer may ask for, of each kind.
const MOST: usize = 128;

/// An answer that cannot be honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Bad {
    #[error("a name or value that is none of a field")]
    Field,
    #[error("too many changes")]
    TooMany,
    #[error("the head would be too large")]
    TooLarge,
}

/// How a field is changed. Names are in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// In the place of those of its name.
    Set(String, String),
    /// Beside those.
    Add(String, String),
    /// Beside those, if there are any.
    AddIfPresent(String, String),
    /// Where there is none.
    AddIfAbsent(String, String),
    /// In the place of those of its name, if there are any.
    SetIfPresent(String, String),
    Remove(String),
}

/// Changes, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    fields: Vec<Change>,
    /// Parameters of the query.
    params: Vec<(String, Option<String>)>,
}

/// How a field that is told stands to those of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Instead,
    Beside,
    BesideAnother,
    IfAbsent,
    IfPresent,
}

/// Whether a field of the request is for the proxy alone to write.
fn is_own(name: &str) -> bool {
    name.starts_with(':')
        || matches!(
            classify(name.as_bytes()),
            Name::Host
                | Name::Connection
                | Name::Hop
                | Name::Te
                | Name::Upgrade
                | Name::TransferEncoding
                | Name::ContentLength
                | Name::Expect
                | Name::Peer
                | Name::ClientCert
                | Name::Internal
                | Name::Undelivered
        )
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.params.is_empty()
    }

    /// Adds `other`, which comes later.
    pub(super) fn extend(&mut self, other: Self) {
        self.fields.extend(other.fields);
        self.params.extend(other.params);
    }

    /// Sets a field of the proxy's own choice.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        let change = Change::Set(name.to_owned(), value.to_owned());
        self.fields.push(change);
    }

    /// Takes note of a field that the answer changes. Those that frame a message, say where it goes, or are the
    /// proxy's own judgement stay as they are.
    pub(super) fn put(&mut self, place: Place, name: &str, value: &[u8]) -> Result<(), Bad> {
        let name = name.to_ascii_lowercase();
        if is_own(&name) {
            return Ok(());
        }
        if !is_field(name.as_bytes(), value) {
            return Err(Bad::Field);
        }
        let value = std::str::from_utf8(value)
            .map_err(|_| Bad::Field)?
            .to_owned();
        self.add(match place {
            Place::Instead => Change::Set(name, value),
            Place::Beside => Change::Add(name, value),
            Place::BesideAnother => Change::AddIfPresent(name, value),
            Place::IfAbsent => Change::AddIfAbsent(name, value),
            Place::IfPresent => Change::SetIfPresent(name, value),
        })
    }

    pub(super) fn remove(&mut self, name: &str) -> Result<(), Bad> {
        let name = name.trim().to_ascii_lowercase();
        if name.is_empty() || is_own(&name) {
            return Ok(());
        }
        self.add(Change::Remove(name))
    }

    fn add(&mut self, change: Change) -> Result<(), Bad> {
        if self.fields.len() >= MOST {
            return Err(Bad::TooMany);
        }
        self.fields.push(change);
        Ok(())
    }

    /// Sets a parameter of the query, or takes it out.
    pub(super) fn param(&mut self, name: String, value: Option<String>) -> Result<(), Bad> {
        if self.params.len() >= MOST {
            return Err(Bad::TooMany);
        }
        self.params.push((name, value));
        Ok(())
    }

    /// Changes the fields of a request, whose path is `path`.
    pub(super) fn apply(
        &self,
        fields: &mut Vec<(String, Vec<u8>)>,
        path: &mut Vec<u8>,
    ) -> Result<(), Bad> {
        for change in &self.fields {
            let has = |fields: &[(String, Vec<u8>)], name: &str| {
                let mut all = fields.iter();
                all.any(|(own, _)| own.eq_ignore_ascii_case(name))
            };
            let take = |fields: &mut Vec<(String, Vec<u8>)>, name: &str| {
                fields.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
            };
            let put = |fields: &mut Vec<(String, Vec<u8>)>, name: &str, value: &str| {
                fields.push((name.to_owned(), value.as_bytes().to_vec()));
            };
            match change {
                Change::Remove(name) => take(fields, name),
                Change::Set(name, value) => {
                    take(fields, name);
                    put(fields, name, value);
                }
                Change::SetIfPresent(name, value) => {
                    if has(fields, name) {
                        take(fields, name);
                        put(fields, name, value);
                    }
                }
                Change::Add(name, value) => put(fields, name, value),
                Change::AddIfPresent(name, value) => {
                    if has(fields, name) {
                        put(fields, name, value);
                    }
                }
                Change::AddIfAbsent(name, value) => {
                    if !has(fields, name) {
                        put(fields, name, value);
                    }
                }
            }
        }
        let size = fields
            .iter()
            .map(|(name, value)| name.len() + value.len() + 4);
        if !self.fields.is_empty() && (fields.len() > MAX_FIELDS || size.sum::<usize>() > MAX_HEAD)
        {
            return Err(Bad::TooLarge);
        }
        self.query(path)
    }

    fn query(&self, path: &mut Vec<u8>) -> Result<(), Bad> {
        if self.params.is_empty() {
            return Ok(());
        }
        let at = path.iter().position(|byte| *byte == b'?');
        let (bare, query) = path.split_at(at.unwrap_or(path.len()));
        let query = query.get(1..).unwrap_or_default();
        let mut pairs: Vec<Vec<u8>> = query
            .split(|byte| *byte == b'&')
            .filter(|pair| !pair.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        for (name, value) in &self.params {
            let name = percent(name);
            let is = |pair: &Vec<u8>| {
                let own = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
                plain(own) == plain(name.as_bytes())
            };
            pairs.retain(|pair| !is(pair));
            if let Some(value) = value {
                pairs.push(format!("{name}={}", percent(value)).into_bytes());
            }
        }
        let mut made = bare.to_vec();
        if !pairs.is_empty() {
            made.push(b'?');
            made.extend(pairs.join(&b'&'));
        }
        if made.len() > MAX_HEAD {
            return Err(Bad::TooLarge);
        }
        *path = made;
        Ok(())
    }

    /// Puts them into what the caller is told.
    pub(super) fn tell(&self, granted: &mut Granted) {
        for change in &self.fields {
            match change {
                Change::Set(name, value) | Change::SetIfPresent(name, value) => {
                    granted.set.push((name.clone(), value.clone()));
                }
                Change::Add(name, value)
                | Change::AddIfPresent(name, value)
                | Change::AddIfAbsent(name, value) => {
                    granted.added.push((name.clone(), value.clone()));
                }
                Change::Remove(_) => {}
            }
        }
    }

    /// The same for an answer of the proxy's own.
    pub(super) fn answer(&self, answer: &mut Answer) {
        for change in &self.fields {
            match change {
                Change::Set(name, value) | Change::SetIfPresent(name, value) => {
                    answer.headers.retain(|(own, _)| own != name);
                    answer.headers.push((name.clone(), value.clone()));
                }
                Change::Add(name, value)
                | Change::AddIfPresent(name, value)
                | Change::AddIfAbsent(name, value) => {
                    answer.headers.push((name.clone(), value.clone()));
                }
                Change::Remove(_) => {}
            }
        }
    }
}

/// Fields of an answer that somebody gives in the place of the application: none that frames it or belongs to
/// one connection, and all of them fields.
pub(super) fn answer_fields(
    fields: impl IntoIterator<Item = (String, Vec<u8>)>,
) -> Result<Vec<(String, String)>, Bad> {
    let mut made = Vec::new();
    for (name, value) in fields {
        let name = name.to_ascii_lowercase();
        if name.starts_with(':')
            || matches!(
                classify(name.as_bytes()),
                Name::Connection
                    | Name::Hop
                    | Name::Te
                    | Name::Upgrade
                    | Name::TransferEncoding
                    | Name::ContentLength
                    | Name::Host
                    | Name::Server
                    | Name::Undelivered
                    | Name::Peer
            )
        {
            continue;
        }
        if !is_field(name.as_bytes(), &value) {
            return Err(Bad::Field);
        }
        let value = String::from_utf8(value).map_err(|_| Bad::Field)?;
        if made.len() >= MOST {
            return Err(Bad::TooMany);
        }
        made.push((name, value));
    }
    Ok(made)
}

/// As a part of a query, so that it ends nothing.
fn percent(text: &str) -> String {
    let mut made = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            made.push(char::from(byte));
        } else {
            let _infallible = write!(made, "%{byte:02X}");
        }
    }
    made
}

/// The bytes that a part of a query stands for.
fn plain(part: &[u8]) -> Vec<u8> {
    let mut made = Vec::with_capacity(part.len());
    let mut rest = part;
    while let [first, after @ ..] = rest {
        let hex = |byte: u8| char::from(byte).to_digit(16);
        let escaped = match after {
            [high, low, ..] if *first == b'%' => hex(*high)
                .zip(hex(*low))
                .and_then(|(high, low)| u8::try_from(high * 16 + low).ok()),
            _ => None,
        };
        if let Some(byte) = escaped {
            made.push(byte);
            rest = after.get(2..).unwrap_or_default();
        } else {
            made.push(if *first == b'+' { b' ' } else { *first });
            rest = after;
        }
    }
    made
}
