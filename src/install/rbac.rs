//! What the control plane may do, and as whom: the one list of its permissions.

use serde_json::{Value, json};

use crate::resource::json::set;

use super::{
    AUTHORITY, GATEWAY_DEPLOYMENTS, GATEWAY_SECRETS, INJECTOR, LEASE, NAME, OPERATOR, PLUGGED,
    ROOTS, Settings, VALIDATOR, VIEWER, cluster_metadata, metadata, of_revision,
};

const READ: &[&str] = &["get", "list", "watch"];
const API: &str = "rbac.authorization.k8s.io";

/// Who may what to which objects: groups, resources, verbs, and the only names that are meant.
struct Rule {
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    names: Vec<String>,
}

impl Rule {
    fn json(&self) -> Value {
        let mut rule = json!({
            "apiGroups": self.groups,
            "resources": self.resources,
            "verbs": self.verbs,
        });
        if !self.names.is_empty() {
            set(&mut rule, "resourceNames", self.names.clone());
        }
        rule
    }
}

fn rule(
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
) -> Rule {
    Rule {
        groups,
        resources,
        verbs,
        names: Vec::new(),
    }
}

/// Groups of configuration that people write.
const CONFIGURATION: &[&str] = &[
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
    "gateway.networking.k8s.io",
    "flagger.app",
    "split.smi-spec.io",
    "specs.smi-spec.io",
    "linkerd.io",
    "policy.meshctl.dev",
];

/// In the whole cluster.
fn cluster_rules(settings: &Settings) -> Vec<Rule> {
    let webhooks = [INJECTOR, VALIDATOR]
        .map(|name| of_revision(name, &settings.revision))
        .to_vec();
    vec![
        // What runs, and where.
        rule(&[""], &["namespaces", "nodes", "pods", "services"], READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        // What people want.
        rule(CONFIGURATION, &["*"], READ),
        rule(
            &["networking.k8s.io"],
            &["ingresses", "ingressclasses"],
            READ,
        ),
        // What its people have it shift (`canary set`) and inject (`fault`), through its API alone.
        rule(
            &["networking.istio.io"],
            &["destinationrules", "virtualservices"],
            &["create", "update"],
        ),
        rule(
            &["gateway.networking.k8s.io"],
            &["grpcroutes", "httproutes"],
            &["create", "update"],
        ),
        rule(
            &["policy.meshctl.dev"],
            &["canaries", "faultinjections", "shadowdiffs"],
            &["create", "delete", "update"],
        ),
        // What became of it.
        rule(
            &[
                "networking.istio.io",
                "security.istio.io",
                "telemetry.istio.io",
                "extensions.istio.io",
                "policy.meshctl.dev",
                "flagger.app",
            ],
            &["*/status"],
            &["patch", "update"],
        ),
        rule(
            &["gateway.networking.k8s.io"],
            &["*/status"],
            &["patch", "update"],
        ),
        rule(
            &["networking.k8s.io"],
            &["ingresses/status"],
            &["patch", "update"],
        ),
        // What is wrong with an object; what was said goes when it is mended.
        rule(
            &["events.k8s.io"],
            &["events"],
            &["create", "delete", "patch"],
        ),
        // Whether a pod is who it says.
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        // The roots that proxies believe, in every namespace. Creating cannot be bound to a name.
        rule(&[""], &["configmaps"], &["create"]),
        Rule {
            names: vec![of_revision(ROOTS, &settings.revision)],
            ..rule(
                &[""],
                &["configmaps"],
                &["get", "list", "watch", "patch", "update"],
            )
        },
        // The authority by which the API server believes our webhooks.
        Rule {
            names: webhooks,
            ..rule(
                &["admissionregistration.k8s.io"],
                &[
                    "mutatingwebhookconfigurations",
                    "validatingwebhookconfigurations",
                ],
                &["get", "list", "watch", "patch", "update"],
            )
        },
    ]
}

/// In the system namespace.
fn own_rules(settings: &Settings) -> Vec<Rule> {
    let named = |name: &str| vec![of_revision(name, &settings.revision)];
    vec![
        rule(&["coordination.k8s.io"], &["leases"], &["create"]),
        Rule {
            names: named(LEASE),
            ..rule(
                &["coordination.k8s.io"],
                &["leases"],
                &["get", "patch", "update"],
            )
        },
        rule(&[""], &["secrets"], &["create"]),
        Rule {
            // Revisions share an authority: their workloads call each other.
            names: vec![AUTHORITY.to_owned(), PLUGGED.to_owned()],
            ..rule(&[""], &["secrets"], &["get", "list", "watch"])
        },
        Rule {
            // Settings, and a MeshConfig by its usual name.
            names: vec![of_revision(NAME, &settings.revision), "istio".to_owned()],
            ..rule(&[""], &["configmaps"], READ)
        },
    ]
}

/// Something that the control plane does, and must be let.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// Such as `list`.
    pub verb: &'static str,
    /// Empty for the core.
    pub group: &'static str,
    /// Such as `pods` or `*/status`.
    pub resource: &'static str,
    /// Where; none is everywhere.
    pub namespace: Option<String>,
    /// The only object that is meant.
    pub name: Option<String>,
}

