//! Canaries that go on, or back, by themselves: real processes, and versions that are as good or as bad as a test wants.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::handshake;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use meshctl::net::{BindOptions, ConnectOptions, bind, connect};
use meshctl::rt::Tasks;
use serde_json::Value;

use crate::load::Load;
use crate::mesh::{App, Mesh, Sidecar, run, service};
use crate::stand::until;

const HOST: &str = "shop:9080";

/// How bad a version is.
#[derive(Debug, Default)]
pub(crate) struct Knobs {
    /// Every so manieth request is answered 500; 0 is none.
    pub(crate) fails_each: AtomicU64,
    delay_ms: AtomicU64,
    pub(crate) asked: AtomicU64,
}

/// A version of the shop; answers with its name.
fn version(name: &'static str, knobs: &Arc<Knobs>, tasks: &Tasks) -> SocketAddr {
    let knobs = Arc::clone(knobs);
    serve(tasks, move |_| {
        let knobs = Arc::clone(&knobs);
        async move {
            let asked = knobs.asked.fetch_add(1, Ordering::Relaxed) + 1;
            let delay = knobs.delay_ms.load(Ordering::Relaxed);
            if delay > 0 {
                // This is what the version is: slow.
                tokio::time::sleep(Duration::from_millis(delay)).await;
            }
            let each = knobs.fails_each.load(Ordering::Relaxed);
            let status = if each > 0 && asked.is_multiple_of(each) {
                500
            } else {
                200
            };
            (status, name.to_owned())
        }
    })
}

/// A server that answers with what `answer` makes of the body that came.
pub(crate) fn serve<F, A>(tasks: &Tasks, answer: F) -> SocketAddr
where
    F: Fn(String) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = (u16, String)> + Send + 'static,
{
    let listener = bind("127.0.0.1:0".parse().unwrap(), BindOptions::default()).unwrap();
    let address = listener.local_addr().unwrap();
    let connections = tasks.clone();
    tasks.spawn("server", async move {
        while let Ok((io, _)) = listener.accept().await {
            let answer = answer.clone();
            connections.spawn("connection", async move {
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let answer = answer.clone();
                    async move {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let body = String::from_utf8_lossy(&body).into_owned();
                        let (status, text) = answer(body).await;
                        let response = hyper::Response::builder().status(status);
                        Ok::<_, Infallible>(response.body(Full::new(Bytes::from(text))).unwrap())
                    }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(io), service)
                    .await;
                // Callers go as they please.
                let _ended = served.is_ok();
            });
        }
    });
    address
}

/// A shop in two versions behind sidecars, and somebody who calls it.
pub(crate) struct Shop {
    pub(crate) mesh: Mesh,
    pub(crate) caller: Sidecar,
    _versions: [Sidecar; 2],
    pub(crate) v2: Arc<Knobs>,
    tasks: Tasks,
}

impl Shop {
    pub(crate) async fn open() -> Self {
        let tasks = Tasks::new();
        let (v1, v2) = (Arc::new(Knobs::default()), Arc::new(Knobs::default()));
        let servers = [version("v1", &v1, &tasks), version("v2", &v2, &tasks)];
        Self::of(servers, v2, tasks).await
    }

