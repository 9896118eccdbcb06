//! Who called whom, as one side saw it, and how it was answered.

use crate::telemetry::names::ROUTE;
use crate::telemetry::shadow::SERVICE;

use super::sample::Sample;

/// What stands for names that there was no room for.
pub const OTHER: &str = "(other)";

/// The hundred of a status, such as 5 for 503; 0 where there is none: TCP, and requests that nobody answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(u8);

impl Class {
    /// The class of a status.
    pub fn of(status: u16) -> Self {
        Self(u8::try_from(status / 100).unwrap_or(0) % 10)
    }

    /// Reads what [`Self::name`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        (0..=9).map(Self).find(|class| class.name() == text)
    }

    /// Such as `5xx`.
    pub fn name(self) -> &'static str {
        match self.0 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            0 => "none",
            _ => "other",
        }
    }

    /// As one byte.
    pub(super) fn byte(self) -> u8 {
        self.0
    }

    /// Reads [`Self::byte`].
    pub(super) fn from_byte(byte: u8) -> Self {
        Self(byte % 10)
    }
}

/// What a cell counts for.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// Told by the caller's proxy (else by the called one's).
    pub by_source: bool,
    /// Calling workload, `name.namespace`; empty when it is not of the mesh.
    pub source: String,
    /// Called service, `name.namespace`.
    pub service: String,
    /// Called version.
    pub version: String,
    /// The caller's route, as its proxy labels it; empty where the called one tells.
    pub route: String,
    /// How it was answered.
    pub class: Class,
}

/// `name.namespace`, when there is a name.
pub(super) fn qualified(sample: &Sample<'_>, name: &str, namespace: &str) -> Option<String> {
    let name = known(sample, name)?;
    Some(match known(sample, namespace) {
        Some(namespace) => format!("{name}.{namespace}"),
        None => name.to_owned(),
    })
}

fn known<'s>(sample: &'s Sample<'_>, label: &str) -> Option<&'s str> {
    let value = sample.label(label);
    (value != "unknown" && !value.is_empty()).then_some(value)
}

impl Edge {
    /// The edge of a sample; none when it names no service.
    pub fn of(sample: &Sample<'_>) -> Option<Self> {
        Some(Self {
            by_source: sample.label("reporter") == "source",
            service: qualified(
                sample,
                "destination_service_name",
                "destination_service_namespace",
            )?,
            source: qualified(sample, "source_workload", "source_workload_namespace")
                .unwrap_or_default(),
            version: known(sample, "destination_canonical_revision")
                .or_else(|| known(sample, "destination_version"))
                .unwrap_or_default()
                .to_owned(),
            route: known(sample, ROUTE).unwrap_or_default().to_owned(),
            class: Class::of(sample.label("response_code").parse().unwrap_or(0)),
        })
    }

    /// Where answers to copies of a service's calls are counted: they are of all callers.
    pub(super) fn of_copies(sample: &Sample<'_>) -> Option<Self> {
        Some(Self {
            by_source: true,
            service: known(sample, SERVICE)?.to_owned(),
            ..Self::default()
        })
    }

    /// Where this edge is counted when there is no room for it. What decides how counts are read stays: which
    /// side told, whether the caller is of the mesh, how it was answered; and the service, while it may.
    #[must_use]
    pub fn folded(&self, keep_service: bool) -> Self {
        let other = |text: &str| if text.is_empty() { "" } else { OTHER }.to_owned();
        Self {
            by_source: self.by_source,
            source: other(&self.source),
            service: if keep_service {
                self.service.clone()
            } else {
                OTHER.to_owned()
            },
            version: other(&self.version),
            route: other(&self.route),
            class: self.class,
        }
    }

    /// Whether it stands for others.
    pub fn is_folded(&self) -> bool {
        [&self.source, &self.service, &self.version, &self.route]
            .into_iter()
            .any(|name| name == OTHER)
    }

    /// Bytes that it takes in memory behind an `Arc`, with what the allocator keeps beside each string.
    pub(super) fn bytes(&self) -> usize {
        let strings = [&self.source, &self.service, &self.version, &self.route];
        let text: usize = strings
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| text.capacity() + 16)
            .sum();
        size_of::<Self>() + 32 + text
    }
}
