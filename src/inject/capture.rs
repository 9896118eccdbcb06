//! What of a pod's traffic is captured, as arguments of its init container, which is this program.

use ipnet::IpNet;
use serde_json::{Value, json};

use super::InjectConfig;

/// All, or only some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Which<T> {
    #[default]
    All,
    Only(Vec<T>),
}

/// What is captured and what is left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Capture {
    pub(super) inbound: Which<u16>,
    pub(super) exclude_inbound: Vec<u16>,
    pub(super) ranges: Which<IpNet>,
    pub(super) exclude_ranges: Vec<IpNet>,
    /// Captured wherever they are, beside `ranges`.
    pub(super) outbound_ports: Vec<u16>,
    pub(super) exclude_outbound: Vec<u16>,
    pub(super) exclude_interfaces: Vec<String>,
}

/// The arguments of `meshctl pod capture`.
fn args(config: &InjectConfig, capture: &Capture, (uid, gid): (u32, u32)) -> Vec<String> {
    fn list<T: ToString>(items: &[T]) -> String {
        let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
        texts.join(",")
    }
    let mut args = vec![
        "pod".to_owned(),
        "capture".to_owned(),
        format!("--proxy-uid={uid}"),
        format!("--proxy-gid={gid}"),
        format!("--inbound-port={}", config.inbound_port),
        format!("--outbound-port={}", config.outbound_port),
    ];
    if !config.capture_dns {
        args.push("--no-dns".to_owned());
    }
    if let Which::Only(ports) = &capture.inbound {
        args.push(format!("--only-inbound-ports={}", list(ports)));
    }
    if let Which::Only(ranges) = &capture.ranges {
        args.push(format!("--only-outbound-ranges={}", list(ranges)));
        if !capture.outbound_ports.is_empty() {
            args.push(format!(
                "--outbound-ports={}",
                list(&capture.outbound_ports)
            ));
        }
    }
    let mut except = |flag: &str, items: String| {
        if !items.is_empty() {
            args.push(format!("{flag}={items}"));
        }
    };
    except("--exclude-inbound-ports", list(&capture.exclude_inbound));
    except("--exclude-outbound-ports", list(&capture.exclude_outbound));
    except("--exclude-outbound-ranges", list(&capture.exclude_ranges));
    except("--exclude-interfaces", list(&capture.exclude_interfaces));
    args
}

/// The init container. It alone has a capability, and is gone before the application starts.
pub(super) fn init(
    config: &InjectConfig,
    (image, capture): (&str, &Capture),
    ids: (u32, u32),
) -> Value {
    json!({
        "name": super::pod::INIT,
        "image": image,
        "command": ["meshctl"],
        "args": args(config, capture, ids),
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "limits": {"cpu": config.cpu.1, "memory": config.memory.1},
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}
