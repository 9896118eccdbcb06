use super::*;
use crate::resource;

const WRITTEN: &str = r"
apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {selector: {app: cart}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart}
spec:
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart, version: v1}}
    spec: {serviceAccountName: cart, containers: [{name: c, image: c}]}
---
apiVersion: v1
kind: Service
metadata: {name: free}
spec: {selector: {app: free}, ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: vm}
spec: {template: {serviceAccount: vm}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: edge}
  servers: [{port: {number: 443, name: s, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: pair}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: out}
spec:
  selector: {matchLabels: {istio: out}}
  template:
    metadata: {labels: {istio: out}}
    spec: {serviceAccountName: out, containers: [{name: c, image: c}]}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: out}
spec:
  selector: {istio: out}
  servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec: {hosts: [outside.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outside}
spec:
  host: outside.example.com
  workloadSelector: {matchLabels: {version: v1}}
  trafficPolicy: {tls: {mode: MUTUAL, credentialName: pair}}
";

fn known(more: &str, instances: Vec<Instance>) -> (Attested, World) {
    let (objects, findings) = resource::parse(&format!("{WRITTEN}{more}"), "x", "default");
    assert!(findings.is_empty(), "{findings:?}");
    let (objects, _) = resource::collect(objects);
    let mut running = resource::Instances::default();
    for one in instances {
        running.insert((one.namespace.clone(), one.name.clone()), Arc::new(one));
    }
    let (world, _) = resource::lower(&objects, running);
    let all = objects.values().map(AsRef::as_ref);
    (Attested::new(all, &Running::default(), &world), world)
}

fn instance(name: &str, app: &str, account: &str) -> Instance {
    let json = serde_json::json!({
        "name": name, "namespace": "default", "workload": app, "serviceAccount": account,
        "labels": {"app": app}, "address": "192.0.2.1", "health": "healthy",
    });
    serde_json::from_value(json).unwrap()
}

fn node(kind: NodeKind, labels: &[(&str, &str)]) -> Node {
    let labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Node {
        kind,
        namespace: "default".to_owned(),
        name: "me".to_owned(),
        workload: "me".to_owned(),
        labels: labels.collect(),
        ..crate::xds::generate::node(crate::mesh::Client::Meshctl)
    }
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "default", account)
}

/// Why nothing is given, or an empty text.
fn reason(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Nothing(refused) => &refused.reason,
        Verdict::Everything | Verdict::NoSecrets(_) => "",
    }
}

#[test]
fn labels_of_a_service_are_for_the_accounts_that_run_it() {
    let free = || instance("free-1", "free", "free");
    let (attested, world) = known("", vec![instance("taken", "cart", "cart"), free()]);
    let judge = |labels: &[(&str, &str)], account: &str| {
        let node = node(NodeKind::Sidecar, labels);
        attested.judge(&world, &node, &id(account), &Granted::default())
    };
    assert_eq!(judge(&[("app", "cart")], "cart"), Verdict::Everything);
    let thief = judge(&[("app", "cart")], "thief");
    assert_eq!(
        reason(&thief),
        "service cart.default is run by account cart, not by thief"
    );
    assert_eq!(judge(&[("app", "none")], "thief"), Verdict::Everything);
    // Written down nowhere: whoever runs it keeps it.
    assert_eq!(judge(&[("app", "free")], "free"), Verdict::Everything);
    let thief = judge(&[("app", "free")], "thief");
    assert!(
        reason(&thief).contains("is run by account free"),
        "{thief:?}"
    );
    let (attested, world) = known("", vec![instance("free-1", "free", "default")]);
    let node = node(NodeKind::Sidecar, &[("app", "free")]);
    let open = attested.judge(&world, &node, &id("any"), &Granted::default());
    assert_eq!(open, Verdict::Everything);
}

