//! Which kinds are served: a table of the built-in ones, and one row for every version of a custom one.

use serde_json::Value;

/// A kind in one version.
#[derive(Debug, Clone, PartialEq)]
pub struct Kind {
    /// Empty for the core.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// In paths, such as `pods`.
    pub plural: String,
    /// Such as `pod`.
    pub singular: String,
    /// Such as `Pod`.
    pub kind: String,
    /// What people type.
    pub short: Vec<String>,
    /// Such as `all`.
    pub categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Whether status is written by a path of its own.
    pub status: bool,
    /// Where replicas are, for the path `scale`.
    pub scale: Option<Scale>,
    /// The version's entry of the custom resource definition.
    pub custom: Option<Value>,
}

/// Where an object keeps what `autoscaling/v1.Scale` shows; JSON paths with a leading dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// Wanted.
    pub spec: String,
    /// There.
    pub status: String,
    /// A selector as text, if any.
    pub selector: Option<String>,
}

impl Kind {
    /// `apps/v1` or `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `deployments.apps` or `pods`: the same for all versions.
    pub fn key(&self) -> String {
        key(&self.plural, &self.group)
    }

    /// The verbs of the collection and the object.
    pub fn verbs(&self) -> &'static [&'static str] {
        if self.is_review() {
            return &["create"];
        }
        &[
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
            "watch",
        ]
    }

    /// Asked, never stored.
    pub fn is_review(&self) -> bool {
        matches!(
            self.group.as_str(),
            "authentication.k8s.io" | "authorization.k8s.io"
        )
    }
}

/// `deployments.apps` or `pods`.
pub fn key(plural: &str, group: &str) -> String {
    if group.is_empty() {
        plural.to_owned()
    } else {
        format!("{plural}.{group}")
    }
}

// group version | Kind plural short,names flags (n namespaced, s status, r replicas, a in `all`)
const TABLE: &str = "
 v1 Namespace namespaces ns s
 v1 Node nodes no s
 v1 Pod pods po nsa
 v1 Service services svc nsa
 v1 ServiceAccount serviceaccounts sa n
 v1 ConfigMap configmaps cm n
 v1 Secret secrets - n
 v1 Endpoints endpoints ep n
 v1 Event events ev n
 v1 PersistentVolume persistentvolumes pv s
 v1 PersistentVolumeClaim persistentvolumeclaims pvc ns
 v1 ResourceQuota resourcequotas quota ns
 v1 LimitRange limitranges limits n
 v1 ReplicationController replicationcontrollers rc nsra
 v1 PodTemplate podtemplates - n
apps v1 Deployment deployments deploy nsra
apps v1 ReplicaSet replicasets rs nsra
apps v1 StatefulSet statefulsets sts nsra
apps v1 DaemonSet daemonsets ds nsa
apps v1 ControllerRevision controllerrevisions - n
batch v1 Job jobs - nsa
batch v1 CronJob cronjobs cj nsa
autoscaling v2 HorizontalPodAutoscaler horizontalpodautoscalers hpa nsa
policy v1 PodDisruptionBudget poddisruptionbudgets pdb ns
networking.k8s.io v1 Ingress ingresses ing ns
networking.k8s.io v1 IngressClass ingressclasses - -
networking.k8s.io v1 NetworkPolicy networkpolicies netpol n
discovery.k8s.io v1 EndpointSlice endpointslices - n
coordination.k8s.io v1 Lease leases - n
events.k8s.io v1 Event events ev n
rbac.authorization.k8s.io v1 Role roles - n
rbac.authorization.k8s.io v1 RoleBinding rolebindings - n
rbac.authorization.k8s.io v1 ClusterRole clusterroles - -
rbac.authorization.k8s.io v1 ClusterRoleBinding clusterrolebindings - -
admissionregistration.k8s.io v1 MutatingWebhookConfiguration mutatingwebhookconfigurations - -
admissionregistration.k8s.io v1 ValidatingWebhookConfiguration validatingwebhookconfigurations - -
apiextensions.k8s.io v1 CustomResourceDefinition customresourcedefinitions crd,crds s
apiregistration.k8s.io v1 APIService apiservices - s
scheduling.k8s.io v1 PriorityClass priorityclasses pc -
storage.k8s.io v1 StorageClass storageclasses sc -
storage.k8s.io v1 CSIDriver csidrivers - -
certificates.k8s.io v1 CertificateSigningRequest certificatesigningrequests csr s
authentication.k8s.io v1 TokenReview tokenreviews - -
authentication.k8s.io v1 SelfSubjectReview selfsubjectreviews - -
authorization.k8s.io v1 SelfSubjectAccessReview selfsubjectaccessreviews - -
authorization.k8s.io v1 SelfSubjectRulesReview selfsubjectrulesreviews - -
authorization.k8s.io v1 SubjectAccessReview subjectaccessreviews - -
authorization.k8s.io v1 LocalSubjectAccessReview localsubjectaccessreviews - n
";

