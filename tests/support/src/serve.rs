//! Requests in, answers out: authentication, authorization, then the handler.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};

use crate::auth::{self, ISSUER, User};
use crate::kinds::Kind;
use crate::path::Ask;
use crate::read::{Watch, line};
use crate::server::{Server, key_of};
use crate::status::{Answer, Refusal};
use crate::store::Key;
use crate::write::{Body, scale_of};
use crate::{discovery, openapi, pods, protobuf, rbac, table};

/// An answer's body.
pub type Out = UnsyncBoxBody<Bytes, Infallible>;

/// Answers one request; `peer` is the user of the connection's certificate.
pub async fn answer(
    server: Arc<Server>,
    peer: Option<User>,
    request: Request<Incoming>,
) -> Response<Out> {
    match handle(&server, peer, request).await {
        Ok(response) => response,
        Err(refusal) => refused(&refusal),
    }
}

/// The answer to a refused request.
pub fn refused(refusal: &Refusal) -> Response<Out> {
    let mut response = json_of(refusal.code, &refusal.body());
    if let Some(seconds) = refusal.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn json_of(code: StatusCode, value: &Value) -> Response<Out> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() = code;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn plain(text: &'static str) -> Response<Out> {
    Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync())
}

fn ok(value: &Value) -> Response<Out> {
    json_of(StatusCode::OK, value)
}

fn header_of<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
}

/// Who asks; a token that is not valid is refused rather than taken for nobody.
fn who(server: &Server, peer: Option<User>, headers: &HeaderMap) -> Answer<User> {
    let sent = header_of(headers, "authorization");
    let Some(token) = sent.strip_prefix("Bearer ") else {
        return Ok(peer.unwrap_or_else(User::anonymous));
    };
    server
        .user_of_token(token.trim(), &[ISSUER.to_owned()])
        .map(|(user, _)| user)
        .ok_or_else(|| Refusal::new(401, "Unauthorized", "Unauthorized"))
}

/// Whom they act as: `kubectl --as`. Each name and group needs the verb `impersonate`.
fn impersonated(server: &Server, user: User, headers: &HeaderMap) -> Answer<User> {
    let name = header_of(headers, "impersonate-user");
    let all = headers.get_all("impersonate-group").into_iter();
    let groups: Vec<&str> = all.filter_map(|g| g.to_str().ok()).collect();
    if name.is_empty() {
        if groups.is_empty() {
            return Ok(user);
        }
        return Err(Refusal::bad(
            "impersonating groups without a user is not possible",
        ));
    }
    let state = server.state();
    let may = |resource: &str, namespace: &str, name: &str| {
        let ask = Ask {
            verb: "impersonate".into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Ask::default()
        };
        if rbac::allows(&state.store, &user, &ask) {
            Ok(())
        } else {
            Err(rbac::refusal(&user, &ask))
        }
    };
    let account = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'));
    let mut meant = groups.clone();
    let own;
    match account {
        Some((namespace, account)) => {
            may("serviceaccounts", namespace, account)?;
            own = format!("system:serviceaccounts:{namespace}");
            if groups.is_empty() {
                meant.extend(["system:serviceaccounts", own.as_str()]);
            }
        }
        None => may("users", "", name)?,
    }
    for group in &groups {
        may("groups", "", group)?;
    }
    meant.retain(|g| *g != "system:authenticated");
    Ok(User::new(name, &meant))
}

/// A list of one name is judged as of that name.
fn named(ask: &Ask) -> Ask {
    let mut ask = ask.clone();
    let one = ask
        .query("fieldSelector")
        .and_then(|selector| selector.strip_prefix("metadata.name="))
        .filter(|name| !name.contains(','))
        .map(str::to_owned);
    if let (true, Some(name)) = (ask.name.is_empty(), one) {
        ask.name = name;
    }
    ask
}

