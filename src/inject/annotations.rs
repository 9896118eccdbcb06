//! What a pod asks of its sidecar by annotations: Istio's, each honoured, or answered by name.
//!
//! What would change where traffic goes or who may do what, and is not done, is an error; what only tunes
//! and has no counterpart is said and left.

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::capture::{Capture, Which};
use super::report::Report;

const SIDECAR: &str = "sidecar.istio.io/";
const TRAFFIC: &str = "traffic.sidecar.istio.io/";
const READINESS: &str = "readiness.status.sidecar.istio.io/";
const STATUS_PORT: &str = "status.sidecar.istio.io/port";
const TEMPLATES: &str = "inject.istio.io/";
const MERGE: &str = "prometheus.istio.io/";
/// Where the proxy answers for the application if nothing else is said: rewritten probes and merged metrics.
pub(super) const OWN_STATUS_PORT: u16 = 15020;

/// What the annotations of a pod come to.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) capture: Capture,
    pub(super) cpu: Resource,
    pub(super) memory: Resource,
    pub(super) image: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) control_plane: Option<String>,
    pub(super) rewrite_probes: Option<bool>,
    pub(super) merge_metrics: Option<bool>,
    /// Where the proxy answers for the application; 0 is nowhere.
    pub(super) status_port: Option<u16>,
    pub(super) native_sidecar: Option<bool>,
    /// The proxy may listen on ports below 1024.
    pub(super) low_ports: bool,
    pub(super) volumes: Vec<Value>,
    pub(super) volume_mounts: Vec<Value>,
    /// Fields of the readiness probe.
    pub(super) readiness: Map<String, Value>,
}

/// What a container asks for and may have; what is absent is as the mesh has it.
#[derive(Debug, Default)]
pub(super) struct Resource {
    pub(super) request: Option<String>,
    pub(super) limit: Option<String>,
}

impl Wishes {
    pub(super) fn of(template: &Value, report: &mut Report) -> Self {
        let mut wishes = Self::default();
        let annotations = template
            .pointer("/metadata/annotations")
            .and_then(Value::as_object);
        for (key, value) in annotations.into_iter().flatten() {
            let Some(text) = value.as_str() else {
                if key.contains("istio.io/") {
                    report.wrong(
                        format!("annotation {key} is not a text"),
                        "put the value in quotes",
                    );
                }
                continue;
            };
            if let Err((message, hint)) = wishes.read(key, text, report) {
                report.wrong(format!("annotation {key}: {text:?} {message}"), hint);
            }
        }
        wishes
    }

