//! Changes of configuration on a real control plane, before they are made and after.

use super::plane::Plane;
use super::run::Home;

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
";

/// A rule whose subsets nobody defines.
const ROUTE: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http:
  - route: [{destination: {host: web, subset: v1}}]
";

const SUBSETS: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}]}
";

#[test]
fn files_are_analyzed_over_what_runs_and_references_may_be_forced() {
    let home = Home::new();
    let _plane = Plane::start(&home);
    home.feed(&["apply", "-f", "-"], SERVICE).exits(0);
    // The service is known from what runs, the subset from nowhere.
    let over = home.feed(&["analyze", "-"], ROUTE).exits(1);
    assert_eq!(over.stdout.matches("[IST").count(), 1, "{over}");
    assert!(over.stdout.contains("<stdin>:7:47"), "{over}");
    assert_eq!(home.run(&["analyze"]).exits(0).stdout, "");

    let refused = home.feed(&["apply", "-f", "-"], ROUTE).exits(1);
    assert!(refused.stderr.contains("nothing was applied"), "{refused}");
    assert!(refused.stderr.contains("apply --force"), "{refused}");
    home.run(&["get", "vs", "web"]).exits(1);

    // What cannot be read is refused, whoever insists; so is what is not about a reference.
    let unread = ROUTE.replace("subset: v1", "subest: v1");
    let refused = home
        .feed(&["apply", "-f", "-", "--force"], &unread)
        .exits(1);
    assert!(refused.stderr.contains("[IST0106]"), "{refused}");
    assert!(!refused.stderr.contains("apply --force"), "{refused}");
    let at = |name: &str| {
        let named = SERVICE.replace("name: web}", &format!("name: {name}}}"));
        named.replace("selector:", "clusterIP: 10.9.9.9, selector:")
    };
    let both = format!("{}---\n{}", at("one"), at("two"));
    let refused = home.feed(&["apply", "-f", "-", "--force"], &both).exits(1);
    assert!(refused.stderr.contains("[MSH0006]"), "{refused}");
    home.run(&["get", "vs", "web"]).exits(1);

    let forced = home.feed(&["apply", "-f", "-", "--force"], ROUTE).exits(0);
    assert!(forced.stderr.contains("error [IST0101]"), "{forced}");
    assert!(
        forced.stderr.contains("1 error was overridden by --force"),
        "{forced}"
    );
    let history = home.run(&["history", "-o", "json"]).exits(0).json();
    assert_eq!(history[0]["what"], "apply --force");
    let runs = home.run(&["analyze"]).exits(1);
    assert!(runs.stdout.contains("[IST0101]"), "{runs}");
    // The missing part mends it.
    home.feed(&["apply", "-f", "-"], SUBSETS).exits(0);
    home.run(&["analyze"]).exits(0);
}

const SPLIT: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http:
  - match: [{uri: {prefix: /admin}}]
    directResponse: {status: 403}
  - route:
    - {destination: {host: web, subset: v1}, weight: 90}
    - {destination: {host: web, subset: v2}, weight: 10}
";

const TWO: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec:
  host: web
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
";

#[test]
fn files_are_compared_with_files() {
    let home = Home::new();
    let old = [SERVICE, TWO, SPLIT].join("---\n");
    let new = old
        .replace("weight: 90", "weight: 50")
        .replace("weight: 10", "weight: 50")
        .replace(
            "  - route:\n",
            "  - match: [{uri: {prefix: /new}}]\n    redirect: {uri: /old}\n  - route:\n",
        )
        .replace("/admin", "/root");
    home.write("old.yaml", &old);
    home.write("new.yaml", &new);
    let compare = ["diff", "-f", "new.yaml", "--against", "old.yaml"];
    insta::assert_snapshot!(home.run(&compare).exits(0));
    // kubectl's codes, for whoever asks for them.
    let strict = |args: &[&str], code: i32| {
        let mut all = args.to_vec();
        all.push("--exit-code");
        home.run(&all).exits(code)
    };
    strict(&compare, 1);
    let same = ["diff", "-f", "old.yaml", "--against", "old.yaml"];
    let none = strict(&same, 0);
    assert_eq!(none.stdout, "");
    assert!(none.stderr.contains("Nothing would change"), "{none}");
    // Lines that move are no change.
    home.write("moved.yaml", &format!("# moved\n\n{old}"));
    strict(&["diff", "-f", "moved.yaml", "--against", "old.yaml"], 0);
    // What would be refused is no difference like others.
    home.write("bad.yaml", &old.replace("subset: v2", "subset: v3"));
    let bad = ["diff", "-f", "bad.yaml", "--against", "old.yaml"];
    let refused = home.run(&bad).exits(1);
    assert!(refused.stderr.contains("[IST0101]"), "{refused}");
    assert!(refused.stderr.contains("would be refused"), "{refused}");
    strict(&bad, 2);
    home.write("unread.yaml", &old.replace("weight", "wieght"));
    strict(&["diff", "-f", "unread.yaml", "--against", "old.yaml"], 2);

    let report = home
        .run(&[&compare[..], &["-o", "json"]].concat())
        .exits(0)
        .json();
    super::mesh::camel("diff", &report);
    assert_eq!(report["objects"][0]["name"], "web");
    let proxies = report["proxies"].as_array().unwrap();
    assert_eq!(proxies.len(), 1);
    assert_eq!(proxies[0]["proxies"], serde_json::json!(["any.default"]));
    let routes = proxies[0]["routes"].as_array().unwrap();
    let outcomes: Vec<&str> = routes
        .iter()
        .map(|route| route["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["deleted", "created", "created", "configured"]);
    assert_eq!(routes[3]["after"]["backends"][0]["sharePercent"], 50.0);

    // Against nothing all of it is new.
    let alone = ["diff", "-f", "old.yaml", "--use-control-plane=false"];
    let alone = home.run(&alone).exits(0);
    assert!(
        alone.stdout.contains("+ service/web in default created"),
        "{alone}"
    );
}

#[test]
fn secrets_are_compared_and_not_shown() {
    let home = Home::new();
    let secret = |value: &str| {
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: key}}\ndata: {{key: {value}}}\n")
    };
    home.write("old.yaml", &secret("b2xk"));
    home.write("new.yaml", &secret("bmV3"));
    let compare = ["diff", "-f", "new.yaml", "--against", "old.yaml"];
    for more in [&[][..], &["-o", "json"]] {
        let outcome = home.run(&[&compare[..], more].concat()).exits(0);
        assert!(outcome.stdout.contains("*** (before)"), "{outcome}");
        assert!(!outcome.stdout.contains("bmV3"), "{outcome}");
        assert!(!outcome.stdout.contains("b2xk"), "{outcome}");
    }
}

