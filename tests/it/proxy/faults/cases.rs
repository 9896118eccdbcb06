//! The ways in which a backend can go wrong.

use meshctl::mesh::route::RetryOn;

use super::backend::{Speaks, Step};

/// One way.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) speaks: Speaks,
    /// What the backend does; nobody listens when absent.
    pub(super) script: Option<&'static [Step]>,
    /// Body bytes of a POST.
    pub(super) body: usize,
    pub(super) told: Told,
    /// What differs for a POST.
    pub(super) post: Option<Told>,
    /// How often a request comes, without a retry.
    pub(super) deliveries: usize,
    /// Policies that try again.
    pub(super) retried_on: &'static [RetryOn],
    /// Two in a row eject.
    pub(super) ejected: bool,
}

/// What the caller and the log are told.
pub(super) struct Told {
    pub(super) status: u16,
    pub(super) flag: &'static str,
    pub(super) details: &'static str,
    /// Part of the answer.
    pub(super) body: &'static str,
}

use RetryOn::{
    ConnectFailure, GatewayError, RefusedStream, Reset, ResetBeforeRequest, ServerError,
};

const BROKEN_OFF: &[RetryOn] = &[Reset, GatewayError, ServerError];
const UNREACHED: &[RetryOn] = &[
    ConnectFailure,
    Reset,
    ResetBeforeRequest,
    GatewayError,
    ServerError,
];
/// Envoy does not count a refused stream as reset before the request; it is the same proof that nothing
/// was processed.
const REFUSED: &[RetryOn] = &[
    Reset,
    ResetBeforeRequest,
    RefusedStream,
    GatewayError,
    ServerError,
];

const fn told(status: u16, flag: &'static str, details: &'static str, body: &'static str) -> Told {
    Told {
        status,
        flag,
        details,
        body,
    }
}

const TERMINATED: Told = told(
    503,
    "UC",
    "upstream_reset_before_response_started{connection_termination}",
    "reset reason: connection termination",
);
const PROTOCOL: Told = told(
    502,
    "UPE",
    "upstream_reset_before_response_started{protocol_error}",
    "reset reason: protocol error",
);
const STREAM_RESET: Told = told(
    503,
    "UR",
    "upstream_reset_before_response_started{remote_reset}",
    "reset reason: remote reset",
);
const STREAM_REFUSED: Told = told(
    503,
    "UR",
    "upstream_reset_before_response_started{remote_refused_stream_reset}",
    "reset reason: remote refused stream reset",
);
const UNREACHABLE: Told = told(
    503,
    "UF",
    "upstream_reset_before_response_started{remote_connection_failure}",
    "reset reason: remote connection failure",
);
const LATE: Told = told(504, "UT", "response_timeout", "upstream request timeout");
const FINE: Told = told(200, "-", "via_upstream", "ok");

const fn http1(name: &'static str, told: Told, script: &'static [Step]) -> Case {
    Case {
        name,
        speaks: Speaks::Http1,
        script: Some(script),
        body: 4,
        told,
        post: None,
        deliveries: 1,
        retried_on: BROKEN_OFF,
        ejected: true,
    }
}

const fn http2(name: &'static str, told: Told, script: &'static [Step]) -> Case {
    Case {
        speaks: Speaks::Http2,
        ..http1(name, told, script)
    }
}

/// An answer that had begun is never tried again.
const fn begun(case: Case) -> Case {
    Case {
        retried_on: &[],
        ..case
    }
}

/// Goes to the caller as it is.
const fn passed(case: Case) -> Case {
    Case {
        retried_on: &[],
        ejected: false,
        ..case
    }
}

use Step::{Close, Hang, Pause, Read, ReadSome, Send, Trickle};

