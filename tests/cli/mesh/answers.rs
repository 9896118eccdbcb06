//! `-o json` of every command: that it parses, its keys, and that the figures are true.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::run::mode;
use super::{Mesh, project, until};

/// A named route that is tried again.
const RETRIES: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http:
  - name: again
    retries: {attempts: 2, retryOn: 5xx}
    route: [{destination: {host: ratings}}]
";

/// Requests through the page before anything is measured.
const REQUESTS: usize = 40;

fn names(list: &Value, key: &str) -> Vec<String> {
    let list = list.as_array().unwrap();
    list.iter()
        .map(|item| item[key].as_str().unwrap().to_owned())
        .collect()
}

#[track_caller]
fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// `check --pre`, `install`, `up`, `ps`, `version`, `check`.
pub(super) fn before(mesh: &Mesh) {
    let pre = mesh.home.run(&["check", "--pre", "-o", "json"]).json();
    assert_eq!(names(&pre["sections"], "name"), ["home", "machine"]);
    let installed = mesh.json(&["install", "--set", "metricsPort=16014"]);
    assert_eq!(installed["dryRun"], false);
    assert_eq!(
        names(&installed["steps"], "name"),
        ["home", "store", "root certificate", "settings"]
    );
    assert_eq!(names(&installed["steps"], "outcome"), ["created"; 4]);

    let up = mesh.json(&[
        "up",
        "-d",
        "--isolation",
        "process",
        &project("examples/bookinfo/bookinfo.yaml"),
    ]);
    assert_eq!(up["isolation"], "process");
    assert_eq!(up["pods"].as_array().unwrap().len(), 6);
    assert_eq!(up["controlPlane"]["state"], "running");
    mesh.ready();

    let status = mesh.json(&["ps"]);
    assert!(number(&status["supervisorPid"]) > 1.0);
    assert!(number(&status["startedUnixMs"]) > 1e12);
    let mut services = names(&status["pods"], "service");
    services.dedup();
    assert_eq!(services, ["details", "ratings", "reviews", "productpage"]);
    for pod in status["pods"].as_array().unwrap() {
        assert_eq!(pod["ready"], true);
        assert_eq!(pod["ports"], json!([9_080]));
        assert_eq!(pod["containers"][0]["name"], "proxy");
        for container in pod["containers"].as_array().unwrap() {
            assert_eq!(container["state"], "running");
            assert_eq!(container["restarts"], 0);
            assert!(number(&container["pid"]) > 1.0);
        }
    }

    let version = mesh.json(&["version"]);
    assert_eq!(version["client"]["version"], env!("CARGO_PKG_VERSION"));
    let control = &version["controlPlane"];
    assert_eq!(control["pid"], up["controlPlane"]["pid"]);
    assert_eq!(control["trustDomain"], "cluster.local");
    assert!(control["tlsAddress"].as_str().unwrap().ends_with(":15012"));

    let checked = mesh.json(&["check"]);
    assert_eq!(
        names(&checked["sections"], "name"),
        [
            "home",
            "control plane",
            "store",
            "identity",
            "configuration",
            "proxies",
            "numbers"
        ]
    );
    for section in checked["sections"].as_array().unwrap() {
        for check in section["checks"].as_array().unwrap() {
            assert_eq!(check["status"], "ok", "{check}");
        }
    }
}

