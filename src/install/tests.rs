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
            if secrets {
                assert_eq!(object["kind"], "Role", "{rule}");
            }
        }
    }
}
