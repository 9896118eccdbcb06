//! A mesh in a cluster, seen and changed from outside: the real binary with a kubeconfig, an API server that
//! enforces the roles that were installed, and two replicas that are reached through it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use cluster::store::Key;
use serde_json::{Value, json};

use super::command;
use super::installed::{Replica, Stand};

pub(super) const SYSTEM: &str = "meshctl-system";

/// Installs, and starts two replicas as pods of the cluster.
pub(super) async fn start() -> (Stand, [Replica; 2]) {
    let stand = Stand::start().await;
    stand.install(&[]);
    let replicas = ["one", "two"].map(|name| {
        let replica = Replica::start(&stand, name);
        let labels = json!({"app": "meshctl", "istio.io/rev": "default"});
        run_pod(&stand, SYSTEM, name, &labels, "meshctl");
        let api = SocketAddr::from((Ipv4Addr::LOCALHOST, replica.api));
        stand.cluster.forward(SYSTEM, name, 15_081, api);
        replica
    });
    for replica in &replicas {
        stand
            .until("a replica to serve", || {
                let log = std::fs::read_to_string(&replica.log).ok()?;
                log.contains("proxies are served").then_some(())
            })
            .await;
    }
    stand
        .until("the mesh's root", || {
            stand.object("configmaps", SYSTEM, "meshctl-ca-root-cert")
        })
        .await;
    stand.until("somebody to write", || stand.holder()).await;
    replicas[0].serve_webhooks(&stand).await;
    (stand, replicas)
}

/// A pod that is ready, as far as the API server says.
pub(super) fn run_pod(stand: &Stand, namespace: &str, name: &str, labels: &Value, account: &str) {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"serviceAccountName": account, "containers": [{"name": "app", "image": "app"}]},
    });
    let server = stand.cluster.server();
    let made = server.create_now("pods", namespace, pod).unwrap();
    let mut ready = (*made).clone();
    ready["status"] = json!({
        "phase": "Running",
        "podIP": address(name),
        "podIPs": [{"ip": address(name)}],
        "conditions": [{"type": "Ready", "status": "True"}],
    });
    let key = Key {
        resource: "pods".to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    server.state().store.put(key, ready);
}

/// The address of a pod: its own on this machine, by this process and the last letter of its name.
pub(super) fn address(name: &str) -> String {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let last = name.bytes().last().unwrap();
    format!("127.{}.{low}.{last}", high | 128)
}

/// Somebody with a kubeconfig of their own.
pub(super) struct Person<'a> {
    stand: &'a Stand,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl<'a> Person<'a> {
    /// With the Role in the system namespace, if one is named.
    pub(super) fn new(stand: &'a Stand, name: &str, role: Option<&str>) -> Self {
        let kubeconfig = stand.dir.path().join(format!("kubeconfig-{name}"));
        let text = stand.cluster.kubeconfig(name, &[]).unwrap();
        std::fs::write(&kubeconfig, text).unwrap();
        if let Some(role) = role {
            bind(stand, SYSTEM, name, "Role", role);
        }
        Self {
            stand,
            kubeconfig,
            home: stand.dir.path().join(format!("home-{name}")),
        }
    }

    /// Who may everything.
    fn admin(stand: &'a Stand) -> Self {
        let kubeconfig = stand.dir.path().join("admin");
        let home = stand.dir.path().join("home-admin");
        Self {
            stand,
            kubeconfig,
            home,
        }
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        command(&self.home, &self.kubeconfig, args)
    }

    pub(super) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What it prints as JSON.
    pub(super) fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["-o", "json"]].concat());
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The exit code, and what it says of why.
    fn fails(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    }

    /// Waits for what a command prints.
    pub(super) async fn until<T>(&self, args: &[&str], find: impl Fn(&Value) -> Option<T>) -> T {
        let found = || {
            let output = self.run(&[args, &["-o", "json"]].concat());
            find(&serde_json::from_slice(&output.stdout).ok()?)
        };
        self.stand.until(&args.join(" "), found).await
    }
}

