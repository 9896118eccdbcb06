use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, QueryParameter, header_value_option,
};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::BoolValue;
use envoy_types::pb::google::rpc::Status;
use proptest::prelude::*;
use prost::Message;

use super::change::Place;
use super::exchange::Got;
use super::*;
use crate::mesh::ext_authz::{AsksHttp, CheckedBody, ExtAuthz};
use crate::mesh::route::TextMatch;
use crate::proxy::http::Version;
use crate::proxy::http::h2::block::{Block, is_field};

fn exact(all: &[&str]) -> Vec<TextMatch> {
    let all = all.iter();
    all.map(|name| TextMatch::Exact((*name).to_owned()))
        .collect()
}

fn question() -> Question {
    let field = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    Question {
        method: b"POST".to_vec(),
        path: b"/a?b=c".to_vec(),
        authority: b"shop.example".to_vec(),
        tls: true,
        version: Version::Http2,
        fields: vec![
            field("authorization", "Basic x"),
            field("x-a", "1"),
            field("x-a", "2"),
            field("x-request-id", "id"),
            (b"x-odd".to_vec(), b"\xff!".to_vec()),
            field("cookie", "c"),
        ],
        length: Some(4),
        ends: Ends {
            source: ([10, 0, 0, 1], 4000).into(),
            source_id: "spiffe://a/ns/b/sa/c".to_owned(),
            certificate: "PEM".to_owned(),
            destination: ([10, 0, 0, 2], 80).into(),
            destination_id: String::new(),
            server_name: "shop.example".to_owned(),
        },
    }
}

fn http() -> AsksHttp {
    AsksHttp {
        cluster: "c".to_owned(),
        path_prefix: "/check".to_owned(),
        headers_to_add: vec![("x-a".to_owned(), "own".to_owned())],
        upstream: exact(&["x-user"]),
        upstream_append: exact(&["x-group"]),
        denied: exact(&["x-why"]),
        allowed: exact(&["set-cookie"]),
        ..AsksHttp::default()
    }
}

fn fields(block: &Block) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut all = Vec::new();
    block.each(|_, name, value| all.push((text(name), text(value))));
    all
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn by_http_hardly_any_header_is_part_of_the_question() {
    let config = ExtAuthz {
        allowed_headers: exact(&["x-a", "cookie"]),
        disallowed_headers: exact(&["cookie"]),
        ..ExtAuthz::default()
    };
    let put = web::question(&question(), (&config, &http()), None);
    assert_eq!(put.head.method(), b"POST");
    assert_eq!(put.head.path(), b"/check/a?b=c");
    assert_eq!(put.head.authority(), Some(&b"shop.example"[..]));
    assert_eq!(
        fields(&put.head),
        [
            pair("authorization", "Basic x"),
            pair("x-a", "own"),
            pair("content-length", "0")
        ]
    );
    let own = AsksHttp {
        headers_to_add: Vec::new(),
        ..http()
    };
    let put = web::question(&question(), (&config, &own), None);
    assert!(fields(&put.head).contains(&pair("x-a", "1,2")));
    let put = web::question(&question(), (&config, &http()), Some((b"body", true)));
    assert_eq!(put.body, b"body");
    assert!(fields(&put.head).contains(&pair("x-envoy-auth-partial-body", "true")));
    assert!(fields(&put.head).contains(&pair("content-length", "4")));
}

