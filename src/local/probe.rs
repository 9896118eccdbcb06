//! Startup, readiness and liveness checks by Kubernetes' rules.
//!
//! Checks ask the application itself, past its sidecar, as Kubernetes' node agent does.

use std::future::{Future, pending};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use super::netns;
use super::plan::{Container, Pod};
use super::spec::{Check, PortRef, Probe};
use crate::rt::Tasks;

/// Until the first success checks come this often: a period of 10 s would make `up` slow.
const EAGER: Duration = Duration::from_millis(200);

/// Longer status lines are none.
const MAX_STATUS_LINE: usize = 1024;

/// A container's checks with their targets filled in.
#[derive(Debug, Clone, Default)]
pub(super) struct Probes {
    startup: Option<Resolved>,
    readiness: Option<Resolved>,
    liveness: Option<Resolved>,
}

#[derive(Debug, Clone)]
struct Resolved {
    probe: Probe,
    target: Target,
}

#[derive(Debug, Clone)]
enum Target {
    Http {
        to: SocketAddr,
        request: String,
        netns: Option<PathBuf>,
    },
    Tcp {
        to: SocketAddr,
        netns: Option<PathBuf>,
    },
    Exec(Vec<String>),
}

/// Runs a command beside the container and says whether it succeeded.
pub(super) trait Exec {
    /// `Err` says why not.
    fn exec(&self, command: &[String]) -> impl Future<Output = Result<(), String>>;
}

impl Probes {
    /// The checks of one application.
    pub(super) fn of(pod: &Pod, container: &Container) -> Self {
        let resolve = |probe: &Option<Probe>| {
            probe
                .as_ref()
                .map(|probe| resolve(probe, pod.address, container, pod.netns.as_deref()))
        };
        Self {
            startup: resolve(&container.startup),
            readiness: resolve(&container.readiness),
            liveness: resolve(&container.liveness),
        }
    }

    /// Ready once `GET path` at `to` passes.
    pub(super) fn ready_when(to: SocketAddr, path: &str, netns: Option<&str>) -> Self {
        let probe = Probe {
            period: Duration::from_secs(2),
            ..Probe::new(Check::Tcp {
                port: PortRef::Number(to.port()),
            })
        };
        Self {
            readiness: Some(Resolved {
                probe,
                target: Target::Http {
                    to,
                    request: request(to, path, &[]),
                    netns: netns.map(netns::path),
                },
            }),
            ..Self::default()
        }
    }

    /// Checks for as long as the container runs, telling `ready` each change; resolves with the
    /// reason when it has to be restarted.
    pub(super) async fn watch(&self, exec: &impl Exec, ready: impl Fn(bool)) -> String {
        if let Some(startup) = &self.startup
            && let Err(reason) = startup.first_success(exec).await
        {
            return format!("startup probe failed: {reason}");
        }
        let readiness = async {
            match &self.readiness {
                None => {
                    ready(true);
                    pending::<()>().await;
                }
                Some(probe) => probe.follow(exec, &ready).await,
            }
        };
        let liveness = async {
            match &self.liveness {
                None => pending().await,
                Some(probe) => probe.first_failure(exec).await,
            }
        };
        tokio::select! {
            () = readiness => pending().await,
            reason = liveness => format!("liveness probe failed: {reason}"),
        }
    }
}

impl Resolved {
    async fn first_success(&self, exec: &impl Exec) -> Result<(), String> {
        tokio::time::sleep(self.probe.initial_delay).await;
        let deadline = crate::rt::now() + self.probe.period * self.probe.failures.max(1);
        loop {
            match self.check(exec).await {
                Ok(()) => return Ok(()),
                Err(reason) if crate::rt::now() >= deadline => return Err(reason),
                Err(_) => tokio::time::sleep(EAGER.min(self.probe.period)).await,
            }
        }
    }

