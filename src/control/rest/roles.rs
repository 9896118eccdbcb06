//! Who may ask what: one table by method and path, and the guard that goes by it.
//!
//! What is not in the table is refused to everybody, so a route that somebody adds is closed until a line here says
//! for whom it is open.

use std::sync::Arc;

use axum::extract::connect_info::ConnectInfo;
use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::Refused;
use super::peer::Peer;
use crate::api::access::Role;
use crate::api::identity::AuditEvent;
use crate::api::{PREFIX, Problem, Reason};
use crate::control::Control;

/// What one method of one path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// `GET` stands for `HEAD`, too.
    pub method: &'static str,
    /// Below [`PREFIX`], as the router knows it.
    pub path: &'static str,
    /// The least that its caller must be.
    pub role: Role,
    /// Whether it is noted in the audit log before it is done.
    pub noted: bool,
}

/// Changes nothing, whatever its method.
const fn look(method: &'static str, path: &'static str) -> Rule {
    rule(method, path, Role::Viewer, false)
}

/// Changes the mesh.
const fn change(method: &'static str, path: &'static str) -> Rule {
    rule(method, path, Role::Operator, true)
}

/// Changes the mesh, and says more in the audit log itself than the guard could.
const fn change_noted_there(method: &'static str, path: &'static str) -> Rule {
    rule(method, path, Role::Operator, false)
}

/// Says who else may; noted there.
const fn own(method: &'static str, path: &'static str) -> Rule {
    rule(method, path, Role::Owner, false)
}

const fn rule(method: &'static str, path: &'static str, role: Role, noted: bool) -> Rule {
    Rule {
        method,
        path,
        role,
        noted,
    }
}

/// The table. A test walks every route of the API and fails when one is not in it.
pub const RULES: &[Rule] = &[
    look("GET", "/ready"),
    look("GET", "/version"),
    look("GET", "/metrics"),
    look("GET", "/resources"),
    change("POST", "/resources"),
    look("GET", "/resources/{kind}"),
    change("DELETE", "/resources/{kind}/{namespace}/{name}"),
    look("POST", "/convergence"),
    look("GET", "/history"),
    look("POST", "/diff"),
    change("POST", "/rollback"),
    look("GET", "/findings"),
    look("POST", "/analyze"),
    look("GET", "/services"),
    look("GET", "/endpoints"),
    look("GET", "/proxies"),
    look("GET", "/proxies/{name}/config/{what}"),
    look("GET", "/routes"),
    look("POST", "/routes/explain"),
    look("POST", "/authz/check"),
    look("GET", "/authz/matrix"),
    look("GET", "/authz/suggest"),
    look("GET", "/canaries"),
    look("GET", "/canaries/{namespace}/{service}"),
    change("POST", "/canaries/{namespace}/{service}"),
    look("GET", "/rollouts"),
    look("GET", "/rollouts/{namespace}/{service}"),
    change("POST", "/rollouts/{namespace}/{service}"),
    look("GET", "/rollouts/{namespace}/{service}/history"),
    change("POST", "/rollouts/{namespace}/{service}/{what}"),
    look("GET", "/faults"),
    change("POST", "/faults/{namespace}/{service}"),
    change("DELETE", "/faults/{namespace}/{service}"),
    look("GET", "/stats"),
    look("GET", "/series"),
    look("GET", "/edges"),
    look("GET", "/ejections"),
    look("GET", "/shadows"),
    // Fields and queries of requests are for operators, which the handler sees to.
    look("GET", "/tap"),
    look("GET", "/traces"),
    look("GET", "/traces/{id}"),
    look("GET", "/tokens"),
    change_noted_there("POST", "/tokens"),
    change_noted_there("DELETE", "/tokens/{id}"),
    look("GET", "/audit"),
    change_noted_there("POST", "/identities"),
    look("GET", "/trust"),
    change_noted_there("POST", "/trust/rotation"),
    change_noted_there("POST", "/trust/revocations"),
    look("GET", "/access"),
    look("GET", "/access/self"),
    own("POST", "/access/tokens"),
    own("POST", "/access/grants"),
    // Taking away is never too early, and lets nobody in.
    change_noted_there("DELETE", "/access/{id}"),
    look("GET", "/check"),
    look("GET", "/registry/instances"),
    change("POST", "/registry/instances"),
    change("DELETE", "/registry/instances/{namespace}/{name}"),
    // Every few seconds, for as long as an instance runs; that it came is noted.
    change_noted_there("PUT", "/registry/instances/{namespace}/{name}/heartbeat"),
];

