//! Which calls of one proxy leave spans: what is said of the mesh, its namespace and its workload, the
//! narrowest last.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::told::holding;
use crate::mesh::listener::{ChainAction, Direction, Listener};
use crate::mesh::tracing::{CustomTag, Rule, Rules, SpanFormat, SpanSink, TagFrom, Tracing, USUAL};
use crate::mesh::world::Config;
use crate::mesh::{Node, NodeKind};

/// Puts into `listener` what holds for the calls that `node` takes there. A sink whose cluster is not among
/// those that `knows` holds for gets nothing: Envoy refuses what names one that it does not have.
pub(super) fn shape(
    config: &Config,
    node: &Node,
    listener: &mut Arc<Listener>,
    knows: &dyn Fn(&str) -> bool,
) {
    let rules = &config.tracing;
    if rules.base.is_none() && rules.all.is_empty() {
        return;
    }
    // What comes to a gateway is a call of its own, as Istio has it.
    let client = node.kind == NodeKind::Gateway || listener.direction == Direction::Outbound;
    let Some(tracing) = of(config, rules, node, client) else {
        return;
    };
    let tracing = Arc::new(Tracing {
        to: tracing.to.filter(|sink| knows(&sink.cluster)),
        ..tracing
    });
    let listener = Arc::make_mut(listener);
    let chains = listener
        .chains
        .iter_mut()
        .chain(&mut listener.default_chain);
    for chain in chains {
        if let ChainAction::Http { options, .. } | ChainAction::Detect { options, .. } =
            &mut chain.action
        {
            Arc::make_mut(options).tracing = Some(Arc::clone(&tracing));
        }
    }
}

fn of(config: &Config, rules: &Rules, node: &Node, client: bool) -> Option<Tracing> {
    let told = holding(config, &rules.all, node, client);
    let own = told.into_iter().flat_map(|told| &told.rules);
    let holds = |rule: &&Rule| if client { rule.client } else { rule.server };
    let all: Vec<&Rule> = rules.base.iter().chain(own).filter(holds).collect();
    if all.is_empty() {
        return None;
    }
    let mut tracing = Tracing {
        sampling: USUAL,
        ..Tracing::default()
    };
    let (mut tags, mut istio_tags) = (&BTreeMap::new(), true);
    for rule in all {
        if let Some(to) = &rule.to {
            tracing.to = to.as_ref().map(|(sink, _)| named(sink, node));
            let longest = to.as_ref().and_then(|(_, longest)| *longest);
            tracing.max_path = longest.unwrap_or(tracing.max_path);
        }
        tracing.sampling = rule.sampling.unwrap_or(tracing.sampling);
        tracing.off = rule.off.unwrap_or(tracing.off);
        tracing.max_path = rule.max_path.unwrap_or(tracing.max_path);
        istio_tags = rule.istio_tags.unwrap_or(istio_tags);
        if !rule.tags.is_empty() {
            tags = &rule.tags;
        }
    }
    if istio_tags {
        tracing.tags = self::istio_tags(config, node);
    }
    tracing.tags.extend(tags.clone());
    Some(tracing)
}

/// With what the workload is called there.
fn named(sink: &SpanSink, node: &Node) -> SpanSink {
    let zipkin = matches!(sink.speaks, SpanFormat::Zipkin { .. });
    SpanSink {
        // Zipkin's clients have one name, which is the node's own.
        service: if zipkin {
            String::new()
        } else {
            format!("{}.{}", node.canonical_service(), node.namespace)
        },
        ..sink.clone()
    }
}

/// The tags that Istio sets.
fn istio_tags(config: &Config, node: &Node) -> BTreeMap<String, CustomTag> {
    let tag = |name: &str, value: &str| {
        let tag = CustomTag {
            from: TagFrom::Literal,
            value: value.to_owned(),
            default: String::new(),
        };
        (name.to_owned(), tag)
    };
    [
        tag("istio.canonical_revision", node.canonical_revision()),
        tag("istio.canonical_service", node.canonical_service()),
        tag("istio.cluster_id", "Kubernetes"),
        tag("istio.mesh_id", &config.trust_domain),
        tag("istio.namespace", &node.namespace),
    ]
    .into()
}
