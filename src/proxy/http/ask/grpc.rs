//! Asking by gRPC: `envoy.service.auth.v3.Authorization/Check`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    Address, HeaderValueOption, Metadata, SocketAddress, address, header_value_option,
    socket_address,
};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Peer, Request, TlsSession,
};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use prost::Message;

use crate::mesh::ext_authz::{Asks, ExtAuthz, names};

use super::super::Version;
use super::super::control::write_grpc_timeout;
use super::super::fields::classify;
use super::super::h2::block::Block;
use super::change::{Bad, Changes, Place, answer_fields};
use super::exchange::{Got, Put};
use super::question::{Ends, Question};
use super::web::PARTIAL;
use super::{Outcome, Unauthorized};

const PATH: &[u8] = b"/envoy.service.auth.v3.Authorization/Check";

/// The question about `from`.
pub(super) fn question(from: &Question, config: &ExtAuthz, body: Option<(&[u8], bool)>) -> Put {
    let request = Request {
        http: Some(http(from, config, body)),
        ..Request::default()
    };
    put(&check(&from.ends, config, Some(request)), config)
}

/// The question about a connection of bytes.
pub(super) fn about_bytes(ends: &Ends, config: &ExtAuthz) -> Put {
    put(&check(ends, config, None), config)
}

fn put(message: &CheckRequest, config: &ExtAuthz) -> Put {
    let Asks::Grpc {
        cluster,
        authority,
        metadata,
    } = &config.asks
    else {
        return Put {
            cluster: String::new(),
            head: Block::default(),
            body: Vec::new(),
            grpc: true,
        };
    };
    let message = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend_from_slice(
        &u32::try_from(message.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    framed.extend_from_slice(&message);
    let mut head = Block::default();
    let authority = if authority.is_empty() {
        cluster
    } else {
        authority
    };
    head.set_request((b"POST", b"http"), (authority.as_bytes(), PATH));
    let mut put = |name: &str, value: &[u8]| {
        head.put(classify(name.as_bytes()), name.as_bytes(), value, false);
    };
    put("te", b"trailers");
    put("content-type", b"application/grpc");
    if config.timeout > Duration::ZERO {
        put(
            "grpc-timeout",
            write_grpc_timeout(config.timeout).as_bytes(),
        );
    }
    for (name, value) in metadata {
        put(name, value.as_bytes());
    }
    Put {
        cluster: cluster.clone(),
        head,
        body: framed,
        grpc: true,
    }
}

fn http(from: &Question, config: &ExtAuthz, body: Option<(&[u8], bool)>) -> HttpRequest {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    let told = |name: &[u8]| {
        let allowed = config.allowed_headers.is_empty() || names(&config.allowed_headers, name);
        allowed && !names(&config.disallowed_headers, name)
    };
    let pseudo: [(&[u8], &[u8]); 4] = [
        (b":method", &from.method),
        (b":path", &from.path),
        (b":authority", &from.authority),
        (b":scheme", from.scheme().as_bytes()),
    ];
    let fields = from.fields.iter();
    let fields = fields.map(|(name, value)| (name.as_slice(), value.as_slice()));
    for (name, value) in pseudo.into_iter().chain(fields) {
        if !told(name) {
            continue;
        }
        let value = text(value);
        headers
            .entry(text(name))
            // Several values of one field are a list (RFC 9110, 5.3).
            .and_modify(|all| {
                all.push(',');
                all.push_str(&value);
            })
            .or_insert(value);
    }
    if let Some(length) = from.length.filter(|_| told(b"content-length")) {
        headers.insert("content-length".to_owned(), length.to_string());
    }
    if let Some((_, partial)) = body {
        headers.insert(PARTIAL.to_owned(), partial.to_string());
    }
    let bytes = body.map_or(&[][..], |(body, _)| body);
    let as_bytes = config.body.is_some_and(|body| body.as_bytes);
    let size = match body {
        Some((body, _)) => i64::try_from(body.len()).ok(),
        None => from.length.and_then(|length| i64::try_from(length).ok()),
    };
    HttpRequest {
        id: text(from.first("x-request-id").unwrap_or_default()),
        method: text(&from.method),
        headers: headers.into_iter().collect(),
        path: text(&from.path),
        host: text(&from.authority),
        scheme: from.scheme().to_owned(),
        size: size.unwrap_or(-1),
        protocol: match from.version {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        }
        .to_owned(),
        body: if as_bytes { String::new() } else { text(bytes) },
        raw_body: if as_bytes { bytes.to_vec() } else { Vec::new() },
        ..HttpRequest::default()
    }
}

fn check(from: &Ends, config: &ExtAuthz, request: Option<Request>) -> CheckRequest {
    let peer = |at: SocketAddr, principal: &str, certificate: &str| Peer {
        address: Some(address_of(at)),
        principal: principal.to_owned(),
        certificate: certificate.to_owned(),
        ..Peer::default()
    };
    let certificate = if config.peer_certificate {
        from.certificate.as_str()
    } else {
        ""
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(from.source, &from.source_id, certificate)),
            destination: Some(peer(from.destination, &from.destination_id, "")),
            request,
            metadata_context: Some(Metadata::default()),
            route_metadata_context: Some(Metadata::default()),
            tls_session: config.tls_session.then(|| TlsSession {
                sni: from.server_name.clone(),
            }),
            ..AttributeContext::default()
        }),
    }
}

