//! What one instance of the sample application is: its part, its version, its address, its neighbours.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::Uri;

/// Which of the programs to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The page that people open; calls details and reviews.
    Productpage,
    /// Facts about the book.
    Details,
    /// Two opinions; v2 and v3 call ratings.
    Reviews,
    /// Stars for each reviewer.
    Ratings,
    /// Answers with what it was asked.
    Echo,
}

/// What can be wrong when the sample application starts.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// `--name` is not a program that exists.
    #[error("no sample application is called {0:?}")]
    UnknownName(String),
    /// A variable or flag holds something else than is expected.
    #[error("{what} is {value:?}, expected {expected}")]
    Setting {
        /// The flag or variable.
        what: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// The listener could not be made.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

impl AppError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::UnknownName(_) => Some("use productpage, details, reviews, ratings or echo"),
            Self::Setting { .. } => None,
            Self::Bind { .. } => Some("set PORT to a free port"),
        }
    }
}

/// One instance. [`Options::new`] fills it from the variables that `up` and Kubernetes set.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which program.
    pub kind: Kind,
    /// The version it says it is, for example `v2`.
    pub version: String,
    /// Where it listens: `HOST` (all addresses by default) and `PORT` (9080 by default).
    pub listen: SocketAddr,
    /// The name in its answers: `POD_NAME`, else `HOSTNAME`.
    pub pod: String,
    /// The proxy for calls, from `HTTP_PROXY`: `host:port`.
    pub proxy: Option<String>,
    /// Where details is.
    pub details: String,
    /// Where reviews is.
    pub reviews: String,
    /// Where ratings is.
    pub ratings: String,
    /// Every so manieth request fails, from `FAIL_EACH`: a bad version, to show what a mesh does about one.
    /// Zero is none.
    pub fail_each: u64,
}

impl Options {
    /// The instance called `name` with settings looked up by variable name. An empty variable
    /// counts as unset.
    pub fn new(
        name: &str,
        version: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, AppError> {
        let variable = |key: &str| variable(key).filter(|value| !value.is_empty());
        let kind = match name {
            "productpage" => Kind::Productpage,
            "details" => Kind::Details,
            "reviews" => Kind::Reviews,
            "ratings" => Kind::Ratings,
            "echo" => Kind::Echo,
            other => return Err(AppError::UnknownName(other.to_owned())),
        };
        let host = match variable("HOST") {
            None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Some(value) => value.parse().map_err(|_| AppError::Setting {
                what: "HOST",
                value,
                expected: "an IP address",
            })?,
        };
        let port = match variable("PORT") {
            None => 9080,
            Some(value) => value.parse().map_err(|_| AppError::Setting {
                what: "PORT",
                value,
                expected: "a port between 0 and 65535",
            })?,
        };
        let proxy = match variable("http_proxy").or_else(|| variable("HTTP_PROXY")) {
            None => None,
            Some(value) => Some(proxy_authority(&value).ok_or(AppError::Setting {
                what: "HTTP_PROXY",
                value,
                expected: "http://HOST:PORT",
            })?),
        };
        let fail_each = match variable("FAIL_EACH") {
            None => 0,
            Some(value) => value.parse().map_err(|_| AppError::Setting {
                what: "FAIL_EACH",
                value,
                expected: "a whole number: of so many requests one fails",
            })?,
        };
        let neighbour = |key: &str, service: &str| {
            variable(key).unwrap_or_else(|| format!("http://{service}:9080"))
        };
        Ok(Self {
            kind,
            version: version.unwrap_or("v1").to_owned(),
            listen: SocketAddr::new(host, port),
            pod: variable("POD_NAME")
                .or_else(|| variable("HOSTNAME"))
                .unwrap_or_else(|| name.to_owned()),
            proxy,
            details: neighbour("DETAILS_URL", "details"),
            reviews: neighbour("REVIEWS_URL", "reviews"),
            ratings: neighbour("RATINGS_URL", "ratings"),
            fail_each,
        })
    }
}

/// `http://host:port/` to `host:port`; the port defaults to 80.
fn proxy_authority(value: &str) -> Option<String> {
    let uri: Uri = value.parse().ok()?;
    if uri.scheme_str().is_some_and(|scheme| scheme != "http") {
        return None;
    }
    let authority = uri.authority()?;
    Some(format!(
        "{}:{}",
        authority.host(),
        authority.port_u16().unwrap_or(80)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Result<Options, AppError> {
        Options::new("reviews", Some("v2"), |key| {
            pairs
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn settings_come_from_variables_and_have_defaults() {
        let plain = with(&[]).unwrap();
        assert_eq!(plain.listen.to_string(), "0.0.0.0:9080");
        assert_eq!(plain.pod, "reviews");
        assert_eq!(plain.ratings, "http://ratings:9080");
        let full = with(&[
            ("HOST", "127.3.0.4"),
            ("PORT", "29080"),
            ("POD_NAME", "reviews-v2-abc"),
            ("HTTP_PROXY", "http://127.3.0.4:15001"),
            ("NO_PROXY", ""),
        ])
        .unwrap();
        assert_eq!(full.listen.to_string(), "127.3.0.4:29080");
        assert_eq!(full.proxy.as_deref(), Some("127.3.0.4:15001"));
        assert_eq!(full.pod, "reviews-v2-abc");
    }

    #[test]
    fn wrong_settings_are_named() {
        let error = with(&[("PORT", "many")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "PORT is \"many\", expected a port between 0 and 65535"
        );
        assert!(with(&[("FAIL_EACH", "seldom")]).is_err());
        assert_eq!(with(&[("FAIL_EACH", "20")]).unwrap().fail_each, 20);
        assert!(with(&[("HTTP_PROXY", "socks5://x:1")]).is_err());
        assert!(Options::new("shop", None, |_| None).is_err());
    }
}
