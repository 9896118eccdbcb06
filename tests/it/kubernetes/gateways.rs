//! Gateways in a cluster: what is made for them, what is said of them, and the Secrets that they show. The real
//! binaries, as the accounts that were installed, against an API server with controllers.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cluster::Cluster;
use cluster::controllers::Settings;
use cluster::faults::{Asked, Faults};
use serde_json::{Value, json};

use super::command;
use super::installed::{Replica, Stand};

const GATEWAYS: &str = "gateways.gateway.networking.k8s.io";
const ACCOUNT: &str = "system:serviceaccount:meshctl-system:meshctl";

/// A cluster with namespaces, a mesh, and one control plane of it.
struct Edge {
    stand: Stand,
    faults: std::sync::Arc<Faults>,
}

impl Edge {
    async fn start(install: &[&str]) -> Self {
        let cluster = Cluster::start_with(Settings::default()).await.unwrap();
        let stand = Stand::of(cluster);
        // Nobody answers webhooks here, and configuration comes before the control plane does.
        let alone = ["--set", "validator=false", "--set", "injector=false"];
        stand.install(&[&alone, install].concat());
        let faults = Faults::of(stand.cluster.server(), ACCOUNT);
        let edge = Self { stand, faults };
        for name in ["shop", "certs"] {
            edge.apply(
                &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            );
        }
        edge
    }

    /// Applies as a person does.
    fn apply(&self, object: &Value) -> Value {
        let version = object["apiVersion"].as_str().unwrap();
        let kind = object["kind"].as_str().unwrap().to_lowercase();
        let plural = kind
            .strip_suffix('s')
            .map_or_else(|| format!("{kind}s"), |_| format!("{kind}es"));
        let root = if version.contains('/') { "apis" } else { "api" };
        let within = object["metadata"]["namespace"].as_str();
        let within = within.map_or(String::new(), |name| format!("/namespaces/{name}"));
        let name = object["metadata"]["name"].as_str().unwrap();
        let path =
            format!("/{root}/{version}{within}/{plural}/{name}?fieldManager=person&force=true");
        self.stand.curl("PATCH", &path, object)
    }

    fn delete(&self, path: &str) {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        self.stand.curl("DELETE", path, &options);
    }

    fn programmed(&self, name: &str) -> Option<(String, String)> {
        let gateway = self.stand.object(GATEWAYS, "shop", name)?;
        let conditions = gateway["status"]["conditions"].as_array()?.clone();
        let found = conditions.iter().find(|one| one["type"] == "Programmed")?;
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Some((text("reason"), text("message")))
    }

    async fn until_programmed(&self, name: &str, reason: &str) -> String {
        let what = format!("Gateway {name} to be {reason}");
        self.stand
            .until(&what, || {
                let (now, message) = self.programmed(name)?;
                (now == reason).then_some(message)
            })
            .await
    }

    fn secret(&self, namespace: &str, name: &str, pair: &Pair) {
        self.apply(&json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "type": "kubernetes.io/tls",
            "data": {"tls.crt": STANDARD.encode(&pair.chain), "tls.key": STANDARD.encode(&pair.key)},
        }));
    }
}

/// A certificate for a host, by itself.
struct Pair {
    chain: String,
    key: String,
}

impl Pair {
    fn new(host: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
        Self {
            chain: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

fn listener(name: &str, host: &str, secret: &Value) -> Value {
    json!({
        "name": name, "port": 443, "protocol": "HTTPS", "hostname": host,
        "tls": {"certificateRefs": [secret]},
    })
}

fn gateway(name: &str, listeners: &[Value]) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"gatewayClassName": "meshctl", "listeners": listeners},
    })
}

