//! The hidden subcommands: what our executable is when `up` starts it again.
//!
//! - `pod-exec` turns itself into a container's process: it enters the namespaces, gives up
//!   privileges, asks to die with the supervisor, and execs. A child can do between fork and exec
//!   only what is async-signal-safe, so this is done after an exec of our own.
//! - `pod-guard` waits for the supervisor's end, however it comes, and cleans up after it.
//! - `sample-app` is the demo application.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgid, setgroups, setsid, setuid};

use super::app;
use super::cleanup;

/// Runs a hidden subcommand when `args` (without the program) begin with one. Call it before the
/// command line is parsed and before any thread is started.
pub fn run(args: &[OsString], variable: impl Fn(&str) -> Option<String>) -> Option<ExitCode> {
    let (first, rest) = args.split_first()?;
    match first.to_str()? {
        "pod-exec" => Some(pod_exec(rest)),
        "pod-guard" => Some(pod_guard(rest)),
        "sample-app" => Some(sample_app(rest, variable)),
        _ => None,
    }
}

/// Arguments of this program before the command line of another, which then ends with this process.
pub fn ends_with_us() -> Vec<OsString> {
    let enter = Enter {
        parent: Some(std::process::id()),
        ..Enter::default()
    };
    enter.arguments()
}

/// Before the program runs, in this order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Enter {
    /// A session of its own, away from the terminal.
    pub(super) session: bool,
    /// Dies when this process does.
    pub(super) parent: Option<u32>,
    /// A network namespace by its path.
    pub(super) netns: Option<PathBuf>,
    /// Shown as `/etc/resolv.conf`.
    pub(super) resolv: Option<PathBuf>,
    /// User and group to become.
    pub(super) user: Option<u32>,
}

impl Enter {
    /// The arguments that [`run`] understands, without the program to exec.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["pod-exec".into()];
        if self.session {
            args.push("--session".into());
        }
        let numbers = [("--parent", self.parent), ("--user", self.user)];
        for (flag, number) in numbers {
            if let Some(number) = number {
                args.extend([flag.into(), number.to_string().into()]);
            }
        }
        for (flag, path) in [("--netns", &self.netns), ("--resolv", &self.resolv)] {
            if let Some(path) = path {
                args.extend([flag.into(), path.clone().into_os_string()]);
            }
        }
        args.push("--".into());
        args
    }

    fn parse(args: &[OsString]) -> Option<(Self, &[OsString])> {
        let mut enter = Self::default();
        let mut at = 0;
        loop {
            let flag = args.get(at)?.to_str()?;
            if flag == "--" {
                return Some((enter, args.get(at + 1..)?));
            }
            if flag == "--session" {
                enter.session = true;
                at += 1;
                continue;
            }
            let value = args.get(at + 1)?;
            match flag {
                "--parent" => enter.parent = Some(value.to_str()?.parse().ok()?),
                "--user" => enter.user = Some(value.to_str()?.parse().ok()?),
                "--netns" => enter.netns = Some(value.into()),
                "--resolv" => enter.resolv = Some(value.into()),
                _ => return None,
            }
            at += 2;
        }
    }

    fn apply(&self) -> io::Result<()> {
        if self.session {
            setsid()?;
        }
        if let Some(netns) = &self.netns {
            setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
        }
        if let Some(resolv) = &self.resolv {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none = None::<&Path>;
            // Private first, or the bind below would be seen by the whole machine.
            mount(
                none,
                Path::new("/"),
                none,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                none,
            )?;
            mount(
                Some(resolv.as_path()),
                Path::new("/etc/resolv.conf"),
                none,
                MsFlags::MS_BIND,
                none,
            )?;
        }
        if let Some(user) = self.user {
            setgroups(&[])?;
            setgid(Gid::from_raw(user))?;
            setuid(Uid::from_raw(user))?;
        }
        if let Some(parent) = self.parent {
            // Last: a change of user clears it.
            set_pdeathsig(Signal::SIGKILL)?;
            if parent_id() != parent {
                return Err(io::Error::other("the supervisor is gone"));
            }
        }
        Ok(())
    }
}

fn pod_exec(args: &[OsString]) -> ExitCode {
    let Some((enter, [program, args @ ..])) = Enter::parse(args) else {
        return fail("pod-exec: started by `meshctl up` only", 2);
    };
    // Opened now: the user that we become may not reach our own executable by its path.
    let own = own_executable(Path::new(program));
    if let Err(error) = enter.apply() {
        return fail(
            &format!("cannot prepare {}: {error}", program.display()),
            126,
        );
    }
    let mut command = match &own {
        Some(file) => {
            let mut command = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
            command.arg0(program);
            command
        }
        None => Command::new(program),
    };
    let error = command.args(args).exec();
    let code = if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    };
    fail(&format!("cannot run {}: {error}", program.display()), code)
}

fn own_executable(program: &Path) -> Option<OwnedFd> {
    let own = std::env::current_exe().ok()?;
    (own == program).then(|| File::open(own).ok().map(OwnedFd::from))?
}

/// Waits for the end of standard input, which the supervisor holds open, then cleans up.
fn pod_guard(args: &[OsString]) -> ExitCode {
    let [home, instance] = args else {
        return fail("pod-guard: started by `meshctl up` only", 2);
    };
    let Some(instance) = instance.to_str() else {
        return fail("pod-guard: started by `meshctl up` only", 2);
    };
    let mut byte = [0];
    loop {
        match io::stdin().read(&mut byte) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    match cleanup::after(Path::new(home), instance) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot clean up: {error}"), 1),
    }
}

fn sample_app(args: &[OsString], variable: impl Fn(&str) -> Option<String>) -> ExitCode {
    let mut name = None;
    let mut version = None;
    let mut words = args.iter().filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (word, words.next()),
        };
        match (flag, value) {
            ("--name", Some(value)) => name = Some(value),
            ("--version", Some(value)) => version = Some(value),
            _ => return fail("usage: meshctl sample-app --name NAME [--version V]", 2),
        }
    }
    let Some(name) = name else {
        return fail("usage: meshctl sample-app --name NAME [--version V]", 2);
    };
    let options = match app::Options::new(name, version, variable) {
        Ok(options) => options,
        Err(error) => {
            let hint = error.hint().map(|hint| format!("\nhint: {hint}"));
            return fail(&format!("{error}{}", hint.unwrap_or_default()), 2);
        }
    };
    // Its words are the container's log.
    let _already = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .try_init()
        .is_err();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}"), 1),
    };
    match runtime.block_on(app::run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            fail(&format!("{error}{}", cause.unwrap_or_default()), 1)
        }
    }
}

fn fail(words: &str, code: u8) -> ExitCode {
    // Standard error may be closed; there is nobody else to tell.
    let _told = writeln!(io::stderr(), "meshctl: {words}").is_ok();
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_arrives() {
        let enter = Enter {
            session: true,
            parent: Some(12),
            netns: Some("/run/netns/a b".into()),
            resolv: Some("/tmp/resolv".into()),
            user: Some(1337),
        };
        let mut args = enter.arguments();
        args.extend(["sh".into(), "--".into()]);
        let (parsed, command) = Enter::parse(&args[1..]).unwrap();
        assert_eq!(parsed, enter);
        assert_eq!(command, ["sh", "--"]);
        assert!(Enter::parse(&["--user".into(), "root".into(), "--".into()]).is_none());
        assert!(Enter::parse(&[]).is_none());
    }

    #[test]
    fn other_commands_are_left_alone() {
        assert!(run(&["up".into()], |_| None).is_none());
        assert!(run(&[], |_| None).is_none());
    }
}