async fn handle(
    server: &Arc<Server>,
    peer: Option<User>,
    request: Request<Incoming>,
) -> Answer<Response<Out>> {
    let (parts, body) = request.into_parts();
    let ask = Ask::read(
        &parts.method,
        parts.uri.path(),
        parts.uri.query().unwrap_or_default(),
    );
    let user = impersonated(server, who(server, peer, &parts.headers)?, &parts.headers)?;
    if let Some(answer) = server.before(&ask, &user).await {
        return Ok(answer);
    }
    if !rbac::allows(&server.state().store, &user, &named(&ask)) {
        return Err(rbac::refusal(&user, &ask));
    }
    let accept = header_of(&parts.headers, "accept").to_owned();
    if pods::is_meant(&ask) {
        return pods::answer(server, &ask, &user, parts);
    }
    if ask.resource.is_empty() {
        return paths(server, &ask, &accept);
    }
    let kind = server
        .state()
        .find(&ask.group, &ask.version, &ask.resource)
        .ok_or_else(Refusal::no_path)?;
    if kind.namespaced && !ask.name.is_empty() && ask.namespace.is_empty() {
        return Err(Refusal::no_path());
    }
    if parts.method == Method::GET {
        return read(server, &kind, &ask, &accept);
    }
    let body = received(&parts.headers, body, &kind, &ask, &user).await?;
    let answer = write(server, &kind, &ask, &user, &body, &accept).await;
    let warnings = body.warnings.into_inner().unwrap_or_default();
    answer
        .map(|mut response| {
            warn(&mut response, &warnings);
            response
        })
        .or_else(|refusal| {
            let mut response = refused(&refusal);
            warn(&mut response, &warnings);
            Ok(response)
        })
}

/// Warnings as headers: clients print them.
fn warn(response: &mut Response<Out>, warnings: &[String]) {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = format!("299 - \"{quoted}\"").parse() {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

async fn received(
    headers: &HeaderMap,
    body: Incoming,
    kind: &Kind,
    ask: &Ask,
    user: &User,
) -> Answer<Body> {
    let bytes = body
        .collect()
        .await
        .map_err(|e| Refusal::bad(e.to_string()))?
        .to_bytes();
    let media = header_of(headers, "content-type")
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned();
    let agent = header_of(headers, "user-agent")
        .split(['/', ' '])
        .next()
        .unwrap_or_default()
        .to_owned();
    let value = if bytes.is_empty() {
        json!({})
    } else if media == protobuf::MEDIA {
        protobuf::decode(&bytes)
            .map_err(|why| Refusal::bad(format!("error decoding protobuf: {why}")))?
    } else if media.ends_with("yaml") {
        let text = std::str::from_utf8(&bytes).map_err(|e| Refusal::bad(e.to_string()))?;
        serde_saphyr::from_str(text)
            .map_err(|e| Refusal::bad(format!("error decoding YAML: {e}")))?
    } else {
        serde_json::from_slice(&bytes)
            .map_err(|e| Refusal::bad(format!("error decoding JSON: {e}")))?
    };
    let media = match media.as_str() {
        // What it is from here on.
        "" | protobuf::MEDIA => "application/json".to_owned(),
        _ => media,
    };
    let body = Body {
        media,
        ..Body::json(value, &agent, user.clone())
    };
    crate::validation::fields(kind, ask, &body)?;
    Ok(body)
}

/// What is no resource.
fn paths(server: &Server, ask: &Ask, accept: &str) -> Answer<Response<Out>> {
    let kinds = server.state().kinds.clone();
    let aggregated = accept.contains("as=APIGroupDiscoveryList") && accept.contains("v=v2");
    let parts: Vec<&str> = ask.path.split('/').filter(|p| !p.is_empty()).collect();
    let found = match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => return Ok(plain("ok")),
        ["version"] => {
            let mut numbers = server.version.trim_start_matches('v').split('.');
            let (major, minor) = (numbers.next(), numbers.next());
            Some(json!({
                "major": major, "minor": minor, "gitVersion": server.version, "gitCommit": "", "gitTreeState": "clean",
                "buildDate": "2026-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
            }))
        }
        ["api" | "apis"] if aggregated => {
            let list = discovery::aggregated(&kinds, ask.path.trim_end_matches('/') == "/api");
            let mut response = ok(&list);
            let media = header::HeaderValue::from_static(
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            );
            response.headers_mut().insert(header::CONTENT_TYPE, media);
            return Ok(response);
        }
        ["api"] => Some(discovery::core()),
        ["apis"] => Some(discovery::all(&kinds)),
        ["api", version] => discovery::resources(&kinds, "", version),
        ["apis", group] => discovery::one(&kinds, group),
        ["apis", group, version] => discovery::resources(&kinds, group, version),
        ["openapi", "v3"] => Some(openapi::index(&kinds)),
        ["openapi", "v3", path @ ..] => openapi::document(&kinds, &path.join("/"), &server.version),
        ["openid", "v1", "jwks"] => Some(server.keys.jwks()),
        [".well-known", "openid-configuration"] => Some(json!({
            "issuer": ISSUER, "jwks_uri": format!("{ISSUER}/openid/v1/jwks"), "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
        })),
        _ => None,
    };
    found.map(|f| ok(&f)).ok_or_else(Refusal::no_path)
}

fn read(server: &Arc<Server>, kind: &Arc<Kind>, ask: &Ask, accept: &str) -> Answer<Response<Out>> {
    if kind.is_review() {
        return Err(not_allowed());
    }
    let as_table = accept.contains("as=Table");
    let as_partial = accept.contains("as=PartialObjectMetadata");
    let now = server.now();
    if ask.verb == "watch" {
        let watch = Watch::start(server, kind, ask)?;
        return Ok(stream(watch, kind.clone(), as_table, as_partial, now));
    }
    if !ask.name.is_empty() {
        let object = server.get(kind, ask)?;
        return Ok(ok(&match ask.subresource.as_str() {
            "" | "status" if as_table => table::of(
                kind,
                std::slice::from_ref(&object),
                &json!({"resourceVersion": object["metadata"]["resourceVersion"]}),
                now,
            ),
            "" | "status" if as_partial => table::partial(&object),
            "" => object,
            "status" if kind.status => object,
            "scale" if kind.scale.is_some() => scale_of(kind, &object),
            _ => return Err(Refusal::no_path()),
        }));
    }
    let (items, metadata) = server.list(kind, ask)?;
    if as_table {
        return Ok(ok(&table::of(kind, &items, &metadata, now)));
    }
    if as_partial {
        let items: Vec<Value> = items.iter().map(table::partial).collect();
        return Ok(ok(
            &json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items}),
        ));
    }
    Ok(ok(
        &json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": metadata, "items": items}),
    ))
}

