//! The `extensionProviders` of a MeshConfig that are asked whether requests may be made. Others only report.

use std::collections::BTreeMap;
use std::time::Duration;

use super::header_edits::header_name;
use crate::mesh::authorization::wild;
use crate::mesh::ext_authz::{Asks, AsksHttp, CheckedBody, ExtAuthz, STATUS_ON_ERROR};
use crate::mesh::route::TextMatch;
use crate::resource::codes;
use crate::resource::reader::{Fields, Value};

/// How long an answer is waited for where nobody says (Istio's).
const TIMEOUT: Duration = Duration::from_mins(10);

/// Fields of an entry whose providers only report.
const REPORTING: [&str; 6] = [
    "lightstep",
    "datadog",
    "stackdriver",
    "opencensus",
    "skywalking",
    "prometheus",
];

/// Somebody who is asked whether requests may be made.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthzProvider {
    /// `[NAMESPACE/]HOST`, as it is written.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// How it is asked; without its cluster.
    pub how: ExtAuthz,
}

/// All entries, by name; none for those that cannot be asked.
pub(super) type Providers = BTreeMap<String, Option<AuthzProvider>>;

pub(super) fn providers(fields: &Fields<'_>) -> Providers {
    let mut all = Providers::new();
    for written in fields.list("extensionProviders") {
        let entry = written.fields();
        let name = entry.require("name");
        let grpc = entry.get("envoyExtAuthzGrpc").map(|value| (value, true));
        let http = entry.get("envoyExtAuthzHttp").map(|value| (value, false));
        if let (Some(_), Some((value, _))) = (&grpc, &http) {
            value.error_hint(
                "a provider is asked in one way",
                "write two entries, each with a name of its own",
            );
        }
        let provider = grpc
            .or(http)
            .and_then(|(value, grpc)| provider(&value, grpc));
        for field in REPORTING {
            entry.ignore(
                field,
                "every proxy reports Istio's standard metrics without it",
            );
        }
        // Read by `span_providers` and `log_providers`.
        entry.accept(&[
            "opentelemetry",
            "zipkin",
            "envoyFileAccessLog",
            "envoyHttpAls",
            "envoyTcpAls",
            "envoyOtelAls",
        ]);
        entry.refuse(
            "sds",
            "remove it: credentials of gateways are Secrets, or files beside the proxy",
        );
        if let Some(name) = name
            && let Some(text) = name.text()
            && all.insert(text.clone(), provider).is_some()
        {
            name.error_hint(
                format!("there is a provider {text:?} already"),
                "give each a name of its own",
            );
        }
        entry.finish();
    }
    all
}

fn provider(value: &Value<'_>, grpc: bool) -> Option<AuthzProvider> {
    let fields = value.fields();
    let service = fields.require("service").and_then(|value| service(&value));
    let port = fields.require("port").and_then(|value| value.port());
    let timeout = match fields.get("timeout") {
        None => Some(TIMEOUT),
        Some(value) => value.duration().inspect(|timeout| {
            if timeout.is_zero() {
                value.error_hint("nobody answers in no time", "timeout: 1s");
            }
        }),
    };
    let how = ExtAuthz {
        timeout: timeout.unwrap_or(TIMEOUT),
        fail_open: fields.boolean("failOpen").unwrap_or_default(),
        clear_route_cache: fields.boolean("clearRouteCache").unwrap_or_default(),
        status_on_error: fields
            .get("statusOnError")
            .and_then(|value| status(&value))
            .unwrap_or(STATUS_ON_ERROR),
        body: fields
            .get("includeRequestBodyInCheck")
            .and_then(|value| body(&value)),
        ..ExtAuthz::default()
    };
    if how.fail_open
        && let Some(value) = fields.get("failOpen")
    {
        value.warn(
            codes::PROVIDER_FAILS_OPEN,
            "while this provider does not answer, whatever it would be asked about passes",
            "failOpen: false",
        );
    }
    let how = if grpc {
        ExtAuthz {
            peer_certificate: true,
            ..how
        }
    } else {
        http(&fields, how)
    };
    fields.finish();
    Some(AuthzProvider {
        service: service?,
        port: port?,
        how,
    })
}

