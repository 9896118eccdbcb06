//! Redis and PostgreSQL with their own clients, through two sidecars that capture and speak mTLS to
//! each other.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::mesh::{STRICT, program, run};

/// What resolvers in pods answer: search domains are for applications.
const CACHE: &str = "cache.default.svc.cluster.local";
const DB: &str = "db.default.svc.cluster.local";
const POSTGRES: &str = "/usr/lib/postgresql/15/bin";

/// Whether a program is there; where `CI` is set it must be.
fn there(path: &Path) -> bool {
    let there = path.exists();
    if !there {
        assert!(
            std::env::var_os("CI").is_none(),
            "{} is missing: .ci/run installs it",
            path.display()
        );
        eprintln!("SKIPPED: {} is not installed", path.display());
    }
    there
}

/// Pods in namespaces, taken down with the test.
struct Pods {
    home: PathBuf,
}

impl Drop for Pods {
    fn drop(&mut self) {
        let output = run(&self.home, &["down"], None);
        if !output.status.success() {
            eprintln!("down: {output:?}");
        }
    }
}

impl Pods {
    fn up(dir: &Path, manifest: &str) -> Self {
        let file = dir.join("pods.yaml");
        std::fs::write(&file, manifest).unwrap();
        let pods = Self {
            home: dir.join("home"),
        };
        let file = file.to_str().unwrap();
        let output = run(
            &pods.home,
            &["up", "-d", "--isolation", "netns", file],
            None,
        );
        assert!(output.status.success(), "{output:?}");
        pods
    }

    /// The process of container `app` in the pod of `workload`.
    fn pid(&self, workload: &str) -> u64 {
        let output = run(&self.home, &["ps", "-o", "json"], None);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        let pod = status["pods"]
            .as_array()
            .unwrap()
            .iter()
            .find(|pod| pod["name"].as_str().unwrap().starts_with(workload))
            .unwrap_or_else(|| panic!("no {workload} in {status}"));
        pod["containers"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == "app")
            .and_then(|one| one["pid"].as_u64())
            .unwrap_or_else(|| panic!("no pid in {pod}"))
    }

    /// Runs a program in the network of `workload`.
    fn within(&self, workload: &str, words: &[&str]) -> (bool, String) {
        let pid = self.pid(workload).to_string();
        let args = [&["-t", &pid, "-n", "--"][..], words].concat();
        program("nsenter", &args)
    }