pub(super) fn bind(stand: &Stand, namespace: &str, user: &str, kind: &str, role: &str) {
    let group = "rbac.authorization.k8s.io";
    let binding = json!({
        "apiVersion": format!("{group}/v1"),
        "kind": "RoleBinding",
        "metadata": {"name": format!("{user}-{role}"), "namespace": namespace},
        "roleRef": {"apiGroup": group, "kind": kind, "name": role},
        "subjects": [{"kind": "User", "apiGroup": group, "name": user}],
    });
    let resource = format!("rolebindings.{group}");
    let server = stand.cluster.server();
    server.create_now(&resource, namespace, binding).unwrap();
}

pub(super) fn apply(stand: &Stand, file: &str, text: &str) {
    let path = stand.dir.path().join(file);
    std::fs::write(&path, text).unwrap();
    let documents: Vec<Value> = text
        .split("\n---\n")
        .map(|text| serde_saphyr::from_str(text).unwrap())
        .collect();
    for object in documents {
        let kind = object["kind"].as_str().unwrap().to_lowercase() + "s";
        let group = object["apiVersion"].as_str().unwrap();
        let group = group.split_once('/').map(|(group, _)| group);
        let resource = group.map_or(kind.clone(), |group| format!("{kind}.{group}"));
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let namespace = namespace.to_owned();
        let server = stand.cluster.server();
        server.create_now(&resource, &namespace, object).unwrap();
    }
}