fn http(fields: &Fields<'_>, how: ExtAuthz) -> ExtAuthz {
    let prefix = fields.get("pathPrefix").and_then(|value| {
        let text = value.text()?;
        let fits = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
        if text.starts_with('/') && text.bytes().all(fits) {
            return Some(text);
        }
        value.error_hint(
            format!("{text:?} is not the beginning of a path"),
            "pathPrefix: /check",
        );
        None
    });
    let checked = names(fields, "includeRequestHeadersInCheck");
    // The older name; Istio takes it where the other one says nothing.
    let older = names(fields, "includeHeadersInCheck");
    let added = fields
        .get("includeAdditionalHeadersInCheck")
        .map(|value| {
            value
                .texts()
                .into_iter()
                .filter_map(|(name, text)| {
                    let fits =
                        text.bytes().all(|byte| !byte.is_ascii_control()) && text.trim() == text;
                    if !fits {
                        value.error(format!("the value of {name:?} is not one of a header"));
                        return None;
                    }
                    Some((header_name(&value, &name)?, text))
                })
                .collect()
        })
        .unwrap_or_default();
    let asks = AsksHttp {
        path_prefix: prefix.unwrap_or_default(),
        headers_to_add: added,
        upstream: names(fields, "headersToUpstreamOnAllow"),
        denied: names(fields, "headersToDownstreamOnDeny"),
        allowed: names(fields, "headersToDownstreamOnAllow"),
        ..AsksHttp::default()
    };
    ExtAuthz {
        asks: Asks::Http(Box::new(asks)),
        allowed_headers: if checked.is_empty() { older } else { checked },
        ..how
    }
}

/// Names of headers; a `*` at one end stands for any text.
fn names(fields: &Fields<'_>, field: &'static str) -> Vec<TextMatch> {
    let read = |value: &Value<'_>| {
        let text = value.text()?;
        let bare = text.strip_suffix('*').or_else(|| text.strip_prefix('*'));
        if bare != Some("") {
            header_name(value, bare.unwrap_or(&text))?;
        }
        Some(wild(&text.to_ascii_lowercase(), ""))
    };
    fields.list(field).iter().filter_map(read).collect()
}

fn service(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    let host = text.split_once('/').map_or(text.as_str(), |(_, host)| host);
    if host.is_empty() || host.contains(['*', '/']) {
        value.error_hint(
            format!("{text:?} is not a service"),
            "NAMESPACE/HOST, such as auth/ext-authz.auth.svc.cluster.local",
        );
        return None;
    }
    Some(text)
}

fn status(value: &Value<'_>) -> Option<u16> {
    let text = value.text()?;
    match text.parse() {
        // Those that Envoy knows.
        Ok(status) if matches!(status, 400..=417 | 421..=424 | 426 | 428 | 429 | 431 | 500..=508 | 510 | 511) => {
            Some(status)
        }
        _ => {
            value.error_hint(
                format!("{text:?} is not the status of an error"),
                "statusOnError: \"503\"",
            );
            None
        }
    }
}

fn body(value: &Value<'_>) -> Option<CheckedBody> {
    let fields = value.fields();
    let most = fields.require("maxRequestBytes").and_then(|value| {
        let most = value.count(u32::MAX)?;
        if most == 0 {
            value.error_hint(
                "nothing of a body is no part of it",
                "maxRequestBytes: 4096",
            );
        }
        Some(most)
    });
    let body = CheckedBody {
        max_bytes: most.unwrap_or(1),
        partial: fields.boolean("allowPartialMessage").unwrap_or_default(),
        as_bytes: fields.boolean("packAsBytes").unwrap_or_default(),
    };
    fields.finish();
    most.map(|_| body)
}