    fn logs(&self, pod: &str) -> String {
        let output = run(&self.home, &["logs", pod, "-c", "proxy"], None);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn workload(name: &str, command: &[&str], port: Option<(&str, u16)>) -> String {
    let command = serde_json::to_string(command).unwrap();
    let (ports, service) = match port {
        None => (String::new(), String::new()),
        Some((kind, port)) => (
            format!("        ports: [{{containerPort: {port}}}]\n"),
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  selector: {{app: {name}}}\n  ports: [{{name: {kind}, port: {port}}}]\n"
            ),
        ),
    };
    format!(
        "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      containers:\n      - name: app\n        image: none\n        command: {command}\n{ports}{service}"
    )
}

#[test]
fn redis_and_postgresql_pass_with_their_own_clients() {
    let postgres = Path::new(POSTGRES).join("postgres");
    let redis = Path::new("/usr/bin/redis-server");
    if !there(&postgres) || !there(redis) {
        return;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: network namespaces need root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // PostgreSQL does not run as root.
    let own = tempfile::tempdir().unwrap();
    let data = own.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let as_postgres = [
        "setpriv",
        "--reuid=postgres",
        "--regid=postgres",
        "--clear-groups",
    ];
    for (name, path) in [("dir", own.path()), ("data", data.as_path())] {
        let (good, said) = program("chown", &["postgres", path.to_str().unwrap()]);
        assert!(good, "{name}: {said}");
    }
    let data = data.to_str().unwrap();
    let initdb = Command::new(as_postgres[0])
        .args(&as_postgres[1..])
        .arg(Path::new(POSTGRES).join("initdb"))
        .args(["-D", data, "-A", "trust", "-U", "postgres", "--no-sync"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(initdb.status.success(), "{initdb:?}");
    let rules = Path::new(data).join("pg_hba.conf");
    std::fs::write(rules, "host all all all trust\nlocal all all trust\n").unwrap();
    let postgres = postgres.to_str().unwrap();
    let db = [
        &as_postgres[..],
        &[
            postgres,
            "-D",
            data,
            "-h",
            "*",
            "-p",
            "5432",
            "-k",
            data,
            "-c",
            "fsync=off",
        ],
    ]
    .concat();
    let cache = [
        "redis-server",
        "--port",
        "6379",
        "--save",
        "",
        "--appendonly",
        "no",
        "--protected-mode",
        "no",
    ];
    let manifest = [
        workload("cache", &cache, Some(("tcp-redis", 6379))),
        workload("db", &db, Some(("tcp-postgres", 5432))),
        workload(
            "client",
            &["python3", "-m", "http.server", "9080"],
            Some(("http", 9080)),
        ),
        format!("---{STRICT}"),
    ]
    .concat();
    let pods = Pods::up(dir.path(), &manifest);

    let (_, said) = pods.within("client", &["redis-cli", "-h", CACHE, "set", "key", "value"]);
    assert!(said.contains("OK"), "{said}\n{}", pods.logs("client"));
    let (_, said) = pods.within("client", &["redis-cli", "-h", CACHE, "get", "key"]);
    assert!(said.contains("value"), "{said}");
    let words =
        format!("redis-benchmark -h {CACHE} -q -t set,get,lpush,mset -n 4000 -c 20 -P 4 -d 2000");
    let (good, said) = pods.within("client", &words.split(' ').collect::<Vec<_>>());
    assert!(
        good && said.contains("GET:") && !said.contains("rror"),
        "{said}"
    );

    // PostgreSQL's clients ask for TLS, are told no, and go on on the same connection.
    let sql = ["psql", "-h", DB, "-U", "postgres", "-Atc"];
    let query = |text: &str| pods.within("client", &[&sql[..], &[text]].concat());
    let (good, said) = query("select 6*7");
    assert!(
        good && said.trim() == "42",
        "{said}\n{}",
        pods.logs("client")
    );
    // A large answer, and one that comes late.
    let (_, said) = query("select length(repeat('x', 5000000)), pg_sleep(1)");
    assert!(said.contains("5000000"), "{said}");
    let (_, said) =
        query("copy (select repeat('y', 1000) from generate_series(1, 5000)) to stdout");
    assert_eq!(said.len(), 5000 * 1001);
    let bench = |words: &str| {
        let words = format!("pgbench -h {DB} -U postgres {words} postgres");
        pods.within("client", &words.split(' ').collect::<Vec<_>>())
    };
    let (good, said) = bench("-i -q -s 1");
    assert!(good, "{said}");
    let (good, said) = bench("-n -c 8 -j 2 -t 100");
    assert!(
        good && said.contains("number of transactions actually processed: 800/800"),
        "{said}"
    );
    // A connection for each transaction.
    let (good, said) = bench("-n -C -S -c 4 -t 25");
    assert!(
        good && said.contains("number of transactions actually processed: 100/100"),
        "{said}"
    );

    // Both ends counted bytes, as mTLS.
    let metrics = ["curl", "-s", "http://127.0.0.1:15000/stats/prometheus"];
    for (pod, reporter) in [
        ("client", "source"),
        ("db", "destination"),
        ("cache", "destination"),
    ] {
        let (_, said) = pods.within(pod, &metrics);
        let line = said
            .lines()
            .find(|line| {
                line.starts_with("istio_tcp_received_bytes_total{")
                    && line.contains(&format!("reporter=\"{reporter}\""))
            })
            .unwrap_or_else(|| panic!("{pod}: {said}"));
        if reporter == "destination" {
            assert!(
                line.contains("connection_security_policy=\"mutual_tls\""),
                "{line}"
            );
        }
    }
}
