//! Which references into other namespaces are permitted.

use crate::resource::gateway_api::{ObjectRef, ReferenceGrant};
use crate::resource::object::{Kind, Objects};

/// All ReferenceGrants, with their namespaces.
pub(super) struct Grants<'a>(Vec<(&'a str, &'a ReferenceGrant)>);

impl<'a> Grants<'a> {
    pub(super) fn of(objects: &'a Objects) -> Self {
        let grants = objects.values().filter_map(|object| match &object.body {
            Kind::ReferenceGrant(grant) => Some((object.metadata.namespace.as_str(), grant)),
            _ => None,
        });
        Self(grants.collect())
    }

    /// Whether a `kind` of the API in namespace `own` may refer to `to`.
    pub(super) fn permit(&self, (group, kind, own): (&str, &str, &str), to: &ObjectRef) -> bool {
        let namespace = to.namespace(own);
        namespace == own
            || self.0.iter().any(|(of, grant)| {
                *of == namespace
                    && grant.from.iter().any(|from| {
                        (&*from.group, &*from.kind, &*from.namespace) == (group, kind, own)
                    })
                    && grant.to.iter().any(|may| {
                        may.group == to.group
                            && may.kind == to.kind
                            && may.name.as_ref().is_none_or(|name| *name == to.name)
                    })
            })
    }
}
