mod chart;

use super::*;

/// Where an object is, as a person names it.
fn place(object: &Value) -> String {
    let text = |pointer: &str| {
        let text = object.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    format!(
        "{} {}/{}",
        text("/kind"),
        text("/metadata/namespace"),
        text("/metadata/name")
    )
}

#[test]
fn every_setting_that_is_listed_can_be_set_and_no_other() {
    let example = |key: &str| match key {
        "image" => "registry.example:5000/mesh/meshctl:1.2@sha256:00",
        "imagePullPolicy" => "Always",
        "replicas" | "gatewayReplicas" => "3",
        "ingressType" => "NodePort",
        "failurePolicy" => "Ignore",
        "cpu" | "memory" | "memoryLimit" => "1.5Gi",
        "trustDomain" => "shop.example",
        "mtls" => "strict",
        "logLevel" => "trace",
        "caKeyType" => "ed25519",
        "caSigner" => "istiod.istio-system.svc:15012",
        "caSignerRoots" => "own-roots",
        "caSignerName" => "spiffe://cluster.local/ns/meshctl-system/sa/meshctl",
        _ => "false",
    };
    for (key, _) in KEYS {
        let mut settings = Settings::new(Profile::Default);
        let before = settings.clone();
        settings.set(key, example(key)).unwrap();
        if !matches!(*key, "egress") {
            assert_ne!(settings, before, "{key}");
        }
        let wrong = settings.set(key, "\u{1F4A5}").unwrap_err();
        assert!(matches!(wrong, SettingError::Value { .. }), "{key}");
    }
    let unknown = Settings::new(Profile::Default).set("replica", "1");
    assert_eq!(unknown, Err(SettingError::Unknown("replica".to_owned())));
}

#[test]
fn no_object_is_there_twice_and_all_say_whose_they_are() {
    for profile in [Profile::Default, Profile::Demo, Profile::Minimal] {
        for revision in ["default", "canary"] {
            let mut settings = Settings::new(profile);
            revision.clone_into(&mut settings.revision);
            let all = objects(&settings);
            let places: std::collections::BTreeSet<String> = all.iter().map(place).collect();
            assert_eq!(places.len(), all.len());
            for object in &all {
                let labels = object.pointer("/metadata/labels").unwrap();
                assert_eq!(labels["app.kubernetes.io/managed-by"], NAME, "{object}");
                if object["kind"] != "Namespace" && object["kind"] != "CustomResourceDefinition" {
                    assert_eq!(labels[REVISION], revision, "{object}");
                }
            }
        }
    }
}

#[test]
fn revisions_share_nothing_but_their_namespace() {
    let of = |revision: &str| {
        let mut settings = Settings::new(Profile::Default);
        revision.clone_into(&mut settings.revision);
        let places: std::collections::BTreeSet<String> =
            objects(&settings).iter().map(place).collect();
        places
    };
    let shared: Vec<String> = of("default")
        .intersection(&of("next"))
        .filter(|place| !place.starts_with("CustomResourceDefinition "))
        .cloned()
        .collect();
    assert_eq!(shared, ["Namespace /meshctl-system"]);
}

#[test]
fn containers_pass_pod_securitys_strictest_level() {
    for object in objects(&Settings::new(Profile::Demo)) {
        let Some(spec) = object.pointer("/spec/template/spec") else {
            continue;
        };
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(
            spec["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        for container in spec["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        }
    }
}

/// The one list of what the control plane may do has no way to everything.
#[test]
fn roles_name_what_they_are_for() {
    for object in objects(&Settings::new(Profile::Default)) {
        for rule in object["rules"].as_array().into_iter().flatten() {
            for field in ["apiGroups", "verbs"] {
                assert!(
                    !rule[field].as_array().unwrap().contains(&json!("*")),
                    "{rule}"
                );
            }
            let writes = rule["verbs"]
                .as_array()
                .unwrap()
                .iter()
                .any(|verb| matches!(verb.as_str(), Some("update" | "patch" | "delete")));
            let secrets = rule["resources"]
                .as_array()
                .unwrap()
                .contains(&json!("secrets"));
            assert!(!(secrets && writes), "{rule}");
            if secrets && object["kind"] != "Role" {
                // What gateways show, and that can be read, is a role of its own.
                let name = object["metadata"]["name"].as_str().unwrap();
                assert!(name.starts_with("meshctl-gateway-secrets-"), "{object}");
                assert_eq!(object["rules"].as_array().unwrap().len(), 1);
            }
        }
    }
}

#[test]
fn a_signer_comes_with_what_it_is_believed_by_and_shown() {
    let mut settings = Settings::new(Profile::Default);
    settings.set("caSignerRoots", "own-roots").unwrap();
    let alone = settings.check();
    assert_eq!(alone, Err(SettingError::Signer("caSignerRoots", "without")));
    for wrong in [
        "istiod",
        "istiod:0",
        "is tiod:1",
        "[::g]:1",
        ":1",
        "::1:15012",
    ] {
        assert!(settings.set("caSigner", wrong).is_err(), "{wrong}");
    }
    for good in [
        "[::1]:15012",
        "10.0.0.1:15012",
        "istiod.istio-system.svc:15012",
    ] {
        settings.set("caSigner", good).unwrap();
    }
    settings.check().unwrap();
    let all = objects(&settings);
    let spec = all.iter().find_map(|object| {
        let own = place(object) == "Deployment meshctl-system/meshctl";
        object.pointer("/spec/template/spec").filter(|_| own)
    });
    let spec = spec.unwrap();
    let volume = &spec["volumes"][2];
    let sources = &volume["projected"]["sources"];
    assert_eq!(sources[0]["configMap"]["name"], "own-roots");
    assert_eq!(sources[1]["serviceAccountToken"]["audience"], "istio-ca");
    let mount = &spec["containers"][0]["volumeMounts"][2];
    assert_eq!(
        (&mount["name"], &volume["name"]),
        (&json!("signer"), &json!("signer"))
    );
    // Where it is mounted is where the control plane is told to look.
    let note: Value = serde_json::from_str(&settings.note()).unwrap();
    let values = &note["values"];
    let at = |file: &str| json!(format!("{}/{file}", mount["mountPath"].as_str().unwrap()));
    assert_eq!(values["caSigner"], "istiod.istio-system.svc:15012");
    let paths = |source: &Value| source["path"].clone();
    let (root, token) = (
        paths(&sources[0]["configMap"]["items"][0]),
        paths(&sources[1]["serviceAccountToken"]),
    );
    assert_eq!(values["caSignerRoot"], at(root.as_str().unwrap()));
    assert_eq!(values["caSignerToken"], at(token.as_str().unwrap()));
    settings.set("caKeyType", "ed25519").unwrap();
    assert_eq!(
        settings.check(),
        Err(SettingError::Signer("caKeyType", "beside"))
    );
    // What is not asked for is not mounted.
    let without = objects(&Settings::new(Profile::Default));
    assert!(
        !json!(without)
            .to_string()
            .contains("/var/run/secrets/signer")
    );
}
