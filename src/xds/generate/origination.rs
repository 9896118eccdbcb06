//! TLS to servers that are no peers of the mesh, at random.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::mesh::origination::{
    Asks, KeyPair, NameMatch, Named, Origination, Pem, Roots, Shown, Verify,
};

fn file() -> impl Strategy<Value = Pem> {
    "/[a-z]{1,6}[.]pem".prop_map(Pem::File)
}

fn pem() -> impl Strategy<Value = Pem> {
    prop_oneof![file(), "[A-Z]{1,8}".prop_map(Pem::Inline)]
}

fn name() -> impl Strategy<Value = NameMatch> {
    let exact = select(vec![
        "api.example.com",
        "spiffe://td/ns/a/sa/b",
        "192.0.2.1",
        "fd00::1",
    ]);
    let prefix = select(vec!["api.", "spiffe://td/", "10."]);
    prop_oneof![
        exact.prop_map(|name| NameMatch::Exact(name.to_owned())),
        prefix.prop_map(|begin| NameMatch::Prefix(begin.to_owned())),
    ]
}

pub(super) fn origination() -> impl Strategy<Value = Origination> {
    let asks = prop_oneof![
        Just(Asks::Requested),
        select(vec!["", "api.example.com"]).prop_map(|name| Asks::Name(name.to_owned())),
    ];
    let roots = prop_oneof![Just(Roots::System), pem().prop_map(Roots::Given)];
    let names = prop_oneof![
        1 => Just(Named::Asked),
        2 => vec(name(), 0..3).prop_map(Named::Any)
    ];
    let verify = (roots, option::of(pem()), names).prop_map(|(roots, revoked, names)| Verify {
        roots,
        revoked,
        names,
    });
    let pair = (pem(), file()).prop_map(|(chain, key)| Shown::Pair(KeyPair { chain, key }));
    let secret = "[a-z]{1,6}".prop_map(|name| Shown::Secret(format!("kubernetes://own/{name}")));
    let shown = prop_oneof![pair, secret];
    (asks, option::of(verify), option::of(shown)).prop_map(|(asks, mut verify, certificate)| {
        // Nobody can be held to a name that was not asked for.
        if asks != Asks::Requested
            && let Some(verify) = &mut verify
            && verify.names == Named::Asked
        {
            verify.names = Named::Any(Vec::new());
        }
        Origination {
            asks,
            verify,
            certificate,
        }
    })
}
