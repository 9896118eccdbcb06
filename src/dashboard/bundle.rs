//! The page's files, as they were built into the program.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use axum::body::Body;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};

/// One file, plain and compressed by gzip.
struct File {
    path: &'static str,
    kind: &'static str,
    plain: &'static [u8],
    gzip: &'static [u8],
}

macro_rules! file {
    ($name:literal, $kind:literal) => {
        File {
            path: concat!("/", $name),
            kind: $kind,
            plain: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/dist/", $name)),
            gzip: include_bytes!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/assets/dist/",
                $name,
                ".gz"
            )),
        }
    };
}

/// The page itself comes first: it is what every path without a file of its own shows.
const FILES: &[File] = &[
    file!("index.html", "text/html; charset=utf-8"),
    file!("app.js", "text/javascript; charset=utf-8"),
    file!("app.css", "text/css; charset=utf-8"),
    file!("layout.js", "text/javascript; charset=utf-8"),
    file!("icon.svg", "image/svg+xml"),
    file!("licenses.txt", "text/plain; charset=utf-8"),
];

/// What tells one build of a file from another, in the order of [`FILES`].
static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| {
    let tag = |file: &File| {
        let digest = digest::digest(&digest::SHA256, file.plain);
        let digits = digest.as_ref().iter().take(12);
        let text: Vec<String> = digits.map(|byte| format!("{byte:02x}")).collect();
        HeaderValue::try_from(format!("\"{}\"", text.concat()))
    };
    let tags = FILES.iter().map(tag);
    // Hexadecimal digits in quotes are always a value.
    tags.map(|tag| tag.unwrap_or_else(|_| HeaderValue::from_static("\"\"")))
        .collect()
});

/// The file at `path`, or the page for paths that only the page knows.
pub fn answer(method: &Method, path: &str, asked: &HeaderMap) -> Response<Body> {
    let of_file = |file: &&File| file.path == path;
    // Names in paths of the page have dots, too, but stand below it.
    let is_file = path.rfind('/') == Some(0) && path.contains('.');
    let at = match FILES.iter().position(|file| of_file(&file)) {
        Some(at) => at,
        None if is_file => return plain(StatusCode::NOT_FOUND, "there is no such file\n"),
        None => 0,
    };
    let (Some(file), Some(tag)) = (FILES.get(at), TAGS.get(at)) else {
        return plain(StatusCode::NOT_FOUND, "there is no such file\n");
    };
    let mut response = Response::new(Body::empty());
    let said = response.headers_mut();
    said.insert(header::ETAG, tag.clone());
    // Another build is another file, so each use asks whether it is still this one.
    said.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    said.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if asked.get(header::IF_NONE_MATCH) == Some(tag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    said.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
    let gzip = asked
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("gzip"));
    let bytes = if gzip {
        said.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        file.gzip
    } else {
        file.plain
    };
    said.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    if *method != Method::HEAD {
        *response.body_mut() = Body::from(bytes);
    }
    response
}

fn plain(status: StatusCode, words: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(words));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundle_is_at_most_eighty_kilobytes_compressed() {
        let loaded = FILES.iter().filter(|file| file.path != "/licenses.txt");
        let sum: usize = loaded.map(|file| file.gzip.len()).sum();
        assert!(sum <= 80 << 10, "{sum} bytes");
    }

    #[test]
    fn paths_of_the_page_are_the_page_and_files_that_are_not_there_are_not() {
        let asked = HeaderMap::new();
        for path in [
            "/",
            "/graph",
            "/service/reviews.default",
            "/config/Service/default/a.b",
        ] {
            let response = answer(&Method::GET, path, &asked);
            assert_eq!(response.status(), 200, "{path}");
            assert_eq!(
                response.headers()[header::CONTENT_TYPE],
                "text/html; charset=utf-8"
            );
        }
        for path in ["/favicon.ico", "/app.js.map"] {
            assert_eq!(answer(&Method::GET, path, &asked).status(), 404, "{path}");
        }
    }

    #[test]
    fn a_file_that_a_browser_has_is_not_sent_again_and_one_that_it_has_not_is_compressed() {
        let mut asked = HeaderMap::new();
        asked.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("br, gzip"),
        );
        let first = answer(&Method::GET, "/app.js", &asked);
        assert_eq!(first.headers()[header::CONTENT_ENCODING], "gzip");
        asked.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
        assert_eq!(answer(&Method::GET, "/app.js", &asked).status(), 304);
        assert_eq!(answer(&Method::GET, "/app.css", &asked).status(), 200);
    }
}
