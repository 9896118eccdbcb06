//! The chunked transfer coding, read strictly: what two parties could read differently is refused.
//! Where the coding is passed on as it came, that is all that stands between the two.

use super::super::fields::{Name, classify};

/// Bytes of trailers at most.
const MAX_TRAILERS: usize = 8 * 1024;
/// Bytes of one chunk's size line at most, extensions included.
const MAX_LINE: u32 = 1024;
/// Digits of a chunk's size at most: what fits into 64 bits.
const MAX_DIGITS: u32 = 16;

/// A body that does not follow its framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Where in the coding the reader stands.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    state: State,
    left: u64,
    line: u32,
    /// Payload so far.
    payload: u64,
    /// Where the trailer line that is being read begins.
    trailer: usize,
    /// Trailer lines with their ends, without the closing empty line.
    trailers: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    SizeStart,
    Size,
    /// Space behind the size, which only an extension may follow.
    SizeSpace,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Framing, in front.
    pub(crate) skip: usize,
    /// Payload, behind it.
    pub(crate) data: usize,
    /// The body ended.
    pub(crate) done: bool,
}

impl Chunked {
    /// Reads framing from `input` up to and with the next run of payload.
    pub(crate) fn next(&mut self, input: &[u8]) -> Result<Step, Malformed> {
        let mut skip = 0;
        for byte in input {
            if self.state == State::Data {
                let rest = input.len() - skip;
                let data = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest);
                self.left -= u64::try_from(data).unwrap_or(self.left);
                self.payload = self
                    .payload
                    .saturating_add(u64::try_from(data).unwrap_or(0));
                if self.left == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Step {
                    skip,
                    data,
                    done: false,
                });
            }
            self.framing(*byte)?;
            skip += 1;
            if self.state == State::End {
                break;
            }
        }
        Ok(Step {
            skip,
            data: 0,
            done: self.state == State::End,
        })
    }

    /// How much of `input` belongs to the body, framing and all, and whether it ended.
    pub(crate) fn scan(&mut self, input: &[u8]) -> Result<(usize, bool), Malformed> {
        let mut total = 0;
        while let Some(rest) = input.get(total..).filter(|rest| !rest.is_empty()) {
            let step = self.next(rest)?;
            total += step.skip + step.data;
            if step.done {
                return Ok((total, true));
            }
        }
        Ok((total, false))
    }

    /// Bytes of payload so far.
    pub(crate) fn payload(&self) -> u64 {
        self.payload
    }

    /// Trailer lines, each with its end.
    pub(crate) fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    fn framing(&mut self, byte: u8) -> Result<(), Malformed> {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        self.state = match (self.state, byte) {
            (State::SizeStart | State::Size, _) if digit.is_some() => {
                if self.left >> 59 != 0 || self.line >= MAX_DIGITS {
                    return Err(Malformed);
                }
                self.left = self.left << 4 | digit.unwrap_or(0);
                self.lengthen()?;
                State::Size
            }
            (State::Size | State::SizeSpace | State::Extension, b'\r') => State::SizeLf,
            (State::Size | State::SizeSpace, b' ' | b'\t') => {
                self.lengthen()?;
                State::SizeSpace
            }
            (State::Size | State::SizeSpace, b';') => State::Extension,
            (State::Extension, byte) if byte == b'\t' || (b' '..0x7f).contains(&byte) => {
                self.lengthen()?;
                State::Extension
            }
            (State::SizeLf, b'\n') => {
                self.line = 0;
                if self.left == 0 {
                    State::TrailerStart
                } else {
                    State::Data
                }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::SizeStart,
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart, b' ' | b'\t' | b'\n') => return Err(Malformed),
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerStart | State::Trailer, byte)
                if byte == b'\t' || (byte >= b' ' && byte != 0x7f) =>
            {
                self.keep(byte)?;
                State::Trailer
            }
            (State::TrailerLf, b'\n') => {
                let line = self.trailers.get(self.trailer..).unwrap_or_default();
                if !may_trail(line) {
                    return Err(Malformed);
                }
                self.keep(b'\r')?;
                self.keep(b'\n')?;
                self.trailer = self.trailers.len();
                State::TrailerStart
            }
            (State::EndLf, b'\n') => State::End,
            _ => return Err(Malformed),
        };
        Ok(())
    }

    fn lengthen(&mut self) -> Result<(), Malformed> {
        self.line += 1;
        if self.line > MAX_LINE {
            return Err(Malformed);
        }
        Ok(())
    }

    fn keep(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.trailers.len() >= MAX_TRAILERS {
            return Err(Malformed);
        }
        self.trailers.push(byte);
        Ok(())
    }
}

