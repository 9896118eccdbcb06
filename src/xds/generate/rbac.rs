//! Arbitrary rules of who may do what.

use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use super::route::{claim, header_matches, text_match};
use super::{ip, text, word};
use crate::mesh::rbac::{Action, Entry, PathTemplate, Rbac, Rules, Term};
use crate::mesh::route::TextMatch;

pub(super) fn rbac() -> impl Strategy<Value = Rbac> {
    let rules = || option::of(rules().prop_map(Arc::new));
    (rules(), rules(), text(), text()).prop_map(|(rules, shadow, stat_prefix, shadow_prefix)| {
        Rbac {
            rules,
            shadow,
            stat_prefix,
            shadow_prefix,
        }
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    let action = prop_oneof![Just(Action::Allow), Just(Action::Deny), Just(Action::Log)];
    let entry = (
        vec(nested(permission().boxed()), 1..3),
        vec(nested(principal().boxed()), 1..3),
    )
        .prop_map(|(permissions, principals)| Entry {
            permissions,
            principals,
        });
    (action, btree_map(word(), entry, 0..3))
        .prop_map(|(action, policies)| Rules { action, policies })
}

fn nested(leaf: BoxedStrategy<Term>) -> impl Strategy<Value = Term> {
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 1..3).prop_map(Term::All),
            vec(inner.clone(), 1..3).prop_map(Term::OneOf),
            inner.prop_map(|term| Term::Not(Box::new(term))),
        ]
    })
}

fn net() -> impl Strategy<Value = ipnet::IpNet> {
    (ip(), 0..=32_u8).prop_map(|(ip, length)| {
        ipnet::IpNet::new(ip, length).unwrap_or_else(|_| ipnet::IpNet::from(ip))
    })
}

/// What both sides may say.
fn common() -> impl Strategy<Value = Term> {
    prop_oneof![
        Just(Term::Any),
        header_matches().prop_map(|all| match all.into_iter().next() {
            Some(header) => Term::Header(header),
            None => Term::Any,
        }),
        text_match().prop_map(Term::Path),
        claim().prop_map(Term::Claim),
    ]
}

fn permission() -> impl Strategy<Value = Term> {
    let host = text_match().prop_map(|value| match value {
        TextMatch::Regex(_) => Term::Host(TextMatch::Present),
        value => Term::Host(value),
    });
    prop_oneof![
        common(),
        host,
        net().prop_map(Term::To),
        (any::<u16>(), 0..4_u16)
            .prop_map(|(first, more)| Term::ToPorts(first, first.saturating_add(more))),
        text_match().prop_map(Term::ServerName),
        "/[a-z]{1,4}(/\\*){0,2}(/\\*\\*)?"
            .prop_map(|text| PathTemplate::new(&text).map_or(Term::Any, Term::Template)),
    ]
}

fn principal() -> impl Strategy<Value = Term> {
    prop_oneof![
        common(),
        text_match().prop_map(Term::Caller),
        net().prop_map(Term::From),
        net().prop_map(Term::Behind),
    ]
}
