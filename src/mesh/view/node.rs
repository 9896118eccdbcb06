//! A node as it is known.

use std::borrow::Cow;

use crate::mesh::{Locality, Node, World};

/// `node` with what is known of it beside what it says: the labels that its registration was given, and
/// the place of its machine.
pub(super) fn completed<'n>(world: &World, node: &'n Node) -> Cow<'n, Node> {
    let key = (node.namespace.clone(), node.name.clone());
    let Some(instance) = world.instances.get(&key) else {
        return Cow::Borrowed(node);
    };
    let own = &node.labels;
    let more = || {
        let all = instance.labels.iter();
        all.filter(|(label, _)| !own.contains_key(*label))
    };
    let placed = node.locality != Locality::default();
    if more().next().is_none() && (placed || instance.locality == node.locality) {
        return Cow::Borrowed(node);
    }
    let mut labels = own.clone();
    labels.extend(more().map(|(label, value)| (label.clone(), value.clone())));
    Cow::Owned(Node {
        labels,
        locality: if placed {
            node.locality.clone()
        } else {
            instance.locality.clone()
        },
        ..node.clone()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mesh::{Client, Instance, NodeKind};

    fn node() -> Node {
        Node {
            id: "sidecar~192.0.2.1~a-1.one~one.svc.cluster.local".to_owned(),
            client: Client::Meshctl,
            kind: NodeKind::Sidecar,
            name: "a-1".to_owned(),
            namespace: "one".to_owned(),
            service_account: "a".to_owned(),
            workload: "a".to_owned(),
            labels: [].into(),
            locality: Locality::default(),
            address: "192.0.2.1".parse().unwrap(),
            outbound: "127.0.0.1:15001".parse().unwrap(),
            inbound: "127.0.0.1:15006".parse().unwrap(),
            transparent: true,
            applications: Vec::new(),
        }
    }

    #[test]
    fn a_node_is_what_it_says_and_what_is_known_of_it() {
        let node = node();
        let label = |value: &str| [("a".to_owned(), value.to_owned())].into();
        let json = serde_json::json!({
            "name": node.name, "namespace": node.namespace, "workload": "w", "serviceAccount": "s",
            "labels": {"a": "known", "b": "known"}, "address": "192.0.2.1", "health": "healthy",
            "locality": {"region": "r1", "zone": "z1", "subzone": ""},
        });
        let instance: Instance = serde_json::from_value(json).unwrap();
        let key = (node.namespace.clone(), node.name.clone());
        let world = World {
            instances: [(key, Arc::new(instance))].into(),
            ..World::default()
        };
        let silent = Node {
            labels: label("own"),
            locality: Locality::default(),
            ..node.clone()
        };
        let known = completed(&world, &silent);
        assert_eq!(
            (known.labels["a"].as_str(), known.labels["b"].as_str()),
            ("own", "known")
        );
        assert_eq!(known.locality.region, "r1");
        let placed = Node {
            locality: Locality {
                region: "r2".to_owned(),
                ..Locality::default()
            },
            ..silent.clone()
        };
        assert_eq!(completed(&world, &placed).locality, placed.locality);
        assert!(matches!(
            completed(&World::default(), &silent),
            Cow::Borrowed(_)
        ));
    }
}
