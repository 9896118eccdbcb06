//! The sample application: a shop page made of four services, and an echo server for tests.
//!
//! It is a stand-in for other people's programs, so it knows nothing of the mesh: it calls its
//! neighbours by service name, honours `HTTP_PROXY`, and hands on the headers that tie a trace
//! together, as any instrumented program does. Owns: the pages, their data, the client that calls.
//! Leaves to others: how it is started and where it listens (`plan`), everything about proxies.

mod books;
mod call;
mod echo;
mod options;
mod page;
mod serve;

pub use options::{AppError, Kind, Options};
pub use serve::{run, serve};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

/// Any body that this program answers with.
type Body = BoxBody<Bytes, hyper::Error>;

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

fn reply(status: StatusCode, kind: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn json(status: StatusCode, value: &Value) -> Response<Body> {
    reply(status, "application/json", value.to_string())
}

fn text(status: StatusCode, words: impl Into<Bytes>) -> Response<Body> {
    reply(status, "text/plain; charset=utf-8", words)
}

fn html(words: String) -> Response<Body> {
    reply(StatusCode::OK, "text/html; charset=utf-8", words)
}
