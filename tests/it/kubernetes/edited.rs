//! The dashboard of a mesh in a cluster changes objects through the API server, with the rights of who started it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::seen::{Person, ROUTE, SHOP, apply, bind, start};
use super::several::Lines;

/// A dashboard that somebody has opened.
struct Page {
    _process: Lines,
    at: String,
    secret: String,
}

impl Page {
    fn open(person: &Person<'_>, flags: &[&str]) -> Self {
        let args = ["dashboard", "--no-browser", "--port", "0", "-o", "json"];
        let process = Lines::of(person, &[&args[..], flags].concat());
        let link = process.next()["url"].as_str().unwrap().to_owned();
        let parts = link
            .strip_prefix("http://")
            .and_then(|rest| rest.split_once("/#session="));
        let (at, secret) = parts.unwrap();
        Self {
            at: at.to_owned(),
            secret: secret.to_owned(),
            _process: process,
        }
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (at, secret) = (&self.at, &self.secret);
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let mut stream = TcpStream::connect(at).unwrap();
        write!(
            stream,
            "{method} /api/v1{path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\
             content-type: application/json\r\nx-meshctl-session: {secret}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_default())
    }
}

const OF_CART: &str = "/resources/VirtualService?namespace=shop&name=cart";
const RIGHTS: &str = "/rights?kind=VirtualService&namespace=shop&name=cart";

fn written(text: &str, version: Option<&Value>) -> Value {
    let mut body =
        json!({"sources": [{"name": "dashboard", "text": text}], "namespace": "shop", "who": ""});
    if let Some(version) = version {
        body["resourceVersion"] = version.clone();
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_changes_objects_with_the_rights_of_who_opened_it() {
    let (stand, replicas) = start().await;
    apply(&stand, "shop.yaml", SHOP);
    let ed = Person::new(&stand, "ed", Some("meshctl-operator"));
    // As `view` and `edit` have them, of which the latter takes the former in.
    for role in ["meshctl-view", "meshctl-edit"] {
        bind(&stand, "shop", "ed", "ClusterRole", role);
    }
    ed.until(&["services"], |services| {
        let mut services = services.as_array()?.iter();
        services.find(|one| one["name"] == "cart").map(drop)
    })
    .await;
    let rule = || stand.object("virtualservices.networking.istio.io", "shop", "cart");
    let page = Page::open(&ed, &[]);

    // A new one, that is there afterwards.
    let (status, rights) = page.ask("GET", RIGHTS, &Value::Null);
    assert_eq!(
        (status, &rights),
        (200, &json!({"change": true, "delete": true, "lacks": ""}))
    );
    let (status, made) = page.ask("POST", "/resources", &written(ROUTE, None));
    assert_eq!(
        (status, &made["objects"][0]["outcome"]),
        (200, &json!("created")),
        "{made}"
    );
    let (_, found) = page.ask("GET", OF_CART, &Value::Null);
    let seen = found[0]["object"]["metadata"]["resourceVersion"].clone();
    assert!(seen.is_string(), "{found}");

    // What was taken out of the text goes, as with `kubectl edit`.
    let shorter = ROUTE.replace("  - timeout: 3s\n    route", "  - route");
    assert!(!shorter.contains("timeout"));
    let (status, changed) = page.ask("POST", "/resources", &written(&shorter, Some(&seen)));
    assert_eq!(
        (status, &changed["objects"][0]["outcome"]),
        (200, &json!("configured")),
        "{changed}"
    );
    assert_eq!(rule().unwrap()["spec"]["http"][0].get("timeout"), None);
    // What somebody else wrote meanwhile is not written over.
    let (status, refused) = page.ask("POST", "/resources", &written(ROUTE, Some(&seen)));
    assert_eq!(status, 409, "{refused}");
    assert!(
        refused["message"].as_str().unwrap().contains("changed"),
        "{refused}"
    );
    // What means nothing is refused before the API server is asked.
    let (status, refused) = page.ask(
        "POST",
        "/resources",
        &written(&ROUTE.replace("timeout", "timeoot"), None),
    );
    assert_eq!(status, 422, "{refused}");
    assert_eq!(
        refused["findings"][0]["origin"]["file"], "dashboard",
        "{refused}"
    );
    assert_eq!(rule().unwrap()["spec"]["http"][0].get("timeout"), None);

    // Who may look only is told what is lacking, by the API server.
    let vera = Person::new(&stand, "vera", Some("meshctl-viewer"));
    bind(&stand, "shop", "vera", "ClusterRole", "meshctl-view");
    let hers = Page::open(&vera, &[]);
    let (_, rights) = hers.ask("GET", RIGHTS, &Value::Null);
    assert_eq!(rights["change"], false);
    assert_eq!(
        rights["lacks"],
        "update and delete of virtualservices.networking.istio.io in namespace shop"
    );
    let (_, found) = hers.ask("GET", OF_CART, &Value::Null);
    let seen = found[0]["object"]["metadata"]["resourceVersion"].clone();
    for (method, path, body) in [
        ("POST", "/resources", written(ROUTE, Some(&seen))),
        ("DELETE", "/resources/VirtualService/shop/cart", Value::Null),
    ] {
        let (status, refused) = hers.ask(method, path, &body);
        assert_eq!(status, 403, "{refused}");
        assert!(
            refused["message"].as_str().unwrap().contains("forbidden"),
            "{refused}"
        );
    }
    // And a page that only looks changes nothing, whoever opened it.
    let looking = Page::open(&ed, &["--read-only"]);
    let (status, _) = looking.ask("POST", "/resources", &written(ROUTE, Some(&seen)));
    assert_eq!(status, 403);
    assert_eq!(rule().unwrap()["spec"]["http"][0].get("timeout"), None);

    let (status, gone) = page.ask(
        "DELETE",
        "/resources/VirtualService/shop/cart",
        &Value::Null,
    );
    assert_eq!(
        (status, &gone["objects"][0]["outcome"]),
        (200, &json!("deleted")),
        "{gone}"
    );
    assert_eq!(rule(), None);
    for replica in replicas {
        replica.end();
    }
}
