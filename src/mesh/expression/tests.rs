use std::borrow::Cow;

use proptest::prelude::*;

use super::*;

/// A call of which the end is known or not.
struct Call {
    ended: bool,
}

impl Attributes for Call {
    fn attribute(&self, which: Attribute) -> Value<'_> {
        if !self.ended && !which.is_early() {
            return Value::Unknown;
        }
        match which {
            Attribute::UrlPath => Value::Text(Cow::Borrowed("/reviews/1")),
            Attribute::Method => Value::Text(Cow::Borrowed("GET")),
            Attribute::Code => Value::Int(503),
            Attribute::Duration => Value::Duration(120_000_000),
            Attribute::Mtls => Value::Bool(true),
            _ => Value::Absent,
        }
    }

    fn field(&self, of: Fields, name: &str) -> Value<'_> {
        match (of, name) {
            (Fields::Request, "x-user") => Value::Text(Cow::Borrowed("jo's \\")),
            (Fields::Response, _) if !self.ended => Value::Unknown,
            _ => Value::Absent,
        }
    }
}

fn ask(text: &str, ended: bool) -> Option<bool> {
    Expression::new(text).unwrap().holds(&Call { ended })
}

#[test]
fn what_istios_documentation_shows_is_judged() {
    for (text, expected) in [
        ("response.code >= 400", true),
        ("response.code == 503 && request.method == 'GET'", true),
        ("!(response.code < 500)", true),
        (
            "connection.mtls && request.url_path.contains('views')",
            true,
        ),
        (
            "request.url_path.startsWith(\"/health\") || response.code >= 500",
            true,
        ),
        ("request.url_path.matches('^/reviews/[0-9]+$')", true),
        ("request.duration > duration('100ms')", true),
        ("request.duration > duration('0.2s')", false),
        ("response.duration > 100", true),
        ("has(request.headers['x-user'])", true),
        ("has(request.headers.host)", false),
        ("request.headers['x-user'] == 'jo\\'s \\\\'", true),
        ("response.code in [200, 503]", true),
        (
            "size(request.method) == 3 && request.method.size() < 4",
            true,
        ),
        ("response.code > -1 && 503.0 == response.code", true),
        // Of what is not there nothing is true.
        ("request.headers['nope'] == 'x'", false),
        ("request.headers['nope'] != 'x'", false),
        ("request.headers['nope'] == 'x' || connection.mtls", true),
        ("response.code == 'x'", false),
    ] {
        assert_eq!(ask(text, true), Some(expected), "{text}");
    }
}

#[test]
fn before_the_end_only_what_is_decided_is_said() {
    for (text, expected) in [
        ("response.code >= 400", None),
        (
            "request.method == 'POST' && response.code >= 400",
            Some(false),
        ),
        ("request.method == 'GET' && response.code >= 400", None),
        (
            "request.method == 'GET' || response.code >= 400",
            Some(true),
        ),
        ("!(response.code >= 400)", None),
        ("has(response.headers['x'])", None),
    ] {
        assert_eq!(ask(text, false), expected, "{text}");
    }
}

#[test]
fn what_is_not_understood_is_refused_with_its_place() {
    for (text, column, reason) in [
        ("", 1, "expected a condition"),
        ("response.code", 1, "no condition"),
        ("response.cod == 1", 1, "response.code,"),
        ("foo == 1", 1, "not an attribute"),
        ("response.code = 1", 15, "not understood"),
        (
            "response.code == 1 response.code == 2",
            20,
            "expected the end",
        ),
        ("(response.code == 1", 20, "expected `)`"),
        ("request.method.lower() == 'get'", 22, "takes a string"),
        ("request.method.lower('x')", 16, "not known"),
        ("request.url_path.matches('(')", 18, "regular expression"),
        ("request.method == 'GET", 19, "no closing"),
        ("has('x')", 1, "takes an attribute"),
        (
            "request.duration > duration('1 week')",
            20,
            "not a duration",
        ),
        ("request.method && connection.mtls", 1, "needs a condition"),
    ] {
        let bad = Expression::new(text).unwrap_err();
        assert_eq!(bad.column, column, "{text}: {bad}");
        assert!(bad.reason.contains(reason), "{text}: {bad}");
    }
    assert!(Expression::new(&"(".repeat(3000)).is_err());
    assert!(Expression::new(&"!".repeat(3000)).is_err());
    assert!(Expression::new(&" ".repeat(MAX_BYTES + 1)).is_err());
}

#[test]
fn fields_that_are_asked_about_are_named_once() {
    let text =
        "request.headers['A'] == 'x' || has(request.headers.a) || response.headers['b'] in ['1']";
    let expression = Expression::new(text).unwrap();
    assert_eq!(expression.request_fields(), ["a"]);
    assert_eq!(expression.response_fields(), ["b"]);
}

proptest! {
    /// Whatever is quoted comes out again, and nothing of it is understood as more.
    #[test]
    fn quoting_keeps_a_text_a_text(text in "\\PC{0,40}") {
        let call = format!("{} == {}", quoted(&text), quoted(&text));
        prop_assert_eq!(ask(&call, true), Some(true));
        let other = format!("{} == {}", quoted(&text), quoted(&format!("{text}x")));
        prop_assert_eq!(ask(&other, true), Some(false));
    }

    /// No text makes it panic, and what was decided early is what the end says.
    #[test]
    fn early_answers_stand(
        parts in proptest::collection::vec(prop_oneof![
            Just("request.method == 'GET'"), Just("response.code >= 400"), Just("connection.mtls"),
            Just("request.headers['nope'] == 'x'"), Just("request.duration < duration('1s')"),
        ], 1..5),
        signs in proptest::collection::vec(prop_oneof![Just(" && "), Just(" || "), Just(" && !")], 5),
    ) {
        let mut text = String::new();
        for (at, part) in parts.iter().enumerate() {
            if at > 0 { text.push_str(signs[at]); }
            text.push('(');
            text.push_str(part);
            text.push(')');
        }
        if let Some(early) = ask(&text, false) {
            prop_assert_eq!(ask(&text, true), Some(early), "{}", text);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,60}") {
        let _read = Expression::new(&text);
    }
}