    async fn first_failure(&self, exec: &impl Exec) -> String {
        tokio::time::sleep(self.probe.initial_delay).await;
        let mut failed = 0;
        loop {
            tokio::time::sleep(self.probe.period).await;
            match self.check(exec).await {
                Ok(()) => failed = 0,
                Err(reason) => {
                    failed += 1;
                    if failed >= self.probe.failures.max(1) {
                        return reason;
                    }
                }
            }
        }
    }

    async fn follow(&self, exec: &impl Exec, ready: &impl Fn(bool)) {
        tokio::time::sleep(self.probe.initial_delay).await;
        let (mut passed, mut failed, mut was_ready, mut ever) = (0_u32, 0_u32, false, false);
        loop {
            if self.check(exec).await.is_ok() {
                passed = passed.saturating_add(1);
                failed = 0;
            } else {
                failed = failed.saturating_add(1);
                passed = 0;
            }
            let now_ready = if was_ready {
                failed < self.probe.failures.max(1)
            } else {
                passed >= self.probe.successes.max(1)
            };
            if now_ready != was_ready {
                was_ready = now_ready;
                ever |= now_ready;
                ready(now_ready);
            }
            let wait = if ever {
                self.probe.period
            } else {
                EAGER.min(self.probe.period)
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn check(&self, exec: &impl Exec) -> Result<(), String> {
        let timeout = self.probe.timeout;
        match &self.target {
            Target::Exec(command) => tokio::time::timeout(timeout, exec.exec(command))
                .await
                .unwrap_or_else(|_| Err(late(timeout))),
            Target::Http { to, request, netns } => {
                let (to, request) = (*to, request.clone());
                outside(netns.clone(), move || http_get(to, &request, timeout)).await
            }
            Target::Tcp { to, netns } => {
                let to = *to;
                outside(netns.clone(), move || {
                    TcpStream::connect_timeout(&to, timeout)
                        .map(drop)
                        .map_err(|error| format!("{to}: {error}"))
                })
                .await
            }
        }
    }
}

/// Blocking sockets on a thread of their own: only a thread can enter another network namespace.
async fn outside(
    netns: Option<PathBuf>,
    check: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    Tasks::blocking(move || match netns {
        None => check(),
        Some(path) => netns::within(&path, check).map_err(|error| error.to_string())?,
    })
    .await
    .unwrap_or_else(|| Err("the check broke".to_owned()))
}

fn resolve(
    probe: &Probe,
    address: Ipv4Addr,
    container: &Container,
    netns: Option<&str>,
) -> Resolved {
    let listen = |port: &PortRef| {
        let found = container.ports.iter().find(|candidate| match port {
            PortRef::Number(number) => candidate.number == *number,
            PortRef::Name(name) => candidate.name.as_ref() == Some(name),
        });
        let number = match (found, port) {
            (Some(found), _) => found.listen,
            // A port that the manifest does not list is the application's own affair.
            (None, PortRef::Number(number)) => *number,
            (None, PortRef::Name(_)) => 0,
        };
        SocketAddr::new(address.into(), number)
    };
    let netns = netns.map(netns::path);
    let target = match &probe.check {
        Check::Http {
            port,
            path,
            headers,
        } => Target::Http {
            to: listen(port),
            request: request(listen(port), path, headers),
            netns,
        },
        Check::Tcp { port } => Target::Tcp {
            to: listen(port),
            netns,
        },
        Check::Exec { command } => Target::Exec(command.clone()),
    };
    Resolved {
        probe: probe.clone(),
        target,
    }
}

fn request(to: SocketAddr, path: &str, headers: &[(String, String)]) -> String {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut text = format!("GET {slash}{path} HTTP/1.1\r\n");
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        text.extend(["Host: ", &to.to_string(), "\r\n"]);
    }
    for (name, value) in headers {
        // A line break would let a manifest smuggle a second request; it is an error in Kubernetes.
        if !format!("{name}{value}").contains(['\r', '\n']) {
            text.extend([name, ": ", value, "\r\n"]);
        }
    }
    text.push_str("User-Agent: kube-probe/meshctl\r\nAccept: */*\r\nConnection: close\r\n\r\n");
    text
}

fn http_get(to: SocketAddr, request: &str, timeout: Duration) -> Result<(), String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => late(timeout),
        _ => format!("{to}: {error}"),
    };
    let mut stream = TcpStream::connect_timeout(&to, timeout).map_err(failed)?;
    stream.set_read_timeout(Some(timeout)).map_err(failed)?;
    stream.set_write_timeout(Some(timeout)).map_err(failed)?;
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut line = Vec::new();
    let mut buffer = [0; 256];
    while !line.contains(&b'\n') && line.len() < MAX_STATUS_LINE {
        match stream.read(&mut buffer).map_err(failed)? {
            0 => break,
            count => line.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
    }
    let line = String::from_utf8_lossy(&line);
    let line = line.lines().next().unwrap_or_default();
    match status(line) {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("status {code}")),
        None => Err(format!("no HTTP answer: {line:?}")),
    }
}

