//! WorkloadEntry, and WorkloadGroup, which is a template for what registers itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::service_entry::locality;
use crate::mesh::Locality;
use crate::resource::reader::{Fields, Value};

/// A workload that somebody wrote down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Where it is.
    pub address: IpAddr,
    /// What else is known of it.
    pub about: About,
}

/// What is the same for workloads that are written down and those that register.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// Ports by the name of a service's port, where they are others than it says.
    pub ports: BTreeMap<String, u16>,
    /// For selectors.
    pub labels: BTreeMap<String, String>,
    /// Where it is.
    pub locality: Locality,
    /// Relative share; `None` where it does not say.
    pub weight: Option<u32>,
    /// Who it is; may be empty.
    pub account: String,
}

/// A WorkloadGroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkloadGroup {
    /// What is known of each of its workloads.
    pub about: About,
}

pub(in crate::resource) fn workload_entry(fields: &Fields<'_>) -> WorkloadEntry {
    // One without an address is a finding, and no object.
    let mut entry = WorkloadEntry {
        address: Ipv4Addr::UNSPECIFIED.into(),
        about: About::default(),
    };
    if let Some(spec) = fields.require("spec") {
        let spec = spec.fields();
        entry.address = address(&spec).unwrap_or(entry.address);
        entry.about = about(&spec);
        spec.finish();
    }
    entry
}

fn address(spec: &Fields<'_>) -> Option<IpAddr> {
    let Some(value) = spec.get("address") else {
        if spec.get("network").is_some() {
            spec.value.refuse(
                "a workload that is known by its network only is not honoured by meshctl yet",
                "address: 10.1.2.3",
            );
        } else {
            spec.value
                .error_hint("field \"address\" is missing", "address: 10.1.2.3");
        }
        return None;
    };
    let text = value.text()?;
    let found = text.parse().ok();
    if found.is_none() && text.starts_with("unix:") {
        value.refuse(
            "a Unix socket is not honoured by meshctl yet",
            "an address and ports",
        );
    } else if found.is_none() {
        value.refuse(
            format!("{text:?} is no address, and names are not honoured by meshctl yet"),
            "an address, or a ServiceEntry with resolution: DNS and the name among its endpoints",
        );
    }
    found
}

fn about(spec: &Fields<'_>) -> About {
    let mut ports = BTreeMap::new();
    if let Some(value) = spec.get("ports") {
        for (name, value) in value.entries() {
            ports.extend(value.port().map(|port| (name.to_owned(), port)));
        }
    }
    spec.ignore("network", "meshctl reaches all workloads directly");
    About {
        ports,
        labels: spec.texts("labels"),
        locality: locality(&spec.text("locality").unwrap_or_default()),
        weight: spec.count("weight", u32::MAX),
        account: spec.text("serviceAccount").unwrap_or_default(),
    }
}

pub(in crate::resource) fn workload_group(fields: &Fields<'_>) -> WorkloadGroup {
    let Some(spec) = fields.require("spec") else {
        return WorkloadGroup::default();
    };
    let spec = spec.fields();
    let mut labels = BTreeMap::new();
    if let Some(value) = spec.get("metadata") {
        let fields = value.fields();
        labels = fields.texts("labels");
        let _annotations = fields.texts("annotations");
        fields.finish();
    }
    let mut group = WorkloadGroup::default();
    if let Some(value) = spec.require("template") {
        let template = value.fields();
        for name in ["address", "labels"] {
            if let Some(value) = template.get(name) {
                wrong_place(&value, name);
            }
        }
        group.about = about(&template);
        template.finish();
    }
    group.about.labels = labels;
    spec.refuse(
        "probe",
        "an instance that registers says itself how it is: see `meshctl proxy --help`",
    );
    spec.finish();
    group
}

fn wrong_place(value: &Value<'_>, name: &str) {
    let hint = if name == "labels" {
        "labels of its workloads are in spec.metadata.labels"
    } else {
        "each workload tells its address when it registers"
    };
    value.error_hint(format!("a template has no {name}"), hint);
}
