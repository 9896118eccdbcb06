//! The mesh that is measured: a caller and a server, each with its sidecar.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use http::Uri;
use serde_json::Value;
use tokio::net::lookup_host;
use tokio::process::{Child, Command};

use crate::api::Version;
use crate::api::identity::{TokenReport, TokenRequest};
use crate::api::resources::{ApplyReport, ApplyRequest, SourceText};
use crate::cli::error::CliError;
use crate::cli::load::{self, Plan};
use crate::cli::throwaway::Throwaway;
use crate::local::address::Network;
use crate::local::{self, entry};
use crate::rt::disk::write_private;

use super::Asked;
use super::report::Kind;

const NAMESPACE: &str = "bench";
/// Where the server's sidecar serves; nothing else is at its address.
const PORT: u16 = 9080;
/// The address of a sidecar before a target, far from those of pods.
const APART: u32 = 700;
/// How long a sidecar has to end by itself.
const GRACE: Duration = Duration::from_secs(3);

/// An application that is there.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    authority: String,
    host: String,
    port: u16,
    path: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// Reads `http://HOST[:PORT][/PATH]`.
pub(crate) fn target(text: &str) -> Result<Target, String> {
    const SHAPE: &str = "expected http://HOST[:PORT][/PATH]";
    let uri: Uri = text.parse().map_err(|_| SHAPE.to_owned())?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            return Err("only http:// can be measured: the sidecars are what encrypts".to_owned());
        }
        _ => return Err(SHAPE.to_owned()),
    }
    let authority = uri.authority().ok_or(SHAPE)?;
    if authority.as_str().contains('@') {
        return Err(format!("{SHAPE}, without a user"));
    }
    Ok(Target {
        authority: authority.as_str().to_owned(),
        host: authority.host().trim_matches(['[', ']']).to_owned(),
        port: authority.port_u16().unwrap_or(80),
        path: uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned(),
    })
}

/// One way to the application.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) kind: Kind,
    pub(super) plan: Plan,
    /// Processes of the sidecars on it.
    pub(super) sidecars: Vec<u32>,
}

/// The mesh, and the sidecar before a target.
#[derive(Debug)]
pub(super) struct Stand {
    mesh: Throwaway,
    before_target: Option<Child>,
}

impl Stand {
    pub(super) fn new() -> Result<Self, CliError> {
        Ok(Self {
            mesh: Throwaway::new("bench")?,
            before_target: None,
        })
    }

    /// Starts everything; gives the three ways.
    pub(super) async fn start(&mut self, asked: &Asked) -> Result<[Path; 3], CliError> {
        let there = match &asked.target {
            Some(target) => Some((target, answering(target).await?)),
            None => None,
        };
        let mut manifest = workload("caller");
        manifest.push_str(&service());
        if asked.target.is_none() {
            manifest.push_str(&workload("server"));
        }
        let file = self.mesh.path("bench.yaml");
        std::fs::write(&file, manifest).map_err(CliError::file("write", &file))?;
        self.mesh.start(&["bench.yaml"], NAMESPACE).await?;
        let caller = self.mesh.pod("caller").await?;
        let caller_ip: IpAddr = address(&caller.address)?;
        let server = match there {
            None => self.pod_server().await?,
            Some((target, application)) => {
                self.sidecar_before(target, application, caller_ip).await?
            }
        };
        let path = asked
            .target
            .as_ref()
            .map_or("/details/0", |target| target.path.as_str());
        let plan = |to: SocketAddr, target: String, host: &str| Plan {
            to,
            target,
            host: host.to_owned(),
            connections: asked.connections,
        };
        let meshed = format!("server:{PORT}");
        let own = asked
            .target
            .as_ref()
            .map_or(meshed.as_str(), |target| target.authority.as_str());
        let outbound = SocketAddr::new(caller_ip, 15001);
        Ok([
            Path {
                kind: Kind::Direct,
                plan: plan(server.application, path.to_owned(), own),
                sidecars: Vec::new(),
            },
            Path {
                kind: Kind::OneHop,
                plan: plan(server.served, path.to_owned(), own),
                sidecars: vec![server.sidecar],
            },
            Path {
                kind: Kind::TwoHops,
                plan: plan(outbound, format!("http://{meshed}{path}"), &meshed),
                sidecars: vec![sidecar(&caller)?, server.sidecar],
            },
        ])
    }