/// The rule for `method` of a route; none where there is none, and then nobody may.
pub(super) fn rule_of(method: &Method, route: &str) -> Option<&'static Rule> {
    let method = match *method {
        Method::HEAD => &Method::GET,
        _ => method,
    };
    let path = route.strip_prefix(PREFIX).unwrap_or(route);
    RULES
        .iter()
        .find(|rule| rule.path == path && rule.method == method.as_str())
}

/// Lets pass what the table lets pass, and notes what changes something.
pub(super) async fn guard(
    State(control): State<Arc<Control>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let Some(route) = route else {
        // Answered by the fallback, which knows one answer.
        return next.run(request).await;
    };
    match judge(
        &control,
        &peer,
        request.method(),
        route.as_str(),
        request.uri().path(),
    )
    .await
    {
        Ok(()) => next.run(request).await,
        Err(problem) => Refused(problem).into_response(),
    }
}

async fn judge(
    control: &Control,
    peer: &Peer,
    method: &Method,
    route: &str,
    path: &str,
) -> Result<(), Problem> {
    let what = format!("{method} {path}");
    let Some(rule) = rule_of(method, route) else {
        let methods: Vec<&str> = RULES
            .iter()
            .filter(|rule| Some(rule.path) == route.strip_prefix(PREFIX))
            .map(|rule| rule.method)
            .collect();
        let message = format!("{route} has no {method}");
        return Err(
            Problem::new(Reason::NotFound, message).hint(format!("it has {}", methods.join(", ")))
        );
    };
    if peer.role() < rule.role {
        control.gate.count(Reason::Denied);
        let detail = format!("{what} is for an {}", rule.role);
        let by = peer.for_whom("");
        if let Err(problem) = control
            .trust
            .note(AuditEvent::AccessRefused, &by, detail)
            .await
        {
            tracing::error!(error = %problem.message, "a refusal was not noted");
        }
        let message = format!(
            "{by} is a {}, and {what} is for an {}",
            peer.role(),
            rule.role
        );
        return Err(Problem::new(Reason::Denied, message).hint(match rule.role {
            Role::Owner => "ask where the control plane runs, as its user",
            _ => "use a token with the role operator: `meshctl access create --role operator` where the control plane runs",
        }));
    }
    if rule.noted {
        let by = peer.for_whom("");
        control.trust.note(AuditEvent::ApiWrite, &by, what).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use tower::ServiceExt as _;

    use super::*;
    use crate::rt::{Tasks, Wall};

    #[tokio::test]
    async fn every_route_is_in_the_table_and_every_line_is_a_route() {
        let dir = tempfile::tempdir().unwrap();
        let wall = Wall::fixed(1_800_000_000_000);
        let control = Control::in_memory(dir.path(), wall, &Tasks::new()).unwrap();
        let mut walked = Vec::new();
        for (path, handlers) in super::super::routes() {
            // Without the guard, so that what answers is what is there.
            let router = Router::new()
                .route(path, handlers)
                .with_state(Arc::clone(&control));
            let asked: Vec<&str> = path
                .split('/')
                .map(|part| if part.starts_with('{') { "x" } else { part })
                .collect();
            for method in [
                Method::GET,
                Method::POST,
                Method::PUT,
                Method::DELETE,
                Method::PATCH,
                Method::OPTIONS,
                Method::TRACE,
                Method::CONNECT,
            ] {
                let request = Request::builder()
                    .method(&method)
                    .uri(asked.join("/"))
                    .extension(ConnectInfo(Peer::new("test", Role::Owner)))
                    .body(Body::empty())
                    .unwrap();
                let answer = router.clone().oneshot(request).await.unwrap();
                let there = answer.status() != 405;
                assert_eq!(
                    rule_of(&method, &format!("{PREFIX}{path}")).is_some(),
                    there,
                    "{method} {path}"
                );
                if there {
                    walked.push((method.as_str().to_owned(), path));
                }
            }
        }
        for rule in RULES {
            let is_it =
                |(method, path): &&(String, &str)| method == rule.method && *path == rule.path;
            assert_eq!(walked.iter().filter(is_it).count(), 1, "{rule:?}");
        }
        assert_eq!(walked.len(), RULES.len());
    }

    #[test]
    fn nothing_that_changes_something_is_for_viewers() {
        // Questions that are too long for a query are asked by POST.
        let asked = [
            "/convergence",
            "/diff",
            "/analyze",
            "/routes/explain",
            "/authz/check",
        ];
        for rule in RULES {
            let reads = rule.method == "GET" || asked.contains(&rule.path);
            assert_eq!(rule.role == Role::Viewer, reads, "{rule:?}");
        }
    }
}