fn stream(
    watch: Watch,
    kind: Arc<Kind>,
    as_table: bool,
    as_partial: bool,
    now: i64,
) -> Response<Out> {
    let lines = futures_util::stream::unfold((watch, kind), move |(mut watch, kind)| async move {
        let mut event = watch.next().await?;
        let typed = event["type"].as_str().unwrap_or_default().to_owned();
        if typed != "ERROR" {
            if as_table {
                let object = event["object"].clone();
                let items = if typed == "BOOKMARK" {
                    Vec::new()
                } else {
                    vec![object.clone()]
                };
                event["object"] = table::of(
                    &kind,
                    &items,
                    &json!({"resourceVersion": object["metadata"]["resourceVersion"]}),
                    now,
                );
            } else if as_partial {
                event["object"] = table::partial(&event["object"]);
            }
        }
        let frame: Result<Frame<Bytes>, Infallible> = Ok(Frame::data(line(&event)));
        Some((frame, (watch, kind)))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn not_allowed() -> Refusal {
    Refusal::new(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
    )
}

async fn write(
    server: &Arc<Server>,
    kind: &Arc<Kind>,
    ask: &Ask,
    user: &User,
    body: &Body,
    accept: &str,
) -> Answer<Response<Out>> {
    if kind.is_review() {
        return review(server, ask, user, body);
    }
    let known = match ask.subresource.as_str() {
        "" => true,
        "status" => kind.status,
        "scale" => kind.scale.is_some(),
        "token" => kind.key() == "serviceaccounts",
        "finalize" => kind.key() == "namespaces",
        "eviction" | "binding" => kind.key() == "pods",
        _ => false,
    };
    if !known {
        return Err(Refusal::no_path());
    }
    let dry = ask.query("dryRun").is_some();
    let shape = |object: Value| {
        if accept.contains("as=PartialObjectMetadata")
            && !accept.contains("as=PartialObjectMetadataList")
        {
            table::partial(&object)
        } else {
            object
        }
    };
    match (ask.verb.as_str(), ask.subresource.as_str()) {
        ("create", "") if ask.name.is_empty() => {
            let made = server.create(kind, ask, body).await?;
            Ok(json_of(StatusCode::CREATED, &shape(made)))
        }
        ("create", "token") => token(server, kind, ask, body),
        ("create", "eviction") => {
            let key = key_of(
                kind,
                &json!({"metadata": {"namespace": ask.namespace, "name": ask.name}}),
            );
            evict(server, kind, &key, &body.value["deleteOptions"], dry)?;
            Ok(json_of(
                StatusCode::CREATED,
                &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
            ))
        }
        ("update", "" | "status" | "scale" | "finalize") => {
            Ok(ok(&shape(server.update(kind, ask, body).await?)))
        }
        ("patch", "" | "status" | "scale") => {
            let (changed, made) = server.patch(kind, ask, body).await?;
            let code = if made {
                StatusCode::CREATED
            } else {
                StatusCode::OK
            };
            Ok(json_of(code, &shape(changed)))
        }
        ("delete", "") => {
            let key = key_of(
                kind,
                &json!({"metadata": {"namespace": ask.namespace, "name": ask.name}}),
            );
            let mut options = body.value.clone();
            if let Some(policy) = ask.query("propagationPolicy") {
                options["propagationPolicy"] = policy.into();
            }
            let dry = dry || options["dryRun"].as_array().is_some_and(|d| !d.is_empty());
            let (object, gone) = server.dismiss(kind, &key, body, &options, dry).await?;
            if gone {
                let uid = &object["metadata"]["uid"];
                return Ok(ok(&json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                    "details": {"name": key.name, "group": kind.group, "kind": kind.plural, "uid": uid},
                })));
            }
            Ok(ok(&crate::read::shown(kind, &object)))
        }
        ("deletecollection", "") => {
            let (items, metadata) = server.list(kind, ask)?;
            for item in &items {
                let key = key_of(kind, item);
                server.dismiss(kind, &key, body, &body.value, dry).await?;
            }
            Ok(ok(
                &json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": metadata, "items": items}),
            ))
        }
        _ => Err(not_allowed()),
    }
}

/// A deletion that asks the budgets first.
fn evict(server: &Server, kind: &Kind, key: &Key, options: &Value, dry: bool) -> Answer<()> {
    let found = server.state().store.get(key);
    if let Some(pod) = found
        && !dry
        && !crate::controllers::spend(&mut server.state().store, &pod)
    {
        let mut refusal = Refusal::new(
            429,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
        );
        refusal.retry_after = Some(1);
        refusal.details["causes"] = json!([{"reason": "DisruptionBudget", "message": "the disruption budget of the pod has none left"}]);
        return Err(refusal);
    }
    server.delete(kind, key, options, dry).map(drop)
}

/// Tokens of service accounts, with audiences and an expiry.
fn token(server: &Server, kind: &Kind, ask: &Ask, body: &Body) -> Answer<Response<Out>> {
    let account = server.get(kind, ask)?;
    let spec = &body.value["spec"];
    let mut audiences: Vec<String> = spec["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(3600);
    if seconds < 600 {
        let cause = crate::status::Cause::invalid(
            "spec.expirationSeconds",
            &seconds.into(),
            "may not specify a duration less than 10 minutes",
        );
        return Err(Refusal::invalid(
            "TokenRequest",
            "authentication.k8s.io",
            "",
            &[cause],
        ));
    }
    let bound = Some(&spec["boundObjectRef"]).filter(|b| b["kind"] == "Pod");
    let now = server.now();
    let claims = auth::claims(&account, &audiences, now, seconds, bound);
    let token = server
        .keys
        .token(&claims)
        .map_err(|e| Refusal::new(500, "InternalError", e.to_string()))?;
    let mut answer = body.value.clone();
    answer["kind"] = "TokenRequest".into();
    answer["apiVersion"] = "authentication.k8s.io/v1".into();
    answer["spec"]["audiences"] = json!(audiences);
    answer["spec"]["expirationSeconds"] = seconds.into();
    answer["status"] =
        json!({"token": token, "expirationTimestamp": crate::server::stamp(now + seconds)});
    Ok(json_of(StatusCode::CREATED, &answer))
}

fn review(server: &Server, ask: &Ask, user: &User, body: &Body) -> Answer<Response<Out>> {
    if ask.verb != "create" {
        return Err(not_allowed());
    }
    let mut answer = body.value.clone();
    match ask.resource.as_str() {
        "tokenreviews" => {
            let spec = &body.value["spec"];
            let mut audiences: Vec<String> = spec["audiences"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            if audiences.is_empty() {
                audiences.push(ISSUER.to_owned());
            }
            let token = spec["token"].as_str().unwrap_or_default();
            answer["status"] = match server.user_of_token(token, &audiences) {
                Some((user, meant)) => {
                    json!({"authenticated": true, "user": user.info(), "audiences": meant})
                }
                None => {
                    json!({"authenticated": false, "user": {}, "error": "[invalid bearer token]"})
                }
            };
        }
        "selfsubjectreviews" => answer["status"] = json!({"userInfo": user.info()}),
        _ => answer = rbac::review(&server.state().store, user, ask, &body.value),
    }
    Ok(json_of(StatusCode::CREATED, &answer))
}
