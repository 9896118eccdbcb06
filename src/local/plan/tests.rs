use super::*;
use crate::local::spec::{Check, ContainerPort, EnvValue, EnvVar, PodSpec, PortRef, WorkloadKind};

fn around(isolation: Isolation) -> Surroundings {
    Surroundings {
        isolation,
        network: Network::new(match isolation {
            Isolation::Process => Ipv4Addr::new(127, 20, 4, 0),
            Isolation::Netns => Ipv4Addr::new(10, 77, 4, 0),
        }),
        seed: 7,
        instance: "ab12cd".to_owned(),
        executable: PathBuf::from("/opt/meshctl"),
        pods_dir: PathBuf::from("/home/me/local/pods"),
        base_env: vec![("PATH".to_owned(), "/bin".to_owned())],
        sidecar_args: vec!["--access-log".to_owned(), "text".to_owned()],
        control_plane: "127.20.4.1:15012".to_owned(),
        first_free_port: 1024,
    }
}

fn reviews() -> Workload {
    Workload {
        name: "reviews-v1".to_owned(),
        namespace: "default".to_owned(),
        kind: WorkloadKind::Deployment,
        replicas: 2,
        pod: PodSpec {
            service_account: "bookinfo-reviews".to_owned(),
            labels: [("app", "reviews"), ("version", "v1")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            containers: vec![ContainerSpec {
                name: "reviews".to_owned(),
                image: "meshctl:latest".to_owned(),
                command: vec!["meshctl".to_owned(), "sample-app".to_owned()],
                args: vec!["--listen=$(HOST):$(PORT)".to_owned()],
                ports: vec![port(9080, Some("http-web"))],
                ..ContainerSpec::default()
            }],
            inject: true,
            grace: None,
        },
        origin: "reviews.yaml:1".to_owned(),
    }
}

fn port(number: u16, name: Option<&str>) -> ContainerPort {
    ContainerPort {
        name: name.map(str::to_owned),
        number,
        protocol: PortProtocol::Tcp,
    }
}

fn env<'a>(container: &'a Container, name: &str) -> Option<&'a str> {
    container
        .env
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

#[test]
fn process_pods_listen_on_a_private_port_behind_their_sidecar() {
    let pods = plan(&[reviews()], &around(Isolation::Process)).unwrap();
    assert_eq!(pods.len(), 2);
    let pod = &pods[1];
    assert_eq!(pod.address.to_string(), "127.20.4.3");
    let app = &pod.containers[0];
    assert_eq!(app.ports[0].listen, 29_080);
    assert_eq!(
        app.command,
        ["/opt/meshctl", "sample-app", "--listen=127.20.4.3:29080"]
    );
    assert_eq!(env(app, "PORT"), Some("29080"));
    assert_eq!(env(app, "PORT_HTTP_WEB"), Some("29080"));
    assert_eq!(env(app, "PORT_9080"), Some("29080"));
    assert_eq!(env(app, "http_proxy"), Some("http://127.20.4.3:15001"));
    assert_eq!(env(app, "NO_PROXY"), Some(""));
    assert_eq!(env(app, "HOSTNAME"), Some(pod.name.as_str()));
    assert_eq!(env(app, "PATH"), Some("/bin"));
    let sidecar = pod.sidecar.as_ref().unwrap().join(" ");
    assert_eq!(
        sidecar,
        format!(
            "proxy --service reviews --namespace default --service-account bookinfo-reviews \
             --name {name} --version v1 --labels app=reviews,version=v1 --address 127.20.4.3 \
             --app 9080=127.20.4.3:29080 --port-name http-web=9080 --outbound-port 15001 --inbound-port 15006 \
             --admin-port 15000 --capture none --control-plane 127.20.4.1:15012 \
             --home /home/me/local/pods/{name}.default --access-log text",
            name = pod.name
        )
    );
}

#[test]
fn namespaced_pods_have_the_port_itself() {
    let pods = plan(&[reviews()], &around(Isolation::Netns)).unwrap();
    let pod = &pods[0];
    assert_eq!(pod.netns.as_deref(), Some("meshctl-ab12cd-0"));
    assert_eq!(env(&pod.containers[0], "PORT"), Some("9080"));
    assert_eq!(env(&pod.containers[0], "HTTP_PROXY"), None);
    let sidecar = pod.sidecar.as_ref().unwrap().join(" ");
    assert!(sidecar.contains("--app 9080=127.0.0.1:9080"));
    assert!(sidecar.contains("--capture transparent"));
}

