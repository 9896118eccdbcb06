//! Calls as lines: `key=value`, so that what one looks for can be found with grep.

use std::fmt::Write as _;

use crate::api::tap::Call;

use super::Paint;
use super::number;

/// One call, without a line end. What callers sent cannot move the cursor or begin a line.
pub(crate) fn line(call: &Call, wide: bool, paint: Paint) -> String {
    let mut text = time(call.at_unix_ms);
    let mut put = |key: &str, value: &str| {
        if !value.is_empty() {
            text.push(' ');
            text.push_str(key);
            text.push('=');
            text.push_str(&clean(value));
        }
    };
    put("src", &call.source);
    put(
        "dst",
        if call.destination.is_empty() {
            "-"
        } else {
            &call.destination
        },
    );
    put("tls", if call.mtls { "true" } else { "false" });
    put(":method", &call.method);
    put(":authority", &call.authority);
    put(":path", &call.path);
    let status = call.status.to_string();
    let status = match call.status {
        0 => paint.bad("0"),
        500.. => paint.bad(&status),
        400.. => paint.warn(&status),
        _ => paint.good(&status),
    };
    // Writing into a String cannot fail.
    let _infallible = write!(text, " :status={status}");
    let mut put = |key: &str, value: &str| {
        if !value.is_empty() {
            text.push(' ');
            text.push_str(key);
            text.push('=');
            text.push_str(&clean(value));
        }
    };
    let grpc = call.grpc_status.map(|status| status.to_string());
    put("grpc-status", grpc.as_deref().unwrap_or_default());
    put("flags", &call.flags);
    put("latency", &latency(call.duration_ms));
    put("size", &format!("{}B", call.response_bytes));
    if wide {
        put("svc", &call.service);
        put("version", &call.version);
        put("route", &call.route);
        put("protocol", &call.protocol);
        put("received", &format!("{}B", call.request_bytes));
        put("id", &call.request_id);
        put("trace", call.trace_id.as_deref().unwrap_or_default());
    }
    for (name, value) in &call.headers {
        let value = format!("{value:?}");
        put(name, &value);
    }
    text
}

/// Of the day, in UTC.
fn time(at_unix_ms: u64) -> String {
    let moment = number::moment_of_day(at_unix_ms);
    moment.unwrap_or_else(|| "-".to_owned())
}

fn latency(ms: f64) -> String {
    if ms < 10.0 {
        format!("{}µs", (ms * 1_000.0).round())
    } else {
        format!("{}ms", ms.round())
    }
}

fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || is_direction(letter) {
            out.extend(letter.escape_default());
        } else {
            out.push(letter);
        }
    }
    out
}

/// Letters that turn the direction of what follows.
fn is_direction(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Call {
        Call {
            at_unix_ms: 1_800_000_000_123,
            source: "productpage-v1.default".to_owned(),
            destination: "reviews-v1.default".to_owned(),
            service: "reviews.default".to_owned(),
            version: "v1".to_owned(),
            method: "GET".to_owned(),
            authority: "reviews:9080".to_owned(),
            path: "/reviews/1".to_owned(),
            status: 200,
            duration_ms: 3.4123,
            response_bytes: 442,
            mtls: true,
            protocol: "http".to_owned(),
            ..Call::default()
        }
    }

    #[test]
    fn a_line_has_a_key_before_every_value() {
        assert_eq!(
            line(&call(), false, Paint::new(false)),
            "08:00:00.123 src=productpage-v1.default dst=reviews-v1.default tls=true :method=GET \
             :authority=reviews:9080 :path=/reviews/1 :status=200 latency=3412µs size=442B"
        );
        let failed = Call {
            status: 503,
            flags: "UH".to_owned(),
            destination: String::new(),
            duration_ms: 123.4,
            ..call()
        };
        let text = line(&failed, true, Paint::new(false));
        assert!(text.contains(" dst=- "), "{text}");
        assert!(
            text.contains(
                " :status=503 flags=UH latency=123ms size=442B svc=reviews.default version=v1"
            ),
            "{text}"
        );
    }

    #[test]
    fn what_callers_send_stays_on_its_line() {
        let evil = Call {
            path: "/\u{1b}[2J\nsrc=root\u{202e}".to_owned(),
            headers: [("x-user".to_owned(), "a b\"\r\n".to_owned())].into(),
            ..call()
        };
        let text = line(&evil, false, Paint::new(false));
        assert!(!text.contains(['\u{1b}', '\n', '\r', '\u{202e}']), "{text}");
        assert!(text.ends_with("x-user=\"a b\\\"\\r\\n\""), "{text}");
    }
}