fn status(line: &str) -> Option<u16> {
    line.strip_prefix("HTTP/1.")?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

fn late(timeout: Duration) -> String {
    format!("no answer within {} s", timeout.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scripted(std::cell::RefCell<Vec<bool>>);

    impl Exec for Scripted {
        async fn exec(&self, _: &[String]) -> Result<(), String> {
            let next = self.0.borrow_mut().pop();
            match next {
                Some(true) => Ok(()),
                Some(false) => Err("exit code 1".to_owned()),
                None => pending().await,
            }
        }
    }

    fn probe(failures: u32, successes: u32) -> Resolved {
        Resolved {
            probe: Probe {
                successes,
                failures,
                ..Probe::new(Check::Exec { command: vec![] })
            },
            target: Target::Exec(vec![]),
        }
    }

    fn script(steps: &[bool]) -> Scripted {
        Scripted(std::cell::RefCell::new(
            steps.iter().rev().copied().collect(),
        ))
    }

    #[tokio::test(start_paused = true)]
    async fn liveness_needs_failures_in_a_row() {
        let probes = Probes {
            liveness: Some(probe(3, 1)),
            ..Probes::default()
        };
        let exec = script(&[false, false, true, false, false, false]);
        let begun = crate::rt::now();
        let reason = probes.watch(&exec, |_| {}).await;
        assert_eq!(reason, "liveness probe failed: exit code 1");
        assert_eq!(begun.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_comes_goes_and_comes_back() {
        let probes = Probes {
            readiness: Some(probe(2, 1)),
            liveness: None,
            startup: None,
        };
        let exec = script(&[false, true, false, true, false, false, true]);
        let seen = std::cell::RefCell::new(Vec::new());
        let watch = probes.watch(&exec, |ready| seen.borrow_mut().push(ready));
        // The script ends in silence, which the timeout of one check turns into failures.
        let _ended = tokio::time::timeout(Duration::from_mins(1), watch)
            .await
            .is_err();
        assert_eq!(seen.borrow()[..3], [true, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_never_succeeds_is_given_up() {
        let probes = Probes {
            startup: Some(probe(2, 1)),
            ..Probes::default()
        };
        let exec = script(&[false; 200]);
        let reason = probes.watch(&exec, |_| panic!("never ready")).await;
        assert_eq!(reason, "startup probe failed: exit code 1");
    }

    #[test]
    fn only_statuses_from_200_to_399_pass() {
        use std::io::BufRead as _;
        for (answer, passes) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.0 302 Found\r\n\r\n", true),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
            ("SSH-2.0-x\r\n", false),
        ] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = std::io::BufReader::new(stream.try_clone().unwrap()).lines();
                while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                stream.write_all(answer.as_bytes()).unwrap();
            });
            let result = http_get(to, &request(to, "health", &[]), Duration::from_secs(5));
            assert_eq!(result.is_ok(), passes, "{answer} {result:?}");
            server.join().unwrap();
        }
    }
}