#[test]
fn what_was_done_is_told_and_undone() {
    let home = Home::new();
    let plane = Plane::start(&home);
    let apply = |text: &str| home.feed(&["apply", "-f", "-"], text).exits(0);
    apply(&[SERVICE, TWO, SPLIT].join("---\n"));
    let half = SPLIT
        .replace("weight: 90", "weight: 50")
        .replace("weight: 10", "weight: 50");
    let told = home.feed(&["diff", "-f", "-"], &half).exits(0);
    assert!(
        told.stdout.contains("web.default v1 90.0% → 50.0%"),
        "{told}"
    );
    let history = |args: &[&str]| {
        let all = [&["history", "-o", "json"], args].concat();
        home.run(&all).exits(0).json()
    };
    assert_eq!(
        history(&[]).as_array().unwrap().len(),
        1,
        "a diff applies nothing"
    );
    apply(&half);
    home.run(&["delete", "vs", "web"]).exits(0);

    let all = history(&[]);
    let revisions: Vec<(u64, &str)> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (
                entry["revision"].as_u64().unwrap(),
                entry["what"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(revisions, [(3, "delete"), (2, "apply"), (1, "apply")]);
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())
        .unwrap()
        .unwrap();
    assert_eq!(all[0]["who"], user.name, "the kernel's word");
    assert_eq!(history(&["dr"]).as_array().unwrap().len(), 1);
    let vs = history(&["vs", "web"]);
    assert_eq!(vs.as_array().unwrap().len(), 3);
    let fields = &vs[1]["changes"][0]["fields"];
    assert_eq!(fields[0]["path"], "spec.http[1].route[0].weight");
    assert_eq!(
        (&fields[0]["before"], &fields[0]["after"]),
        (&90.into(), &50.into())
    );
    assert_eq!(vs[0]["changes"][0]["outcome"], "deleted");
    let two = home.run(&["history", "--diff", "2"]).exits(0);
    assert!(
        two.stdout
            .contains("~ spec.http[1].route[1].weight: 10 → 50"),
        "{two}"
    );
    home.run(&["history", "--diff", "9"]).exits(1);

    // Back to the first revision: the rule is there again, with its first weights.
    let dry = home.run(&["rollback", "1", "--dry-run"]).exits(0);
    assert!(
        dry.stdout
            .contains("+ virtualservice/web in default created"),
        "{dry}"
    );
    assert!(dry.stdout.contains("web.default v1 90.0%"), "{dry}");
    home.run(&["get", "vs", "web"]).exits(1);
    home.run(&["rollback", "1"]).exits(0);
    let got = home
        .run(&["get", "vs", "web", "-o", "json"])
        .exits(0)
        .json();
    assert_eq!(
        got[0]["object"]["spec"]["http"][1]["route"][0]["weight"],
        90
    );
    assert_eq!(history(&[])[0]["what"], "rollback 1");
    home.run(&["rollback", "1"]).exits(0);
    assert_eq!(history(&[])[0]["revision"], 4, "nothing has changed since");
    home.run(&["rollback", "99"]).exits(1);

    let whole = history(&[])[0]["revision"].as_u64().unwrap();

    // A restart forgets nothing, and undoing the first of all leaves nothing.
    plane.stop();
    let _plane = Plane::start(&home);
    assert_eq!(history(&[])[0]["revision"].as_u64(), Some(whole));
    let nothing = home.run(&["rollback", "0"]).exits(0);
    assert!(nothing.stdout.contains("service/web deleted"), "{nothing}");
    assert_eq!(home.run(&["get", "svc"]).exits(0).stdout, "");
}

#[test]
fn going_back_is_refused_when_todays_world_lacks_what_it_names() {
    let home = Home::new();
    let _plane = Plane::start(&home);
    let apply = |text: &str| home.feed(&["apply", "-f", "-"], text).exits(0);
    apply(SERVICE);
    // Forced once, and mended by removing it: going back would bring the error again.
    home.feed(&["apply", "-f", "-", "--force"], ROUTE).exits(0);
    home.run(&["delete", "vs", "web"]).exits(0);
    let dry = home.run(&["rollback", "2", "--dry-run"]).exits(1);
    assert!(dry.stderr.contains("would be refused"), "{dry}");
    let refused = home.run(&["rollback", "2"]).exits(1);
    assert!(refused.stderr.contains("[IST0101]"), "{refused}");
    assert!(refused.stderr.contains("nothing was applied"), "{refused}");
    home.run(&["get", "vs", "web"]).exits(1);
    home.run(&["rollback", "1"]).exits(0);
}
