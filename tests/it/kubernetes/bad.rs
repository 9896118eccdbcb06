//! What is wrong in a cluster: objects that slipped past admission, rights and namespaces that are taken away,
//! certificates that end, kinds that are newer than we are. Everything that works goes on, and what does not
//! says so: on the object, in the log once, and in `check`.

mod leaving;
mod newer;
mod rights;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use cluster::faults::Faults;
use meshctl::source::kubernetes::Access;
use meshctl::source::kubernetes::cluster::{Cluster, ObjectRef};
use serde_json::{Value, json};

use super::installed::{Replica, Stand};
use super::{ask, command, weights_of};

const SYSTEM: &str = "meshctl-system";
const RULES: &str = "virtualservices.networking.istio.io";
const ISTIO: &str = "networking.istio.io/v1";
const ACCOUNT: &str = "system:serviceaccount:meshctl-system:meshctl";

/// Somebody who may everything, at the API server.
async fn admin(stand: &Stand) -> Cluster {
    let access = Access {
        context: None,
        kubeconfig: vec![stand.admin.clone()],
    };
    Cluster::new(&access).await.unwrap()
}

fn which(kind: &str, namespace: Option<&str>, name: &str) -> ObjectRef {
    ObjectRef {
        kind: kind.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    }
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"ports": [{"name": "http", "port": 80}]}})
}

/// Three quarters of the calls to `cart`, by requests whose path is like `regex`.
fn rule(name: &str, regex: &str) -> Value {
    json!({
        "apiVersion": ISTIO,
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"hosts": [name], "http": [{
            "match": [{"uri": {"regex": regex}}],
            "route": [
                {"destination": {"host": name}, "weight": 75},
                {"destination": {"host": "other"}, "weight": 25},
            ],
        }]},
    })
}

/// A mesh whose webhook for configuration is gone, with a namespace and two services.
async fn unguarded() -> (Stand, Cluster) {
    let stand = Stand::start().await;
    stand.install(&[]);
    let api = admin(&stand).await;
    let guard = which("ValidatingWebhookConfiguration", None, "meshctl-validator");
    assert!(api.delete(&guard).await.unwrap());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    api.create(&namespace).await.unwrap();
    for name in ["cart", "other"] {
        api.create(&service(name)).await.unwrap();
    }
    (stand, api)
}

/// Replaces the spec of a custom object.
async fn change(api: &Cluster, object: &Value) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let at = (
        text("/apiVersion").unwrap(),
        text("/kind").unwrap(),
        text("/metadata/namespace"),
        text("/metadata/name").unwrap(),
    );
    let mut now = api.get_custom(at).await.unwrap().unwrap();
    now["spec"] = object["spec"].clone();
    api.replace_custom(&now).await.unwrap();
}

fn condition(object: &Value, kind: &str) -> Option<Value> {
    let all = object["status"]["conditions"].as_array()?;
    all.iter().find(|one| one["type"] == kind).cloned()
}

/// Events about objects of this name.
fn events(stand: &Stand, name: &str) -> Vec<Value> {
    let server = stand.cluster.server();
    let state = server.state();
    let all = state.store.list("events", "shop");
    all.map(|(_, event)| Value::clone(event))
        .filter(|event| event["regarding"]["name"] == name)
        .collect()
}

fn log(replica: &Replica) -> String {
    std::fs::read_to_string(&replica.log).unwrap()
}

async fn weights(stand: &Stand, replica: &str) -> Vec<u64> {
    let (_, routes) = ask(
        &stand.dir.path().join(replica),
        "/routes?service=cart&namespace=shop",
    )
    .await;
    weights_of(&routes)
}