/// `apply`, `get`, `history`.
pub(super) fn configuration(mesh: &Mesh) {
    let rule = project("examples/bookinfo/destination-rule-reviews.yaml");
    let dry = mesh.json(&["apply", "--dry-run", "-f", &rule]);
    assert_eq!(dry["objects"][0]["outcome"], "created");
    assert_eq!(
        mesh.json(&["get", "dr"]),
        json!([]),
        "a dry run does nothing"
    );
    // Subsets are clusters that every proxy would get; nothing runs otherwise for it.
    let diff = mesh.json(&["diff", "-f", &rule]);
    assert_eq!(diff["objects"][0]["outcome"], "created");
    let told: usize = diff["proxies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| {
            assert_eq!(change["clusters"][0]["outcome"], "created", "{change}");
            change["proxies"].as_array().unwrap().len()
        })
        .sum();
    assert_eq!(told, 6, "{diff}");
    let applied = mesh.json(&["apply", "-f", &rule]);
    let diff = mesh.json(&["diff", "-f", &rule]);
    assert_eq!(
        (&diff["objects"], &diff["proxies"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(diff["unchangedProxies"], 6);
    assert_eq!(
        applied["objects"],
        json!([{ "kind": "DestinationRule", "namespace": "default", "name": "reviews",
                 "outcome": "created" }])
    );
    assert_eq!(applied["findings"], json!([]));
    acknowledged(&applied);
    let again = mesh.json(&["apply", "-f", &rule]);
    assert_eq!(again["objects"][0]["outcome"], "unchanged");

    let got = mesh.json(&["get", "destinationrules"]);
    assert_eq!(got[0]["name"], "reviews");
    assert_eq!(got[0]["object"]["spec"]["host"], "reviews");
    assert_eq!(got[0]["revision"], applied["revision"]);
    assert!(number(&got[0]["changedUnixMs"]) > 1e12);

    let history = mesh.json(&["history"]);
    let newest = &history[0];
    assert_eq!(newest["revision"], applied["revision"]);
    assert_eq!(newest["what"], "apply");
    assert_eq!(newest["objects"], applied["objects"]);
    let one = mesh.json(&["history", "dr", "reviews"]);
    assert_eq!(one.as_array().unwrap().len(), 1);
}

/// All six proxies took it, and it says how fast.
#[track_caller]
fn acknowledged(report: &Value) {
    let convergence = &report["convergence"];
    assert_eq!(convergence["proxies"], 6, "{report}");
    assert_eq!(convergence["acknowledged"], 6, "{report}");
    assert_eq!(convergence["rejected"], json!([]), "{report}");
    let (median, last) = (
        number(&convergence["medianMs"]),
        number(&convergence["lastMs"]),
    );
    assert!(median <= last && last < 5_000.0, "{report}");
}

/// `services`, `endpoints`, `register`, `deregister`.
pub(super) fn registry(mesh: &Mesh) {
    let services = mesh.json(&["services"]);
    assert_eq!(
        names(&services, "name"),
        ["details", "productpage", "ratings", "reviews"]
    );
    let reviews = &services[3];
    assert_eq!(reviews["host"], "reviews.default.svc.cluster.local");
    assert_eq!(
        (&reviews["ready"], &reviews["instances"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(reviews["versions"], json!({ "v1": 1, "v2": 1, "v3": 1 }));
    assert_eq!(reviews["mtls"], "permissive");
    assert_eq!(
        reviews["ports"],
        json!([{ "name": "http", "port": 9_080, "target": "9080", "protocol": "http" }])
    );

    let endpoints = mesh.json(&["endpoints", "reviews"]);
    assert_eq!(names(&endpoints, "version"), ["v1", "v2", "v3"]);
    for endpoint in endpoints.as_array().unwrap() {
        assert_eq!(endpoint["service"], "reviews.default");
        assert_eq!(endpoint["health"], "healthy");
        assert_eq!(endpoint["mtls"], true);
        assert!(endpoint["address"].as_str().unwrap().ends_with(":9080"));
    }

    let registered = mesh.json(&[
        "register",
        "db-1",
        "--service",
        "db",
        "--address",
        "127.0.0.9",
        "--port",
        "5432",
    ]);
    assert_eq!(
        registered,
        json!({ "instance": "db-1", "namespace": "default", "expiresUnixMs": 0 })
    );
    let listed = mesh.json(&["register", "--list"]);
    let db = &listed[0];
    assert_eq!(listed.as_array().unwrap().len(), 7);
    assert_eq!(db["instance"]["name"], "db-1");
    assert_eq!(db["instance"]["labels"], json!({ "app": "db" }));
    assert_eq!(db["expiresUnixMs"], 0);
    assert!(number(&listed[1]["expiresUnixMs"]) > number(&listed[1]["seenUnixMs"]));
    assert_eq!(
        mesh.json(&["deregister", "db-1"]),
        json!({ "instance": "db-1", "namespace": "default" })
    );
    assert_eq!(
        mesh.json(&["register", "--list"]).as_array().unwrap().len(),
        6
    );
    mesh.run(&["deregister", "db-1"]).exits(1);
}

/// `proxies`, `config` in its five parts.
pub(super) fn proxies(mesh: &Mesh) {
    let proxies = mesh.json(&["proxies"]);
    let page = proxies
        .as_array()
        .unwrap()
        .iter()
        .find(|proxy| proxy["workload"] == "productpage-v1")
        .unwrap();
    assert_eq!(page["client"], "meshctl");
    assert_eq!(page["protocol"], "delta");
    assert_eq!(
        page["identity"],
        "spiffe://cluster.local/ns/default/sa/bookinfo-productpage"
    );
    let types = page["types"].as_array().unwrap();
    assert_eq!(
        names(&page["types"], "type"),
        ["CDS", "EDS", "LDS", "RDS", "SDS"]
    );
    assert!(types.iter().all(|kind| number(&kind["resources"]) > 0.0));
    let name = page["name"].as_str().unwrap();
    assert_eq!(mesh.json(&["proxies", name])[0], *page);

    let listeners = mesh.json(&["config", "listeners", name]);
    assert_eq!(listeners["virtualOutbound"]["direction"], "outbound");
    let routes = mesh.json(&["config", "routes", name]);
    assert!(routes["http_proxy"]["hosts"].as_array().unwrap().len() >= 4);
    let clusters = mesh.json(&["config", "clusters", name]);
    let subset = "outbound|9080|v3|reviews.default.svc.cluster.local";
    assert_eq!(clusters[subset]["kind"], "discovered");
    let endpoints = mesh.json(&["config", "endpoints", name]);
    let one = endpoints[subset]["endpoints"].as_array().unwrap();
    assert_eq!(one.len(), 1, "{endpoints}");
    for what in ["secrets", "listeners", "clusters"] {
        let secrets = mesh.run(&["config", what, name, "-o", "json"]).exits(0);
        let table = mesh.run(&["config", what, name]).exits(0);
        for text in [&secrets.stdout, &table.stdout] {
            assert!(
                !text.contains("PRIVATE") && !text.contains("BEGIN"),
                "{text}"
            );
        }
    }
    let secrets = mesh.json(&["config", "secrets", name]);
    assert_eq!(secrets["identity"], page["identity"]);
    assert_eq!(
        secrets["roots"][0].as_str().unwrap().len(),
        64,
        "a fingerprint"
    );
}

/// `canary`, `routes`, `stats`, `top`, `logs`, with real requests between.
pub(super) fn traffic(mesh: &Mesh) {
    let set = mesh.json(&["canary", "set", "reviews", "v1=90", "v2=10"]);
    assert_eq!(set["service"], "reviews.default");
    assert_eq!(set["objects"][0]["outcome"], "created");
    acknowledged(&set);
    let set = mesh.json(&["canary", "set", "reviews", "v1=50", "v3=50"]);
    let weights = |side: &str| -> Vec<(String, f64)> {
        let versions = set[side].as_array().unwrap().iter();
        versions
            .map(|v| {
                (
                    v["version"].as_str().unwrap().to_owned(),
                    number(&v["sharePercent"]),
                )
            })
            .collect()
    };
    assert_eq!(
        weights("before"),
        [("v1".to_owned(), 90.0), ("v2".to_owned(), 10.0)]
    );
    assert_eq!(
        weights("after"),
        [("v1".to_owned(), 50.0), ("v3".to_owned(), 50.0)]
    );
    acknowledged(&set);
    assert_eq!(
        mesh.json(&["history"])[0]["what"],
        "canary set reviews v1=50 v3=50"
    );

    let mut slowest = Duration::ZERO;
    for _ in 0..REQUESTS {
        let begun = Instant::now();
        let (status, text) = mesh.page();
        slowest = slowest.max(begun.elapsed());
        assert_eq!(status, 200, "{text}");
    }
    let requests = u64::try_from(REQUESTS).unwrap();
    let all = |args: &[&str], service: &str| -> Value {
        until(&format!("the numbers of {service} in {args:?}"), || {
            let report = mesh.json(args);
            let rows = report["rows"].as_array().unwrap().iter();
            let mine: Vec<Value> = rows
                .filter(|row| row["service"] == service)
                .cloned()
                .collect();
            let sum: u64 = mine
                .iter()
                .map(|row| row["requests"].as_u64().unwrap())
                .sum();
            (sum >= requests).then_some(Value::from(mine))
        })
    };
    // What the destinations tell (mTLS) may come a push later than what the callers tell.
    let reviews = until("the share of mTLS", || {
        let rows = all(&["stats"], "reviews.default");
        rows[0]["mtlsPercent"].is_number().then(|| rows[0].clone())
    });
    assert_eq!(reviews["successPercent"], 100.0);
    assert_eq!(reviews["mtlsPercent"], 100.0);
    assert!(number(&reviews["requestsPerSecond"]) > 0.0);
    let (p50, p99) = (
        number(&reviews["latencyP50Ms"]),
        number(&reviews["latencyP99Ms"]),
    );
    assert!(p50 > 0.0 && p50 <= p99, "{reviews}");
    let page = all(&["stats"], "productpage.default")[0].clone();
    assert_eq!(page["mtlsPercent"], 0.0, "asked from outside the mesh");
    // A bucket's upper bound is at most two and a half times anything in it.
    let most = slowest.as_secs_f64() * 2_500.0 + 1.0;
    assert!(
        number(&page["latencyP99Ms"]) <= most,
        "{page}: more than {slowest:?}"
    );

    let versions = all(&["stats", "reviews", "--by", "version"], "reviews.default");
    assert_eq!(names(&versions, "version"), ["v1", "v3"]);
    let sources = all(
        &["stats", "--by", "source", "--to", "reviews"],
        "reviews.default",
    );
    assert_eq!(names(&sources, "source"), ["productpage-v1.default"]);
    let from = all(&["stats", "--from", "productpage-v1"], "details.default");
    assert_eq!(from.as_array().unwrap().len(), 1);
    let routes = all(&["stats", "--by", "route"], "reviews.default");
    assert_eq!(
        names(&routes, "route"),
        ["everything"],
        "the rule that canary set made"
    );
    let routes = all(&["stats", "--by", "route"], "details.default");
    assert_eq!(
        names(&routes, "route"),
        ["default"],
        "no rule but the service itself"
    );
    let top = all(&["top", "-t", "1m"], "reviews.default");
    assert_eq!(names(&top, "version"), ["v1", "v3"]);

    // The sample application answers what it is asked for.
    mesh.home.write("retries.yaml", RETRIES);
    mesh.run(&["apply", "-f", "retries.yaml"]).exits(0);
    assert_eq!(mesh.through("http://ratings:9080/status/503").0, 503);
    let failed = until("the failure", || {
        let report = mesh.json(&["stats", "ratings", "--by", "route"]);
        let rows = report["rows"].as_array().unwrap().iter();
        let mut failing = rows.filter(|row| row["route"] == "again");
        failing.next().cloned()
    });
    assert_eq!(
        (&failed["requests"], &failed["successPercent"]),
        (&json!(1), &json!(0.0))
    );
    assert_eq!(failed["retries"], 2, "{failed}");
    mesh.run(&["delete", "vs", "ratings"]).exits(0);

    let status = mesh.json(&["canary", "status", "reviews"]);
    assert_eq!(status["service"], "reviews.default");
    let measured: f64 = status["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| number(&version["measuredPercent"]))
        .sum();
    assert!((measured - 100.0).abs() < 0.1, "{status}");
    assert_eq!(
        mesh.json(&["canary", "list"])[0]["service"],
        "reviews.default"
    );

    let routes = mesh.json(&["routes", "reviews", "--from", "productpage-v1"]);
    let backends = &routes[0]["backends"];
    assert_eq!(names(backends, "subset"), ["v1", "v3"]);
    // Weighted round robin is exact: with two workers each half is off by one at most.
    for backend in backends.as_array().unwrap() {
        assert_eq!(backend["weight"], 50);
        assert_eq!(
            (&backend["ready"], &backend["endpoints"]),
            (&json!(1), &json!(1))
        );
        assert!(
            (number(&backend["measuredPercent"]) - 50.0).abs() <= 10.0,
            "{backend}"
        );
    }
    let explained = mesh.json(&[
        "routes",
        "--explain",
        "GET",
        "http://reviews:9080/reviews/1",
        "--from",
        "productpage-v1",
    ]);
    assert_eq!(explained["routes"][0]["matched"], true);
    assert_eq!(explained["outcome"]["backends"], *backends);
    assert_eq!(explained["endpoints"][0][0]["version"], "v1");
    let nobody = mesh.json(&["routes", "--explain", "GET", "http://nobody.example/"]);
    assert!(
        nobody["outcome"].is_object() || nobody["answer"].is_string(),
        "{nobody}"
    );

    let line = until("a line of the access log", || {
        let args = ["logs", "productpage", "-c", "proxy", "-o", "json"];
        let outcome = mesh.run(&args).exits(0);
        let lines: Vec<Value> = outcome
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        lines.into_iter().find(|line| {
            let text = line["line"].as_str().unwrap();
            text.contains("\"GET /productpage HTTP/1.1\" 200 - via_upstream")
        })
    });
    assert_eq!(line["container"], "proxy");
    assert_eq!(line["stream"], "stdout");
    assert_eq!(line["pod"], mesh.pod("productpage")["name"]);
    let other = mesh.run(&["logs", "reviews", "-c", "sidecar"]).exits(1);
    assert_eq!(
        other.stderr,
        "error: no container is called \"sidecar\"\nhint: its containers: proxy, reviews\n"
    );
    let plain = mesh.run(&["logs", "control-plane", "--tail", "1"]).exits(0);
    assert_eq!(plain.stdout.lines().count(), 1);
}

/// `identity issue`, `identity show`, `token create`, `inject`.
pub(super) fn identities(mesh: &Mesh) {
    let issued = mesh.json(&[
        "identity",
        "issue",
        "--service-account",
        "ops",
        "--ttl",
        "1h",
    ]);
    assert_eq!(
        issued["spiffeId"],
        "spiffe://cluster.local/ns/default/sa/ops"
    );
    assert!(issued["keyPem"].as_str().unwrap().contains("PRIVATE KEY"));
    let out = mesh.home.beside("ops").display().to_string();
    let written = mesh.json(&[
        "identity",
        "issue",
        "--service-account",
        "ops",
        "--ttl",
        "1h",
        "--out",
        &out,
    ]);
    assert_eq!(written["files"].as_array().unwrap().len(), 3);
    assert!(!written.to_string().contains("PRIVATE"), "{written}");
    assert_eq!(mode(&mesh.home.beside("ops/key.pem")), 0o600);
    let shown = mesh.json(&["identity", "show", &format!("{out}/cert-chain.pem")]);
    assert_eq!(shown[0]["names"], json!([issued["spiffeId"]]), "{shown}");
    assert_eq!(shown[0]["authority"], false);
    let proxy = mesh.pod("details")["name"].as_str().unwrap().to_owned();
    let shown = mesh.json(&["identity", "show", &proxy]);
    assert_eq!(
        shown["identity"],
        "spiffe://cluster.local/ns/default/sa/bookinfo-details"
    );

    let token = mesh.json(&["token", "create", "--service-account", "cart"]);
    assert_eq!(
        token["spiffeId"],
        "spiffe://cluster.local/ns/default/sa/cart"
    );
    let text = token["token"].as_str().unwrap();
    assert!(text.starts_with("mj_") && text.contains(token["id"].as_str().unwrap()));
    let fingerprint = mesh.json(&["config", "secrets", &proxy])["roots"][0].clone();
    assert!(
        text.ends_with(fingerprint.as_str().unwrap()),
        "the root's fingerprint"
    );

    let bookinfo = project("examples/bookinfo/bookinfo.yaml");
    let injected = mesh.json(&["inject", "-f", &bookinfo]);
    let items = injected["items"].as_array().unwrap();
    let pod = items
        .iter()
        .find(|item| item["kind"] == "Deployment")
        .unwrap();
    let containers = &pod["spec"]["template"]["spec"]["containers"];
    let init = &pod["spec"]["template"]["spec"]["initContainers"];
    let sidecar = |list: &Value| list.to_string().contains("\"meshctl:");
    assert!(sidecar(containers) || sidecar(init), "{pod}");
}

/// A service may target a container port by its name.
pub(super) fn named_ports(mesh: &Mesh) {
    let file = mesh.home.write(
        "named.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: catalogue}\n\
         spec: {selector: {app: details}, ports: [{name: http, port: 80, targetPort: http}]}\n",
    );
    let applied = mesh.json(&["apply", "-f", file.to_str().unwrap()]);
    assert_eq!(applied["findings"], json!([]));
    let endpoints = mesh.json(&["endpoints", "catalogue"]);
    assert_eq!(endpoints[0]["port"], 80);
    assert_eq!(
        endpoints[0]["address"],
        mesh.json(&["endpoints", "details"])[0]["address"]
    );
    let (status, text) = mesh.through("http://catalogue/details/0");
    assert_eq!(status, 200, "{text}");
}

/// `delete`.
pub(super) fn deletion(mesh: &Mesh) {
    let deleted = mesh.json(&["delete", "vs", "reviews"]);
    assert_eq!(deleted["objects"][0]["outcome"], "deleted");
    acknowledged(&deleted);
    assert_eq!(mesh.json(&["get", "vs"]), json!([]));
    mesh.run(&["delete", "vs", "reviews"]).exits(1);
    mesh.run(&["delete", "vs", "reviews", "--ignore-not-found"])
        .exits(0);
}

/// `uninstall`, `down`.
pub(super) fn after(mesh: &Mesh) {
    let refused = mesh.run(&["uninstall", "--purge"]).exits(1);
    assert!(refused.stderr.contains("6 pods up in"), "{refused}");
    let dry = mesh.json(&["uninstall", "--purge", "--dry-run"]);
    assert_eq!(dry["dryRun"], true);
    assert_eq!(
        dry["removed"][0],
        mesh.home.clean(&mesh.home.path().display().to_string())
    );
    let instance = mesh.json(&["ps"])["instance"].as_str().unwrap().to_owned();
    assert_eq!(mesh.json(&["down"]), json!({ "outcome": "stopped" }));
    assert_eq!(mesh.json(&["down"]), json!({ "outcome": "nothingUp" }));
    assert_eq!(
        marked(&instance),
        Vec::<String>::new(),
        "processes are left"
    );
    mesh.run(&["ps"]).exits(1);
    mesh.json(&["uninstall", "--purge"]);
    assert!(!mesh.home.path().exists());
}

/// Command lines of processes that bear the mark of a run.
fn marked(instance: &str) -> Vec<String> {
    let wanted = format!("MESHCTL_INSTANCE={instance}");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let environ = std::fs::read(entry.path().join("environ")).ok()?;
            let mut variables = environ.split(|byte| *byte == 0);
            let ours = variables.any(|variable| variable == wanted.as_bytes());
            let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            ours.then_some(line)
        })
        .collect()
}

/// What is packed for others has what helps, and no secret.
pub(crate) fn bundled(mesh: &Mesh) {
    // "do-not-tell".
    let told = "ZG8tbm90LXRlbGw";
    let secret = mesh.home.beside("secret.yaml");
    let text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: kept}}\ndata: {{password: {told}=}}\n"
    );
    std::fs::write(&secret, text).unwrap();
    mesh.run(&["apply", "-f", secret.to_str().unwrap()])
        .exits(0);
    let file = mesh.home.beside("bundle.tar.gz");
    let packed = mesh.json(&["support-bundle", "--pods", "-f", file.to_str().unwrap()]);
    assert_eq!(packed["errors"], serde_json::json!([]));
    let into = mesh.home.beside("bundle");
    std::fs::create_dir(&into).unwrap();
    let mut tar = std::process::Command::new("tar");
    let unpacked = tar.arg("-xzf").arg(&file).arg("-C").arg(&into).status();
    assert!(unpacked.unwrap().success());
    let read = |name: &str| std::fs::read_to_string(into.join(name)).unwrap();
    assert!(read("configuration/VirtualService.json").contains("reviews"));
    assert!(read("logs/control-plane.txt").contains("the control plane serves"));
    assert!(read("metrics.txt").contains("pilot_xds"));
    assert!(read("proxies.json").contains("ratings"));
    let mut grep = std::process::Command::new("grep");
    let found = grep.args([
        "-rlE",
        &format!("PRIVATE KEY|eyJ[A-Za-z0-9_-]{{8}}|{told}|do-not-tell"),
    ]);
    let found = found.arg(&into).output().unwrap();
    assert_eq!(String::from_utf8(found.stdout).unwrap(), "");
    mesh.run(&["delete", "secret", "kept"]).exits(0);
}