#[test]
fn names_look_like_those_of_kubernetes_and_repeat() {
    let once = plan(&[reviews()], &around(Isolation::Process)).unwrap();
    let again = plan(&[reviews()], &around(Isolation::Process)).unwrap();
    assert_eq!(once, again);
    let parts: Vec<&str> = once[0].name.rsplitn(3, '-').collect();
    assert_eq!(
        (parts[0].len(), parts[1].len(), parts[2]),
        (5, 9, "reviews-v1")
    );
    assert_ne!(once[0].name, once[1].name);
    let mut changed = reviews();
    changed.pod.containers[0].args.clear();
    let changed = plan(&[changed], &around(Isolation::Process)).unwrap();
    assert_ne!(changed[0].name, once[0].name);
    let mut set = reviews();
    set.kind = WorkloadKind::StatefulSet;
    let set = plan(&[set], &around(Isolation::Process)).unwrap();
    assert_eq!(set[1].name, "reviews-v1-1");
}

#[test]
fn a_container_without_a_command_says_how_to_mend_it() {
    let mut workload = reviews();
    workload.pod.containers[0].command.clear();
    let error = plan(&[workload], &around(Isolation::Process)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "reviews.yaml:1: container \"reviews\" of \"reviews-v1\" has no command, and its image \
         \"meshctl:latest\" is not run here"
    );
    assert!(error.hint().unwrap().contains("add `command:"));
}

#[test]
fn ports_that_cannot_be_served_are_refused() {
    let with = |ports: Vec<ContainerPort>| {
        let mut workload = reviews();
        workload.pod.containers[0].ports = ports;
        plan(&[workload], &around(Isolation::Process))
    };
    assert!(matches!(
        with(vec![port(15_001, None)]),
        Err(PlanError::SidecarPort { port: 15_001, .. })
    ));
    assert!(matches!(
        with(vec![port(80, None)]),
        Err(PlanError::Privileged { port: 80, .. })
    ));
    assert!(matches!(
        with(vec![port(8080, None), port(8080, None)]),
        Err(PlanError::PortTwice { .. })
    ));
    // Private ports never meet each other or a real one.
    let pods = with(vec![
        port(9080, None),
        port(29_080, None),
        port(60_000, None),
    ])
    .unwrap();
    let listen: Vec<u16> = pods[0].containers[0]
        .ports
        .iter()
        .map(|p| p.listen)
        .collect();
    assert_eq!(listen, [29_081, 49_080, 20_000]);
}

#[test]
fn variables_see_those_before_them_and_the_pod() {
    let mut workload = reviews();
    let text = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: EnvValue::Text(value.to_owned()),
    };
    workload.pod.containers[0].env = vec![
        text("A", "$(POD_IP):$(B)"),
        text("B", "b"),
        text("C", "$(B)$(A)"),
        text("PATH", "/own:$(PATH)"),
        EnvVar {
            name: "V".to_owned(),
            value: EnvValue::Field("metadata.labels['version']".to_owned()),
        },
    ];
    let pods = plan(std::slice::from_ref(&workload), &around(Isolation::Process)).unwrap();
    let app = &pods[0].containers[0];
    assert_eq!(env(app, "A"), Some("127.20.4.2:$(B)"));
    assert_eq!(env(app, "C"), Some("b127.20.4.2:$(B)"));
    assert_eq!(env(app, "PATH"), Some("/own:/bin"));
    assert_eq!(env(app, "V"), Some("v1"));
    workload.pod.containers[0].env = vec![EnvVar {
        name: "U".to_owned(),
        value: EnvValue::Field("metadata.uid".to_owned()),
    }];
    assert!(matches!(
        plan(&[workload], &around(Isolation::Process)),
        Err(PlanError::Field { .. })
    ));
}

#[test]
fn without_a_sidecar_the_application_has_its_own_port() {
    let mut workload = reviews();
    workload.pod.inject = false;
    let pods = plan(&[workload], &around(Isolation::Process)).unwrap();
    assert_eq!(pods[0].sidecar, None);
    assert_eq!(env(&pods[0].containers[0], "PORT"), Some("9080"));
    assert_eq!(env(&pods[0].containers[0], "HTTP_PROXY"), None);
}

#[test]
fn twice_the_same_and_too_many_are_refused() {
    let mut workload = reviews();
    workload.kind = WorkloadKind::Pod;
    assert!(matches!(
        plan(&[workload.clone()], &around(Isolation::Process)),
        Err(PlanError::Twice { kind: "pod", .. })
    ));
    workload.replicas = 5000;
    assert!(matches!(
        plan(&[workload], &around(Isolation::Process)),
        Err(PlanError::TooMany { pods: 5000, .. })
    ));
    let mut workload = reviews();
    workload.pod.containers[0].readiness = Some(Probe::new(Check::Tcp {
        port: PortRef::Name("grpc".to_owned()),
    }));
    assert!(matches!(
        plan(&[workload], &around(Isolation::Process)),
        Err(PlanError::ProbePort { .. })
    ));
}
