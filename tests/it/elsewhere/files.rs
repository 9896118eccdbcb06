//! Directories.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{Plane, write};

fn service(name: &str, port: u16) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: {name}}}, ports: [{{name: http, port: {port}}}]}}}}\n"
    )
}

fn plane(directory: &Path) -> Plane {
    Plane::start(&["--source", &format!("files={}", directory.display())])
}

/// Waits until these are the services: `NAME PORT`.
async fn until_services(plane: &Plane, expected: &[&str]) {
    plane
        .until(&format!("{expected:?}"), "/services", |(_, all)| {
            named(all) == expected
        })
        .await;
}

fn named(all: &Value) -> Vec<String> {
    let all = all.as_array().into_iter().flatten();
    let mut named: Vec<String> = all
        .map(|service| {
            let port = &service["ports"][0];
            let port = port["port"].as_u64().or_else(|| port.as_u64());
            format!(
                "{} {}",
                service["name"].as_str().unwrap(),
                port.unwrap_or_default()
            )
        })
        .collect();
    named.sort();
    named
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_followed_as_editors_and_people_change_them() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write(&at("a.yaml"), &service("a", 80));
    write(&at("b.yaml"), &service("b", 80));
    let mut plane = plane(dir.path()).ready().await;
    until_services(&plane, &["a 80", "b 80"]).await;
    write(&at("a.yaml"), &service("a", 81));
    until_services(&plane, &["a 81", "b 80"]).await;

    // Half of a file is not in force, and removes nothing; neither do others change with it.
    let whole = format!("{}---\n{}", service("a", 82), service("c", 80));
    std::fs::write(at("a.yaml"), whole.split_at(whole.len() - 30).0).unwrap();
    write(&at("b.yaml"), &service("b", 82));
    let seen = meshctl::rt::now() + Duration::from_secs(10);
    while !plane.log().contains("the last good configuration stays") {
        assert!(meshctl::rt::now() < seen, "{}", plane.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(named(&plane.ask("/services").await.1), ["a 81", "b 80"]);
    std::fs::write(at("a.yaml"), &whole).unwrap();
    until_services(&plane, &["a 82", "b 82", "c 80"]).await;

    // An object that leaves its file leaves, and so do those of a file that is removed. What somebody
    // applied by hand is not the directory's.
    let own = plane.dir.path().join("own.yaml");
    write(&own, &service("own", 80));
    assert!(
        plane
            .run(&["apply", "-f", own.to_str().unwrap()])
            .status
            .success()
    );
    write(&at("a.yaml"), &service("a", 82));
    until_services(&plane, &["a 82", "b 82", "own 80"]).await;
    std::fs::remove_file(at("b.yaml")).unwrap();
    until_services(&plane, &["a 82", "own 80"]).await;
    // Nothing but these files is read.
    write(&at("notes.txt"), &service("notes", 80));
    write(&at(".hidden.yaml"), &service("hidden", 80));
    // What was removed while nobody looked goes, too.
    write(&at("d.yaml"), &service("d", 80));
    until_services(&plane, &["a 82", "d 80", "own 80"]).await;
    plane.stop();
    std::fs::remove_file(at("a.yaml")).unwrap();
    plane.serve();
    until_services(&plane, &["d 80", "own 80"]).await;
    // A directory that is gone says nothing of what was in it.
    std::fs::rename(dir.path(), dir.path().with_extension("away")).unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(named(&plane.ask("/services").await.1), ["d 80", "own 80"]);
    std::fs::rename(dir.path().with_extension("away"), dir.path()).unwrap();
    write(&at("e.yaml"), &service("e", 80));
    until_services(&plane, &["d 80", "e 80", "own 80"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_kubernetes_is_followed_through_its_link() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let version = |number: u16, names: &[&str]| {
        let made = at(&format!("..{number}"));
        std::fs::create_dir(&made).unwrap();
        for name in names {
            std::fs::write(made.join(format!("{name}.yaml")), service(name, number)).unwrap();
        }
        symlink(made.file_name().unwrap(), at("..tmp")).unwrap();
        std::fs::rename(at("..tmp"), at("..data")).unwrap();
    };
    version(1, &["a", "b"]);
    for name in ["a", "b"] {
        symlink(format!("..data/{name}.yaml"), at(&format!("{name}.yaml"))).unwrap();
    }
    let plane = plane(dir.path()).ready().await;
    until_services(&plane, &["a 1", "b 1"]).await;
    // As the kubelet does it: the new version, the link, new names, then what is gone.
    version(2, &["a", "c"]);
    symlink("..data/c.yaml", at("c.yaml")).unwrap();
    std::fs::remove_file(at("b.yaml")).unwrap();
    std::fs::remove_dir_all(at("..1")).unwrap();
    until_services(&plane, &["a 2", "c 2"]).await;
}
