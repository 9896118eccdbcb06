//! What the proxy answers for the application beside it: the kubelet's probes, which have no certificate of
//! the mesh, and its metrics, which are scraped together with the proxy's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;

use crate::mesh::health_check::{Check, CheckPolicy, GrpcCheck, HttpCheck, StatusRange, TcpCheck};
use crate::mesh::origination::Origination;
use crate::mesh::{Cluster, HealthCheck};
use crate::net::capture::own_source;
use crate::net::{self, ConnectOptions};
use crate::rt::Tasks;

use super::health::check::Verdict;
use super::health::probe::{Target, probe};
use super::origination::Originator;

/// Metrics of an application that are longer are not merged.
const MOST_METRICS: usize = 16 * 1024 * 1024;
/// How long an application has to give its metrics; scrapers wait 10 s.
const SCRAPE: Duration = Duration::from_secs(5);

/// What is asked of the proxy and answered by the application.
#[derive(Debug, Clone, Default)]
pub struct AppPages {
    /// By the path at which the proxy is asked.
    probes: BTreeMap<String, Arc<Question>>,
    metrics: Option<Metrics>,
    /// Where the application listens; loopback when absent.
    at: Option<IpAddr>,
}

/// Where the application gives its metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Its port.
    pub port: u16,
    /// With its slash.
    pub path: String,
}

#[derive(Debug)]
struct Question {
    port: u16,
    cluster: Arc<Cluster>,
    originator: Option<Arc<Originator>>,
}

/// A probe in the words of Kubernetes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    http_get: Option<HttpGet>,
    tcp_socket: Option<Port>,
    grpc: Option<Grpc>,
    timeout_seconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpGet {
    port: u16,
    #[serde(default)]
    path: String,
    #[serde(default)]
    scheme: String,
    #[serde(default)]
    http_headers: Vec<Field>,
}

#[derive(Debug, Deserialize)]
struct Field {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Deserialize)]
struct Port {
    port: u16,
}

#[derive(Debug, Deserialize)]
struct Grpc {
    port: u16,
    #[serde(default)]
    service: Option<String>,
}

impl AppPages {
    /// From the JSON that the injector writes: path at the proxy → probe, its port a number.
    pub fn new(probes: Option<&str>, metrics: Option<Metrics>) -> Result<Self, String> {
        let read: BTreeMap<String, Probe> = match probes {
            Some(text) => serde_json::from_str(text).map_err(|error| error.to_string())?,
            None => BTreeMap::new(),
        };
        let mut probes = BTreeMap::new();
        for (path, probe) in read {
            if !path.starts_with("/app-health/") && !path.starts_with("/app-lifecycle/") {
                return Err(format!("{path:?} is no path of a probe"));
            }
            let question = Question::of(probe).ok_or_else(|| format!("{path} asks nothing"))?;
            probes.insert(path, Arc::new(question));
        }
        Ok(Self {
            probes,
            metrics,
            at: None,
        })
    }

    /// Has the application asked at its pod's address, as the kubelet would: it need not listen on loopback.
    pub(super) fn ask_at(&mut self, address: IpAddr) {
        self.at = Some(address);
    }

    /// The application's `port`, and where it is asked from.
    fn place(&self, port: u16) -> (SocketAddr, Option<IpAddr>) {
        let ip = self.at.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        (SocketAddr::new(ip, port), self.at.map(own_source))
    }

    /// Asks the application what stands behind `path`; `None` where nothing does.
    pub(crate) async fn ask(
        &self,
        path: &str,
        tasks: &Tasks,
    ) -> Option<(StatusCode, &'static str)> {
        let question = Arc::clone(self.probes.get(path)?);
        let (address, from) = self.place(question.port);
        let target = Target {
            policy: Arc::clone(&question.cluster),
            address,
            hostname: String::new(),
            from,
            mtls: false,
            originator: question.originator.clone(),
            identity: None,
        };
        let (verdict, _) = probe(target, None, tasks.clone()).await;
        Some(match verdict {
            verdict if verdict.passed() => (StatusCode::OK, "the application is well\n"),
            Verdict::TooLate => (
                StatusCode::GATEWAY_TIMEOUT,
                "the application did not answer in time\n",
            ),
            Verdict::Unreachable => (
                StatusCode::BAD_GATEWAY,
                "the application cannot be reached\n",
            ),
            _ => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the application says that it is not well\n",
            ),
        })
    }

    /// Whether there are metrics to merge.
    pub(crate) fn has_metrics(&self) -> bool {
        self.metrics.is_some()
    }

    /// `own` with the application's metrics behind it; without them, and a comment that says why, when they
    /// cannot be had: the proxy's own are not to be lost with them.
    pub(crate) async fn merged(&self, own: String, tasks: &Tasks) -> String {
        let Some(metrics) = &self.metrics else {
            return own;
        };
        let place = self.place(metrics.port);
        let fetched = tokio::time::timeout(SCRAPE, fetch(metrics, place, tasks)).await;
        let fetched = fetched.unwrap_or_else(|_| Err("it did not answer in time".to_owned()));
        match fetched {
            Ok(text) => merge(own, &text),
            Err(error) => {
                let (port, path) = (metrics.port, &metrics.path);
                tracing::warn!(%error, port, path, "the application's metrics cannot be had");
                let error = error.replace(['\n', '\r'], " ");
                format!("{own}# The application's metrics at {port}{path} cannot be had: {error}\n")
            }
        }
    }
}