const HELLO: Step = Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
/// An empty SETTINGS frame.
const SETTINGS: Step = Send(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
/// `:status: 200`, with the end of headers, on stream 1.
const OK: Step = Send(&[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88]);
/// The same, with the end of the stream.
const OK_END: Step = Send(&[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88]);
const DATA: Step = Send(b"\x00\x00\x05\x00\x00\x00\x00\x00\x01hello");
const DATA_END: Step = Send(b"\x00\x00\x02\x00\x01\x00\x00\x00\x01ok");

/// RST_STREAM of stream 1.
const fn rst(code: u8) -> [u8; 13] {
    [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, code]
}

/// GOAWAY.
const fn goaway(last: u8, code: u8) -> [u8; 17] {
    [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last, 0, 0, 0, code]
}

const RST_NO_ERROR: &[u8] = &rst(0);
const RST_INTERNAL: &[u8] = &rst(2);
const RST_REFUSED: &[u8] = &rst(7);
const RST_CANCEL: &[u8] = &rst(8);
const GOAWAY_UNPROCESSED: &[u8] = &goaway(0, 0);
const GOAWAY_PROCESSED: &[u8] = &goaway(1, 0);
const GOAWAY_ERROR: &[u8] = &goaway(1, 2);

const HUGE: &[u8] = &{
    let mut head = [b'x'; 200_000];
    let begin = b"HTTP/1.1 200 OK\r\nX-Huge: ";
    let mut at = 0;
    while at < begin.len() {
        head[at] = begin[at];
        at += 1;
    }
    head
};

/// All of them.
pub(super) const ALL: &[Case] = &[
    Case {
        script: None,
        deliveries: 0,
        retried_on: UNREACHED,
        ..http1("refuses", UNREACHABLE, &[])
    },
    Case {
        deliveries: 0,
        ..http1("closes at once", TERMINATED, &[Close])
    },
    http1("vanishes after the request", TERMINATED, &[Read, Close]),
    http1("resets after the request", TERMINATED, &[Read, Step::Reset]),
    Case {
        retried_on: &[],
        ..http1("hangs", LATE, &[Read, Hang])
    },
    http1("sends garbage", PROTOCOL, &[Read, Send(b"HELLO WORLD\r\n\r\n"), Hang]),
    http1(
        "sends half a head",
        PROTOCOL,
        &[Read, Send(b"HTTP/1.1 200 OK\r\nContent-Le"), Pause, Close],
    ),
    Case {
        retried_on: &[],
        ..http1(
            "hangs in the head",
            LATE,
            &[Read, Send(b"HTTP/1.1 200 OK\r\nContent-Le"), Hang],
        )
    },
    Case {
        retried_on: &[],
        ..http1(
            "trickles the head",
            LATE,
            &[Read, Send(b"HTTP/1.1 200 OK\r\nX-A: "), Trickle(b"a")],
        )
    },
    http1(
        "sends a length that is none",
        PROTOCOL,
        &[
            Read,
            Send(b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n"),
            Hang,
        ],
    ),
    http1(
        "sends two lengths",
        PROTOCOL,
        &[
            Read,
            Send(
                b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            Hang,
        ],
    ),
    http1("sends a huge head", PROTOCOL, &[Read, Send(HUGE), Hang]),
    http1("speaks HTTP/2", PROTOCOL, &[Read, SETTINGS, Hang]),
    // Envoy passes the 101 on, to a caller that never asked for one.
    http1(
        "switches without being asked",
        PROTOCOL,
        &[
            Read,
            Send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
            Hang,
        ],
    ),
    Case {
        retried_on: &[],
        ..http1(
            "informs and hangs",
            LATE,
            &[
                Read,
                Send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
                Hang,
            ],
        )
    },
    begun(http1(
        "vanishes in the body",
        told(
            200,
            "UPE",
            "upstream_reset_after_response_started{protocol_error}",
            "hello",
        ),
        &[Read, HELLO, Pause, Close],
    )),
    begun(http1(
        "sends a chunk that is none",
        told(
            200,
            "UPE",
            "upstream_reset_after_response_started{protocol_error}",
            "200 OK",
        ),
        &[
            Read,
            Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
            Pause,
            Send(b"xyz\r\n"),
            Hang,
        ],
    )),
    begun(http1(
        "trickles the body",
        told(200, "UT", "response_timeout", "200 OK"),
        &[
            Read,
            Send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
            Trickle(b"a"),
        ],
    )),
    passed(Case {
        body: 1_000_000,
        ..http1(
            "answers early",
            FINE,
            &[
                ReadSome,
                Send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
            ],
        )
    }),
    passed(Case {
        body: 1_000_000,
        ..http1(
            "answers early and closes",
            told(413, "-", "via_upstream", "413"),
            &[
                ReadSome,
                Send(
                    b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                ),
            ],
        )
    }),
    Case {
        script: None,
        deliveries: 0,
        retried_on: UNREACHED,
        ..http2("refuses", UNREACHABLE, &[])
    },
    Case {
        deliveries: 0,
        ..http2("closes at once", TERMINATED, &[Close])
    },
    http2(
        "vanishes after the request",
        TERMINATED,
        &[SETTINGS, Read, Close],
    ),
    http2(
        "resets after the request",
        TERMINATED,
        &[SETTINGS, Read, Step::Reset],
    ),
    Case {
        retried_on: &[],
        ..http2("hangs", LATE, &[SETTINGS, Read, Hang])
    },
    Case {
        retried_on: REFUSED,
        ..http2(
            "refuses the stream",
            STREAM_REFUSED,
            &[SETTINGS, Read, Send(RST_REFUSED), Hang],
        )
    },
    http2(
        "resets the stream",
        STREAM_RESET,
        &[SETTINGS, Read, Send(RST_INTERNAL), Hang],
    ),
    http2(
        "cancels the stream",
        STREAM_RESET,
        &[SETTINGS, Read, Send(RST_CANCEL), Hang],
    ),
    http2(
        "ends the stream without an answer",
        STREAM_RESET,
        &[SETTINGS, Read, Send(RST_NO_ERROR), Hang],
    ),
    Case {
        retried_on: REFUSED,
        ..http2(
            "says goodbye before the request",
            STREAM_REFUSED,
            &[SETTINGS, Read, Send(GOAWAY_UNPROCESSED), Pause, Close],
        )
    },
    http2(
        "says goodbye and vanishes",
        TERMINATED,
        &[SETTINGS, Read, Send(GOAWAY_PROCESSED), Pause, Close],
    ),
    http2(
        "says goodbye with an error",
        TERMINATED,
        &[SETTINGS, Read, Send(GOAWAY_ERROR), Pause, Close],
    ),
    Case {
        deliveries: 1,
        ..http2(
            "speaks HTTP/1",
            PROTOCOL,
            &[
                ReadSome,
                Send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
                Hang,
            ],
        )
    },
    http2(
        "sends no status",
        PROTOCOL,
        &[
            SETTINGS,
            Read,
            Send(b"\x00\x00\x05\x01\x04\x00\x00\x00\x01\x40\x01a\x01b"),
            Hang,
        ],
    ),
    http2(
        "sends a body without a head",
        PROTOCOL,
        &[SETTINGS, Read, DATA, Hang],
    ),
    begun(http2(
        "vanishes in the body",
        told(
            200,
            "UC",
            "upstream_reset_after_response_started{connection_termination}",
            "hello",
        ),
        &[SETTINGS, Read, OK, DATA, Pause, Close],
    )),
    begun(http2(
        "resets in the body",
        told(
            200,
            "UR",
            "upstream_reset_after_response_started{remote_reset}",
            "hello",
        ),
        &[SETTINGS, Read, OK, DATA, Pause, Send(RST_INTERNAL), Hang],
    )),
    begun(http2(
        "sends less than it said",
        told(
            200,
            "UPE",
            "upstream_reset_after_response_started{protocol_error}",
            "200 OK",
        ),
        &[
            SETTINGS,
            Read,
            // content-length: 10
            Send(b"\x00\x00\x06\x01\x04\x00\x00\x00\x01\x88\x0f\x0d\x0210"),
            Pause,
            DATA_END,
            Hang,
        ],
    )),
    begun(http2(
        "trickles the body",
        told(200, "UT", "response_timeout", "200 OK"),
        &[
            SETTINGS,
            Read,
            OK,
            Trickle(b"\x00\x00\x01\x00\x00\x00\x00\x00\x01x"),
        ],
    )),
    passed(Case {
        body: 1_000_000,
        ..http2("answers early", FINE, &[SETTINGS, Read, OK, DATA_END, Hang])
    }),
    passed(Case {
        body: 1_000_000,
        ..http2(
            "answers early and stops reading",
            told(200, "-", "via_upstream", "200 OK"),
            &[SETTINGS, Read, OK_END, Send(RST_NO_ERROR), Hang],
        )
    }),
];