    /// Reads one annotation; what is wrong with it, and what would be right.
    fn read(
        &mut self,
        key: &str,
        text: &str,
        report: &mut Report,
    ) -> Result<(), (&'static str, &'static str)> {
        if let Some(name) = key.strip_prefix(TRAFFIC) {
            return self.traffic(key, name, text, report);
        }
        if let Some(name) = key.strip_prefix(READINESS) {
            return self.ready(key, name, text, report);
        }
        if key == STATUS_PORT {
            self.status_port = text.parse().ok();
            return match self.status_port {
                Some(_) => Ok(()),
                None => Err((
                    "is no port",
                    "15020, or 0 for neither probes nor metrics of the application",
                )),
            };
        }
        if let Some(name) = key.strip_prefix(TEMPLATES) {
            if name == "templates" && text.trim() == "sidecar" {
                return Ok(());
            }
            report.refuse(
                format!("annotation {key}: {text:?} is not honoured by meshctl"),
                "remove it: there is one template, \"sidecar\"; a gateway is `meshctl proxy --gateway`",
            );
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(MERGE) {
            if name == "merge-metrics" {
                self.merge_metrics = Some(boolean(text)?);
            } else {
                report.refuse(
                    format!("annotation {key} is not honoured by meshctl"),
                    "one port is merged: prometheus.io/port and prometheus.io/path name it",
                );
            }
            return Ok(());
        }
        match key {
            "istio.io/reroute-virtual-interfaces" => {
                report.refuse(
                    format!("annotation {key} is not honoured by meshctl"),
                    "remove it: calls of virtual machines in a pod are captured as calls to it",
                );
                return Ok(());
            }
            "proxy.istio.io/overrides" => {
                report.ignore(
                    format!("annotation {key} is of an injection by Istio and has no effect"),
                    "remove it; a container named meshctl-proxy is laid over the sidecar",
                );
                return Ok(());
            }
            _ => {}
        }
        match key.strip_prefix(SIDECAR) {
            Some(name) => self.sidecar(key, name, text, report),
            None => Ok(()),
        }
    }

    fn sidecar(
        &mut self,
        key: &str,
        name: &str,
        text: &str,
        report: &mut Report,
    ) -> Result<(), (&'static str, &'static str)> {
        match name {
            // Read elsewhere.
            "inject" | "status" => {}
            "proxyCPU" => self.cpu.request = Some(quantity(text)?),
            "proxyCPULimit" => self.cpu.limit = Some(quantity(text)?),
            "proxyMemory" => self.memory.request = Some(quantity(text)?),
            "proxyMemoryLimit" => self.memory.limit = Some(quantity(text)?),
            "proxyImage" => {
                if text.is_empty() || text.contains(char::is_whitespace) {
                    return Err(("is not an image", "registry.example.com/meshctl:1.0"));
                }
                self.image = Some(text.to_owned());
            }
            "logLevel" => self.log_level = Some(level(text)?.to_owned()),
            "interceptionMode" => interception(key, text, report)?,
            "rewriteAppHTTPProbers" => self.rewrite_probes = Some(boolean(text)?),
            "nativeSidecar" => self.native_sidecar = Some(boolean(text)?),
            "capNetBindService" => self.low_ports = boolean(text)?,
            "discoveryAddress" => {
                let is_one = text.rsplit_once(':').is_some_and(|(host, port)| {
                    !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
                });
                if !is_one {
                    return Err(("is not HOST:PORT", "meshctl.meshctl-system.svc:15012"));
                }
                self.control_plane = Some(text.to_owned());
            }
            "userVolume" => self.volumes = named(text, |volume| volume.len() > 1)?,
            "userVolumeMount" => {
                self.volume_mounts = named(text, |mount| {
                    mount.get("mountPath").is_some_and(Value::is_string)
                })?;
            }
            "bootstrapOverride" => report.refuse(
                format!("annotation {key} is not honoured by meshctl"),
                "remove it: the proxy is no Envoy and has no bootstrap",
            ),
            "proxyImageType"
            | "componentLogLevel"
            | "agentLogLevel"
            | "statsHistogramBuckets"
            | "statsHistogramBins"
            | "statsInclusionPrefixes"
            | "statsInclusionSuffixes"
            | "statsInclusionRegexps"
            | "statsFlushInterval"
            | "statsEvictionInterval"
            | "statsCompression"
            | "extraStatTags" => report.ignore(
                format!("annotation {key} has no effect on meshctl's proxy"),
                match name {
                    "proxyImageType" => {
                        "there is one image; sidecar.istio.io/proxyImage names another"
                    }
                    "componentLogLevel" | "agentLogLevel" => {
                        "sidecar.istio.io/logLevel is for the whole proxy"
                    }
                    _ => "every proxy reports Istio's standard metrics without it",
                },
            ),
            _ => report.ignore(
                format!("annotation {key} is known to no mesh"),
                "look for a slip of the pen, or remove it",
            ),
        }
        Ok(())
    }

    fn traffic(
        &mut self,
        key: &str,
        name: &str,
        text: &str,
        report: &mut Report,
    ) -> Result<(), (&'static str, &'static str)> {
        let capture = &mut self.capture;
        match name {
            "includeInboundPorts" => capture.inbound = which(text, ports)?,
            "excludeInboundPorts" => capture.exclude_inbound = ports(text)?,
            "includeOutboundIPRanges" => capture.ranges = which(text, ranges)?,
            "excludeOutboundIPRanges" => capture.exclude_ranges = ranges(text)?,
            "includeOutboundPorts" => {
                // Beside the ranges, as with Istio: these ports are captured wherever they are.
                capture.outbound_ports = ports(text)?;
            }
            "excludeOutboundPorts" => capture.exclude_outbound = ports(text)?,
            "excludeInterfaces" => {
                let names: Vec<String> = parts(text).map(str::to_owned).collect();
                let is_one = |name: &String| {
                    name.len() < 16 && !name.contains(['/', ' ', '"', '*']) && name != "lo"
                };
                if !names.iter().all(is_one) {
                    return Err(("has no name of an interface", "names of at most 15 letters, as net1"));
                }
                capture.exclude_interfaces = names;
            }
            "kubevirtInterfaces" => report.refuse(
                format!("annotation {key} is not honoured by meshctl"),
                "remove it: calls of virtual machines in a pod are captured as calls to it",
            ),
            _ => report.refuse(
                format!("annotation {key} is known to no mesh"),
                "include or exclude: InboundPorts, OutboundPorts, OutboundIPRanges; excludeInterfaces",
            ),
        }
        Ok(())
    }

    fn ready(
        &mut self,
        key: &str,
        name: &str,
        text: &str,
        report: &mut Report,
    ) -> Result<(), (&'static str, &'static str)> {
        match name {
            "initialDelaySeconds" | "periodSeconds" | "failureThreshold" => {
                let number: i32 = text
                    .parse()
                    .ok()
                    .filter(|number| *number >= i32::from(name != "initialDelaySeconds"))
                    .ok_or((
                        "is no such number",
                        "a whole number of seconds or times, as 5",
                    ))?;
                self.readiness.insert(name.to_owned(), json!(number));
            }
            "applicationPorts" => report.ignore(
                format!("annotation {key} has no effect on meshctl's proxy"),
                "remove it: an instance takes calls when its application listens",
            ),
            _ => report.ignore(
                format!("annotation {key} is known to no mesh"),
                "initialDelaySeconds, periodSeconds or failureThreshold",
            ),
        }
        Ok(())
    }
}

fn interception(
    key: &str,
    text: &str,
    report: &mut Report,
) -> Result<(), (&'static str, &'static str)> {
    match text {
        "REDIRECT" => {}
        "TPROXY" => report.refuse(
            format!("annotation {key}: {text:?} is not honoured by meshctl"),
            "REDIRECT; the application sees the caller's address in X-Forwarded-For",
        ),
        "NONE" => report.refuse(
            format!("annotation {key}: {text:?} is not honoured by meshctl"),
            "capture nothing: traffic.sidecar.istio.io/includeInboundPorts: \"\" and includeOutboundIPRanges: \"\"",
        ),
        _ => return Err(("is no way of capture", "REDIRECT")),
    }
    Ok(())
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

fn which<T>(
    text: &str,
    read: impl Fn(&str) -> Result<Vec<T>, (&'static str, &'static str)>,
) -> Result<Which<T>, (&'static str, &'static str)> {
    if text.trim() == "*" {
        Ok(Which::All)
    } else {
        read(text).map(Which::Only)
    }
}

fn ports(text: &str) -> Result<Vec<u16>, (&'static str, &'static str)> {
    let ports: Result<Vec<u16>, _> = parts(text).map(str::parse).collect();
    ports.ok().filter(|ports| !ports.contains(&0)).ok_or((
        "is no list of ports",
        "ports with commas between them, as 5432,6379",
    ))
}

fn ranges(text: &str) -> Result<Vec<IpNet>, (&'static str, &'static str)> {
    let one = |part: &str| {
        let address = part.parse().map(|address: std::net::IpAddr| address.into());
        part.parse().or(address).map(|range: IpNet| range.trunc())
    };
    let ranges: Result<Vec<IpNet>, _> = parts(text).map(one).collect();
    ranges.map_err(|_| {
        (
            "is no list of address ranges",
            "CIDRs with commas between them, as 10.0.0.0/8,fd00::/8",
        )
    })
}

fn boolean(text: &str) -> Result<bool, (&'static str, &'static str)> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(("is neither true nor false", "\"true\"")),
    }
}