    async fn pod_server(&self) -> Result<Server, CliError> {
        let pod = self.mesh.pod("server").await?;
        let clusters: Value = self
            .mesh
            .client()
            .get(&format!("/proxies/{}/config/clusters", pod.name))
            .await?;
        let application = clusters
            .pointer(&format!("/inbound|{PORT}||/kind/static/0"))
            .and_then(Value::as_str)
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| CliError::failed("the server's sidecar knows no application"))?;
        Ok(Server {
            application,
            served: SocketAddr::new(address(&pod.address)?, PORT),
            sidecar: sidecar(&pod)?,
        })
    }

    /// A sidecar of its own before an application that is there, as `meshctl proxy` on a machine.
    async fn sidecar_before(
        &mut self,
        target: &Target,
        application: SocketAddr,
        near: IpAddr,
    ) -> Result<Server, CliError> {
        let IpAddr::V4(near) = near else {
            return Err(CliError::failed("pods have no IPv4 address"));
        };
        let own = Network::new(near).pod(APART);
        let own = own.ok_or_else(|| CliError::failed("no address is left for a sidecar"))?;
        let client = self.mesh.client();
        let version: Version = client.get("/version").await?;
        let request = TokenRequest {
            namespace: NAMESPACE.to_owned(),
            service_account: "server".to_owned(),
            uses: 1,
            ttl_seconds: 60,
            gateway: None,
        };
        let token: TokenReport = client.post("/tokens", &request).await?;
        let token_file = self.mesh.path("token");
        write_private(&token_file, token.token.as_bytes())
            .map_err(CliError::file("write", &token_file))?;
        let program = std::env::current_exe().map_err(CliError::file("find", "meshctl"))?;
        let child = Command::new(&program)
            .args(entry::ends_with_us())
            .arg(&program)
            .args([
                "proxy",
                "--service",
                "server",
                "--service-account",
                "server",
            ])
            .args(["--namespace", NAMESPACE, "--protocol", "http"])
            .args(["--app", &format!("{PORT}={application}")])
            .args(["--address", &own.to_string()])
            .args(["--control-plane", &version.tls_address])
            .arg("--join-file")
            .arg(&token_file)
            .arg("--home")
            .arg(self.mesh.path("server"))
            .arg("-q")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(CliError::file("run", "meshctl"))?;
        let pid = child.id().unwrap_or(0);
        self.before_target = Some(child);
        // The caller is one, too.
        self.mesh
            .eventually(async || Ok((self.mesh.healthy().await? >= 2).then_some(())))
            .await?;
        self.host_of(target).await?;
        Ok(Server {
            application,
            served: SocketAddr::new(own.into(), PORT),
            sidecar: pid,
        })
    }

    /// Has the application asked by the name that it has, as it may answer to no other.
    async fn host_of(&self, target: &Target) -> Result<(), CliError> {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: server}}\nspec:\n  hosts: [server]\n  \
             http:\n  - rewrite: {{authority: {:?}}}\n    route:\n    - destination: {{host: server}}\n",
            target.authority
        );
        let request = ApplyRequest {
            sources: vec![SourceText {
                name: "bench".to_owned(),
                text,
            }],
            namespace: NAMESPACE.to_owned(),
            force: false,
            dry_run: false,
            who: "bench".to_owned(),
        };
        let _: ApplyReport = self.mesh.client().post("/resources", &request).await?;
        Ok(())
    }

    /// Ends everything and removes the home.
    pub(super) async fn clear(&mut self) -> Result<(), CliError> {
        if let Some(mut child) = self.before_target.take() {
            // It is gone already if it has no id.
            if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).is_err();
            }
            if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                drop(child.kill().await);
            }
        }
        self.mesh.clear().await
    }
}

/// What is called.
#[derive(Debug)]
struct Server {
    /// The application itself.
    application: SocketAddr,
    /// Its sidecar, for callers without one.
    served: SocketAddr,
    /// The sidecar's process.
    sidecar: u32,
}

fn address(text: &str) -> Result<IpAddr, CliError> {
    text.parse()
        .map_err(|_| CliError::failed(format!("a pod's address is {text:?}")))
}

fn sidecar(pod: &crate::api::local::PodStatus) -> Result<u32, CliError> {
    pod.containers
        .iter()
        .find(|container| container.name == local::plan::SIDECAR)
        .and_then(|container| container.pid)
        .ok_or_else(|| CliError::failed(format!("{} has no sidecar", pod.name)))
}

async fn resolve(target: &Target) -> Result<SocketAddr, CliError> {
    let unknown = |why: String| {
        CliError::failed(format!("cannot find {}: {why}", target.host))
            .hint("give an address, as in http://127.0.0.1:8080/")
    };
    let found = lookup_host((target.host.as_str(), target.port)).await;
    let mut found = found.map_err(|error| unknown(error.to_string()))?;
    found
        .next()
        .ok_or_else(|| unknown("it has no address".to_owned()))
}

/// Where the target is, when it answers well.
async fn answering(target: &Target) -> Result<SocketAddr, CliError> {
    let to = resolve(target).await?;
    let plan = Plan {
        to,
        target: target.path.clone(),
        host: target.authority.clone(),
        connections: 1,
    };
    let tally = load::burst(&plan, 1).await;
    if tally.failed == 0 {
        return Ok(to);
    }
    let failed = CliError::failed(format!("{target} does not answer well: {}", tally.why()));
    Err(failed.hint("give the address of a page that answers with a status of 200 to 299"))
}

fn service() -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: server}}\nspec:\n  selector: {{app: server}}\n  ports:\n  \
         - {{name: http, port: {PORT}, targetPort: {PORT}}}\n"
    )
}

/// A pod of the sample application that answers small pages.
fn workload(name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n---\napiVersion: apps/v1\nkind: Deployment\n\
         metadata: {{name: {name}}}\nspec:\n  selector:\n    matchLabels: {{app: {name}}}\n  template:\n    metadata:\n      \
         labels: {{app: {name}}}\n    spec:\n      serviceAccountName: {name}\n      containers:\n      - name: {name}\n        \
         image: meshctl\n        command: [meshctl, sample-app, --name, details]\n        ports:\n        \
         - {{name: http, containerPort: {PORT}}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn targets_are_read_whole() {
        let read = target("http://shop.example:8080/health?deep=1").unwrap();
        assert_eq!((read.host.as_str(), read.port), ("shop.example", 8080));
        assert_eq!(read.to_string(), "http://shop.example:8080/health?deep=1");
        let read = target("http://[::1]").unwrap();
        assert_eq!(
            (read.host.as_str(), read.port, read.path.as_str()),
            ("::1", 80, "/")
        );
        for wrong in [
            "shop",
            "https://shop/",
            "http://me:secret@shop/",
            "ftp://shop/",
            "",
        ] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }
}