/// The kinds that are there without any definition.
pub fn built_in() -> Vec<Kind> {
    TABLE.lines().filter(|l| !l.is_empty()).map(row).collect()
}

fn row(line: &str) -> Kind {
    let mut words = line.split(' ');
    let mut next = || words.next().unwrap_or_default().to_owned();
    let (group, version, kind, plural, short, flags) =
        (next(), next(), next(), next(), next(), next());
    let replicas = flags.contains('r').then(|| Scale {
        spec: ".spec.replicas".into(),
        status: ".status.replicas".into(),
        selector: None,
    });
    Kind {
        singular: kind.to_lowercase(),
        short: match short.as_str() {
            "-" => Vec::new(),
            some => some.split(',').map(str::to_owned).collect(),
        },
        categories: if flags.contains('a') {
            vec!["all".into()]
        } else {
            Vec::new()
        },
        namespaced: flags.contains('n'),
        status: flags.contains('s'),
        scale: replicas,
        custom: None,
        group,
        version,
        plural,
        kind,
    }
}

/// One row for every served version of a custom resource definition.
pub fn of_definition(crd: &Value) -> Vec<Kind> {
    let spec = &crd["spec"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let list = |v: &Value| -> Vec<String> {
        v.as_array()
            .map(|a| a.iter().map(text).collect())
            .unwrap_or_default()
    };
    let names = &spec["names"];
    let kind = text(&names["kind"]);
    let singular = match text(&names["singular"]) {
        empty if empty.is_empty() => kind.to_lowercase(),
        singular => singular,
    };
    spec["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|v| v["served"] == true)
        .map(|version| {
            let subs = &version["subresources"];
            let scale = &subs["scale"];
            Kind {
                group: text(&spec["group"]),
                version: text(&version["name"]),
                plural: text(&names["plural"]),
                singular: singular.clone(),
                kind: kind.clone(),
                short: list(&names["shortNames"]),
                categories: list(&names["categories"]),
                namespaced: spec["scope"] == "Namespaced",
                status: subs["status"].is_object(),
                scale: scale.is_object().then(|| Scale {
                    spec: text(&scale["specReplicasPath"]),
                    status: text(&scale["statusReplicasPath"]),
                    selector: scale["labelSelectorPath"].as_str().map(str::to_owned),
                }),
                custom: Some(version.clone()),
            }
        })
        .collect()
}

/// Orders versions as clients prefer them: `v2`, `v1`, `v1beta1`, `v1alpha1`, others by name.
pub fn version_rank(version: &str) -> (u8, i64, i64) {
    let Some(rest) = version.strip_prefix('v') else {
        return (3, 0, 0);
    };
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (major, rest) = rest.split_at(end);
    let Ok(major) = major.parse::<i64>() else {
        return (3, 0, 0);
    };
    let (stage, minor) = match rest {
        "" => (0, ""),
        other => match (other.strip_prefix("beta"), other.strip_prefix("alpha")) {
            (Some(n), _) => (1, n),
            (_, Some(n)) => (2, n),
            _ => return (3, 0, 0),
        },
    };
    (stage, -major, -minor.parse::<i64>().unwrap_or(0))
}