fn level(text: &str) -> Result<&'static str, (&'static str, &'static str)> {
    match text {
        "trace" => Ok("trace"),
        "debug" => Ok("debug"),
        "info" => Ok("info"),
        "warning" | "warn" => Ok("warn"),
        "error" | "critical" => Ok("error"),
        "off" => Ok("off"),
        _ => Err(("is no level", "trace, debug, info, warning, error or off")),
    }
}

/// A quantity of Kubernetes: a number with a suffix.
fn quantity(text: &str) -> Result<String, (&'static str, &'static str)> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text.strip_prefix(digits).unwrap_or_default();
    let known = [
        "", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    let number: Result<f64, _> = digits.parse();
    if known.contains(&suffix) && number.is_ok_and(|number| number.is_finite() && number > 0.0) {
        Ok(text.to_owned())
    } else {
        Err(("is no quantity", "such as 100m, 0.5 or 128Mi"))
    }
}

/// Istio's form, a mapping from name to the rest, or a list of what has names.
fn named(
    text: &str,
    whole: impl Fn(&Map<String, Value>) -> bool,
) -> Result<Vec<Value>, (&'static str, &'static str)> {
    let wrong = (
        "is no JSON of named volumes or mounts",
        "{\"certs\": {\"secret\": {\"secretName\": \"certs\"}}} and {\"certs\": {\"mountPath\": \"/etc/certs\"}}",
    );
    let items: Vec<Value> = match serde_json::from_str(text).map_err(|_| wrong)? {
        Value::Array(items) => items,
        Value::Object(items) => items
            .into_iter()
            .map(|(name, rest)| {
                let mut item = Map::new();
                item.insert("name".to_owned(), Value::String(name));
                if let Value::Object(rest) = rest {
                    item.extend(rest);
                }
                Value::Object(item)
            })
            .collect(),
        _ => return Err(wrong),
    };
    let is_named = |item: &Value| {
        item.as_object().is_some_and(|item| {
            let name = item.get("name").and_then(Value::as_str);
            name.is_some_and(|name| !name.is_empty()) && whole(item)
        })
    };
    if items.iter().all(is_named) {
        Ok(items)
    } else {
        Err(wrong)
    }
}
