//! How pods begin and end.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::network::{BOTH, in_namespace};
use super::world::World;
use super::{PORTS, SYSTEM_PYTHON, TARGETS, caller, only_the_mesh, server};
use crate::stand::until;

/// A pod without native sidecars, as clusters before 1.29 have them.
const OLD: &str = "sidecar.istio.io/nativeSidecar";
const HEALTH: u16 = 15021;

#[test]
fn an_application_waits_for_its_proxy_and_a_job_ends_it() {
    in_namespace(async || {
        let world = World::start(BOTH).await;
        let mut job = caller("job");
        job["spec"]["restartPolicy"] = json!("Never");
        job["metadata"]["annotations"] = json!({
            OLD: "false",
            "proxy.istio.io/config": "holdApplicationUntilProxyStarts: true",
        });
        let job = world.meshed(&job);
        assert_eq!(job["spec"]["containers"][0]["name"], "meshctl-proxy");
        let hook = json!(["meshctl", "pod", "wait"]);
        assert_eq!(
            job["spec"]["containers"][0]["lifecycle"]["postStart"]["exec"]["command"],
            hook
        );
        let mut job = world.place(&job, 0, 21);
        let proxy = job.container("meshctl-proxy");
        let words = ["meshctl", "pod", "wait", "--timeout", "300ms"].map(|word| json!(word));
        let early = job.inside(&proxy, &words).output().unwrap();
        let said = String::from_utf8_lossy(&early.stderr);
        assert!(said.contains("is not ready"), "{early:?}");
        // The hook is done once the proxy is ready, and the application begins after it.
        let ready = json!({"httpGet": {"path": "/healthz/ready", "port": HEALTH}});
        job.start(&world.nodes[0]).await;
        assert_eq!(job.ask(&world.nodes[0], &ready), Some(200));
        assert!(job.ended("app").is_none());

        // Its work is done. From another machine nobody may say so.
        let quit = "/quitquitquit";
        for address in &job.addresses {
            let url = super::world::url(*address, 15020, quit);
            let node = &world.nodes[0].space;
            let output = node
                .command("curl")
                .args(["-s", "--fail", "-X", "POST", &url])
                .output()
                .unwrap();
            assert!(!output.status.success());
        }
        assert!(job.ended("meshctl-proxy").is_none());
        job.curl(&["-X", "POST", &format!("http://[::1]:15020{quit}")])
            .unwrap();
        let ended = until("the proxy to end", 30, || job.ended("meshctl-proxy")).await;
        assert!(ended.success(), "{ended}");
    });
}

#[test]
fn what_is_under_way_when_a_pod_ends_is_finished() {
    in_namespace(async || {
        let world = World::start(BOTH).await;
        only_the_mesh(&world);
        world.service("web", 10, &PORTS);
        let mut web = server(&world, "web-1", (1, 12), SYSTEM_PYTHON);
        web["spec"]["terminationGracePeriodSeconds"] = json!(15);
        let client = world
            .start_pod(&world.meshed(&caller("client")), 0, 11)
            .await;
        let mut web = world.start_pod(&world.meshed(&web), 1, 12).await;
        world.slices("web", &TARGETS, &[(&web, true)]);
        until("calls through the mesh", 60, || {
            client.curl(&["http://web.default/who"]).ok()
        })
        .await;

        let mut slow = client
            .space
            .command("curl")
            .args([
                "-sS",
                "--fail",
                "-o",
                "/dev/null",
                "http://web.default/slow",
            ])
            .spawn()
            .unwrap();
        until("the call to be under way", 10, || {
            let clusters = web.admin("/clusters").ok()?;
            let mut lines = clusters.lines();
            lines
                .any(|line| line == "inbound|8080||::rq_active::1")
                .then_some(())
        })
        .await;
        web.signal("meshctl-proxy", Signal::SIGTERM);
        let ready = json!({"httpGet": {"path": "/healthz/ready", "port": HEALTH}});
        until("the proxy to say that it ends", 10, || {
            (web.ask(&world.nodes[1], &ready)? == 503).then_some(())
        })
        .await;
        // Not everybody has heard of it yet, and is served.
        client.call("http://web.default/late");
        assert!(slow.wait().unwrap().success());
        let ended = until("the proxy to end", 30, || web.ended("meshctl-proxy")).await;
        assert!(ended.success(), "{ended}");
    });
}

#[test]
fn a_pod_that_is_lost_is_called_no_more_within_a_second_of_its_slice() {
    in_namespace(async || {
        let world = World::start(BOTH).await;
        only_the_mesh(&world);
        world.service("web", 10, &PORTS);
        let serve = |name, place| world.meshed(&server(&world, name, place, SYSTEM_PYTHON));
        let client = world
            .start_pod(&world.meshed(&caller("client")), 0, 11)
            .await;
        let one = world.start_pod(&serve("web-1", (0, 12)), 0, 12).await;
        let two = world.start_pod(&serve("web-2", (1, 13)), 1, 13).await;
        let three = world.start_pod(&serve("web-3", (1, 15)), 1, 15).await;
        world.slices("web", &TARGETS, &[(&one, true), (&two, true)]);
        let proxies = [&client, &two, &three];
        let knows = |pod: &super::Pod, other: &super::Pod| {
            let clusters = pod.admin("/clusters").unwrap();
            clusters.contains(&format!("::{}:8080::", other.addresses[0]))
        };
        until("all to know both", 60, || {
            let all = proxies
                .iter()
                .all(|pod| knows(pod, &one) && knows(pod, &two));
            all.then_some(())
        })
        .await;
        // It registers as any sidecar does. What counts is the slice: nobody takes back what a lost pod said.
        let gone = one.addresses[0];
        let object = one.object.clone();
        one.lose();
        let begun = meshctl::rt::now();
        world.slices("web", &TARGETS, &[(&two, true), (&three, true)]);
        let mut took = Vec::new();
        for pod in proxies {
            let until_known = || {
                let clusters = pod.admin("/clusters").unwrap();
                let out = !clusters.contains(&format!("::{gone}:8080::"));
                (out && knows(pod, &three)).then(|| begun.elapsed())
            };
            took.push((
                pod.name.clone(),
                until("the lost pod to be gone", 10, until_known).await,
            ));
        }
        eprintln!("out of each proxy's endpoints after the slice was written: {took:?}");
        assert!(
            took.iter().all(|(_, took)| *took < Duration::from_secs(1)),
            "{took:?}"
        );
        for _ in 0..20 {
            let said = client.call("http://web.default/who");
            assert_ne!(said["name"], "web-1");
        }
        // Nor does it come back when the pod is forgotten, or later.
        world.delete(&object);
        let still = begun + Duration::from_secs(3);
        while meshctl::rt::now() < still {
            assert!(!proxies.iter().any(|pod| {
                let clusters = pod.admin("/clusters").unwrap();
                clusters.contains(&format!("::{gone}:"))
            }));
        }
    });
}