    /// With these servers as its versions.
    pub(crate) async fn of(servers: [SocketAddr; 2], v2: Arc<Knobs>, tasks: Tasks) -> Self {
        let mesh = Mesh::start().await;
        mesh.apply(&service("shop", &[("http", 9080)]));
        let [first, second] = servers;
        let start = async |service: &str, name: &'static str, at: SocketAddr| {
            let app = App {
                service,
                version: name,
                port: 9080,
                at,
                flags: &[],
            };
            mesh.sidecar(&app).await
        };
        let versions = [
            start("shop", "v1", first).await,
            start("shop", "v2", second).await,
        ];
        let caller = start("client", "v0", first).await;
        Self {
            mesh,
            caller,
            _versions: versions,
            v2,
            tasks,
        }
    }

    pub(crate) fn load(&self) -> Load {
        Load::start(self.caller.outbound(), HOST, 4)
    }

    /// `canary start shop --to v2` with these flags.
    pub(crate) fn start(&self, flags: &[&str]) -> Value {
        let begin = ["canary", "start", "shop", "--to", "v2"];
        let args: Vec<&str> = begin.iter().chain(flags).copied().collect();
        self.mesh.json(&args)
    }

    pub(crate) fn status(&self) -> Value {
        self.mesh.json(&["canary", "status", "shop"])
    }

    /// `canary watch` until it ends; what it told, line by line.
    pub(crate) async fn watch(&self) -> (Output, Vec<Value>) {
        let home = self.mesh.home();
        let watching = Tasks::blocking(move || {
            run(
                &home,
                &["canary", "watch", "shop", "--timeout", "120s", "-o", "json"],
                None,
            )
        });
        let output = watching.await.unwrap();
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        (output, lines.collect())
    }

    /// Waits until the run is in `phase`.
    pub(crate) async fn until(&self, phase: &str) -> Value {
        until(&format!("the canary to be {phase}"), 90, || {
            let status = self.status();
            (status["phase"] == phase).then_some(status)
        })
        .await
    }

    pub(crate) async fn close(self) {
        drop(self.mesh);
        self.tasks.end().await;
    }
}

/// All answers were those of a version.
pub(crate) fn none_failed(counts: &BTreeMap<String, usize>) {
    let strange: Vec<_> = counts
        .iter()
        .filter(|(who, _)| !["v1", "v2"].contains(&who.as_str()))
        .collect();
    assert!(strange.is_empty(), "failed: {strange:?} of {counts:?}");
    assert!(counts.values().sum::<usize>() >= 500, "{counts:?}");
}

fn weights(lines: &[Value]) -> Vec<u64> {
    let mut all: Vec<u64> = lines
        .iter()
        .map(|line| line["weight"].as_u64().unwrap())
        .collect();
    all.dedup();
    all
}