#[test]
fn by_grpc_the_question_has_what_envoys_has() {
    let config = ExtAuthz {
        peer_certificate: true,
        tls_session: true,
        disallowed_headers: exact(&["cookie"]),
        body: Some(CheckedBody {
            max_bytes: 4,
            partial: true,
            as_bytes: true,
        }),
        ..ExtAuthz::default()
    };
    let put = grpc::question(&question(), &config, Some((b"body", false)));
    assert_eq!(
        put.head.path(),
        b"/envoy.service.auth.v3.Authorization/Check"
    );
    let sent = CheckRequest::decode(&put.body[5..]).unwrap();
    assert_eq!(put.body[0], 0);
    let attributes = sent.attributes.unwrap();
    let source = attributes.source.unwrap();
    assert_eq!(source.principal, "spiffe://a/ns/b/sa/c");
    assert_eq!(source.certificate, "PEM");
    assert!(attributes.metadata_context.is_some());
    assert_eq!(attributes.tls_session.unwrap().sni, "shop.example");
    let http = attributes.request.unwrap().http.unwrap();
    assert_eq!(
        (http.id.as_str(), http.method.as_str(), http.size),
        ("id", "POST", 4)
    );
    assert_eq!(
        (
            http.path.as_str(),
            http.host.as_str(),
            http.protocol.as_str()
        ),
        ("/a?b=c", "shop.example", "HTTP/2")
    );
    assert_eq!(
        (http.body.as_str(), http.raw_body.as_slice()),
        ("", &b"body"[..])
    );
    let names: BTreeSet<&str> = http.headers.keys().map(String::as_str).collect();
    let expected = [
        ":authority",
        ":method",
        ":path",
        ":scheme",
        "authorization",
        "content-length",
        "x-a",
        "x-envoy-auth-partial-body",
        "x-odd",
        "x-request-id",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    assert_eq!(http.headers["x-a"], "1,2");
    assert_eq!(http.headers["x-odd"], "!!");
}

fn got(status: u16, fields: &[(&str, &str)]) -> Got {
    let fields = fields.iter();
    Got {
        status,
        fields: fields
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect(),
        body: b"why".to_vec(),
        grpc_status: None,
    }
}

/// What `changes` make of some fields.
fn changed(changes: &Changes, fields: &[(&str, &str)]) -> Vec<(String, String)> {
    let fields = fields.iter();
    let mut all: Vec<(String, Vec<u8>)> = fields
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect();
    changes.apply(&mut all, &mut Vec::new()).unwrap();
    all.into_iter()
        .map(|(name, value)| (name, String::from_utf8(value).unwrap()))
        .collect()
}

#[test]
fn what_an_answer_by_http_says() {
    let all = [
        ("x-user", "a"),
        ("x-user", "b"),
        ("x-group", "g"),
        ("x-other", "o"),
        ("set-cookie", "c"),
        ("x-envoy-auth-headers-to-remove", "x-secret, host"),
    ];
    let Outcome::Allowed(head, told) = web::answer(&got(200, &all), &http()) else {
        panic!("it is allowed")
    };
    let came = [
        ("host", "h"),
        ("X-User", "forged"),
        ("x-group", "own"),
        ("x-secret", "s"),
    ];
    assert_eq!(
        changed(&head, &came),
        [
            pair("host", "h"),
            pair("x-group", "own"),
            pair("x-user", "a"),
            pair("x-user", "b"),
            pair("x-group", "g"),
        ]
    );
    assert_eq!(changed(&told, &[]), [pair("set-cookie", "c")]);
    for status in [500, 503, 599] {
        assert_eq!(web::answer(&got(status, &[]), &http()), Outcome::Error);
    }
    for status in [201, 204, 302, 401, 404] {
        let answer = got(
            status,
            &[("x-why", "w"), ("x-hidden", "h"), ("location", "/l")],
        );
        let Outcome::Denied(why) = web::answer(&answer, &http()) else {
            panic!("{status} is no yes")
        };
        assert_eq!((why.status, why.body.as_str()), (status, "why"));
        assert_eq!(why.headers, [pair("x-why", "w"), pair("location", "/l")]);
    }
}

fn framed(response: &CheckResponse) -> Got {
    let message = response.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    Got {
        status: 200,
        fields: Vec::new(),
        body: [&[0][..], &length, &message].concat(),
        grpc_status: Some(0),
    }
}

fn option(key: &str, value: &str, append: Option<bool>) -> HeaderValueOption {
    #[expect(deprecated, reason = "most answers say it so")]
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        append: append.map(|value| BoolValue { value }),
        ..HeaderValueOption::default()
    }
}