/// Whether a line is a field that may stand behind a body: none that frames or routes the message,
/// is about the connection, or says who called (RFC 9110, 6.5.1). Some applications mix trailers
/// into the fields of the head.
fn may_trail(line: &[u8]) -> bool {
    let end = line.iter().position(|byte| *byte == b':');
    let Some(name) = end.and_then(|end| line.get(..end)) else {
        return false;
    };
    let is_token = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            )
    };
    !name.is_empty()
        && name.iter().all(is_token)
        && matches!(
            classify(name),
            Name::Other
                | Name::ContentType
                | Name::GrpcStatus
                | Name::RequestId
                | Name::ServiceTime
                | Name::Trace
                | Name::TraceState
                | Name::Server
                | Name::Via
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(parts: &[&[u8]]) -> Result<(Vec<u8>, bool, Vec<u8>), Malformed> {
        let mut chunked = Chunked::default();
        let mut payload = Vec::new();
        let mut done = false;
        for part in parts {
            let mut at = 0;
            while at < part.len() && !done {
                let step = chunked.next(&part[at..])?;
                at += step.skip;
                payload.extend_from_slice(&part[at..at + step.data]);
                at += step.data;
                done = step.done;
            }
        }
        Ok((payload, done, chunked.trailers().to_vec()))
    }

    #[test]
    fn what_can_be_read_two_ways_is_refused() {
        for bad in [
            &b"\r\n"[..],
            b"x\r\n",
            b"5\nhello\r\n",
            b"5\r\nhelloX",
            b"5\r\nhello\n",
            b"-1\r\n",
            b"fffffffffffffffff\r\n",
            b"0\r\n\n",
            b"0\r\n folded: x\r\n\r\n",
            b"5;a=\n\r\nhello",
            b"0x5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"0\r\na: b\nc: d\r\n\r\n",
            b"5 5\r\nhello\r\n",
            b"00000000000000005\r\nhello\r\n",
            b"5;\x80\r\nhello\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\n: no name\r\n\r\n",
            b"0\r\nspace : before\r\n\r\n",
            b"0\r\ncontent-length: 5\r\n\r\n",
            b"0\r\na: b\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"0\r\nhost: a\r\n\r\n",
            b"0\r\nX-Forwarded-For: a\r\n\r\n",
        ] {
            assert_eq!(decode(&[bad]), Err(Malformed), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn extensions_are_passed_over_and_trailers_kept() {
        let body = b"5;name=\"v\"\r\nhello\r\n0\r\nX-T: 1\r\n\r\nGET / HTTP/1.1";
        let (payload, done, trailers) = decode(&[body]).unwrap();
        assert_eq!((payload.as_slice(), done), (&b"hello"[..], true));
        assert_eq!(trailers, b"X-T: 1\r\n");
        let (length, done) = Chunked::default().scan(body).unwrap();
        assert_eq!((&body[length..], done), (&b"GET / HTTP/1.1"[..], true));
    }

    #[test]
    fn endless_lines_and_trailers_are_refused() {
        let mut line = b"5;".to_vec();
        line.extend(vec![b'a'; 2000]);
        assert_eq!(decode(&[&line]), Err(Malformed));
        let mut trailers = b"0\r\na: ".to_vec();
        trailers.extend(vec![b'a'; MAX_TRAILERS]);
        assert_eq!(decode(&[&trailers]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_split_decodes_alike(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len())).collect();
            at.extend([0, wire.len()]);
            at.sort_unstable();
            let parts: Vec<&[u8]> = at.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
            let (payload, done, _) = decode(&parts).unwrap();
            prop_assert_eq!(payload, chunks.concat());
            prop_assert!(done);
        }

        #[test]
        fn arbitrary_bytes_never_read_past_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((length, _)) = Chunked::default().scan(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
