//! Who may talk to the page's listener: the page that was opened with its secret, and nobody else.
//!
//! The listener does for its user what its user may do to the mesh, and every page of a browser on this machine can
//! reach it. So a request must name the listener by a name that no name server decides, must come from the listener's
//! own page where the browser says where it comes from, and must carry the secret that only the opened link has: it
//! stands in the link's fragment, which browsers send to nobody. A cookie would come along with requests of any page.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};

use crate::api::PREFIX;

/// The header in which the page shows its secret.
pub const SHOWN: &str = "x-meshctl-session";

/// What a page must show; made anew for every listener.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Of random bytes, in hexadecimal.
    pub fn new(random: [u8; 32]) -> Self {
        let digits: Vec<String> = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Self(digits.concat())
    }

    /// For the link that is opened, and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn is(&self, shown: &[u8]) -> bool {
        verify_slices_are_equal(self.0.as_bytes(), shown).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Whether `path` is handed on, and so needs the secret.
pub fn is_relayed(path: &str) -> bool {
    path == PREFIX
        || path
            .strip_prefix(PREFIX)
            .is_some_and(|rest| rest.starts_with('/'))
        || path == super::serve::SESSION
}

/// Why a request is refused; `port` is the listener's.
pub fn refusal(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    port: u16,
    secret: &Secret,
) -> Option<(StatusCode, &'static str)> {
    let forbidden = |why| Some((StatusCode::FORBIDDEN, why));
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Some((StatusCode::BAD_REQUEST, "a request has one Host"));
    };
    let is_ours = |name: &[u8]| {
        let ours = ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{port}"));
        ours.iter()
            .any(|ours| name.eq_ignore_ascii_case(ours.as_bytes()))
    };
    let target = uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    if !is_ours(host.as_bytes()) || target.is_some_and(|target| !is_ours(target)) {
        return forbidden("the dashboard answers to the address in its link only");
    }
    let relayed = is_relayed(uri.path());
    if let Some(origin) = headers.get(header::ORIGIN) {
        let own = origin.as_bytes().strip_prefix(b"http://");
        if own.is_none_or(|own| !own.eq_ignore_ascii_case(host.as_bytes())) {
            return forbidden("pages of others are not answered");
        }
    }
    let said = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    match said("sec-fetch-site") {
        None | Some(b"same-origin" | b"none") => {}
        // A link that somebody sent: the page without the secret, in a window of its own.
        Some(_)
            if !relayed
                && *method == Method::GET
                && said("sec-fetch-mode") == Some(b"navigate")
                && said("sec-fetch-dest") == Some(b"document") => {}
        Some(_) => return forbidden("pages of others are not answered"),
    }
    if relayed {
        let mut shown = headers.get_all(SHOWN).iter();
        let shown = match (shown.next(), shown.next()) {
            (Some(one), None) => one.as_bytes(),
            _ => &[],
        };
        if !secret.is(shown) {
            return Some((
                StatusCode::UNAUTHORIZED,
                "this page was not opened by the link that `meshctl dashboard` printed",
            ));
        }
    } else if !matches!(*method, Method::GET | Method::HEAD) {
        return Some((StatusCode::METHOD_NOT_ALLOWED, "files are only read"));
    }
    None
}

/// Adds what every answer says, so that the page runs nothing but its own files and nobody shows it in theirs.
pub fn close(said: &mut HeaderMap) {
    for (name, value) in SAID {
        said.insert(name, HeaderValue::from_static(value));
    }
    if !said.contains_key(header::CACHE_CONTROL) {
        said.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

const SAID: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 4_000;

    fn judge(method: &str, path: &str, said: &[(&str, &str)]) -> Option<u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            headers.append(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::try_from(*value).unwrap(),
            );
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let secret = Secret::new([7; 32]);
        refusal(&method, &path.parse().unwrap(), &headers, PORT, &secret)
            .map(|(status, _)| status.as_u16())
    }

    const HOST: (&str, &str) = ("host", "127.0.0.1:4000");

    fn own() -> String {
        "07".repeat(32)
    }

    #[test]
    fn the_secret_opens_the_api_and_nothing_else_does() {
        let own = own();
        let shown = (SHOWN, own.as_str());
        assert_eq!(judge("GET", "/api/v1/stats", &[HOST, shown]), None);
        assert_eq!(judge("POST", "/api/v1/resources", &[HOST, shown]), None);
        assert_eq!(judge("GET", "/session", &[HOST, shown]), None);
        for path in [
            "/api/v1/stats",
            "/api/v1",
            "/session",
            "/api/v1/x?y=/app.js",
        ] {
            assert_eq!(judge("GET", path, &[HOST]), Some(401), "{path}");
        }
        let short = "07".repeat(31);
        let wrong = "08".repeat(32);
        for other in ["", &short, &wrong, &format!("{own}07")] {
            let said = [HOST, (SHOWN, other)];
            assert_eq!(judge("GET", "/api/v1/stats", &said), Some(401), "{other}");
        }
        let twice = [HOST, shown, (SHOWN, &wrong)];
        assert_eq!(judge("GET", "/api/v1/stats", &twice), Some(401));
        assert_eq!(judge("GET", "/", &[HOST]), None);
        assert_eq!(judge("POST", "/", &[HOST, shown]), Some(405));
    }

    #[test]
    fn names_that_name_servers_decide_are_not_ours() {
        for host in ["127.0.0.1:4000", "localhost:4000", "[::1]:4000"] {
            assert_eq!(judge("GET", "/", &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example:4000",
            "127.0.0.1.evil.example:4000",
            "127.0.0.1:4001",
            "127.0.0.1",
            "127.0.0.2:4000",
            "",
        ] {
            assert_eq!(judge("GET", "/", &[("host", host)]), Some(403), "{host}");
        }
        assert_eq!(judge("GET", "/", &[]), Some(400));
        assert_eq!(judge("GET", "/", &[HOST, HOST]), Some(400));
        assert_eq!(judge("GET", "http://evil.example/", &[HOST]), Some(403));
    }

    #[test]
    fn pages_of_others_are_refused_even_with_the_secret() {
        let own = own();
        let shown = (SHOWN, own.as_str());
        for origin in [
            "http://evil.example",
            "null",
            "https://127.0.0.1:4000",
            "http://127.0.0.1:4001",
        ] {
            let said = [HOST, shown, ("origin", origin)];
            assert_eq!(
                judge("POST", "/api/v1/resources", &said),
                Some(403),
                "{origin}"
            );
        }
        let ours = [HOST, shown, ("origin", "http://127.0.0.1:4000")];
        assert_eq!(judge("POST", "/api/v1/resources", &ours), None);
        for site in ["cross-site", "same-site"] {
            let said = [HOST, shown, ("sec-fetch-site", site)];
            assert_eq!(judge("GET", "/api/v1/stats", &said), Some(403), "{site}");
            assert_eq!(judge("GET", "/app.js", &said), Some(403), "{site}");
        }
    }

    #[test]
    fn a_link_opens_the_page_and_a_frame_does_not() {
        let from = |dest| {
            [
                HOST,
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", dest),
            ]
        };
        assert_eq!(judge("GET", "/graph", &from("document")), None);
        assert_eq!(judge("GET", "/graph", &from("iframe")), Some(403));
        assert_eq!(judge("POST", "/graph", &from("document")), Some(403));
        assert_eq!(judge("GET", "/api/v1/stats", &from("document")), Some(403));
    }

    #[test]
    fn the_secret_is_written_nowhere() {
        let text = format!("{:?}", Secret::new([7; 32]));
        assert!(!text.contains("0707"), "{text}");
    }
}
