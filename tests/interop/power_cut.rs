//! The store on a file system that forgets what was not fsynced.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::mesh::Mesh;
use crate::processes::{Process, installed};
use crate::stand::until;
use crate::writer::{Writer, all_there};

/// A mounted file system that is unmounted with the test.
struct Disk {
    at: PathBuf,
    _server: Process,
}

impl Disk {
    async fn mount(at: &Path) -> Option<Self> {
        let python = installed("fuse", "bin/python")?;
        if !Path::new("/dev/fuse").exists() || !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: mounting a file system of ours needs root and /dev/fuse");
            return None;
        }
        std::fs::create_dir(at).unwrap();
        let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/interop/forgetful.py"]
            .iter()
            .collect();
        let child = Command::new(python)
            .arg(script)
            .arg(at)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let disk = Self {
            at: at.to_owned(),
            _server: Process(child),
        };
        let mounted = format!(" {} fuse", at.display());
        until("the mount", 20, || {
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
            mounts.contains(&mounted).then_some(())
        })
        .await;
        Some(disk)
    }

    /// Takes away everything that was not fsynced.
    fn cut(&self) {
        // The directory is a message, and is never there.
        assert!(std::fs::create_dir(self.at.join(".power-cut")).is_err());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = nix::mount::umount2(&self.at, nix::mount::MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.at.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_power_cuts() {
    let mut mesh = Mesh::new();
    let Some(disk) = Disk::mount(&mesh.home()).await else {
        return;
    };
    // An installation is acknowledged by its exit as well.
    mesh.run(&["install", "-q"], None);
    let root = mesh.home().join("control/ca/root-cert.pem");
    let before = std::fs::read(&root).unwrap();
    disk.cut();
    let mut acknowledged = Vec::new();
    for round in 0..20 {
        mesh.start_control_plane().await;
        all_there(&mesh, &acknowledged);
        let writer = Writer::start(mesh.home(), format!("kept-{round}"));
        writer.amid_a_write(&mesh.home(), 3, round).await;
        // First the process, then what it had not made durable.
        mesh.kill_control_plane();
        disk.cut();
        acknowledged.extend(writer.stop());
        assert_eq!(std::fs::read(&root).unwrap(), before, "another authority");
    }
    mesh.start_control_plane().await;
    all_there(&mesh, &acknowledged);
    eprintln!("{} writes kept over 20 power cuts", acknowledged.len());
    let said = mesh.said("control-plane");
    let repairs = said.matches("the store was damaged").count();
    assert_eq!(repairs, 0, "{said}");
    mesh.kill_control_plane();
    drop(disk);
}
