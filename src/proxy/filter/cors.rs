//! What browsers ask before they let pages of other origins call (`envoy.filters.http.cors`).

use std::sync::Arc;

use crate::mesh::filter::Cors;
use crate::mesh::route::{Request, TextMatch};
use crate::telemetry::Flag;

use super::{Asked, Passed, Refusal};

const ORIGIN: &str = "access-control-allow-origin";
const CREDENTIALS: &str = "access-control-allow-credentials";
const EXPOSE: &str = "access-control-expose-headers";

/// What the answer to a request tells its caller: that a page of an origin may call, and what others say
/// who were asked about it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Granted {
    page: Option<(String, Arc<Cors>)>,
    /// These take the place of those of one name.
    pub(crate) set: Vec<(String, String)>,
    /// These are added.
    pub(crate) added: Vec<(String, String)>,
}

impl Granted {
    /// The fields that say so in an answer.
    pub(crate) fn each(&self, mut put: impl FnMut(&str, &str)) {
        self.each_instead(&mut put);
        for (name, value) in &self.added {
            put(name, value);
        }
    }

    fn each_instead(&self, put: &mut dyn FnMut(&str, &str)) {
        if let Some((origin, policy)) = &self.page {
            put(ORIGIN, origin);
            if policy.credentials == Some(true) {
                put(CREDENTIALS, "true");
            }
            if !policy.expose.is_empty() {
                put(EXPOSE, &policy.expose);
            }
        }
        for (name, value) in &self.set {
            put(name, value);
        }
    }

    /// Whether a field of this name is replaced.
    pub(crate) fn replaces(&self, name: &[u8]) -> bool {
        let mut any = false;
        self.each_instead(&mut |own, _| any |= name.eq_ignore_ascii_case(own.as_bytes()));
        any
    }
}

/// Answers what is asked beforehand, and lets the rest pass with what its answer is to say.
pub(super) fn run(
    policy: &Arc<Cors>,
    asked: &Asked<'_>,
    passed: &mut Passed,
) -> Result<(), Box<Refusal>> {
    let request = asked.request;
    if policy.origins.is_empty() || !policy.enabled.takes(fastrand::u32(..)) {
        return Ok(());
    }
    let Some(origin) = first(request, "origin") else {
        return Ok(());
    };
    let allowed = policy.origins.iter().any(|allowed| match allowed {
        TextMatch::Exact(any) if any == "*" => true,
        allowed => allowed.holds(origin.as_bytes()),
    });
    let method = match request.method() {
        b"OPTIONS" => first(request, "access-control-request-method"),
        _ => None,
    };
    let Some(method) = method else {
        if allowed {
            let policy = Arc::clone(policy);
            passed.granted = Some(Box::new(Granted {
                page: Some((origin, policy)),
                ..Granted::default()
            }));
        }
        return Ok(());
    };
    if !allowed && policy.forward_unmatched.unwrap_or(true) {
        return Ok(());
    }
    if !allowed {
        // Without leave nothing else is worth telling.
        return Err(Box::new(preflight(Vec::new())));
    }
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            headers.push((name.to_owned(), value.to_owned()));
        }
    };
    put(ORIGIN, &origin);
    if policy.credentials == Some(true) {
        put(CREDENTIALS, "true");
    }
    let wanted = first(request, "access-control-request-headers").unwrap_or_default();
    let or = |written: &str, asked: String| match written {
        "*" => asked,
        written => written.to_owned(),
    };
    put("access-control-allow-methods", &or(&policy.methods, method));
    put("access-control-allow-headers", &or(&policy.headers, wanted));
    put("access-control-expose-headers", &policy.expose);
    put("access-control-max-age", &policy.max_age);
    if policy.private_network == Some(true)
        && first(request, "access-control-request-private-network").as_deref() == Some("true")
    {
        put("access-control-allow-private-network", "true");
    }
    Err(Box::new(preflight(headers)))
}

fn preflight(headers: Vec<(String, String)>) -> Refusal {
    Refusal {
        status: 200,
        flag: Flag::None,
        details: "cors_response",
        body: "",
        grpc_status: 0,
        headers,
    }
}

/// The first value of a field, where it is a text that says something.
fn first(request: &dyn Request, name: &str) -> Option<String> {
    let mut found = None;
    request.header(name, &mut |value| {
        found = std::str::from_utf8(value).ok().map(str::to_owned);
        false
    });
    found.filter(|text| !text.is_empty())
}