/// A proxy that runs as a pod of the cluster, on this machine's loopback.
struct Proxy {
    process: Child,
    at: u16,
    log: PathBuf,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

impl Proxy {
    /// As the Deployment of Gateway `gateway` would run it, but for ports.
    async fn start(edge: &Edge, replica: &Replica, gateway: &str) -> Self {
        let stand = &edge.stand;
        let account = format!("{gateway}-meshctl");
        let pod = stand
            .until("a pod of the Gateway", || {
                let state = stand.cluster.server().state();
                let mut pods = state.store.list("pods", "shop");
                pods.find_map(|(key, pod)| {
                    key.name.starts_with(&account).then(|| Value::clone(pod))
                })
            })
            .await;
        let roots = stand
            .until("the roots of the namespace", || {
                let found = stand.object("configmaps", "shop", "meshctl-ca-root-cert")?;
                Some(found["data"]["root-cert.pem"].as_str()?.to_owned())
            })
            .await;
        let home = stand.dir.path().join(format!("proxy-{gateway}"));
        std::fs::create_dir_all(&home).unwrap();
        let (root, token) = (home.join("root-cert.pem"), home.join("istio-token"));
        std::fs::write(&root, roots).unwrap();
        std::fs::write(&token, stand.requested(&account, "istio-ca", Some(&pod))).unwrap();
        let at = cluster::ports::free();
        // The arguments are the Deployment's own; only what a pod has for itself differs.
        let container = &pod["spec"]["containers"][0];
        let name = pod["metadata"]["name"].as_str().unwrap();
        let own = |arg: &str| {
            let arg = arg
                .replace("$(POD_NAME)", name)
                .replace("$(POD_NAMESPACE)", "shop");
            match arg.split_once('=').map_or(arg.as_str(), |(flag, _)| flag) {
                "--address" => "--address=127.0.0.1".to_owned(),
                "--control-plane" => format!("--control-plane=127.0.0.1:{}", replica.tls),
                "--join-file" => format!("--join-file={}", token.display()),
                "--root-cert" => format!("--root-cert={}", root.display()),
                _ => arg,
            }
        };
        let args = container["args"].as_array().unwrap().iter();
        let args: Vec<String> = args.map(|arg| own(arg.as_str().unwrap())).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let log = home.join("log");
        let process = command(&home, Path::new("/dev/null"), &args)
            .arg(format!("--listen=443={at}"))
            .args(["--admin-port=0", "--status-port=0", "--workers=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { process, at, log }
    }

    /// The certificate that callers of `host` are shown.
    fn shows(&self, host: &str) -> Option<String> {
        let mut openssl = Command::new("timeout");
        openssl
            .args(["5", "openssl", "s_client", "-servername", host, "-connect"])
            .arg(format!("127.0.0.1:{}", self.at))
            .stdin(Stdio::null());
        let output = openssl.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let from = text.find("-----BEGIN CERTIFICATE-----")?;
        let end = "-----END CERTIFICATE-----";
        let to = text.find(end)? + end.len();
        text.get(from..to).map(str::to_owned)
    }
}

/// Which Secrets were asked for: namespace and name; the name is empty where all of a namespace were.
fn secrets_of(asked: &[Asked]) -> Vec<(String, String)> {
    let secrets = asked.iter().filter(|asked| asked.ask.resource == "secrets");
    let mut found: Vec<(String, String)> = secrets
        .map(|asked| {
            let ask = &asked.ask;
            let field = ask.query.get("fieldSelector").map(String::as_str);
            let selected = field.and_then(|field| field.strip_prefix("metadata.name="));
            let name = if ask.name.is_empty() {
                selected.unwrap_or_default().to_owned()
            } else {
                ask.name.clone()
            };
            (ask.namespace.clone(), name)
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_shows_the_secrets_that_it_names_and_no_others_are_read() {
    let edge = Edge::start(&[]).await;
    let stand = &edge.stand;
    let (own, lent, kept) = (
        Pair::new("own.example"),
        Pair::new("lent.example"),
        Pair::new("kept.example"),
    );
    edge.secret("shop", "own", &own);
    edge.secret("shop", "unnamed", &Pair::new("unnamed.example"));
    edge.secret("certs", "lent", &lent);
    edge.secret("certs", "kept", &kept);
    edge.apply(&json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "lend", "namespace": "certs"},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop"}],
            "to": [{"group": "", "kind": "Secret", "name": "lent"}],
        },
    }));
    let elsewhere = |name: &str| json!({"name": name, "namespace": "certs"});
    edge.apply(&gateway(
        "web",
        &[
            listener("own", "own.example", &json!({"name": "own"})),
            listener("lent", "lent.example", &elsewhere("lent")),
            listener("kept", "kept.example", &elsewhere("kept")),
        ],
    ));
    edge.faults.take();
    let replica = Replica::start(stand, "one");
    let proxy = Proxy::start(&edge, &replica, "web").await;
    let until = async |host: &str, pair: &Pair| {
        stand
            .until(&format!("the certificate of {host}"), || {
                (proxy.shows(host)?.trim() == pair.chain.trim()).then_some(())
            })
            .await;
    };
    until("own.example", &own).await;
    until("lent.example", &lent).await;
    assert_eq!(proxy.shows("kept.example"), None);

    // Another certificate in the Secret is shown within a push; a Secret that is let later, too.
    let newer = Pair::new("own.example");
    let began = meshctl::rt::now();
    edge.secret("shop", "own", &newer);
    until("own.example", &newer).await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    edge.apply(&json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "lend", "namespace": "certs"},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop"}],
            "to": [{"group": "", "kind": "Secret"}],
        },
    }));
    until("kept.example", &kept).await;

    // A control plane that begins anew does not take anything away meanwhile.
    let ports = replica.kill();
    let replica = Replica::start_at(stand, "one", ports);
    let log = replica.log.clone();
    stand
        .until("the proxies to be served", || {
            let log = std::fs::read_to_string(&log).ok()?;
            log.contains("proxies are served").then_some(())
        })
        .await;
    assert_eq!(
        proxy.shows("own.example").as_deref().map(str::trim),
        Some(newer.chain.trim()),
        "{}",
        std::fs::read_to_string(&replica.log).unwrap()
    );
    // A Secret that is gone is shown to nobody any more, as with files; others stay.
    edge.delete("/api/v1/namespaces/certs/secrets/lent");
    stand
        .until("the listener to close", || {
            proxy.shows("lent.example").is_none().then_some(())
        })
        .await;
    until("own.example", &newer).await;

    let asked = edge.faults.take();
    let expected = [
        ("certs", "kept"),
        ("certs", "lent"),
        ("meshctl-system", "cacerts"),
        ("meshctl-system", "meshctl-ca"),
        ("shop", "own"),
    ];
    let expected = expected.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    let mut secrets = secrets_of(&asked);
    // Made, where there was none.
    secrets.retain(|(namespace, name)| !(namespace == "meshctl-system" && name.is_empty()));
    assert_eq!(secrets, expected);
    for log in [&replica.log, &proxy.log] {
        let text = std::fs::read_to_string(log).unwrap();
        for pair in [&own, &newer, &lent, &kept] {
            let body = pair.key.lines().nth(1).unwrap();
            assert!(!text.contains(body) && !text.contains(&STANDARD.encode(&pair.key)));
        }
        assert!(!text.contains("forbidden"), "{text}");
    }
}