/// Everything that the control plane of `settings` does, as its roles have it.
pub fn permissions(settings: &Settings) -> Vec<Permission> {
    let own = Some(settings.namespace.clone());
    let secrets = settings.gateway_secrets.then(secret_rules);
    let deployments = settings.gateway_deployments.then(deployment_rules);
    let wide = cluster_rules(settings)
        .into_iter()
        .chain(secrets.into_iter().flatten())
        .chain(deployments.into_iter().flatten());
    let wide = wide.map(|rule| (rule, None));
    let all = wide.chain(
        own_rules(settings)
            .into_iter()
            .map(|rule| (rule, own.clone())),
    );
    let mut permissions = Vec::new();
    for (rule, namespace) in all {
        let mut names: Vec<Option<String>> = rule.names.iter().cloned().map(Some).collect();
        if names.is_empty() {
            names.push(None);
        }
        for group in rule.groups {
            for resource in rule.resources {
                for name in &names {
                    permissions.extend(rule.verbs.iter().map(|verb| Permission {
                        verb,
                        group,
                        resource,
                        namespace: namespace.clone(),
                        name: name.clone(),
                    }));
                }
            }
        }
    }
    permissions
}

/// What gateways show and hold callers against. Each is asked for by its name, which Gateways say; but names are not
/// known here, and RBAC knows nothing between one name and all. So it is a role of its own, which need not be bound
/// everywhere.
fn secret_rules() -> Vec<Rule> {
    vec![rule(&[""], &["configmaps", "secrets"], READ)]
}

/// What a Gateway of the Gateway API is given, in its namespace.
fn deployment_rules() -> Vec<Rule> {
    const WRITE: &[&str] = &["create", "delete", "get", "list", "patch"];
    vec![
        rule(&[""], &["serviceaccounts", "services"], WRITE),
        rule(&["apps"], &["deployments"], WRITE),
        rule(&["policy"], &["poddisruptionbudgets"], WRITE),
    ]
}