/// How long the step lasted that failed.
fn failed_step_ms(status: &Value) -> u64 {
    let steps = status["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["state"] == "failed").unwrap();
    step["endedUnixMs"].as_u64().unwrap() - step["startedUnixMs"].as_u64().unwrap()
}

const INTERVAL_MS: u64 = 2_000;
/// Looks are due by the clock and made by a turn, of which there are five a second; the machine is slow.
const SLACK_MS: u64 = 1_500;

#[tokio::test(flavor = "multi_thread")]
async fn one_error_in_twenty_is_rolled_back_within_two_intervals() {
    let shop = Shop::open().await;
    shop.v2.fails_each.store(20, Ordering::Relaxed);
    let load = shop.load();
    let begun = shop.start(&["--steps", "25,50,100", "--interval", "2s"]);
    assert_eq!(begun["stable"], "v1", "{begun}");
    let (output, lines) = shop.watch().await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let last = lines.last().unwrap();
    assert_eq!(last["phase"], "RolledBack", "{last}");
    assert_eq!(last["step"], 1, "{last}");
    let measure = &last["steps"][0]["measures"][0];
    assert_eq!(measure["metric"], "success-rate");
    assert_eq!(measure["verdict"], "fail", "{measure}");
    assert!(
        (93.0..97.0).contains(&measure["value"].as_f64().unwrap()),
        "{measure}"
    );
    let took = failed_step_ms(last);
    eprintln!(
        "rolled back {took} ms after proxies had 25 %: {}",
        last["reason"]
    );
    assert!(took <= 2 * INTERVAL_MS + SLACK_MS, "{took} ms");
    load.stop().await;
    // From here on nobody gets v2.
    let load = shop.load();
    shop.mesh.settled().await;
    let counts = load.stop().await;
    assert_eq!(
        counts.keys().map(String::as_str).collect::<Vec<_>>(),
        ["v1"],
        "{counts:?}"
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eighty_milliseconds_more_are_rolled_back_within_two_intervals() {
    let shop = Shop::open().await;
    shop.v2.delay_ms.store(80, Ordering::Relaxed);
    let load = Load::start(shop.caller.outbound(), HOST, 24);
    shop.start(&[
        "--steps",
        "50,100",
        "--interval",
        "2s",
        "--min-requests",
        "40",
    ]);
    let (output, lines) = shop.watch().await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let last = lines.last().unwrap();
    assert_eq!(last["phase"], "RolledBack", "{last}");
    assert!(
        last["reason"].as_str().unwrap().starts_with("p99 is"),
        "{last}"
    );
    let took = failed_step_ms(last);
    eprintln!(
        "rolled back {took} ms after proxies had 50 %: {}",
        last["reason"]
    );
    assert!(took <= 2 * INTERVAL_MS + SLACK_MS, "{took} ms");
    none_failed(&load.stop().await);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_version_goes_1_5_25_50_100_and_nobody_notices() {
    let shop = Shop::open().await;
    let load = shop.load();
    shop.start(&[
        "--steps",
        "1,5,25,50,100",
        "--interval",
        "1s",
        "--min-requests",
        "10",
        "--compare",
        "success-rate",
    ]);
    let (output, lines) = shop.watch().await;
    let last = lines.last().unwrap();
    assert_eq!(output.status.code(), Some(0), "{last}");
    assert_eq!(last["phase"], "Succeeded", "{last}");
    let seen = weights(&lines);
    assert!(seen.ends_with(&[1, 5, 25, 50, 100]), "{seen:?}");
    let steps = last["steps"].as_array().unwrap();
    assert!(
        steps
            .iter()
            .all(|step| step["state"] == "passed" && step["measures"][0]["value"] == 100.0),
        "{last}"
    );
    let counts = load.stop().await;
    eprintln!("{counts:?}");
    none_failed(&counts);
    // Undone: the version before serves everybody, and both runs are known.
    let undone = shop.mesh.json(&["canary", "undo", "shop"]);
    assert_eq!(undone["phase"], "RolledBack", "{undone}");
    assert_eq!(undone["weight"], 0);
    shop.mesh
        .json(&["canary", "start", "shop", "--to", "v2", "--steps", "50"]);
    shop.mesh.json(&["canary", "abort", "shop"]);
    let history = shop.mesh.json(&["canary", "history", "shop"]);
    let reasons: Vec<&str> = history["rollouts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["reason"].as_str().unwrap())
        .collect();
    assert!(
        reasons[0].contains("aborted") && reasons[1].contains("undid"),
        "{reasons:?}"
    );
    assert_eq!(
        history["rollouts"][1]["steps"][2]["measures"][0]["value"],
        100.0
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_killed_in_every_step_goes_on_from_it() {
    let mut shop = Shop::open().await;
    let load = shop.load();
    shop.start(&[
        "--steps",
        "10,30,60,100",
        "--interval",
        "2s",
        "--min-requests",
        "20",
        "--compare",
        "none",
    ]);
    let mut killed = Vec::new();
    let last = loop {
        let status = shop.status();
        if !["Initialized", "Progressing"].contains(&status["phase"].as_str().unwrap()) {
            break status;
        }
        let step = status["step"].as_u64().unwrap();
        let running = status["steps"][usize::try_from(step - 1).unwrap()]["startedUnixMs"].is_u64();
        if running && !killed.contains(&step) {
            killed.push(step);
            shop.mesh.kill_control_plane();
            shop.mesh.start_control_plane().await;
            let after = shop.status();
            assert_eq!(after["step"], step, "{after}");
            assert_eq!(after["startedUnixMs"], status["startedUnixMs"]);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(killed, [1, 2, 3, 4]);
    let last = if last["phase"] == "Succeeded" {
        last
    } else {
        shop.until("Succeeded").await
    };
    assert_eq!(last["weight"], 100, "{last}");
    none_failed(&load.stop().await);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_requests_nothing_can_be_said() {
    let shop = Shop::open().await;
    shop.start(&["--steps", "10,100", "--interval", "1s", "--patience", "3s"]);
    let (output, lines) = shop.watch().await;
    let last = lines.last().unwrap();
    assert_eq!(output.status.code(), Some(1), "{last}");
    assert_eq!(last["phase"], "Inconclusive", "{last}");
    assert!(
        last["reason"]
            .as_str()
            .unwrap()
            .contains("0 requests, 100 are needed"),
        "{last}"
    );
    let split = shop.mesh.json(&["canary", "status", "shop"]);
    assert_eq!(split["versions"][0]["weight"], 100, "{split}");
    shop.close().await;
}

/// One request of a caller with what it has for a cookie; who answered, and the cookie that it was given.
pub(crate) async fn ask(to: SocketAddr, headers: &[(&str, &str)]) -> (String, Option<String>) {
    let io = connect(to, ConnectOptions::default()).await.unwrap();
    let (mut sender, connection) = handshake(TokioIo::new(io)).await.unwrap();
    let tasks = Tasks::new();
    tasks.spawn("caller", async move {
        // The sender says why a call failed.
        let _ended = connection.await.is_ok();
    });
    let mut request = hyper::Request::get("/").header("host", HOST);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = sender
        .send_request(request.body(Full::<Bytes>::default()).unwrap())
        .await
        .unwrap();
    let given = answer.headers().get("set-cookie");
    let given = given.map(|value| {
        value
            .to_str()
            .unwrap()
            .split(';')
            .next()
            .unwrap()
            .to_owned()
    });
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (String::from_utf8_lossy(&body).into_owned(), given)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_cookie_never_changes_sides_while_weights_move() {
    let shop = Shop::open().await;
    let load = shop.load();
    let to = shop.caller.outbound();
    let stop = Arc::new(AtomicBool::new(false));
    shop.start(&[
        "--steps",
        "10,40,80",
        "--interval",
        "2s",
        "--min-requests",
        "20",
        "--compare",
        "none",
        "--affinity-cookie",
        "shop-side",
        "--gate",
        "promotion",
    ]);
    until("the first step", 20, || {
        (shop.status()["weight"] == 10).then_some(())
    })
    .await;
    shop.mesh.settled().await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let (first, cookie) = ask(to, &[]).await;
            let cookie = cookie.unwrap();
            assert!(
                cookie.starts_with(&format!("shop-side={first}.")),
                "{cookie}"
            );
            let (mut asked, mut sides) = (1, BTreeSet::from([first]));
            while !stop.load(Ordering::Relaxed) {
                let (side, again) = ask(to, &[("cookie", &format!("theme=dark; {cookie}"))]).await;
                assert_eq!(again, None, "it has one already");
                sides.insert(side);
                asked += 1;
            }
            (asked, sides)
        });
    }
    let waiting = shop.until("Waiting").await;
    assert!(
        waiting["reason"].as_str().unwrap().contains("promotion"),
        "{waiting}"
    );
    stop.store(true, Ordering::Relaxed);
    let (mut asked, mut on) = (0, BTreeMap::<String, usize>::new());
    for (count, sides) in clients.join_all().await {
        asked += count;
        assert_eq!(sides.len(), 1, "a client saw {sides:?}");
        *on.entry(sides.into_iter().next().unwrap()).or_default() += 1;
    }
    eprintln!("{asked} requests of 40 clients that keep their cookie: {on:?}");
    assert!(asked > 400 && on.len() == 2, "{on:?}");
    shop.mesh.json(&["canary", "resume", "shop"]);
    shop.until("Succeeded").await;
    shop.mesh.settled().await;
    // At the end there is one version, and no cookie any more.
    for _ in 0..10 {
        assert_eq!(
            ask(to, &[("cookie", "shop-side=v1.0")]).await,
            ("v2".to_owned(), None)
        );
    }
    none_failed(&load.stop().await);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_judged_before_anybody_gets_an_answer() {
    let shop = Shop::open().await;
    shop.v2.fails_each.store(10, Ordering::Relaxed);
    shop.mesh.json(&["canary", "set", "shop", "v1=100", "v2=0"]);
    let load = shop.load();
    shop.start(&["--mirror", "--steps", "50,100", "--interval", "2s"]);
    let (_, lines) = shop.watch().await;
    let last = lines.last().unwrap();
    assert_eq!(last["phase"], "RolledBack", "{last}");
    assert_eq!(last["step"], 1, "{last}");
    assert_eq!(last["steps"][0]["mirror"], true);
    let counts = load.stop().await;
    assert_eq!(
        counts.keys().map(String::as_str).collect::<Vec<_>>(),
        ["v1"],
        "{counts:?}"
    );
    let asked = shop.v2.asked.load(Ordering::Relaxed);
    assert!(asked > 100, "{asked} copies");
    // And copies end with it.
    shop.mesh.settled().await;
    let rule = shop.mesh.json(&["get", "vs", "shop"]);
    assert!(!rule.to_string().contains("mirror"), "{rule}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_chooses_the_canary_for_a_b_tests() {
    let shop = Shop::open().await;
    let to = shop.caller.outbound();
    shop.start(&[
        "--header",
        "x-tester=yes",
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
    // As many as it takes to be certain of 99 %.
    for _ in 0..400 {
        assert_eq!(ask(to, &[]).await.0, "v1");
        assert_eq!(ask(to, &[("x-tester", "yes")]).await.0, "v2");
    }
    shop.until("Waiting").await;
    shop.mesh.json(&["canary", "resume", "shop"]);
    shop.until("Succeeded").await;
    shop.mesh.settled().await;
    assert_eq!(ask(to, &[]).await.0, "v2");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_and_webhooks_have_the_last_word() {
    let shop = Shop::open().await;
    let load = shop.load();
    let (open, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Mutex::new(Vec::new())),
    );
    let (gate, heard) = (Arc::clone(&open), Arc::clone(&asked));
    let hook = serve(&shop.tasks, move |body| {
        heard.lock().unwrap().push(body);
        let open = gate.load(Ordering::Relaxed);
        async move { (if open { 200 } else { 403 }, "not yet".to_owned()) }
    });
    let webhook = format!("confirm-rollout=http://{hook}/gate");
    let flags = [
        "--steps",
        "20,100",
        "--interval",
        "1s",
        "--min-requests",
        "10",
        "--compare",
        "none",
        "--webhook",
        &webhook,
    ];
    shop.start(&flags);
    let waiting = until("the webhook to be asked", 20, || {
        let status = shop.status();
        status["reason"]
            .as_str()
            .unwrap()
            .contains("403 not yet")
            .then_some(status)
    })
    .await;
    assert_eq!(waiting["phase"], "Waiting", "{waiting}");
    let payload: Value = serde_json::from_str(&asked.lock().unwrap()[0]).unwrap();
    assert_eq!(
        (payload["name"].as_str(), payload["namespace"].as_str()),
        (Some("shop"), Some("default"))
    );
    // A second one is refused, and says what to do.
    let refused = shop
        .mesh
        .try_run(&["canary", "start", "shop", "--to", "v2"], None);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("under way") && said.contains("canary abort shop"),
        "{said}"
    );
    open.store(true, Ordering::Relaxed);
    until("the first step", 20, || {
        (shop.status()["weight"] == 20).then_some(())
    })
    .await;
    // Somebody else shifts: that stays, and a person decides.
    shop.mesh.json(&["canary", "set", "shop", "v1=55", "v2=45"]);
    let paused = shop.until("Paused").await;
    assert!(
        paused["reason"].as_str().unwrap().contains("v1=55 v2=45"),
        "{paused}"
    );
    let split = |status: &Value| -> Vec<u64> {
        let all = status["versions"].as_array().unwrap().iter();
        all.map(|version| version["weight"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(split(&paused), [55, 45]);
    shop.mesh.json(&["canary", "resume", "shop"]);
    let done = shop.until("Succeeded").await;
    assert_eq!(split(&done), [0, 100], "{done}");
    for word in ["pause", "resume", "promote", "abort"] {
        let refused = shop.mesh.try_run(&["canary", word, "shop"], None);
        assert_eq!(refused.status.code(), Some(1), "{word}: it is over");
    }
    none_failed(&load.stop().await);
    shop.close().await;
}
