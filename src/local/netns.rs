//! Network namespaces for pods: one each, joined by a bridge.
//!
//! The names are those of `ip netns`, so its tools work on them. Needs root.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{AccessFlags, access};

use super::LocalError;
use super::address::Network;
use crate::net::capture::{self, CaptureSpec};
use crate::net::netlink::link;

/// Where named network namespaces live.
const DIR: &str = "/run/netns";

/// The file that stands for the namespace called `name`.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Runs `work` on a thread that has entered the namespace at `path`.
pub fn within<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a check in a namespace broke")))
    })
}

/// Whether this process may make namespaces and capture rules; `--isolation auto` asks.
pub fn available() -> io::Result<()> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            link::create_bridge("mbtest")?;
            // Gone with the thread, and the namespace with it.
            capture::apply(&capture::ruleset(&CaptureSpec::default()))?;
            Ok(access("/run", AccessFlags::W_OK)?)
        })?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread broke")))
    })
}

/// The bridge of a run; names of interfaces have at most 15 bytes.
pub(super) fn bridge_name(instance: &str) -> String {
    format!("mb{instance}")
}

fn veth_name(namespace: &str) -> String {
    format!(
        "mv{}",
        namespace.strip_prefix("meshctl-").unwrap_or(namespace)
    )
}

/// Makes the directory for names; true when it was not there.
pub(super) fn prepare_dir() -> Result<bool, LocalError> {
    match fs::create_dir(DIR) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(LocalError::File {
            path: DIR.into(),
            source,
        }),
    }
}

/// Removes the directory for names, unless someone else has a name in it.
pub(super) fn remove_dir() {
    if let Err(error) = fs::remove_dir(DIR) {
        tracing::debug!(%error, "{DIR} stays");
    }
}

/// Makes the bridge and gives the host its address.
pub(super) fn create_bridge(name: &str, network: Network) -> Result<(), LocalError> {
    step("make the bridge", link::create_bridge(name))?;
    step(
        "give the bridge its address",
        link::add_address(name, network.host(), Network::PREFIX),
    )?;
    step("switch the bridge on", link::set_up(name))
}

/// Removes the bridge; it need not be there.
pub(super) fn delete_bridge(name: &str) -> Result<(), LocalError> {
    step("remove the bridge", link::delete(name))
}

/// Makes a namespace with an address on the bridge, and its capture rules.
pub(super) fn create(
    name: &str,
    bridge: &str,
    network: Network,
    address: Ipv4Addr,
    capture: Option<&CaptureSpec>,
) -> Result<(), LocalError> {
    let path = path(name);
    step(&format!("make namespace {name}"), make(&path))?;
    let veth = veth_name(name);
    let namespace = File::open(&path).map_err(LocalError::file(&path))?;
    step(
        &format!("make interface {veth}"),
        link::create_veth(&veth, "eth0", namespace.as_fd()),
    )?;
    step(
        &format!("plug {veth} into {bridge}"),
        link::attach(&veth, bridge),
    )?;
    step(&format!("switch {veth} on"), link::set_up(&veth))?;
    let inside = within(&path, || {
        link::set_up("lo")?;
        link::add_address("eth0", address, Network::PREFIX)?;
        link::set_up("eth0")?;
        link::add_default_route(network.host())?;
        match capture {
            Some(spec) => capture::apply(&capture::ruleset(spec)),
            None => Ok(()),
        }
    });
    step(&format!("prepare namespace {name}"), inside.flatten())
}

/// Removes a namespace with its interfaces and rules; it need not be there.
pub(super) fn delete(name: &str) -> Result<(), LocalError> {
    step(
        &format!("remove the interface of {name}"),
        link::delete(&veth_name(name)),
    )?;
    let path = path(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: the file is there but nothing is mounted on it.
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL) => {}
        Err(error) => step(&format!("unmount {name}"), Err(error.into()))?,
    }
    match fs::remove_file(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(LocalError::File { path, source }),
    }
}

/// A new namespace, kept alive by a mount on `path`.
fn make(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(path)?;
    let made = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let none = None::<&Path>;
            let own = Path::new("/proc/thread-self/ns/net");
            mount(Some(own), path, none, MsFlags::MS_BIND, none)?;
            Ok(())
        })?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread broke")))
    });
    if made.is_err() {
        fs::remove_file(path)?;
    }
    made
}

fn step(what: &str, outcome: io::Result<()>) -> Result<(), LocalError> {
    outcome.map_err(|source| LocalError::Network {
        what: what.to_owned(),
        source,
    })
}
