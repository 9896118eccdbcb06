//! Frames of HTTP/2: their heads, and the small ones whole (RFC 9113, section 4 and 6).

/// What a client sends first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame's head.
pub(crate) const HEAD: usize = 9;
/// The largest payload that every peer takes, and the largest that we do.
pub(crate) const PAYLOAD: usize = 16_384;
/// The largest window.
pub(crate) const MAX_WINDOW: i64 = 0x7fff_ffff;
/// The window of a connection, and of its streams until settings say otherwise.
pub(crate) const WINDOW: u32 = 65_535;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;
pub(crate) const PADDED: u8 = 0x8;
pub(crate) const PRIORITY: u8 = 0x20;

/// Kinds of frames by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    Push,
    Ping,
    GoAway,
    Window,
    Continuation,
    /// To be passed over.
    Unknown,
}

impl Type {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::Reset,
            4 => Self::Settings,
            5 => Self::Push,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::Window,
            9 => Self::Continuation,
            _ => Self::Unknown,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Headers => 1,
            Self::Priority => 2,
            Self::Reset => 3,
            Self::Settings => 4,
            Self::Push => 5,
            Self::Ping => 6,
            Self::GoAway => 7,
            Self::Window => 8,
            Self::Continuation => 9,
            Self::Unknown => 0xff,
        }
    }
}

/// Settings by their numbers.
pub(crate) mod setting {
    pub(crate) const TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW: u16 = 4;
    pub(crate) const MAX_FRAME: u16 = 5;
    pub(crate) const MAX_HEADER_LIST: u16 = 6;
    pub(crate) const ENABLE_CONNECT: u16 = 8;
}

/// Why a stream or a connection is ended (RFC 9113, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reason(pub(crate) u32);

impl Reason {
    pub(crate) const NO_ERROR: Self = Self(0);
    pub(crate) const PROTOCOL_ERROR: Self = Self(1);
    pub(crate) const INTERNAL_ERROR: Self = Self(2);
    pub(crate) const FLOW_CONTROL_ERROR: Self = Self(3);
    pub(crate) const SETTINGS_TIMEOUT: Self = Self(4);
    pub(crate) const STREAM_CLOSED: Self = Self(5);
    pub(crate) const FRAME_SIZE_ERROR: Self = Self(6);
    pub(crate) const REFUSED_STREAM: Self = Self(7);
    pub(crate) const CANCEL: Self = Self(8);
    pub(crate) const COMPRESSION_ERROR: Self = Self(9);
    pub(crate) const ENHANCE_YOUR_CALM: Self = Self(11);
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.0 {
            0 => "NO_ERROR",
            1 => "PROTOCOL_ERROR",
            2 => "INTERNAL_ERROR",
            3 => "FLOW_CONTROL_ERROR",
            4 => "SETTINGS_TIMEOUT",
            5 => "STREAM_CLOSED",
            6 => "FRAME_SIZE_ERROR",
            7 => "REFUSED_STREAM",
            8 => "CANCEL",
            9 => "COMPRESSION_ERROR",
            10 => "CONNECT_ERROR",
            11 => "ENHANCE_YOUR_CALM",
            12 => "INADEQUATE_SECURITY",
            13 => "HTTP_1_1_REQUIRED",
            other => return write!(f, "error {other}"),
        };
        f.write_str(name)
    }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) length: usize,
    pub(crate) kind: Type,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

impl Head {
    /// Reads one from the front of `data`.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        let head = data.first_chunk::<HEAD>()?;
        let [high, middle, low, kind, flags, ..] = *head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let stream = head.last_chunk::<4>()?;
        Some(Self {
            length: usize::try_from(length).unwrap_or(usize::MAX),
            kind: Type::of(kind),
            flags,
            stream: u32::from_be_bytes(*stream) & 0x7fff_ffff,
        })
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends the head of a frame.
pub(crate) fn put_head(out: &mut Vec<u8>, length: usize, (kind, flags): (Type, u8), stream: u32) {
    let [_, high, middle, low] = u32::try_from(length).unwrap_or(0).to_be_bytes();
    let [first, second, third, fourth] = stream.to_be_bytes();
    out.extend_from_slice(&[
        high,
        middle,
        low,
        kind.number(),
        flags,
        first,
        second,
        third,
        fourth,
    ]);
}

/// Says how long the payload is whose frame's head begins at `at` and which ends where `out` does.
pub(crate) fn set_length(out: &mut [u8], at: usize) {
    let length = out.len().saturating_sub(at + HEAD);
    let [_, a, b, c] = u32::try_from(length).unwrap_or(0).to_be_bytes();
    if let Some(place) = out.get_mut(at..at + 3) {
        place.copy_from_slice(&[a, b, c]);
    }
}

/// Appends RST_STREAM.
pub(crate) fn put_reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    put_head(out, 4, (Type::Reset, 0), stream);
    out.extend_from_slice(&reason.0.to_be_bytes());
}

/// Appends WINDOW_UPDATE.
pub(crate) fn put_window(out: &mut Vec<u8>, stream: u32, more: u32) {
    put_head(out, 4, (Type::Window, 0), stream);
    out.extend_from_slice(&more.to_be_bytes());
}

/// Appends PING.
pub(crate) fn put_ping(out: &mut Vec<u8>, flags: u8, payload: [u8; 8]) {
    put_head(out, 8, (Type::Ping, flags), 0);
    out.extend_from_slice(&payload);
}

/// Appends GOAWAY; `text` says to people why.
pub(crate) fn put_go_away(out: &mut Vec<u8>, last: u32, reason: Reason, text: &str) {
    put_head(out, 8 + text.len(), (Type::GoAway, 0), 0);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&reason.0.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends SETTINGS.
pub(crate) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    put_head(out, settings.len() * 6, (Type::Settings, 0), 0);
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// The number in the first four bytes, without its highest bit.
pub(crate) fn number(payload: &[u8]) -> u32 {
    payload
        .first_chunk::<4>()
        .map_or(0, |four| u32::from_be_bytes(*four) & 0x7fff_ffff)
}