fn said(code: i32, response: Option<HttpResponse>) -> Outcome {
    grpc::answer(&framed(&CheckResponse {
        status: Some(Status {
            code,
            ..Status::default()
        }),
        http_response: response,
        ..CheckResponse::default()
    }))
}

#[test]
fn what_an_answer_by_grpc_says() {
    use header_value_option::HeaderAppendAction as Action;
    let act = |key: &str, action: Action| HeaderValueOption {
        append_action: action.into(),
        ..option(key, "new", None)
    };
    let ok = OkHttpResponse {
        headers: vec![
            option("X-User", "alice", None),
            option("x-list", "two", Some(true)),
            option("x-no-list", "two", Some(true)),
            act("x-absent", Action::AddIfAbsent),
            act("x-present", Action::AddIfAbsent),
            act("x-if", Action::OverwriteIfExists),
            act("x-none", Action::OverwriteIfExists),
            option(":path", "/other", None),
            option("Host", "other", None),
            option("content-length", "9", None),
            option("transfer-encoding", "chunked", None),
            option("connection", "x-user", None),
            option("x-forwarded-client-cert", "By=me", None),
        ],
        headers_to_remove: vec!["x-secret".to_owned(), "host".to_owned(), ":path".to_owned()],
        response_headers_to_add: vec![option("x-told", "t", None)],
        query_parameters_to_set: vec![QueryParameter {
            key: "us er".to_owned(),
            value: "a&b=c#d".to_owned(),
        }],
        query_parameters_to_remove: vec!["admin".to_owned()],
        ..OkHttpResponse::default()
    };
    let Outcome::Allowed(head, told) = said(0, Some(HttpResponse::OkResponse(ok))) else {
        panic!("it is allowed")
    };
    let mut path = b"/a?admin=1&%61dmin=2&us%20er=x&us+er=y&z".to_vec();
    let came = [
        ("host", "h"),
        ("x-user", "forged"),
        ("x-user", "twice"),
        ("x-list", "one"),
        ("x-present", "old"),
        ("x-if", "old"),
        ("x-secret", "s"),
    ];
    let mut all: Vec<(String, Vec<u8>)> = came
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect();
    head.apply(&mut all, &mut path).unwrap();
    let all: Vec<(String, String)> = all
        .into_iter()
        .map(|(name, value)| (name, String::from_utf8(value).unwrap()))
        .collect();
    assert_eq!(
        all,
        [
            pair("host", "h"),
            pair("x-list", "one"),
            pair("x-present", "old"),
            pair("x-user", "alice"),
            pair("x-list", "two"),
            pair("x-absent", "new"),
            pair("x-if", "new"),
        ]
    );
    assert_eq!(path, b"/a?z&us%20er=a%26b%3Dc%23d");
    assert_eq!(changed(&told, &[]), [pair("x-told", "t")]);

    assert!(matches!(said(0, None), Outcome::Allowed(..)));
    let Outcome::Denied(bare) = said(7, None) else {
        panic!("it is denied")
    };
    assert_eq!((bare.status, bare.details), (403, "ext_authz_denied"));
    // A yes in the words of a no is a no.
    let ok = HttpResponse::OkResponse(OkHttpResponse::default());
    assert!(matches!(said(7, Some(ok)), Outcome::Denied(_)));
    let denied = |code: i32, headers: Vec<HeaderValueOption>| {
        let denied = DeniedHttpResponse {
            status: Some(HttpStatus { code }),
            headers,
            body: "no".to_owned(),
        };
        said(7, Some(HttpResponse::DeniedResponse(denied)))
    };
    let Outcome::Denied(why) = denied(
        401,
        vec![
            option("WWW-Authenticate", "Basic", None),
            option("set-cookie", "a", None),
            option("set-cookie", "b", None),
            option("content-length", "7", None),
            option(":status", "200", None),
        ],
    ) else {
        panic!("it is denied")
    };
    assert_eq!((why.status, why.body.as_str()), (401, "no"));
    assert_eq!(
        why.headers,
        [
            pair("www-authenticate", "Basic"),
            pair("set-cookie", "a"),
            pair("set-cookie", "b")
        ]
    );
    // What is no status or no field is refused, and nothing of it told.
    for bad in [
        denied(100, Vec::new()),
        denied(99_999, Vec::new()),
        denied(403, vec![option("x-a", "a\r\nx-b: c", None)]),
        denied(403, vec![option("x a", "a", None)]),
    ] {
        let Outcome::Denied(why) = bad else {
            panic!("{bad:?}")
        };
        assert_eq!((why.status, why.details), (500, "ext_authz_invalid"));
        assert!(why.headers.is_empty() && why.body.is_empty());
    }
}