pub(super) fn objects(settings: &Settings) -> Vec<Value> {
    let name = of_revision(NAME, &settings.revision);
    // Objects of the whole cluster have the namespace in their name: there may be two meshes.
    let wide = format!("{name}-{}", settings.namespace);
    let subject = json!([{
        "kind": "ServiceAccount",
        "name": name,
        "namespace": settings.namespace,
    }]);
    let rules = |rules: Vec<Rule>| rules.iter().map(Rule::json).collect::<Vec<_>>();
    let role = |kind: &str, name: &str| json!({"apiGroup": API, "kind": kind, "name": name});
    let api = format!("{API}/v1");
    let mut all = vec![
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata(settings, &name, NAME),
        }),
        json!({
            "apiVersion": api,
            "kind": "ClusterRole",
            "metadata": cluster_metadata(settings, &wide, NAME),
            "rules": rules(cluster_rules(settings)),
        }),
        json!({
            "apiVersion": api,
            "kind": "ClusterRoleBinding",
            "metadata": cluster_metadata(settings, &wide, NAME),
            "roleRef": role("ClusterRole", &wide),
            "subjects": subject,
        }),
        json!({
            "apiVersion": api,
            "kind": "Role",
            "metadata": metadata(settings, &name, NAME),
            "rules": rules(own_rules(settings)),
        }),
        json!({
            "apiVersion": api,
            "kind": "RoleBinding",
            "metadata": metadata(settings, &name, NAME),
            "roleRef": role("Role", &name),
            "subjects": subject,
        }),
    ];
    let bound = |kind: &str, role_name: &str, metadata: Value| {
        json!({
            "apiVersion": api,
            "kind": kind,
            "metadata": metadata,
            "roleRef": role("ClusterRole", role_name),
            "subjects": subject,
        })
    };
    let wide_of = |base: &str| {
        format!(
            "{}-{}",
            of_revision(base, &settings.revision),
            settings.namespace
        )
    };
    let cluster_role = |name: &str, own: Vec<Rule>| {
        json!({
            "apiVersion": api,
            "kind": "ClusterRole",
            "metadata": cluster_metadata(settings, name, NAME),
            "rules": rules(own),
        })
    };
    let secrets = wide_of(GATEWAY_SECRETS);
    all.push(cluster_role(&secrets, secret_rules()));
    let here = metadata(
        settings,
        &of_revision(GATEWAY_SECRETS, &settings.revision),
        NAME,
    );
    all.push(bound("RoleBinding", &secrets, here));
    if settings.gateway_secrets {
        let everywhere = cluster_metadata(settings, &secrets, NAME);
        all.push(bound("ClusterRoleBinding", &secrets, everywhere));
    }
    if settings.gateway_deployments {
        let name = wide_of(GATEWAY_DEPLOYMENTS);
        all.push(cluster_role(&name, deployment_rules()));
        let everywhere = cluster_metadata(settings, &name, NAME);
        all.push(bound("ClusterRoleBinding", &name, everywhere));
    }
    all.extend(for_people(settings));
    all.extend(for_callers(settings));
    all
}

/// Whose tokens prove to the control plane who asks its API from outside, and the roles by which people may have
/// such a token and reach the control plane. The accounts have no rights, nothing runs as them, and the roles are
/// bound to nobody.
fn for_callers(settings: &Settings) -> Vec<Value> {
    let named = |name: &str| of_revision(name, &settings.revision);
    let (viewer, operator) = (named(VIEWER), named(OPERATOR));
    let one = |name: &str, tokens: Vec<String>| {
        let rules = [
            Rule {
                names: tokens,
                ..rule(&[""], &["serviceaccounts/token"], &["create"])
            },
            // Port-forward is asked for with either verb, by the client's age.
            rule(&[""], &["pods/portforward"], &["create", "get"]),
            rule(&[""], &["pods"], &["get", "list"]),
            rule(&[""], &["pods/log"], &["get"]),
            Rule {
                names: vec![named(LEASE)],
                ..rule(&["coordination.k8s.io"], &["leases"], &["get"])
            },
            Rule {
                names: vec![named(ROOTS)],
                ..rule(&[""], &["configmaps"], &["get"])
            },
            Rule {
                names: vec![named(NAME)],
                ..rule(&["apps"], &["deployments"], &["get"])
            },
        ];
        [
            json!({
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": metadata(settings, name, NAME),
                "automountServiceAccountToken": false,
            }),
            json!({
                "apiVersion": format!("{API}/v1"),
                "kind": "Role",
                "metadata": metadata(settings, name, NAME),
                "rules": rules.iter().map(Rule::json).collect::<Vec<_>>(),
            }),
        ]
    };
    let mut all = one(&viewer, vec![viewer.clone()]).to_vec();
    all.extend(one(&operator, vec![operator.clone(), viewer.clone()]));
    all
}

/// Who may view or edit a namespace may do so with the mesh's configuration in it.
fn for_people(settings: &Settings) -> [Value; 2] {
    let one = |name: &str, to: &[&str], verbs: &[&str]| {
        let mut metadata = cluster_metadata(settings, &of_revision(name, &settings.revision), NAME);
        for role in to {
            if let Some(labels) = metadata.get_mut("labels") {
                set(labels, &format!("{API}/aggregate-to-{role}"), "true");
            }
        }
        json!({
            "apiVersion": format!("{API}/v1"),
            "kind": "ClusterRole",
            "metadata": metadata,
            "rules": [{"apiGroups": CONFIGURATION, "resources": ["*"], "verbs": verbs}],
        })
    };
    let write = ["create", "delete", "deletecollection", "patch", "update"];
    [
        one("meshctl-view", &["view"], READ),
        one("meshctl-edit", &["admin", "edit"], &write),
    ]
}