/// Waits for what has to be awaited itself.
async fn until<T>(what: &str, seconds: u64, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = meshctl::rt::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(meshctl::rt::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A line of `check`, asked by who may everything: its status and details.
fn line(stand: &Stand, text: &str) -> Option<(String, String)> {
    let home = stand.dir.path().join("home-admin");
    let args = ["check", "-o", "json"];
    let output = command(&home, &stand.admin, &args).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).ok()?;
    let sections = report["sections"].as_array()?.iter();
    let mut checks = sections
        .filter_map(|one| one["checks"].as_array())
        .flatten();
    let found = checks.find(|one| one["text"] == text)?;
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    Some((text("status"), text("detail")))
}

/// What was written since this was last asked: verb, resource and name.
fn written(faults: &Arc<Faults>) -> Vec<(String, String, String)> {
    let asked = faults
        .take()
        .into_iter()
        .filter(cluster::faults::Asked::writes);
    let told = asked.filter(|asked| asked.ask.resource != "leases");
    told.map(|asked| {
        let ask = asked.ask;
        let resource = match ask.subresource.as_str() {
            "" => ask.resource,
            of => format!("{}/{of}", ask.resource),
        };
        (ask.verb, resource, ask.name)
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_slipped_past_says_so_until_it_is_mended() {
    let (stand, api) = unguarded().await;
    let faults = Faults::of(stand.cluster.server(), ACCOUNT);
    let one = Replica::start(&stand, "one");
    api.create_custom(&rule("cart", "/a.*")).await.unwrap();
    until("the split", 30, async || {
        (weights(&stand, "one").await == [75, 25]).then_some(())
    })
    .await;
    // It says nothing while it is well, and what others say of it stays.
    let found = stand.object(RULES, "shop", "cart").unwrap();
    assert_eq!(condition(&found, "Reconciled"), None);
    let mut found = found;
    found["status"] = json!({"conditions": [{"type": "Foreign", "status": "True"}]});
    let at = (ISTIO, "VirtualService", Some("shop"), "cart");
    api.replace_status(at, &found).await.unwrap();

    change(&api, &rule("cart", "(")).await;
    let told = stand
        .until("the condition", || {
            condition(&stand.object(RULES, "shop", "cart")?, "Reconciled")
        })
        .await;
    assert_eq!(
        (
            &told["status"],
            &told["reason"],
            &told["observedGeneration"]
        ),
        (&json!("False"), &json!("Invalid"), &json!(2)),
        "{told}"
    );
    let message = told["message"].as_str().unwrap();
    assert!(
        message.contains("generation 1 stays in force") && message.contains("regex"),
        "{message}"
    );
    let found = stand.object(RULES, "shop", "cart").unwrap();
    assert_eq!(found["status"]["validationMessages"][0]["level"], "ERROR");
    assert_eq!(condition(&found, "Foreign").unwrap()["status"], "True");
    let event = stand
        .until("the event", || events(&stand, "cart").pop())
        .await;
    assert_eq!(event["regarding"]["uid"], found["metadata"]["uid"]);
    assert_eq!(
        (
            &event["type"],
            &event["reason"],
            &event["reportingController"]
        ),
        (
            &json!("Warning"),
            &json!("Invalid"),
            &json!("meshctl.dev/control-plane")
        )
    );
    assert!(event["note"].as_str().unwrap().contains("regex"), "{event}");
    assert_eq!(weights(&stand, "one").await, [75, 25]);

    // One that never was good is left out, and says that.
    api.create_custom(&rule("other", "[")).await.unwrap();
    let told = stand
        .until("the other's condition", || {
            condition(&stand.object(RULES, "shop", "other")?, "Reconciled")
        })
        .await;
    assert!(
        told["message"].as_str().unwrap().contains("left out"),
        "{told}"
    );
    stand
        .until("the other's event", || events(&stand, "other").pop())
        .await;

    // What was said is not said again, whatever else happens.
    written(&faults);
    for round in 0..3 {
        let name = format!("new-{round}");
        api.create(&service(&name)).await.unwrap();
        until("another service", 30, async || {
            let (_, services) = ask(&stand.dir.path().join("one"), "/services").await;
            let mut all = services.as_array()?.iter();
            all.find(|one| one["name"] == name.as_str()).map(drop)
        })
        .await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    assert_eq!(written(&faults), []);
    assert_eq!(events(&stand, "cart").len(), 1);

    change(&api, &rule("cart", "/b.*")).await;
    stand
        .until("the condition and the event to go", || {
            let found = stand.object(RULES, "shop", "cart")?;
            let quiet = condition(&found, "Reconciled").is_none()
                && found["status"]["validationMessages"].is_null();
            (quiet && events(&stand, "cart").is_empty()).then_some(())
        })
        .await;
    let found = stand.object(RULES, "shop", "cart").unwrap();
    assert_eq!(condition(&found, "Foreign").unwrap()["status"], "True");
    assert_eq!(events(&stand, "other").len(), 1);
    assert!(!log(&one).contains("panicked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_kinds_say_whether_they_are_accepted() {
    let (stand, api) = unguarded().await;
    let _one = Replica::start(&stand, "one");
    let policy = |delay: &str| {
        json!({
            "apiVersion": "policy.meshctl.dev/v1alpha1",
            "kind": "FaultInjection",
            "metadata": {"name": "slow", "namespace": "shop"},
            "spec": {"service": "cart", "delay": delay, "until": "2099-01-01T00:00:00Z"},
        })
    };
    let says = |status: &str, generation: u64| {
        let found = stand.object("faultinjections.policy.meshctl.dev", "shop", "slow")?;
        let told = condition(&found, "Accepted")?;
        let now = told["status"] == status && told["observedGeneration"] == generation;
        now.then_some(told)
    };
    api.create_custom(&policy("1s")).await.unwrap();
    stand.until("it to be accepted", || says("True", 1)).await;
    change(&api, &policy("soon")).await;
    let told = stand.until("it to be refused", || says("False", 2)).await;
    assert!(told["message"].as_str().unwrap().contains("soon"), "{told}");
    stand
        .until("the event", || events(&stand, "slow").pop())
        .await;
    change(&api, &policy("2s")).await;
    stand.until("it to be accepted", || says("True", 3)).await;
    stand
        .until("the event to go", || {
            events(&stand, "slow").is_empty().then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_wrong_objects_are_told_of_in_turn_and_by_one_replica() {
    const MANY: usize = 35;
    let (stand, api) = unguarded().await;
    let faults = Faults::of(stand.cluster.server(), ACCOUNT);
    let one = Replica::start(&stand, "one");
    stand.until("somebody to write", || stand.holder()).await;
    let _two = Replica::start(&stand, "two");
    for name in 0..MANY {
        let wrong = rule(&format!("wrong-{name}"), "(");
        api.create_custom(&wrong).await.unwrap();
    }
    let count = || {
        let server = stand.cluster.server();
        server.state().store.list("events", "shop").count()
    };
    stand
        .until("the first events", || (count() > 0).then_some(()))
        .await;
    let began = meshctl::rt::now();
    stand
        .until("an event about each", || (count() == MANY).then_some(()))
        .await;
    // Ten in a second, and so the last come three seconds after the first.
    assert!(began.elapsed() >= Duration::from_secs(2));
    let told = written(&faults);
    let events_told = told.iter().filter(|(_, resource, _)| resource == "events");
    assert_eq!(events_told.count(), MANY, "{told:?}");
    stand
        .until("a condition on each", || {
            (0..MANY)
                .all(|name| {
                    let found = stand.object(RULES, "shop", &format!("wrong-{name}"));
                    found.is_some_and(|found| condition(&found, "Reconciled").is_some())
                })
                .then_some(())
        })
        .await;

    // Who writes next finds what was said, says nothing twice, and takes it away.
    one.kill();
    stand
        .until("the other to write", || {
            (stand.holder().as_deref() == Some("two")).then_some(())
        })
        .await;
    change(&api, &rule("wrong-0", "/a")).await;
    stand
        .until("what was said of it to go", || {
            let found = stand.object(RULES, "shop", "wrong-0")?;
            let told = condition(&found, "Reconciled")?;
            // Its host is nowhere, which is another fault.
            (told["reason"] != "Invalid").then_some(())
        })
        .await;
    stand
        .until("one event about each", || {
            let each = (1..MANY).all(|name| events(&stand, &format!("wrong-{name}")).len() == 1);
            each.then_some(())
        })
        .await;
}
