//! Which fields of a message are understood, which only tune, and which must not be passed over.
//!
//! A field in none of the lists is refused: a message that says more than we know could mean
//! something else than we think.

use prost::Message;
use prost::encoding::decode_key;

use super::super::canonical::skip;
use super::Fault;

/// The fields of a message, by number.
pub(super) struct Fields {
    pub(super) message: &'static str,
    /// Read by the decoder.
    pub(super) understood: &'static [(u32, &'static str)],
    /// Without effect here, and harmless.
    pub(super) tuning: &'static [(u32, &'static str)],
    /// Names for what is refused; others are refused by number.
    pub(super) refused: &'static [(u32, &'static str)],
}

impl Fields {
    /// Refuses `message` if it says something that may not be passed over.
    pub(super) fn audit(
        &self,
        message: &impl Message,
        ignored: &mut Vec<String>,
    ) -> Result<(), Fault> {
        self.audit_bytes(&message.encode_to_vec(), ignored)
    }

    /// As [`Fields::audit`], for a message whose type here knows fewer fields.
    pub(super) fn audit_bytes(&self, bytes: &[u8], ignored: &mut Vec<String>) -> Result<(), Fault> {
        for tag in tags(bytes) {
            let named = |list: &[(u32, &'static str)]| {
                list.iter()
                    .find(|(field, _)| *field == tag)
                    .map(|(_, name)| (*name).to_owned())
            };
            if self.understood.iter().any(|(field, _)| *field == tag) {
                continue;
            }
            match named(self.tuning) {
                Some(name) => ignored.push(format!("{}.{name}", self.message)),
                None => {
                    return Err(Fault::Unsupported {
                        message: self.message,
                        field: named(self.refused).unwrap_or_else(|| tag.to_string()),
                    });
                }
            }
        }
        Ok(())
    }
}

/// The numbers of the fields that are set, each once for a run.
fn tags(mut bytes: &[u8]) -> Vec<u32> {
    let mut tags = Vec::new();
    while let Ok((tag, wire)) = decode_key(&mut bytes) {
        if tags.last() != Some(&tag) {
            tags.push(tag);
        }
        match skip(bytes, wire) {
            Some(rest) => bytes = rest,
            None => break,
        }
    }
    tags
}
