//! What the dashboard does with configuration in a cluster: it is the API server's, and is read and changed with the
//! rights of who started the dashboard.
//!
//! An object that is there is replaced as `kubectl edit` does it, so that what was taken out of the text goes; it must
//! still be as the person saw it. One that is new is applied.

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::resources::{ApplyReport, ApplyRequest, ObjectOutcome, Outcome};
use crate::api::{PREFIX, Problem, Reason};
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::resource::json::set;
use crate::resource::{self, Running};
use crate::source::kubernetes::reach::Followed;

use super::Mesh;
use super::objects::{self, Paths, failed, judged, kind_of, of, prepared, same, taken};

/// The dashboard's own question: `GET /rights?kind=&namespace=&name=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rights {
    /// May change the object, or make it where `name` is empty.
    change: bool,
    /// May delete it.
    delete: bool,
    /// What is lacking; empty where nothing is.
    lacks: String,
}

/// An [`ApplyRequest`] of the editor.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Edited {
    #[serde(flatten)]
    request: ApplyRequest,
    /// The object's version when the person saw it; absent for a new one.
    #[serde(default)]
    resource_version: Option<String>,
}

/// What a request of the page means in a cluster.
#[derive(Debug, PartialEq, Eq)]
enum Meant {
    Rights(Place),
    Get(Place),
    Write,
    Delete(Place),
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    kind: String,
    namespace: String,
    name: String,
}

