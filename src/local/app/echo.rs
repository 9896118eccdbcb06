//! The echo server: what was asked, as JSON; and the body itself, frame by frame, on `/stream`.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::{Body, Options, full, json as answer, text};

/// Bodies above this are refused with 413; `/stream` has no limit since it keeps nothing.
const MAX_BODY: usize = 1 << 20;

/// How much of the body the answer repeats.
const SHOWN: usize = 4096;

pub(super) async fn echo(options: &Options, request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() == "/stream" {
        let kind = request.headers().get(header::CONTENT_TYPE).cloned();
        let mut response = Response::new(request.into_body().boxed());
        if let Some(kind) = kind {
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        return response;
    }
    let (head, body) = request.into_parts();
    let Ok(collected) = Limited::new(body, MAX_BODY).collect().await else {
        return text(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the echo server keeps at most 1 MiB; use /stream\n",
        );
    };
    let trailers = collected.trailers().cloned();
    let bytes = collected.to_bytes();
    let shown = bytes.get(..SHOWN.min(bytes.len())).unwrap_or_default();
    let report = json!({
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": head.uri.query(),
        "authority": head.uri.authority().map(ToString::to_string),
        "protocol": format!("{:?}", head.version),
        "headers": names_and_values(&head.headers),
        "trailers": trailers.as_ref().map(names_and_values),
        "bodyBytes": bytes.len(),
        "body": String::from_utf8_lossy(shown),
        "podname": options.pod,
        "version": options.version,
    });
    let mut response = answer(StatusCode::OK, &report);
    if let Some(trailers) = trailers {
        if let Some(names) = trailer_names(&trailers) {
            response.headers_mut().insert(header::TRAILER, names);
        }
        let body = std::mem::replace(response.body_mut(), full(Bytes::new()));
        *response.body_mut() = body
            .with_trailers(async move { Some(Ok(trailers)) })
            .boxed();
    }
    response
}

/// A header that came once is a string, one that came more often a list.
fn names_and_values(headers: &HeaderMap) -> Value {
    let mut out = Map::new();
    for name in headers.keys() {
        let mut values: Vec<Value> = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into())
            .collect();
        let value = match values.pop() {
            Some(only) if values.is_empty() => only,
            Some(last) => {
                values.push(last);
                Value::Array(values)
            }
            None => continue,
        };
        out.insert(name.as_str().to_owned(), value);
    }
    Value::Object(out)
}

/// HTTP/1.1 sends only the trailers that were announced (RFC 9110, section 6.6.2).
fn trailer_names(trailers: &HeaderMap) -> Option<http::HeaderValue> {
    let names: Vec<&str> = trailers.keys().map(http::HeaderName::as_str).collect();
    http::HeaderValue::from_str(&names.join(", ")).ok()
}
