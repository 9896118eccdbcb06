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
    let second = ROUTE.replace("name: web}", "name: other}");
    let unread = ROUTE.replace("subset: v1", "subest: v1");
    let refused = home
        .feed(&["apply", "-f", "-", "--force"], &unread)
        .exits(1);
    assert!(refused.stderr.contains("[IST0106]"), "{refused}");
    assert!(!refused.stderr.contains("apply --force"), "{refused}");
    let both = format!("{ROUTE}---\n{second}");
    let refused = home.feed(&["apply", "-f", "-", "--force"], &both).exits(1);
    assert!(refused.stderr.contains("[IST0109]"), "{refused}");
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