impl Place {
    /// Names stand in paths of the API server, where they must be nothing else.
    fn checked(kind: &str, namespace: &str, name: &str) -> Option<Self> {
        let plain = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        };
        let namespace = if namespace == "-" { "" } else { namespace };
        let good = [kind, namespace, name].into_iter().all(plain) && !kind.is_empty();
        let dots = [kind, namespace, name]
            .iter()
            .any(|text| text.starts_with('.'));
        (good && !dots).then(|| Self {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl Meant {
    /// None for what is the control plane's.
    fn of(method: &Method, path: &str) -> Option<Self> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<&str> = path.strip_prefix(PREFIX)?.split('/').skip(1).collect();
        let said = |key: &str| {
            let mut pairs = form_urlencoded::parse(query.as_bytes());
            pairs.find(|(name, _)| name == key).map(|(_, value)| value)
        };
        let said = |key: &str| said(key).unwrap_or_default().into_owned();
        match (method.as_str(), parts.as_slice()) {
            ("GET", ["rights"]) => {
                let place = Place::checked(&said("kind"), &said("namespace"), &said("name"));
                place.map(Self::Rights)
            }
            ("GET", ["resources", kind]) => {
                let place = Place::checked(kind, &said("namespace"), &said("name"))?;
                (!place.name.is_empty()).then_some(Self::Get(place))
            }
            ("POST", ["resources"]) => Some(Self::Write),
            ("DELETE", ["resources", kind, namespace, name]) => {
                let place = Place::checked(kind, namespace, name)?;
                (!place.name.is_empty()).then_some(Self::Delete(place))
            }
            _ => None,
        }
    }
}

/// The answer to a request of the page that the API server is to answer; none for all others.
pub(crate) async fn answer(
    client: &Client,
    (method, path, body): (&Method, &str, &[u8]),
) -> Option<Result<Value, CliError>> {
    let mesh = client.mesh()?;
    let told = match Meant::of(method, path)? {
        Meant::Rights(place) => json(rights(mesh, &place).await),
        Meant::Get(place) => {
            let (namespace, name) = (place.namespace.as_str(), place.name.as_str());
            let found = objects::get(mesh, &place.kind, Some(namespace), Some(name)).await;
            // Who may not read it there may see what the control plane made of it.
            json(Ok(found.ok()?))
        }
        Meant::Write => json(write(mesh, client, body).await),
        Meant::Delete(place) => {
            json(objects::delete(mesh, &place.kind, &place.namespace, &place.name).await)
        }
    };
    Some(told)
}

fn json(answer: Result<impl Serialize, CliError>) -> Result<Value, CliError> {
    serde_json::to_value(answer?).map_err(|error| CliError::failed(error.to_string()))
}

async fn rights(mesh: &Mesh, place: &Place) -> Result<Rights, CliError> {
    let (filed, followed) = kind_of(&place.kind)?;
    let cluster = mesh.connect().await?;
    let namespace = if resource::namespaced(filed) {
        place.namespace.as_str()
    } else {
        ""
    };
    let change = if place.name.is_empty() {
        "create"
    } else {
        "update"
    };
    let mut may = Vec::new();
    for verb in [change, "delete"] {
        let asked = cluster.may_do(verb, &followed, (namespace, &place.name));
        let asked = asked.await;
        may.push(asked.map_err(|error| failed("cannot ask what you may", &error))?);
    }
    let lacking: Vec<&str> = [change, "delete"]
        .into_iter()
        .zip(&may)
        .filter_map(|(verb, may)| (!may).then_some(verb))
        .collect();
    Ok(Rights {
        change: may.first() == Some(&true),
        delete: may.last() == Some(&true),
        lacks: lacks(&lacking, &followed, namespace),
    })
}

/// `update and delete of virtualservices.networking.istio.io in namespace shop`.
fn lacks(verbs: &[&str], kind: &Followed, namespace: &str) -> String {
    if verbs.is_empty() {
        return String::new();
    }
    let group = if kind.group.is_empty() { "" } else { "." };
    let inside = if namespace.is_empty() {
        String::new()
    } else {
        format!(" in namespace {namespace}")
    };
    let plural = kind.plural;
    format!(
        "{} of {plural}{group}{}{inside}",
        verbs.join(" and "),
        kind.group
    )
}

async fn write(mesh: &Mesh, client: &Client, body: &[u8]) -> Result<ApplyReport, CliError> {
    let edited: Edited = serde_json::from_slice(body).map_err(|error| {
        let words = format!("this is no request to apply something: {error}");
        CliError::Problem(Problem::new(Reason::Invalid, words))
    })?;
    if let Some(version) = &edited.resource_version {
        return replace(mesh, client, &edited.request, version).await;
    }
    let done = objects::apply(mesh, &edited.request, client).await?;
    done.stopped.map_or(Ok(done.report), Err)
}

/// Puts one object in the place of itself as it was at `version`.
async fn replace(
    mesh: &Mesh,
    client: &Client,
    request: &ApplyRequest,
    version: &str,
) -> Result<ApplyReport, CliError> {
    let findings = judged(request, client).await?;
    let mut written = request.sources.iter().flat_map(|source| {
        let (objects, _) = resource::parse(&source.text, &source.name, &request.namespace);
        objects
    });
    let (Some(object), None) = (written.next(), written.next()) else {
        let problem = Problem::new(Reason::Invalid, "an edit is of one object");
        return Err(CliError::Problem(
            problem.hint("apply several with `meshctl apply -f FILE`"),
        ));
    };
    let key = object.key();
    let wrong = |error| failed(&key.to_string(), &error);
    let cluster = mesh.connect().await?;
    let mut paths = Paths::new(&cluster);
    let prepared = prepared(&mut paths, &object, &request.namespace).await;
    let (path, mut raw) = prepared.map_err(wrong)?;
    let there = cluster.get_path(&path).await.map_err(wrong)?;
    let Some(there) = there else {
        let problem = Problem::new(
            Reason::Conflict,
            format!("{key} is not there any more, or has another name"),
        );
        return Err(CliError::Problem(
            problem.hint("make it anew as an object of its own"),
        ));
    };
    let current = there.pointer("/metadata/resourceVersion");
    if current.and_then(Value::as_str) != Some(version) {
        let problem = Problem::new(
            Reason::Conflict,
            format!("somebody has changed {key} meanwhile"),
        );
        return Err(CliError::Problem(
            problem.hint("cancel, look at it as it is now, and edit that"),
        ));
    }
    if let Some(metadata) = raw.get_mut("metadata") {
        set(metadata, "resourceVersion", version);
    }
    let now = cluster.replace_at(&path, &raw).await.map_err(wrong)?;
    let changed = !same(&there, &now);
    let followed = Followed::of(&key.kind).is_some() && !Running::keeps(&key.kind);
    let told = if changed && followed {
        vec![of(&key, Some(&now))]
    } else {
        Vec::new()
    };
    let outcome = if changed {
        Outcome::Configured
    } else {
        Outcome::Unchanged
    };
    Ok(ApplyReport {
        revision: 0,
        objects: vec![ObjectOutcome {
            kind: key.kind.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            outcome,
        }],
        findings,
        convergence: taken(mesh, &told).await?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_api_servers_goes_there_and_names_are_nothing_but_names() {
        let meant = |method: Method, path: &str| Meant::of(&method, &format!("{PREFIX}{path}"));
        let place = |kind: &str, namespace: &str, name: &str| Place {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let cart = || place("VirtualService", "shop", "cart");
        assert_eq!(
            meant(
                Method::GET,
                "/rights?kind=VirtualService&namespace=shop&name=cart"
            ),
            Some(Meant::Rights(cart()))
        );
        assert_eq!(
            meant(
                Method::GET,
                "/resources/VirtualService?namespace=shop&name=cart"
            ),
            Some(Meant::Get(cart()))
        );
        assert_eq!(
            meant(Method::DELETE, "/resources/Namespace/-/shop"),
            Some(Meant::Delete(place("Namespace", "", "shop")))
        );
        assert_eq!(meant(Method::POST, "/resources"), Some(Meant::Write));
        for (method, path) in [
            (Method::GET, "/resources"),
            (Method::GET, "/resources/VirtualService?namespace=shop"),
            (Method::GET, "/resources/VirtualService?name=a%2Fb"),
            (
                Method::GET,
                "/rights?kind=VirtualService&namespace=..%2F..&name=x",
            ),
            (Method::GET, "/rights?kind="),
            (Method::DELETE, "/resources/VirtualService/shop/.."),
            (Method::DELETE, "/resources/VirtualService/shop/a%2fb"),
            (Method::DELETE, "/resources/VirtualService/shop/"),
            (Method::POST, "/rollback"),
        ] {
            assert_eq!(meant(method, path), None, "{path}");
        }
    }

    #[test]
    fn what_is_lacking_is_named() {
        let rule = Followed::of("VirtualService").unwrap();
        assert_eq!(
            lacks(&["update", "delete"], &rule, "shop"),
            "update and delete of virtualservices.networking.istio.io in namespace shop"
        );
        let space = Followed::of("Namespace").unwrap();
        assert_eq!(lacks(&["update"], &space, ""), "update of namespaces");
        assert_eq!(lacks(&[], &rule, "shop"), "");
    }
}