#[test]
fn what_is_no_answer_lets_nothing_pass() {
    let whole = framed(&CheckResponse::default());
    assert!(matches!(grpc::answer(&whole), Outcome::Allowed(..)));
    let with = |change: &dyn Fn(&mut Got)| {
        let mut got = whole.clone();
        change(&mut got);
        grpc::answer(&got)
    };
    for bad in [
        with(&|got| got.grpc_status = Some(14)),
        with(&|got| got.grpc_status = None),
        with(&|got| got.status = 503),
        with(&|got| got.body.clear()),
        with(&|got| got.body = vec![1, 0, 0, 0, 0]),
        with(&|got| got.body = vec![0, 0, 0, 0, 1]),
        with(&|got| got.body = vec![0, 0, 0, 0, 0, 0]),
        with(&|got| got.body = vec![0, 0, 0, 0, 2, 0xff, 0xff]),
    ] {
        assert_eq!(bad, Outcome::Error);
    }
}

#[test]
fn an_answer_changes_no_more_than_it_may() {
    let mut changes = Changes::default();
    for index in 0..128 {
        changes
            .put(Place::Instead, &format!("x-{index}"), b"1")
            .unwrap();
    }
    assert_eq!(
        changes.put(Place::Instead, "x-more", b"1"),
        Err(Bad::TooMany)
    );
    let mut large = Changes::default();
    let value = vec![b'x'; 64 * 1024];
    large.put(Place::Beside, "x-large", &value).unwrap();
    let mut fields = Vec::new();
    assert_eq!(
        large.apply(&mut fields, &mut Vec::new()),
        Err(Bad::TooLarge)
    );
}

proptest! {
    /// Whatever somebody says, what is sent on are fields, and those that frame the message or say where it goes
    /// stay as they came.
    #[test]
    fn answers_make_no_other_message(
        changes in proptest::collection::vec(
            (0..4_u8, "[a-zA-Z:-]{0,6}|host|content-length|:path|connection", "[ -~\\r\\n]{0,8}"),
            0..8,
        ),
    ) {
        let mut all = Changes::default();
        let mut good = true;
        for (place, name, value) in &changes {
            let place = [Place::Instead, Place::Beside, Place::IfAbsent, Place::IfPresent]
                [usize::from(*place)];
            good &= all.put(place, name, value.as_bytes()).is_ok();
        }
        let own = [("host", "h"), ("content-length", "3"), ("connection", "close"), ("x", "y")];
        let mut fields: Vec<(String, Vec<u8>)> = own
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect();
        let applied = all.apply(&mut fields, &mut b"/".to_vec());
        prop_assert!(applied.is_ok() || !good);
        for (name, value) in &fields {
            prop_assert!(is_field(name.as_bytes(), value), "{name} {value:?}");
        }
        for (name, value) in &own[..3] {
            let found: Vec<_> = fields.iter().filter(|(own, _)| own == name).collect();
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(&found[0].1, value.as_bytes());
        }
    }
}