/// Without the right the Gateway says what is missing, and the rest of the mesh does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_other_namespaces_wait_until_their_owner_binds_the_role() {
    let edge = Edge::start(&["--set", "gatewaySecrets=false"]).await;
    let stand = &edge.stand;
    edge.secret("shop", "own", &Pair::new("own.example"));
    edge.apply(&gateway(
        "web",
        &[listener("own", "own.example", &json!({"name": "own"}))],
    ));
    let _replica = Replica::start(stand, "one");
    let resolved = || {
        let gateway = stand.object(GATEWAYS, "shop", "web")?;
        let conditions = gateway["status"]["conditions"].as_array()?.clone();
        let found = conditions
            .iter()
            .find(|one| one["type"] == "ResolvedRefs")?;
        Some(found["status"] == "True")
    };
    stand
        .until("the Gateway to lack its certificate", || {
            (!resolved()?).then_some(())
        })
        .await;
    edge.apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "gateways", "namespace": "shop"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "meshctl-gateway-secrets-meshctl-system",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "meshctl", "namespace": "meshctl-system"}],
    }));
    stand
        .until("the certificate to be read", || resolved()?.then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_given_proxies_and_a_service_and_takes_them_with_it() {
    let edge = Edge::start(&[]).await;
    let stand = &edge.stand;
    let replica = Replica::start(stand, "one");
    let mut web = gateway(
        "web",
        &[json!({"name": "http", "port": 80, "protocol": "HTTP"})],
    );
    web["spec"]["infrastructure"] =
        json!({"labels": {"team": "edge"}, "annotations": {"cost": "7"}});
    edge.apply(&web);
    edge.until_programmed("web", "Programmed").await;
    let made = |resource: &str| stand.object(resource, "shop", "web-meshctl");
    let (deployments, budgets) = ("deployments.apps", "poddisruptionbudgets.policy");
    let all = ["serviceaccounts", "services", budgets, deployments];
    for resource in all {
        let object = made(resource).unwrap();
        assert_eq!(object["metadata"]["labels"]["team"], "edge", "{resource}");
        assert_eq!(object["metadata"]["annotations"]["cost"], "7", "{resource}");
    }
    let service = made("services").unwrap();
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    let given = service["status"]["loadBalancer"]["ingress"][0]["ip"].clone();
    let addresses =
        || stand.object(GATEWAYS, "shop", "web").unwrap()["status"]["addresses"].clone();
    assert_eq!(addresses(), json!([{"type": "IPAddress", "value": given}]));

    // What people change beside ours stays, what they change of ours comes back.
    let path = "/apis/apps/v1/namespaces/shop/deployments/web-meshctl";
    let mut edited = made(deployments).unwrap();
    edited["metadata"]["labels"]["by-hand"] = json!("yes");
    edited["spec"]["replicas"] = json!(5);
    edited["spec"]["template"]["spec"]["priorityClassName"] = json!("system-cluster-critical");
    edited["spec"]["template"]["spec"]["containers"][0]["image"] = json!("somebody/else:1");
    stand.curl("PUT", path, &edited);
    let image =
        |object: &Value| object["spec"]["template"]["spec"]["containers"][0]["image"].clone();
    let restored = stand
        .until("our image to come back", || {
            let now = made(deployments)?;
            (image(&now) != json!("somebody/else:1")).then_some(now)
        })
        .await;
    assert_eq!(restored["metadata"]["labels"]["by-hand"], "yes");
    assert_eq!(restored["spec"]["replicas"], 5);
    assert_eq!(
        restored["spec"]["template"]["spec"]["priorityClassName"],
        "system-cluster-critical"
    );

    // Another listener is another port of the Service, and no other pod. Then nothing is written any more.
    let template = made(deployments).unwrap()["spec"]["template"].clone();
    let listeners = web["spec"]["listeners"].as_array_mut().unwrap();
    listeners.push(json!({"name": "more", "port": 8081, "protocol": "HTTP"}));
    web["metadata"]["annotations"] = json!({"networking.istio.io/service-type": "ClusterIP"});
    edge.apply(&web);
    let service = stand
        .until("the port", || {
            let service = made("services")?;
            let ports = service["spec"]["ports"].as_array()?.clone();
            ports
                .iter()
                .any(|port| port["port"] == 8081)
                .then_some(service)
        })
        .await;
    assert_eq!(made(deployments).unwrap()["spec"]["template"], template);
    let inside = json!([{"type": "IPAddress", "value": service["spec"]["clusterIP"]}]);
    stand
        .until("its address in the cluster", || {
            (addresses() == inside).then_some(())
        })
        .await;
    let version = |resource: &str| made(resource).unwrap()["metadata"]["resourceVersion"].clone();
    let quiet = [
        version("services"),
        version("serviceaccounts"),
        version(budgets),
    ];
    edge.faults.take();
    stand
        .until("another comparison", || {
            let applied = edge.faults.count("patch");
            (applied >= 4).then_some(())
        })
        .await;
    assert_eq!(
        [
            version("services"),
            version("serviceaccounts"),
            version(budgets)
        ],
        quiet
    );

    // Of another class it is another's to serve; with the class it comes back, and goes with the Gateway.
    edge.apply(&{
        let mut other = web.clone();
        other["spec"]["gatewayClassName"] = json!("another");
        other
    });
    stand
        .until("what was made to be taken away", || {
            all.iter()
                .all(|resource| made(resource).is_none())
                .then_some(())
        })
        .await;
    edge.apply(&web);
    edge.until_programmed("web", "Programmed").await;
    edge.delete("/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/web");
    stand
        .until("the cluster to remove what was the Gateway's", || {
            all.iter()
                .all(|resource| made(resource).is_none())
                .then_some(())
        })
        .await;
    let log = std::fs::read_to_string(&replica.log).unwrap();
    assert!(!log.contains("forbidden"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_the_name_and_is_somebody_elses_is_not_touched() {
    let edge = Edge::start(&[]).await;
    let stand = &edge.stand;
    let theirs = edge.apply(&json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web-meshctl", "namespace": "shop"},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]},
    }));
    let _replica = Replica::start(stand, "one");
    edge.apply(&gateway(
        "web",
        &[json!({"name": "http", "port": 80, "protocol": "HTTP"})],
    ));
    let message = edge.until_programmed("web", "Invalid").await;
    assert!(
        message.starts_with("Service shop/web-meshctl is there already and is not of this Gateway"),
        "{message}"
    );
    let now = stand.object("services", "shop", "web-meshctl").unwrap();
    assert_eq!(now["spec"]["selector"], theirs["spec"]["selector"]);
    assert_eq!(
        stand.object("deployments.apps", "shop", "web-meshctl"),
        None
    );
    // Once it is gone the Gateway gets its own.
    edge.delete("/api/v1/namespaces/shop/services/web-meshctl");
    edge.until_programmed("web", "Programmed").await;
    // Names that no Service can have are said, too.
    edge.apply(&gateway(
        "web.shop",
        &[json!({"name": "http", "port": 80, "protocol": "HTTP"})],
    ));
    let message = edge.until_programmed("web.shop", "Invalid").await;
    assert!(
        message.contains("no Service can be called web.shop-meshctl"),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_says_where_its_gateway_is_reached() {
    let edge = Edge::start(&[]).await;
    let stand = &edge.stand;
    let ingress = |name: &str, class: &str| {
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {
                "ingressClassName": class,
                "defaultBackend": {"service": {"name": "web", "port": {"number": 80}}},
            },
        })
    };
    edge.apply(&ingress("ours", "meshctl"));
    edge.apply(&ingress("theirs", "nginx"));
    let replica = Replica::start(stand, "one");
    let status = |name: &str| {
        let found = stand.object("ingresses.networking.k8s.io", "shop", name);
        found.unwrap()["status"]["loadBalancer"]["ingress"].clone()
    };
    let given = stand
        .until("the address", || {
            let given = status("ours");
            given.is_array().then_some(given)
        })
        .await;
    let service = stand
        .object("services", "meshctl-system", "istio-ingressgateway")
        .unwrap();
    let own = service["status"]["loadBalancer"]["ingress"][0]["ip"]
        .as_str()
        .unwrap();
    assert_eq!(given, json!([{"ip": own}]));
    assert_eq!(status("theirs"), Value::Null);
    // A gateway that moves is found again, and one that is gone is nowhere.
    edge.delete("/api/v1/namespaces/meshctl-system/services/istio-ingressgateway");
    stand
        .until("the address to go", || {
            (status("ours") == json!([])).then_some(())
        })
        .await;
    let log = std::fs::read_to_string(&replica.log).unwrap();
    assert!(!log.contains("forbidden"), "{log}");
}
