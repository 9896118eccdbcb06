//! What is sent, and what must come of it.

use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::Value;

use crate::client::{Answer, Ask, Tls};

/// A request with what is expected of the answer and of what the application saw.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) ask: Ask,
    statuses: Vec<u16>,
    grpc: Option<u16>,
    backend: Option<(String, Option<String>)>,
    seen: Vec<(&'static str, String)>,
    seen_fields: Vec<(String, String)>,
    unseen_fields: Vec<String>,
    fields: Vec<(String, Vec<String>)>,
    absent: Vec<String>,
    location: Option<Location>,
}

/// Where a redirect leads; what is `None` is as in the request.
#[derive(Debug, Clone, Default)]
struct Location {
    scheme: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    path: Option<String>,
}

/// A GET.
pub(crate) fn get(path: &str) -> Case {
    method("GET", path)
}

pub(crate) fn method(method: &str, path: &str) -> Case {
    Case {
        ask: Ask {
            method: method.to_owned(),
            host: "any.example".to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            http2: false,
            body: Bytes::new(),
            tls: None,
        },
        statuses: vec![200],
        grpc: None,
        backend: None,
        seen: Vec::new(),
        seen_fields: Vec::new(),
        unseen_fields: Vec::new(),
        fields: Vec::new(),
        absent: Vec::new(),
        location: None,
    }
}

