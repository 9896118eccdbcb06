//! Ways to try a version other than by a share of the requests: by comparing its answers, for those who ask for it,
//! for everybody at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meshctl::rt::Tasks;
use serde_json::{Value, json};

use crate::rollouts::{Knobs, Shop, ask, none_failed, serve};
use crate::stand::until;

/// A shop whose pages are JSON; every so manieth of v2 has another price.
async fn pages(differs_each: u64) -> Shop {
    let tasks = Tasks::new();
    let knobs = Arc::new(Knobs::default());
    let page = |name: &'static str, each: u64, knobs: &Arc<Knobs>| {
        let knobs = Arc::clone(knobs);
        serve(&tasks, move |_| {
            let number = knobs.asked.fetch_add(1, Ordering::Relaxed) + 1;
            let price = if each > 0 && number.is_multiple_of(each) {
                11
            } else {
                10
            };
            let page = json!({ "price": price, "servedBy": name });
            async move { (200, page.to_string()) }
        })
    };
    let servers = [
        page("v1", 0, &Arc::new(Knobs::default())),
        page("v2", differs_each, &knobs),
    ];
    Shop::of(servers, knobs, tasks).await
}

/// Answers by who gave them.
fn served(counts: BTreeMap<String, usize>) -> BTreeMap<String, usize> {
    let mut by = BTreeMap::new();
    for (body, count) in counts {
        let page: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
        let who = page["servedBy"].as_str().unwrap_or(&body).to_owned();
        *by.entry(who).or_default() += count;
    }
    by
}