impl Question {
    fn of(probe: Probe) -> Option<Self> {
        let mut origination = None;
        let (port, check) = match probe {
            Probe {
                http_get: Some(get),
                ..
            } => {
                if get.scheme.eq_ignore_ascii_case("https") {
                    // As the kubelet does: a probe asks whether somebody is there, not who.
                    origination = Some(Origination {
                        asks: crate::mesh::origination::Asks::Name(String::new()),
                        verify: None,
                        certificate: None,
                    });
                }
                let mut check = HttpCheck {
                    host: "localhost".to_owned(),
                    path: get.path,
                    // As the kubelet judges.
                    expected_statuses: vec![StatusRange {
                        start: 200,
                        end: 400,
                    }],
                    response_buffer_size: Some(0),
                    ..HttpCheck::default()
                };
                for field in get.http_headers {
                    if field.name.eq_ignore_ascii_case("host") {
                        check.host = field.value;
                    } else {
                        check.headers.set.insert(field.name, field.value);
                    }
                }
                (get.port, Check::Http(Box::new(check)))
            }
            Probe {
                tcp_socket: Some(socket),
                ..
            } => (socket.port, Check::Tcp(TcpCheck::default())),
            Probe {
                grpc: Some(grpc), ..
            } => {
                let check = GrpcCheck {
                    service_name: grpc.service.unwrap_or_default(),
                    authority: "localhost".to_owned(),
                    ..GrpcCheck::default()
                };
                (grpc.port, Check::Grpc(check))
            }
            _ => return None,
        };
        let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1));
        let originator = origination
            .as_ref()
            .map(|origination| Originator::new(origination, None));
        let cluster = Cluster {
            name: "application".to_owned(),
            connect_timeout: timeout,
            origination: origination.map(Box::new),
            health_check: Some(HealthCheck {
                check,
                timeout,
                interval: timeout,
                initial_jitter: Duration::ZERO,
                interval_jitter: Duration::ZERO,
                interval_jitter_percent: 0,
                unhealthy_threshold: 1,
                healthy_threshold: 1,
                no_traffic_interval: timeout,
                no_traffic_healthy_interval: None,
                unhealthy_interval: None,
                unhealthy_edge_interval: None,
                healthy_edge_interval: None,
                reuse_connection: false,
                alt_port: None,
                policy: CheckPolicy::default(),
            }),
            ..Cluster::default()
        };
        Some(Self {
            port,
            cluster: Arc::new(cluster),
            originator,
        })
    }
}

async fn fetch(
    metrics: &Metrics,
    (at, from): (SocketAddr, Option<IpAddr>),
    tasks: &Tasks,
) -> Result<String, String> {
    let options = ConnectOptions {
        timeout: SCRAPE,
        from,
    };
    let stream = net::connect(at, options)
        .await
        .map_err(|error| error.to_string())?;
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    tasks.spawn("application's metrics", async move {
        // The request that it was for has failed too, and says so.
        let _ended = connection.await;
    });
    let mut request = Request::get(&metrics.path)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    let plain = HeaderValue::from_static("text/plain;version=0.0.4");
    headers.insert(header::ACCEPT, plain);
    let response = sender.send_request(request).await.map_err(text)?;
    if response.status() != StatusCode::OK {
        return Err(format!("it answers {}", response.status().as_u16()));
    }
    let body = Limited::new(response.into_body(), MOST_METRICS)
        .collect()
        .await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    String::from_utf8(body.to_vec()).map_err(|_| "they are no UTF-8".to_owned())
}

/// Both, the application's without the families that the proxy has too, which a scraper would refuse, and
/// without what only OpenMetrics knows.
fn merge(mut own: String, theirs: &str) -> String {
    let ours: BTreeSet<String> = own
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    let base = |name: &str| {
        ["_bucket", "_sum", "_count", "_total", "_created"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .map(str::to_owned)
    };
    let taken =
        |name: &str| ours.contains(name) || base(name).is_some_and(|base| ours.contains(&base));
    if !own.is_empty() && !own.ends_with('\n') {
        own.push('\n');
    }
    for line in theirs.lines() {
        let line = line.trim_end_matches('\r');
        if line == "# EOF" {
            break;
        }
        let words = line.strip_prefix("# ");
        let name = match words {
            Some(words) => words.split(' ').nth(1).unwrap_or_default(),
            None => line.split(['{', ' ']).next().unwrap_or_default(),
        };
        if taken(name) || words.is_some_and(|words| words.starts_with("UNIT ")) {
            continue;
        }
        own.push_str(if words.is_none() {
            without_exemplar(line)
        } else {
            line
        });
        own.push('\n');
    }
    own
}

/// A sample without what follows ` # ` outside its labels' values.
fn without_exemplar(line: &str) -> &str {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line.get(..at).unwrap_or(line).trim_end(),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_merged_as_one_text() {
        let own = "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 1\n".to_owned();
        let theirs = "# TYPE a histogram\na_count 3\n# TYPE b counter\n# UNIT b seconds\n\
                      b_total{x=\"# \\\" #\"} 2 # {trace=\"1\"} 1\nplain 5\n# EOF\nnever 1\n";
        assert_eq!(
            merge(own.clone(), theirs),
            format!("{own}# TYPE b counter\nb_total{{x=\"# \\\" #\"}} 2\nplain 5\n")
        );
    }

    #[test]
    fn questions_are_read_or_said_to_be_none() {
        let read = |text: &str| AppPages::new(Some(text), None);
        assert!(read("{\"/app-health/a/livez\": {\"grpc\": {\"port\": 1}}}").is_ok());
        assert!(read("{\"/app-health/a/livez\": {\"httpGet\": {\"port\": \"http\"}}}").is_err());
        assert!(read("{\"/app-health/a/livez\": {}}").is_err());
        assert!(read("{\"/config_dump\": {\"tcpSocket\": {\"port\": 1}}}").is_err());
        assert!(read("[").is_err());
    }
}