#[test]
fn names_and_workloads_are_their_own_accounts() {
    let (attested, world) = known("", vec![instance("taken", "cart", "cart")]);
    let mut node = node(NodeKind::Sidecar, &[]);
    node.name = "taken".to_owned();
    let judge =
        |node: &Node, account| attested.judge(&world, node, &id(account), &Granted::default());
    assert_eq!(
        reason(&judge(&node, "thief")),
        "instance taken.default is of account cart, not of thief"
    );
    assert_eq!(judge(&node, "cart"), Verdict::Everything);
    node.name = "me".to_owned();
    node.workload = "vm".to_owned();
    assert_eq!(
        reason(&judge(&node, "thief")),
        "workload vm.default runs as account vm, not as thief"
    );
    assert_eq!(judge(&node, "vm"), Verdict::Everything);
}

#[test]
fn gateways_are_served_by_token_or_by_what_is_written() {
    // What registers itself is no witness.
    let mut liar = instance("liar", "x", "thief");
    liar.labels.insert("istio".to_owned(), "edge".to_owned());
    let (attested, world) = known("", vec![liar]);
    let edge = node(NodeKind::Gateway, &[("istio", "edge")]);
    let granted = |names: &[&str]| -> Granted { names.iter().map(|n| (*n).to_owned()).collect() };
    let judge = |node: &Node, account: &str, names: &[&str]| {
        attested.judge(&world, node, &id(account), &granted(names))
    };
    let thief = judge(&edge, "thief", &[]);
    assert!(
        reason(&thief).contains("claims Gateway edge.default by its labels istio=edge"),
        "{thief:?}"
    );
    assert!(reason(&judge(&edge, "thief", &["out"])).contains("edge.default"));
    assert_eq!(judge(&edge, "edge", &["edge"]), Verdict::Everything);
    assert_eq!(judge(&edge, "edge", &["istio-edge"]), Verdict::Everything);
    let out = node(NodeKind::Gateway, &[("istio", "out")]);
    assert_eq!(judge(&out, "out", &[]), Verdict::Everything);
    assert!(reason(&judge(&out, "edge", &["edge"])).contains("out.default"));
    // A token of one namespace says nothing of a Gateway of the same name elsewhere.
    let both = node(NodeKind::Gateway, &[("istio", "out"), ("app", "edge")]);
    assert!(reason(&judge(&both, "edge", &["edge"])).contains("out.default"));
    // Being a gateway of none gives no Secrets.
    let none = node(NodeKind::Gateway, &[("app", "none")]);
    let verdict = judge(&none, "thief", &[]);
    assert!(matches!(verdict, Verdict::NoSecrets(_)), "{verdict:?}");
}

#[test]
fn a_gateway_for_all_is_not_for_who_only_says_that_it_is_one() {
    let all = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: all}\nspec: {servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*']}]}\n";
    let (attested, world) = known(all, Vec::new());
    let judge = |label: (&str, &str), account: &str, granted: Granted| {
        let node = node(NodeKind::Gateway, &[label]);
        attested.judge(&world, &node, &id(account), &granted)
    };
    let thief = judge(("app", "cart"), "cart", Granted::default());
    assert!(
        reason(&thief).contains("claims Gateway all.default as every gateway does"),
        "{thief:?}"
    );
    assert_eq!(
        judge(("istio", "out"), "out", Granted::default()),
        Verdict::Everything
    );
    let granted = Granted::from(["any".to_owned()]);
    assert_eq!(judge(("app", "any"), "any", granted), Verdict::Everything);
}

#[test]
fn a_secret_for_chosen_workloads_is_for_the_account_that_is_written() {
    let (attested, world) = known("", Vec::new());
    let judge = |account| {
        let node = node(NodeKind::Sidecar, &[("version", "v1")]);
        attested.judge(&world, &node, &id(account), &Granted::default())
    };
    assert_eq!(judge("cart"), Verdict::Everything);
    let thief = judge("thief");
    let Verdict::NoSecrets(reason) = &thief else {
        panic!("{thief:?}");
    };
    assert!(
        reason.contains("account thief runs the workloads"),
        "{reason}"
    );
}