const SHADOW: &[&str] = &[
    "--strategy",
    "shadow",
    "--diff-ignore",
    "$.servedBy",
    "--interval",
    "2s",
    "--min-requests",
    "50",
    "--compare",
    "none",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_field_rolls_back_before_anybody_gets_it() {
    let shop = pages(20).await;
    shop.mesh.json(&["canary", "set", "shop", "v1=100", "v2=0"]);
    let load = shop.load();
    shop.start(SHADOW);
    let (output, lines) = shop.watch().await;
    let last = lines.last().unwrap();
    assert_eq!(output.status.code(), Some(1), "{last}");
    assert_eq!(last["phase"], "RolledBack", "{last}");
    assert_eq!(
        (&last["step"], &last["strategy"]),
        (&json!(1), &json!("shadow"))
    );
    let measures = last["steps"][0]["measures"].as_array().unwrap();
    let diff = measures
        .iter()
        .find(|one| one["metric"] == "shadow-diff")
        .unwrap();
    assert_eq!(diff["verdict"], "fail", "{diff}");
    assert!(
        (2.0..9.0).contains(&diff["value"].as_f64().unwrap()),
        "{diff}"
    );
    let places = diff["places"].as_array().unwrap();
    assert_eq!(places.len(), 1, "{diff}");
    assert_eq!(places[0]["at"], "body $.price", "{diff}");
    assert_eq!(places[0]["count"], diff["different"], "{diff}");
    let reason = last["reason"].as_str().unwrap();
    assert!(reason.contains("body $.price ("), "{reason}");
    eprintln!("{reason}");
    let counts = served(load.stop().await);
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["v1"], "{counts:?}");
    // With it goes what compared.
    assert_eq!(shop.mesh.json(&["get", "shadowdiff"]), json!([]));
    let text = shop.mesh.run(&["canary", "status", "shop"], None);
    assert!(
        text.contains("shadow diff") && text.contains("body $.price ("),
        "{text}"
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_pages_promote_also_when_the_control_plane_is_killed_between() {
    let mut shop = pages(0).await;
    shop.mesh.json(&["canary", "set", "shop", "v1=100", "v2=0"]);
    let load = shop.load();
    shop.start(SHADOW);
    until("copies to be compared", 30, || {
        let status = shop.status();
        let measures = status["steps"][0]["measures"].as_array().unwrap().clone();
        let diff = measures
            .into_iter()
            .find(|one| one["metric"] == "shadow-diff");
        let seen = diff.is_some_and(|one| one["requests"].as_u64() > Some(0));
        (seen || status["step"] == 2).then_some(())
    })
    .await;
    shop.mesh.kill_control_plane();
    shop.mesh.start_control_plane().await;
    let done = shop.until("Succeeded").await;
    let measures = done["steps"][0]["measures"].as_array().unwrap();
    let diff = measures
        .iter()
        .find(|one| one["metric"] == "shadow-diff")
        .unwrap();
    assert_eq!(
        (&diff["different"], &diff["verdict"]),
        (&json!(0), &json!("pass")),
        "{diff}"
    );
    none_failed(&served(load.stop().await));
    assert_eq!(shop.mesh.json(&["get", "shadowdiff"]), json!([]));
    // Somebody who compares already is not overruled.
    shop.mesh.apply(
        "apiVersion: policy.meshctl.dev/v1alpha1\nkind: ShadowDiff\nmetadata: {name: mine}\nspec: {service: shop}\n",
    );
    let mut begin = vec!["canary", "start", "shop", "--from", "v2", "--to", "v1"];
    begin.extend(SHADOW);
    let refused = shop.mesh.try_run(&begin, None);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("ShadowDiff default/mine") && said.contains("--diff-ignore"),
        "{said}"
    );
    shop.close().await;
}

const BLUE_GREEN: &[&str] = &[
    "--blue-green",
    "--header",
    "x-preview=yes",
    "--interval",
    "1s",
    "--min-requests",
    "50",
    "--compare",
    "none",
];

/// Somebody who looks at the preview until it is told to stop; how often each version answered.
fn previews(shop: &Shop, headers: &'static [(&'static str, &'static str)]) -> Previews {
    let (to, stop) = (shop.caller.outbound(), Arc::new(AtomicU64::new(0)));
    let stopped = Arc::clone(&stop);
    let looking = Tasks::new();
    let (send, seen) = tokio::sync::oneshot::channel();
    looking.spawn("previews", async move {
        let mut all = BTreeMap::<String, usize>::new();
        while stopped.load(Ordering::Relaxed) == 0 {
            *all.entry(ask(to, headers).await.0).or_default() += 1;
        }
        let _heard = send.send(all).is_ok();
    });
    Previews {
        stop,
        seen,
        _looking: looking,
    }
}

struct Previews {
    stop: Arc<AtomicU64>,
    seen: tokio::sync::oneshot::Receiver<BTreeMap<String, usize>>,
    _looking: Tasks,
}

impl Previews {
    async fn stop(self) -> BTreeMap<String, usize> {
        self.stop.store(1, Ordering::Relaxed);
        self.seen.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_is_for_those_who_ask_and_the_switch_is_at_once() {
    let shop = Shop::open().await;
    shop.mesh.json(&["canary", "set", "shop", "v1=100", "v2=0"]);
    let begun = shop.start(&[BLUE_GREEN, &["--gate", "100"]].concat());
    assert_eq!(begun["strategy"], "blueGreen", "{begun}");
    shop.mesh.settled().await;
    let (load, looking) = (shop.load(), previews(&shop, &[("x-preview", "yes")]));
    // It was looked at, and waits for somebody to open it to all.
    let waiting = shop.until("Waiting").await;
    assert_eq!(
        (&waiting["step"], &waiting["weight"]),
        (&json!(1), &json!(0)),
        "{waiting}"
    );
    assert_eq!(waiting["steps"][0]["state"], "passed", "{waiting}");
    let before = load.stop().await;
    assert_eq!(before.keys().collect::<Vec<_>>(), ["v1"], "{before:?}");
    let seen = looking.stop().await;
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["v2"], "{seen:?}");
    let load = shop.load();
    shop.mesh.json(&["canary", "resume", "shop"]);
    let (_, lines) = shop.watch().await;
    let last = lines.last().unwrap();
    assert_eq!(last["phase"], "Succeeded", "{last}");
    let steps: Vec<_> = lines
        .iter()
        .map(|line| line["weight"].as_u64().unwrap())
        .collect();
    assert!(
        steps.iter().all(|weight| [0, 100].contains(weight)),
        "{steps:?}"
    );
    let counts = load.stop().await;
    eprintln!("{counts:?} while it was switched");
    none_failed(&counts);
    assert!(counts.contains_key("v2"), "{counts:?}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_bad_in_the_preview_is_never_opened() {
    let shop = Shop::open().await;
    shop.v2.fails_each.store(10, Ordering::Relaxed);
    shop.mesh.json(&["canary", "set", "shop", "v1=100", "v2=0"]);
    shop.start(BLUE_GREEN);
    shop.mesh.settled().await;
    let (load, looking) = (shop.load(), previews(&shop, &[("x-preview", "yes")]));
    let last = shop.until("RolledBack").await;
    assert_eq!(
        (&last["step"], &last["weight"]),
        (&json!(1), &json!(0)),
        "{last}"
    );
    let counts = load.stop().await;
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["v1"], "{counts:?}");
    looking.stop().await;
    shop.mesh.settled().await;
    // The preview is closed.
    assert_eq!(
        ask(shop.caller.outbound(), &[("x-preview", "yes")]).await.0,
        "v1"
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_turns_bad_once_it_is_opened_goes_back_at_once() {
    let shop = Shop::open().await;
    shop.mesh.json(&["canary", "set", "shop", "v1=100", "v2=0"]);
    shop.start(BLUE_GREEN);
    shop.mesh.settled().await;
    let (load, looking) = (shop.load(), previews(&shop, &[("x-preview", "yes")]));
    until("everybody to get it", 40, || {
        (shop.status()["weight"] == 100).then_some(())
    })
    .await;
    shop.v2.fails_each.store(10, Ordering::Relaxed);
    let last = shop.until("RolledBack").await;
    assert_eq!(last["step"], 2, "{last}");
    load.stop().await;
    looking.stop().await;
    shop.mesh.settled().await;
    let load = shop.load();
    shop.mesh.settled().await;
    let counts = load.stop().await;
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["v1"], "{counts:?}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_among_others_chooses_the_canary() {
    let shop = Shop::open().await;
    let to = shop.caller.outbound();
    shop.start(&[
        "--cookie",
        "group=b",
        "--affinity-cookie",
        "side",
        "--interval",
        "1s",
        "--min-requests",
        "50",
        "--compare",
        "none",
        "--gate",
        "promotion",
    ]);
    until("the first step", 20, || {
        shop.status()["steps"][0]["startedUnixMs"]
            .is_u64()
            .then_some(())
    })
    .await;
    shop.mesh.settled().await;
    // Who is not chosen is given a cookie, and stays where he is.
    let (who, cookie) = ask(to, &[]).await;
    assert_eq!(who, "v1");
    let cookie = cookie.unwrap();
    for _ in 0..300 {
        assert_eq!(
            ask(to, &[("cookie", "theme=dark; group=b; x=1")]).await.0,
            "v2"
        );
        assert_eq!(ask(to, &[("cookie", "group=bb")]).await.0, "v1");
        assert_eq!(
            ask(to, &[("cookie", &cookie)]).await,
            ("v1".to_owned(), None)
        );
    }
    shop.until("Waiting").await;
    shop.mesh.json(&["canary", "promote", "shop"]);
    shop.until("Succeeded").await;
    shop.mesh.settled().await;
    assert_eq!(
        ask(to, &[("cookie", &cookie)]).await,
        ("v2".to_owned(), None)
    );
    shop.close().await;
}