fn address_of(at: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: at.ip().to_canonical().to_string(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(at.port().into())),
            ..SocketAddress::default()
        })),
    }
}

/// Texts are UTF-8 there; what is not is told by `!` (Envoy's).
fn text(bytes: &[u8]) -> String {
    let mut made = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        made.push_str(chunk.valid());
        made.extend(chunk.invalid().iter().map(|_| '!'));
    }
    made
}

/// What an answer says.
pub(super) fn answer(got: &Got) -> Outcome {
    if got.status != 200 || got.grpc_status != Some(0) {
        return Outcome::Error;
    }
    // One message, whole and not compressed.
    let message = match got.body.as_slice() {
        [0, a, b, c, d, message @ ..]
            if usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])) == Ok(message.len()) =>
        {
            message
        }
        _ => return Outcome::Error,
    };
    let Ok(response) = CheckResponse::decode(message) else {
        return Outcome::Error;
    };
    // One without a status says yes, as in Envoy.
    let allowed = response
        .status
        .as_ref()
        .is_none_or(|status| status.code == 0);
    let said = match response.http_response {
        Some(HttpResponse::OkResponse(ok)) if allowed => {
            changes(ok).map(|(head, told)| Outcome::Allowed(head, told))
        }
        _ if allowed => Ok(Outcome::Allowed(Changes::default(), Changes::default())),
        Some(HttpResponse::ErrorResponse(_)) => return Outcome::Error,
        Some(HttpResponse::DeniedResponse(denied)) => refusal(denied).map(Outcome::Denied),
        Some(HttpResponse::OkResponse(_)) | None => {
            refusal(DeniedHttpResponse::default()).map(Outcome::Denied)
        }
    };
    said.unwrap_or_else(|bad| Outcome::Denied(bad.into()))
}

/// How a field stands to those of its name. In requests it is in their place where the answer does not say
/// otherwise, so that callers cannot write what the answer means to say; in answers it is beside them.
fn place(option: &HeaderValueOption, request: bool) -> Place {
    use header_value_option::HeaderAppendAction as Action;
    #[expect(deprecated, reason = "most answers say it so")]
    if let Some(append) = option.append {
        return match (append.value, request) {
            // Where there is nothing to add to, nothing is added (Envoy).
            (true, true) => Place::BesideAnother,
            (true, false) => Place::Beside,
            (false, _) => Place::Instead,
        };
    }
    match Action::try_from(option.append_action) {
        Ok(Action::AppendIfExistsOrAdd) if !request => Place::Beside,
        Ok(Action::AddIfAbsent) => Place::IfAbsent,
        Ok(Action::OverwriteIfExists) => Place::IfPresent,
        Ok(Action::AppendIfExistsOrAdd | Action::OverwriteIfExistsOrAdd) | Err(_) => Place::Instead,
    }
}

fn field(option: HeaderValueOption) -> (String, Vec<u8>) {
    let header = option.header.unwrap_or_default();
    let value = if header.raw_value.is_empty() {
        header.value.into_bytes()
    } else {
        header.raw_value
    };
    (header.key, value)
}

fn changes(ok: OkHttpResponse) -> Result<(Changes, Changes), Bad> {
    let (mut head, mut told) = (Changes::default(), Changes::default());
    for option in ok.headers {
        let place = place(&option, true);
        let (name, value) = field(option);
        head.put(place, &name, &value)?;
    }
    for name in ok.headers_to_remove {
        head.remove(&name)?;
    }
    for param in ok.query_parameters_to_set {
        head.param(param.key, Some(param.value))?;
    }
    for name in ok.query_parameters_to_remove {
        head.param(name, None)?;
    }
    for option in ok.response_headers_to_add {
        let place = place(&option, false);
        let (name, value) = field(option);
        told.put(place, &name, &value)?;
    }
    Ok((head, told))
}

fn refusal(denied: DeniedHttpResponse) -> Result<Unauthorized, Bad> {
    let status = denied.status.map_or(0, |status| status.code);
    let status = match u16::try_from(status) {
        Ok(0) => 403,
        // What looks like an answer before the answer is none.
        Ok(status @ 200..=599) => status,
        _ => return Err(Bad::Field),
    };
    Ok(Unauthorized {
        status,
        details: "ext_authz_denied",
        body: denied.body,
        headers: answer_fields(denied.headers.into_iter().map(field))?,
    })
}