/// A call of `Echo`, `EchoTwo` or `EchoThree`.
pub(crate) fn call(name: &str) -> Case {
    let mut case = method("POST", &format!("/{SERVICE}/{name}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .http2();
    // One message, of no bytes.
    case.ask.body = Bytes::from_static(&[0; 5]);
    case.grpc = Some(0);
    case
}

/// The gRPC service that the applications are.
pub(crate) const SERVICE: &str = "gateway_api_conformance.echo_basic.grpcecho.GrpcEcho";

impl Case {
    pub(crate) fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.ask.host);
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.ask.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn http2(mut self) -> Self {
        self.ask.http2 = true;
        self
    }

    pub(crate) fn tls(mut self, tls: Tls) -> Self {
        self.ask.tls = Some(tls);
        self
    }

    /// It answers 200, and is this application.
    pub(crate) fn by(mut self, backend: &str) -> Self {
        self.backend = Some((backend.to_owned(), None));
        self
    }

    /// The same in another namespace than that of the tests.
    pub(crate) fn by_in(mut self, namespace: &str, backend: &str) -> Self {
        self.backend = Some((backend.to_owned(), Some(namespace.to_owned())));
        self
    }

    pub(crate) fn status(mut self, status: u16) -> Self {
        self.statuses = vec![status];
        self
    }

    pub(crate) fn one_of(mut self, statuses: &[u16]) -> Self {
        self.statuses = statuses.to_vec();
        self
    }

    /// The call ends so.
    pub(crate) fn grpc_status(mut self, status: u16) -> Self {
        self.grpc = Some(status);
        self
    }

    /// The application sees this path.
    pub(crate) fn sees_path(mut self, path: &str) -> Self {
        self.seen.push(("path", path.to_owned()));
        self
    }

    pub(crate) fn sees_host(mut self, host: &str) -> Self {
        self.seen.push(("host", host.to_owned()));
        self
    }

    /// The application is asked for this server name.
    pub(crate) fn sees_server_name(mut self, name: &str) -> Self {
        self.seen.push(("sni", name.to_owned()));
        self
    }

    pub(crate) fn sees_version(mut self, version: &str) -> Self {
        self.seen.push(("version", version.to_owned()));
        self
    }

    /// The application sees this field, several joined by commas.
    pub(crate) fn sees(mut self, name: &str, value: &str) -> Self {
        self.seen_fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn does_not_see(mut self, name: &str) -> Self {
        self.unseen_fields.push(name.to_owned());
        self
    }

    /// The answer has this field.
    pub(crate) fn answers(self, name: &str, value: &str) -> Self {
        self.answers_one_of(name, &[value])
    }

    /// The answer has this field, as one of these; white space does not count.
    pub(crate) fn answers_one_of(mut self, name: &str, values: &[&str]) -> Self {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        self.fields.push((name.to_owned(), values));
        self
    }

    pub(crate) fn answers_without(mut self, name: &str) -> Self {
        self.absent.push(name.to_owned());
        self
    }

    fn location(&mut self) -> &mut Location {
        if self.location.is_none() {
            self.statuses = vec![302];
        }
        self.location.get_or_insert_default()
    }

    /// It is sent elsewhere (302, unless a status is asked for afterwards).
    pub(crate) fn to_same(mut self) -> Self {
        self.location();
        self
    }

    pub(crate) fn to_path(mut self, path: &str) -> Self {
        self.location().path = Some(path.to_owned());
        self
    }

    pub(crate) fn to_host(mut self, host: &str) -> Self {
        self.location().host = Some(host.to_owned());
        self
    }

    pub(crate) fn to_scheme(mut self, scheme: &str) -> Self {
        self.location().scheme = Some(scheme.to_owned());
        self
    }

    pub(crate) fn to_port(mut self, port: u16) -> Self {
        self.location().port = Some(port);
        self
    }

    /// Sends it and holds the answer to what is expected.
    pub(crate) async fn run(&self, to: SocketAddr) -> Result<Answer, String> {
        let answer = crate::client::ask(to, &self.ask).await?;
        self.check(&answer)?;
        Ok(answer)
    }

    /// In a message: `GET http://a/b`.
    pub(crate) fn name(&self) -> String {
        let Ask {
            method,
            host,
            path,
            headers,
            ..
        } = &self.ask;
        format!("{method} {host}{path} {headers:?}")
    }

    fn check(&self, answer: &Answer) -> Result<(), String> {
        if let Some(wanted) = self.grpc {
            let got = answer.grpc_status();
            same("the status of gRPC", &wanted, &got)
                .map_err(|error| format!("{error} (HTTP {})", answer.status))?;
        } else if !self.statuses.contains(&answer.status) {
            return Err(format!(
                "status {} in place of {:?}: {:?}",
                answer.status, self.statuses, answer.body
            ));
        }
        for (name, values) in &self.fields {
            let got = joined(
                answer
                    .headers
                    .get_all(name)
                    .iter()
                    .map(hyper::header::HeaderValue::as_bytes),
            );
            let bare = |text: &str| text.replace(' ', "");
            if !values.iter().any(|value| bare(value) == bare(&got)) {
                return Err(format!("answer's {name} is {got:?}, not one of {values:?}"));
            }
        }
        if let Some(name) = self
            .absent
            .iter()
            .find(|name| answer.headers.contains_key(*name))
        {
            return Err(format!("the answer has {name}"));
        }
        if let Some(location) = &self.location {
            self.check_location(location, answer)?;
        }
        let asked = self.backend.is_some()
            || !self.seen.is_empty()
            || !self.seen_fields.is_empty()
            || !self.unseen_fields.is_empty();
        if !asked {
            return Ok(());
        }
        let report = match self.grpc {
            None => answer.report(),
            Some(_) => answer
                .body
                .get(5..)
                .and_then(|text| serde_json::from_slice(text).ok()),
        };
        let report = report.ok_or_else(|| format!("no report: {:?}", answer.body))?;
        self.check_report(&report)
    }

    fn check_report(&self, report: &Value) -> Result<(), String> {
        let text = |key: &str| report[key].as_str().unwrap_or_default();
        if let Some((backend, namespace)) = &self.backend {
            same("the application", &backend.as_str(), &text("pod"))?;
            let namespace = namespace.as_deref().unwrap_or(crate::stand::INFRA);
            if !text("namespace").starts_with("gateway-conformance-mesh") {
                same("its namespace", &namespace, &text("namespace"))?;
            }
        }
        for (key, value) in &self.seen {
            same(key, &value.as_str(), &text(key))?;
        }
        let field = |name: &str| {
            let values = report["headers"][name.to_ascii_lowercase()].as_array()?;
            let values = values.iter().filter_map(Value::as_str);
            Some(joined(values.map(str::as_bytes)))
        };
        for (name, value) in &self.seen_fields {
            let got = field(name).unwrap_or_default();
            same(name, &value.replace(' ', ""), &got.replace(' ', ""))?;
        }
        match self.unseen_fields.iter().find(|name| field(name).is_some()) {
            Some(name) => Err(format!("the application sees {name}")),
            None => Ok(()),
        }
    }

    fn check_location(&self, location: &Location, answer: &Answer) -> Result<(), String> {
        let text = joined(
            answer
                .headers
                .get_all("location")
                .iter()
                .map(hyper::header::HeaderValue::as_bytes),
        );
        let uri: hyper::Uri = text.parse().map_err(|_| format!("Location {text:?}"))?;
        let own_scheme = if self.ask.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let scheme = location.scheme.as_deref().unwrap_or(own_scheme);
        let host = location.host.as_deref().unwrap_or(&self.ask.host);
        let path = location.path.as_deref().unwrap_or(&self.ask.path);
        // What is left out is as it was: a relative reference says so too.
        same(
            "the scheme",
            &scheme,
            &uri.scheme_str().unwrap_or(own_scheme),
        )?;
        same("the host", &host, &uri.host().unwrap_or(&self.ask.host))?;
        same("the path", &path, &uri.path())?;
        let usual = if scheme == "https" { 443 } else { 80 };
        let port = location.port.unwrap_or(usual);
        same("the port", &port, &uri.port_u16().unwrap_or(usual))
            .map_err(|error| format!("{error} in {text}"))
    }
}

fn joined<'a>(values: impl Iterator<Item = &'a [u8]>) -> String {
    let values: Vec<_> = values.map(String::from_utf8_lossy).collect();
    values.join(",")
}

/// They are equal, or it says what they are.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    wanted: &T,
    got: &T,
) -> Result<(), String> {
    if wanted == got {
        Ok(())
    } else {
        Err(format!("{what} is {got:?} in place of {wanted:?}"))
    }
}