pub(super) const SHOP: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: cart, namespace: shop}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {selector: {app: cart}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

/// A proxy of `cart` that joins a replica with its service account's token.
pub(super) struct Sidecar(Child);

impl Drop for Sidecar {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Sidecar {
    pub(super) fn start(stand: &Stand, replica: &Replica, name: &str, version: &str) -> Self {
        let labels = json!({"app": "cart", "version": version});
        run_pod(stand, "shop", name, &labels, "cart");
        let home = stand.dir.path().join(name);
        std::fs::create_dir_all(&home).unwrap();
        let token = stand.cluster.token("shop", "cart", &["istio-ca"], 3_600);
        let (file, root) = (home.join("token"), home.join("root.pem"));
        std::fs::write(&file, token.unwrap()).unwrap();
        let roots = stand.object("configmaps", SYSTEM, "meshctl-ca-root-cert");
        let roots = roots.unwrap()["data"]["root-cert.pem"].clone();
        std::fs::write(&root, roots.as_str().unwrap()).unwrap();
        let args = [
            "proxy",
            "--namespace=shop",
            "--service=cart",
            "--service-account=cart",
            "--app=127.0.0.1:1",
            "--inbound-port=0",
            "--outbound-port=15001",
            "--admin-port=0",
            "--workers=1",
        ];
        let none = home.join("no-kubeconfig");
        let process = command(&home, &none, &args)
            .arg(format!("--name={name}"))
            .arg(format!("--address={}", address(name)))
            .arg(format!("--control-plane=127.0.0.1:{}", replica.tls))
            .arg(format!("--join-file={}", file.display()))
            .arg(format!("--root-cert={}", root.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(home.join("log")).unwrap())
            .spawn()
            .unwrap();
        Self(process)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_look_looks_from_outside_and_changes_nothing() {
    let (stand, replicas) = start().await;
    apply(&stand, "shop.yaml", SHOP);
    let vera = Person::new(&stand, "vera", Some("meshctl-viewer"));
    vera.until(&["services"], |services| {
        let mut services = services.as_array()?.iter();
        services.find(|one| one["name"] == "cart").map(drop)
    })
    .await;
    for looking in [
        &["endpoints"][..],
        &["proxies"],
        &["stats"],
        &["edges"],
        &["routes"],
        &["canary", "list"],
        &["identity", "audit"],
        &["access", "whoami"],
        &["version"],
    ] {
        vera.json(looking);
    }
    let me = vera.json(&["access", "whoami"]);
    assert_eq!(me["role"], "viewer");

    // A viewer is given no token of an operator, and the control plane holds against a viewer's what it says.
    let (code, said) = vera.fails(&["canary", "set", "cart", "-n", "shop", "v1=1"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("serviceaccounts \"meshctl-operator\" is forbidden"),
        "{said}"
    );
    assert!(said.contains("--role=meshctl-operator"), "{said}");
    let token = |namespace: &str, account: &str, audience: &str| {
        let token = stand.cluster.token(namespace, account, &[audience], 600);
        token.unwrap()
    };
    let roots = stand.dir.path().join("roots.pem");
    let root = stand
        .object("configmaps", SYSTEM, "meshctl-ca-root-cert")
        .unwrap();
    std::fs::write(&roots, root["data"]["root-cert.pem"].as_str().unwrap()).unwrap();
    let viewer = token(SYSTEM, "meshctl-viewer", "meshctl-api");
    let operator = token(SYSTEM, "meshctl-operator", "meshctl-api");
    let [one, _] = &replicas;
    let asked =
        |method: &str, path: &str, token: Option<&str>| curl(&roots, one.api, method, path, token);
    assert_eq!(asked("GET", "/services", Some(&viewer)), "200");
    assert_eq!(asked("GET", "/services", Some(&operator)), "200");
    assert_eq!(asked("POST", "/faults/shop/cart", Some(&viewer)), "403");
    assert_eq!(asked("POST", "/access/tokens", Some(&operator)), "403");
    assert_eq!(asked("GET", "/services", None), "401");
    for (namespace, account, audience, expected) in [
        (SYSTEM, "meshctl-operator", "istio-ca", "401"),
        (SYSTEM, "meshctl-operator", cluster::auth::ISSUER, "401"),
        (SYSTEM, "meshctl", "meshctl-api", "401"),
        ("shop", "cart", "meshctl-api", "401"),
    ] {
        let shown = token(namespace, account, audience);
        let status = asked("GET", "/services", Some(&shown));
        assert!(
            status == expected || status == "403",
            "{account} {audience}: {status}"
        );
    }
    stand.cluster.advance(700);
    // A verdict is remembered for moments only.
    stand
        .until("an expired token to be refused", || {
            (asked("GET", "/services", Some(&viewer)) == "401").then_some(())
        })
        .await;
}

fn curl(roots: &Path, port: u16, method: &str, path: &str, token: Option<&str>) -> String {
    let name = "meshctl.meshctl-system.svc";
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-X",
        method,
        "--cacert",
    ])
    .arg(roots)
    .args(["--resolve", &format!("{name}:{port}:127.0.0.1")])
    .arg(format!("https://{name}:{port}/api/v1{path}"));
    if let Some(token) = token {
        curl.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    if method == "POST" {
        curl.args(["-H", "content-type: application/json", "-d", "{}"]);
    }
    let output = curl.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lacking_is_named_and_who_is_silent_too() {
    let (stand, replicas) = start().await;
    apply(&stand, "shop.yaml", SHOP);
    let nobody = Person::new(&stand, "nora", None);
    let (code, said) = nobody.fails(&["services"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("pods is forbidden") && said.contains("--role=meshctl-viewer"),
        "{said}"
    );

    // Everything but the token.
    let role = stand.object("roles.rbac.authorization.k8s.io", SYSTEM, "meshctl-viewer");
    let mut role = role.unwrap();
    let rules = role["rules"].as_array_mut().unwrap();
    rules.retain(|rule| rule["resources"][0] != "serviceaccounts/token");
    role["metadata"] = json!({"name": "no-token", "namespace": SYSTEM});
    let server = stand.cluster.server();
    let made = server.create_now("roles.rbac.authorization.k8s.io", SYSTEM, role);
    made.unwrap();
    let tom = Person::new(&stand, "tom", Some("no-token"));
    let (code, said) = tom.fails(&["services"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("serviceaccounts/token"), "{said}");

    // Proxies of both replicas are seen, and whose replica is silent is said.
    let vera = Person::new(&stand, "vera", Some("meshctl-viewer"));
    let [one, two] = replicas;
    let _sidecars = [
        Sidecar::start(&stand, &one, "cart-1", "v1"),
        Sidecar::start(&stand, &two, "cart-2", "v2"),
    ];
    let names = |proxies: &Value| {
        let rows = proxies.as_array()?.iter();
        let mut names: Vec<String> = rows
            .filter_map(|row| Some(row["name"].as_str()?.to_owned()))
            .collect();
        names.sort();
        Some(names)
    };
    vera.until(&["proxies"], |proxies| {
        (names(proxies)? == ["cart-1", "cart-2"]).then_some(())
    })
    .await;
    for proxy in ["cart-1", "cart-2"] {
        vera.json(&["config", "listeners", proxy, "-n", "shop"]);
    }
    let writes = stand.holder().unwrap();
    let (kept, gone) = if writes == "one" {
        (one, two)
    } else {
        (two, one)
    };
    gone.end();
    let output = vera.run(&["proxies", "-o", "json"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let left = names(&serde_json::from_slice(&output.stdout).unwrap()).unwrap();
    assert_eq!(left.len(), 1);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("did not answer"), "{said}");
    // What any replica knows is whole.
    vera.json(&["services"]);

    kept.end();
    let (code, said) = vera.fails(&["services"]);
    assert_eq!(code, Some(4), "{said}");
    assert!(
        said.contains("cluster test") && said.contains("--context"),
        "{said}"
    );
}

/// What backs `cart`.
pub(super) fn slice(stand: &Stand, pods: &[&str]) {
    slice_of(stand, ("shop", "cart"), ("http", 8080), pods);
}

/// What backs a service of one port.
pub(super) fn slice_of(
    stand: &Stand,
    (namespace, service): (&str, &str),
    (name, port): (&str, u16),
    pods: &[&str],
) {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|pod| {
            json!({
                "addresses": [address(pod)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "name": pod, "namespace": namespace},
            })
        })
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-x"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": name, "port": port, "protocol": "TCP"}],
    });
    let server = stand.cluster.server();
    let made = server.create_now("endpointslices.discovery.k8s.io", namespace, slice);
    made.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shifted_is_kept_by_the_api_server_and_is_with_the_proxies_of_both_replicas() {
    let (stand, [one, two]) = start().await;
    apply(&stand, "shop.yaml", SHOP);
    let _sidecars = [
        Sidecar::start(&stand, &one, "cart-1", "v1"),
        Sidecar::start(&stand, &two, "cart-2", "v2"),
    ];
    slice(&stand, &["cart-1", "cart-2"]);
    let olga = Person::new(&stand, "olga", Some("meshctl-operator"));
    assert_eq!(olga.json(&["access", "whoami"])["role"], "operator");
    olga.until(&["proxies"], |proxies| {
        (proxies.as_array()?.len() == 2).then_some(())
    })
    .await;
    olga.until(&["endpoints"], |rows| {
        (rows.as_array()?.len() == 2).then_some(())
    })
    .await;
    let rules = "virtualservices.networking.istio.io";
    let weights = || -> Option<Vec<u64>> {
        let rule = stand.object(rules, "shop", "cart")?;
        let routes = rule["spec"]["http"][0]["route"].as_array()?.iter();
        Some(routes.filter_map(|to| to["weight"].as_u64()).collect())
    };
    for (v1, v2) in [(75, 25), (40, 60)] {
        let (v1_is, v2_is) = (format!("v1={v1}"), format!("v2={v2}"));
        let set = olga.json(&["canary", "set", "cart", "-n", "shop", &v1_is, &v2_is]);
        assert_eq!(weights(), Some(vec![v1, v2]));
        // Both replicas' proxies had it when the command ended.
        assert_eq!(set["convergence"]["proxies"], 2, "{set}");
        assert_eq!(set["convergence"]["acknowledged"], 2, "{set}");
        assert_eq!(set["convergence"]["rejected"], json!([]));
    }
    let subsets = stand.object("destinationrules.networking.istio.io", "shop", "cart");
    assert_eq!(
        subsets.unwrap()["spec"]["subsets"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let status = olga.json(&["canary", "status", "cart", "-n", "shop"]);
    assert_eq!(status["versions"][1]["weight"], 60);

    // A fault is an object there, too, and goes when its time has come.
    let faults = "faultinjections.policy.meshctl.dev";
    let inject = [
        "fault", "inject", "cart", "-n", "shop", "--delay", "10ms", "--for", "2s",
    ];
    olga.json(&inject);
    assert!(stand.object(faults, "shop", "cart").is_some());
    assert_eq!(olga.json(&["fault", "list"]).as_array().unwrap().len(), 1);
    stand
        .until("the fault to end", || {
            stand.object(faults, "shop", "cart").is_none().then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_an_object_there_and_the_next_replica_goes_on_with_it() {
    let (stand, [one, two]) = start().await;
    apply(&stand, "shop.yaml", SHOP);
    let _sidecars = [
        Sidecar::start(&stand, &one, "cart-1", "v1"),
        Sidecar::start(&stand, &two, "cart-2", "v2"),
    ];
    slice(&stand, &["cart-1", "cart-2"]);
    let olga = Person::new(&stand, "olga", Some("meshctl-operator"));
    olga.until(&["endpoints"], |rows| {
        (rows.as_array()?.len() == 2).then_some(())
    })
    .await;
    let begun = olga.json(&[
        "canary",
        "start",
        "cart",
        "-n",
        "shop",
        "--to",
        "v2",
        "--from",
        "v1",
        "--steps",
        "10,50",
        "--interval",
        "1s",
        "--deadline",
        "25s",
    ]);
    assert_eq!(begun["canary"], "v2", "{begun}");
    let canary = || stand.object("canaries.policy.meshctl.dev", "shop", "cart");
    let weights = || -> Option<Vec<u64>> {
        let rules = "virtualservices.networking.istio.io";
        let rule = stand.object(rules, "shop", "cart")?;
        let routes = rule["spec"]["http"][0]["route"].as_array()?.iter();
        Some(routes.filter_map(|to| to["weight"].as_u64()).collect())
    };
    stand
        .until("the first step in the object's status", || {
            let canary = canary()?;
            let there = canary["status"]["phase"] == "Progressing"
                && canary["status"]["run"]["state"]["applied"] == true;
            there.then_some(())
        })
        .await;
    assert_eq!(weights(), Some(vec![90, 10]));
    assert_eq!(canary().unwrap()["status"]["weight"], 10);
    let started = canary().unwrap()["status"]["run"]["state"]["startedUnixMs"].clone();
    assert!(started.is_u64(), "{started}");
    // Whoever wrote is gone; the other one ends it at its time.
    let (dead, heir, name) = match stand.holder().as_deref() {
        Some("one") => (one, two, "two"),
        _ => (two, one, "one"),
    };
    drop(dead);
    heir.serve_webhooks(&stand).await;
    stand
        .until("another to write", || {
            (stand.holder().as_deref() == Some(name)).then_some(())
        })
        .await;
    stand
        .until("the canary to be over", || {
            (canary()?["status"]["phase"] == "RolledBack").then_some(())
        })
        .await;
    stand
        .until("the weights to be back", || {
            (weights()? == [100, 0]).then_some(())
        })
        .await;
    let after = canary().unwrap();
    assert_eq!(after["status"]["run"]["state"]["startedUnixMs"], started);
    let reason = after["status"]["reason"].as_str().unwrap();
    assert!(reason.contains("not over after 25 s"), "{reason}");
}

pub(super) const ROUTE: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart}
spec:
  hosts: [cart]
  http:
  - timeout: 3s
    route: [{destination: {host: cart}}]
";

#[tokio::test(flavor = "multi_thread")]
async fn configuration_is_the_api_servers_and_goes_there_with_the_rights_of_who_asks() {
    let (stand, [one, _two]) = start().await;
    apply(&stand, "shop.yaml", SHOP);
    let _sidecar = Sidecar::start(&stand, &one, "cart-1", "v1");
    let ed = Person::new(&stand, "ed", Some("meshctl-viewer"));
    for role in ["meshctl-view", "meshctl-edit"] {
        bind(&stand, "shop", "ed", "ClusterRole", role);
    }
    ed.until(&["proxies"], |proxies| {
        (proxies.as_array()?.len() == 1).then_some(())
    })
    .await;
    let file = stand.dir.path().join("route.yaml");
    std::fs::write(&file, ROUTE).unwrap();
    let file = file.to_str().unwrap();
    let rule = || stand.object("virtualservices.networking.istio.io", "shop", "cart");

    let tried = ed.json(&["apply", "-f", file, "-n", "shop", "--dry-run"]);
    assert_eq!(tried["objects"][0]["outcome"], "created");
    assert_eq!(rule(), None);
    let made = ed.json(&["apply", "-f", file, "-n", "shop"]);
    assert_eq!(made["objects"][0]["outcome"], "created");
    assert_eq!(made["convergence"]["acknowledged"], 1, "{made}");
    assert_eq!(rule().unwrap()["spec"]["http"][0]["timeout"], "3s");
    let again = ed.json(&["apply", "-f", file, "-n", "shop"]);
    assert_eq!(again["objects"][0]["outcome"], "unchanged");
    let got = ed.json(&["get", "vs", "cart", "-n", "shop"]);
    assert_eq!(got[0]["object"]["spec"]["hosts"], json!(["cart"]));

    // What means nothing is refused before anything is written.
    let wrong = stand.dir.path().join("wrong.yaml");
    let text = format!(
        "{ROUTE}---\n{}",
        ROUTE
            .replace("timeout", "timeoot")
            .replace("name: cart", "name: two")
    );
    std::fs::write(&wrong, text.replace("3s", "9s")).unwrap();
    let wrong = wrong.to_str().unwrap();
    let (code, said) = ed.fails(&["apply", "-f", wrong, "-n", "shop"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("timeoot") && said.contains("wrong.yaml"),
        "{said}"
    );
    assert_eq!(rule().unwrap()["spec"]["http"][0]["timeout"], "3s");

    // Who may only look is told by the API server.
    let vera = Person::new(&stand, "vera", Some("meshctl-viewer"));
    bind(&stand, "shop", "vera", "ClusterRole", "meshctl-view");
    let changed = stand.dir.path().join("changed.yaml");
    std::fs::write(&changed, ROUTE.replace("3s", "9s")).unwrap();
    let changed = changed.to_str().unwrap();
    for args in [
        &["apply", "-f", changed, "-n", "shop"][..],
        &["delete", "vs", "cart", "-n", "shop"],
    ] {
        let (code, said) = vera.fails(args);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("forbidden"), "{said}");
    }
    let (code, said) = ed.fails(&["rollback", "1"]);
    assert_eq!(code, Some(1), "{said}");
    let (code, said) = ed.fails(&["history"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("kept by the API server"), "{said}");
    assert_eq!(rule().unwrap()["spec"]["http"][0]["timeout"], "3s");
    let gone = ed.json(&["delete", "vs", "cart", "-n", "shop"]);
    assert_eq!(gone["objects"][0]["outcome"], "deleted");
    assert_eq!(rule(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_checked_piece_by_piece_and_a_bundle_has_no_secrets() {
    let (stand, [one, _two]) = start().await;
    apply(&stand, "shop.yaml", SHOP);
    let _sidecar = Sidecar::start(&stand, &one, "cart-1", "v1");
    let root = Person::admin(&stand);
    root.until(&["proxies"], |proxies| {
        (proxies.as_array()?.len() == 1).then_some(())
    })
    .await;
    let status_of = |person: &Person<'_>, text: &str| -> Option<(String, String)> {
        let output = person.run(&["check", "-o", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let sections = report["sections"].as_array()?.iter();
        let mut checks = sections
            .filter_map(|one| one["checks"].as_array())
            .flatten();
        let found = checks.find(|one| one["text"] == text)?;
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        Some((text("status"), text("detail")))
    };
    let is = |text: &str, status: &str| {
        let found = status_of(&root, text).unwrap();
        assert_eq!(found.0, status, "{text}: {}", found.1);
        found.1
    };
    stand
        .until("the roots in every namespace", || {
            let (status, _) = status_of(&root, "every namespace has the mesh's root")?;
            (status == "ok").then_some(())
        })
        .await;
    for text in [
        "a pod of it is ready",
        "a ready replica writes",
        "the mesh's root is there, and lasts",
        "sidecars are put into pods",
        "wrong configuration is refused",
        "the control plane may do what it does",
    ] {
        is(text, "ok");
    }
    let bare = is("pods in labelled namespaces have a sidecar", "warning");
    assert!(bare.contains("shop/cart-1"), "{bare}");
    // Who may look at the mesh alone is told what was not looked at.
    let vera = Person::new(&stand, "vera", Some("meshctl-viewer"));
    let (status, detail) = status_of(&vera, "wrong configuration is refused").unwrap();
    assert_eq!(status, "warning");
    assert!(detail.contains("not looked at"), "{detail}");

    let token = stand.cluster.token(SYSTEM, "meshctl", &["x"], 600).unwrap();
    stand
        .cluster
        .log(SYSTEM, "one", &format!("asked with Bearer {token} by vera"));
    let file = stand.dir.path().join("bundle.tar.gz");
    let output = vera.run(&["support-bundle", "-f", file.to_str().unwrap()]);
    // Events are not hers to see, and that is said.
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let into = stand.dir.path().join("bundle");
    std::fs::create_dir(&into).unwrap();
    let unpacked = Command::new("tar")
        .arg("-xzf")
        .arg(&file)
        .arg("-C")
        .arg(&into)
        .status();
    assert!(unpacked.unwrap().success());
    let read = |name: &str| std::fs::read_to_string(into.join(name)).unwrap();
    assert!(read("errors.txt").contains("events"));
    assert!(read("proxies.json").contains("cart-1"));
    assert!(read("proxies/cart-1.shop.json").contains("listeners"));
    assert!(read("configuration/Service.json").contains("cart"));
    assert!(read("metrics/one.txt").contains("pilot_xds"));
    assert_eq!(
        read("logs/meshctl-system/one/app.txt"),
        "asked with Bearer [left out] by vera\n"
    );
    let all = Command::new("grep")
        .args(["-rlE", "PRIVATE KEY|eyJ[A-Za-z0-9_-]{8}"])
        .arg(&into)
        .output();
    assert_eq!(String::from_utf8(all.unwrap().stdout).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_names_a_mesh() {
    let (stand, _replicas) = start().await;
    let vera = Person::new(&stand, "vera", Some("meshctl-viewer"));
    let listed = vera.json(&["context", "list"]);
    assert_eq!(listed[0]["name"], "test");
    assert_eq!(
        (&listed[0]["from"], &listed[0]["current"]),
        (&json!("kubeconfig"), &json!(true))
    );
    for args in [
        &["context", "add", "prod", "--kube-context", "test"][..],
        &[
            "context",
            "add",
            "none",
            "--kube-context",
            "test",
            "--system-namespace",
            "elsewhere",
        ],
        &["context", "use", "prod"],
    ] {
        let output = vera.run(args);
        assert!(output.status.success(), "{output:?}");
    }
    vera.json(&["services"]);
    let (code, said) = vera.fails(&["--context", "none", "services"]);
    assert!(
        said.contains("none") && said.contains("elsewhere"),
        "{said}"
    );
    // Nothing of that namespace is hers to see.
    assert_eq!(code, Some(1), "{said}");
    let (code, said) = Person::admin(&stand).fails(&["--context", "nothing", "services"]);
    assert_eq!(code, Some(4), "{said}");
    let (code, said) = vera.fails(&["context", "use", "nothing"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("none, prod"), "{said}");
    assert!(vera.run(&["context", "remove", "prod"]).status.success());
    let names = vera.run(&["context", "list", "-o", "name"]);
    assert_eq!(String::from_utf8(names.stdout).unwrap(), "none\ntest\n");
}
