//! Asking by HTTP: a request like the one in question, and an answer whose status says what follows.

use crate::mesh::ext_authz::{AsksHttp, ExtAuthz, names};

use super::super::fields::{Name, classify};
use super::super::h2::block::Block;
use super::super::head::put_length;
use super::change::{Bad, Changes, Place, answer_fields};
use super::exchange::{Got, Put};
use super::question::Question;
use super::{Outcome, Unauthorized};

/// Names fields of the request that are taken out.
const REMOVES: &str = "x-envoy-auth-headers-to-remove";
/// Says whether the body is a part of the request's.
pub(super) const PARTIAL: &str = "x-envoy-auth-partial-body";

/// Fields that are part of every question (Envoy's).
const ALWAYS: [&[u8]; 1] = [b"authorization"];
/// Fields that callers are told of every refusal (Envoy's).
const TOLD: [&[u8]; 2] = [b"www-authenticate", b"location"];

/// The question about `from`.
pub(super) fn question(
    from: &Question,
    (config, http): (&ExtAuthz, &AsksHttp),
    body: Option<(&[u8], bool)>,
) -> Put {
    let mut head = Block::default();
    let path = if http.path_override.is_empty() {
        [http.path_prefix.as_bytes(), &from.path].concat()
    } else {
        http.path_override.clone().into_bytes()
    };
    let scheme = from.scheme().as_bytes();
    head.set_request((&from.method, scheme), (&from.authority, &path));
    let added = |name: &[u8]| {
        let mut added = http.headers_to_add.iter();
        added.any(|(own, _)| own.as_bytes() == name)
    };
    let mut asked_for: Vec<(&Vec<u8>, Vec<u8>)> = Vec::new();
    for (name, value) in &from.fields {
        let asked = ALWAYS.contains(&name.as_slice()) || names(&config.allowed_headers, name);
        let known = classify(name);
        // Those of one connection are of that one only.
        let own = matches!(
            known,
            Name::Connection | Name::Hop | Name::Upgrade | Name::Te | Name::Expect
        );
        if asked && !own && !names(&config.disallowed_headers, name) && !added(name) {
            // Several values of one field are a list (RFC 9110, 5.3): whoever looks at the first sees all.
            let mut had = asked_for.iter_mut();
            match had.find(|(own, _)| *own == name) {
                Some((_, all)) => {
                    all.push(b',');
                    all.extend_from_slice(value);
                }
                None => asked_for.push((name, value.clone())),
            }
        }
    }
    for (name, value) in &asked_for {
        head.put(classify(name), name, value, false);
    }
    for (name, value) in &http.headers_to_add {
        head.put(
            classify(name.as_bytes()),
            name.as_bytes(),
            value.as_bytes(),
            false,
        );
    }
    if let Some((_, partial)) = body {
        let partial: &[u8] = if partial { b"true" } else { b"false" };
        head.put(Name::Other, PARTIAL.as_bytes(), partial, false);
    }
    let body = body.map_or(&[][..], |(body, _)| body);
    put_length(&mut head, u64::try_from(body.len()).unwrap_or(0));
    Put {
        cluster: http.cluster.clone(),
        head,
        body: body.to_vec(),
        grpc: false,
    }
}

/// What an answer says.
pub(super) fn answer(got: &Got, http: &AsksHttp) -> Outcome {
    let said = match got.status {
        200 => allowed(got, http).map(|(head, told)| Outcome::Allowed(head, told)),
        500.. => return Outcome::Error,
        _ => denied(got, http).map(Outcome::Denied),
    };
    said.unwrap_or_else(|bad| Outcome::Denied(bad.into()))
}

fn allowed(got: &Got, http: &AsksHttp) -> Result<(Changes, Changes), Bad> {
    let (mut head, mut told) = (Changes::default(), Changes::default());
    let mut set: Vec<&str> = Vec::new();
    for (name, value) in &got.fields {
        let bytes = name.as_bytes();
        if names(&http.upstream, bytes) {
            // Several values of one name are all in the place of what came.
            let place = if set.contains(&name.as_str()) {
                Place::Beside
            } else {
                Place::Instead
            };
            set.push(name);
            head.put(place, name, value)?;
        } else if names(&http.upstream_append, bytes) {
            head.put(Place::Beside, name, value)?;
        }
        if names(&http.allowed, bytes) && !frames(name) {
            told.put(Place::Beside, name, value)?;
        }
    }
    let removed = got.first(REMOVES).unwrap_or_default();
    for name in String::from_utf8_lossy(removed).split(',') {
        head.remove(name)?;
    }
    Ok((head, told))
}

/// Says what the answer's own body is.
fn frames(name: &str) -> bool {
    matches!(
        name,
        "content-type" | "content-encoding" | "date" | "server"
    )
}

fn denied(got: &Got, http: &AsksHttp) -> Result<Unauthorized, Bad> {
    let told = |name: &str| {
        let bytes = name.as_bytes();
        match http.denied.as_slice() {
            [] => true,
            some => names(some, bytes) || TOLD.contains(&bytes),
        }
    };
    let fields = got.fields.iter().filter(|(name, _)| told(name));
    Ok(Unauthorized {
        status: got.status,
        details: "ext_authz_denied",
        body: String::from_utf8_lossy(&got.body).into_owned(),
        headers: answer_fields(fields.cloned())?,
    })
}
