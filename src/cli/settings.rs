//! What the flags and the environment come to. The only reader of the environment.

use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;

use super::args::{Global, Remote};
use super::contexts::{self, Meant, Where};
use super::error::CliError;
use crate::tls::Passphrase;

/// The text of a token for the API; never printed.
#[derive(Clone)]
pub(crate) struct ApiToken(pub(crate) String);

impl std::fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiToken(..)")
    }
}

/// The pod that we run in, as its manifest says by the downward API.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pod {
    /// `POD_NAME`.
    pub(crate) name: Option<String>,
    /// `POD_NAMESPACE`.
    pub(crate) namespace: Option<String>,
}

/// The variables that mean something to us, read once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) meshctl_home: Option<PathBuf>,
    pub(crate) meshctl_context: Option<String>,
    pub(crate) join_token: Option<String>,
    /// `MESHCTL_APP_PROBES`: what the kubelet asks of the proxy, as `inject` writes it.
    pub(crate) app_probes: Option<String>,
    /// `MESHCTL_API`, `MESHCTL_API_TOKEN` and `MESHCTL_API_CA`: another control plane, and the way in.
    pub(crate) api: Option<String>,
    pub(crate) api_token: Option<ApiToken>,
    pub(crate) api_ca: Option<PathBuf>,
    /// `MESHCTL_CA_PASSPHRASE`, which opens the signing key.
    pub(crate) ca_passphrase: Option<Passphrase>,
    pub(crate) xdg_data_home: Option<PathBuf>,
    pub(crate) xdg_config_home: Option<PathBuf>,
    pub(crate) home: Option<PathBuf>,
    pub(crate) path: Option<OsString>,
    /// `KUBECONFIG`, which may name several files, else the one in the home directory if it is there.
    pub(crate) kubeconfig: Vec<PathBuf>,
    pub(crate) pod: Pod,
    pub(crate) rust_log: Option<String>,
    pub(crate) no_color: bool,
    pub(crate) clicolor_force: bool,
    pub(crate) dumb: bool,
    pub(crate) columns: Option<u16>,
}

impl Environment {
    pub(crate) fn read() -> Self {
        // An empty variable counts as one that is not set, as everywhere on Unix.
        let raw = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| raw(name).and_then(|value| value.into_string().ok());
        let path = |name: &str| raw(name).map(PathBuf::from);
        Self {
            meshctl_home: path("MESHCTL_HOME"),
            meshctl_context: text("MESHCTL_CONTEXT"),
            join_token: text("MESHCTL_JOIN_TOKEN"),
            app_probes: text("MESHCTL_APP_PROBES"),
            api: text("MESHCTL_API"),
            api_token: text("MESHCTL_API_TOKEN").map(ApiToken),
            api_ca: path("MESHCTL_API_CA"),
            ca_passphrase: raw("MESHCTL_CA_PASSPHRASE")
                .and_then(|value| Passphrase::new(value.into_vec()).ok()),
            xdg_data_home: path("XDG_DATA_HOME").filter(|path| path.is_absolute()),
            xdg_config_home: path("XDG_CONFIG_HOME").filter(|path| path.is_absolute()),
            home: path("HOME"),
            path: raw("PATH"),
            kubeconfig: match raw("KUBECONFIG") {
                Some(paths) => std::env::split_paths(&paths)
                    .filter(|path| !path.as_os_str().is_empty())
                    .collect(),
                None => path("HOME")
                    .map(|home| home.join(".kube/config"))
                    .filter(|path| path.is_file())
                    .into_iter()
                    .collect(),
            },
            pod: Pod {
                name: text("POD_NAME"),
                namespace: text("POD_NAMESPACE"),
            },
            rust_log: text("RUST_LOG"),
            no_color: raw("NO_COLOR").is_some(),
            clicolor_force: text("CLICOLOR_FORCE").is_some_and(|value| value != "0"),
            dumb: text("TERM").is_some_and(|term| term == "dumb"),
            columns: text("COLUMNS").and_then(|value| value.parse().ok()),
        }
    }

    /// Whether a stream is to be coloured.
    pub(crate) fn colours(&self, choice: Colour, terminal: bool) -> bool {
        match choice {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto if self.no_color => false,
            Colour::Auto => self.clicolor_force || (terminal && !self.dumb),
        }
    }
}

/// How a report is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// More columns
    Wide,
    /// For programs; the keys are stable
    Json,
    /// The same as YAML
    Yaml,
    /// Only names, one a line
    Name,
    /// Findings for code scanners, of `analyze` only
    #[value(hide = true)]
    Sarif,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What the flags and the environment come to.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts about two streams, not states"
)]
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Where this installation keeps its state.
    pub(crate) home: PathBuf,
    /// Where everything is kept, whichever mesh is meant.
    pub(crate) base: PathBuf,
    /// The mesh that commands are about.
    pub(crate) meant: Meant,
    /// Flags for a control plane elsewhere.
    pub(crate) remote: Arc<Remote>,
    /// As typed with `-n`.
    pub(crate) namespace: Option<String>,
    pub(crate) format: Format,
    /// How often `-v` was typed.
    pub(crate) verbose: u8,
    pub(crate) quiet: bool,
    /// Colours on standard output.
    pub(crate) colour_out: bool,
    /// Colours on standard error.
    pub(crate) colour_err: bool,
    pub(crate) stdout_terminal: bool,
    pub(crate) stderr_terminal: bool,
    /// Columns that a table may take; none: as many as it likes.
    pub(crate) width: Option<u16>,
    pub(crate) environment: Environment,
}

impl Settings {
    pub(crate) fn resolve(global: Global, environment: Environment) -> Result<Self, CliError> {
        let base = home(global.home, &environment)?;
        let named = global
            .context
            .or_else(|| environment.meshctl_context.clone());
        let meant = Meant::resolve(named.as_deref(), &base, &environment)?;
        let home = match &meant.place {
            Where::Home => context_home(&base, &meant.name)?,
            // What is done on this machine all the same is done in the home.
            _ => base.clone(),
        };
        let mut remote = global.remote;
        if let Where::Address(at) = &meant.place
            && remote.api.is_none()
            && environment.api.is_none()
        {
            remote.api = Some(at.api.clone());
            remote.api_ca = remote.api_ca.or_else(|| at.ca.clone());
            remote.api_token_file = remote.api_token_file.or_else(|| at.token_file.clone());
            remote.api_identity = remote.api_identity.or_else(|| at.identity.clone());
        }
        let stdout_terminal = std::io::stdout().is_terminal();
        let stderr_terminal = std::io::stderr().is_terminal();
        let terminal_width = || {
            stdout_terminal
                .then(|| crossterm::terminal::size().ok())
                .flatten()
                .map(|(columns, _)| columns)
        };
        let width = environment
            .columns
            .or_else(terminal_width)
            .filter(|columns| *columns > 0);
        Ok(Self {
            home,
            base,
            meant,
            remote: Arc::new(remote),
            namespace: global.namespace,
            format: global.output,
            verbose: global.verbose,
            quiet: global.quiet,
            colour_out: environment.colours(global.color, stdout_terminal),
            colour_err: environment.colours(global.color, stderr_terminal),
            stdout_terminal,
            stderr_terminal,
            width,
            environment,
        })
    }

    /// The namespace that a short name belongs to.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// The socket on which the control plane answers.
    pub(crate) fn socket(&self) -> PathBuf {
        crate::control::api_socket(&self.home)
    }
}

/// A variable by name, for what is started by `up` and reads its own.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok()
}

/// All variables, for tags of spans that name one. Not our own: some of those are secrets, and who may say
/// what spans tell may not know them.
pub(crate) fn variables() -> std::collections::BTreeMap<String, String> {
    let all = std::env::vars_os();
    all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| !name.starts_with("MESHCTL_"))
        .collect()
}

/// What every process that `up` starts gets of our environment.
pub(crate) fn handed_on() -> Vec<(String, String)> {
    named(&["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER"])
}

/// What our own processes get besides.
pub(crate) fn own_variables() -> Vec<(String, String)> {
    named(&["RUST_LOG", "RUST_BACKTRACE"])
}

fn named(names: &[&str]) -> Vec<(String, String)> {
    names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), variable(name)?)))
        .collect()
}

fn home(typed: Option<PathBuf>, environment: &Environment) -> Result<PathBuf, CliError> {
    let found = typed
        .or_else(|| environment.meshctl_home.clone())
        .or_else(|| Some(environment.xdg_data_home.as_ref()?.join("meshctl")))
        .or_else(|| Some(environment.home.as_ref()?.join(".local/share/meshctl")))
        .or_else(|| Some(account()?.dir.join(".local/share/meshctl")))
        .ok_or_else(|| {
            CliError::usage("there is no home directory").hint("name one with --home DIR")
        })?;
    // Children run elsewhere, so a relative path would mean another place to them.
    std::path::absolute(&found).map_err(CliError::file("use", found))
}

/// A context other than `default` is an installation of its own below the same home.
fn context_home(base: &Path, context: &str) -> Result<PathBuf, CliError> {
    if !contexts::is_plain(context) {
        return Err(CliError::usage(format!("there is no context {context:?}"))
            .hint("`meshctl context list` has those that there are; one on this machine is of lower-case letters, digits and dashes, at most 63"));
    }
    Ok(contexts::home_of(base, context))
}

fn account() -> Option<nix::unistd::User> {
    nix::unistd::User::from_uid(nix::unistd::getuid()).ok()?
}

/// Who is asking, for the history.
pub(crate) fn who() -> String {
    account().map_or_else(|| nix::unistd::getuid().to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_is_found_in_this_order() {
        let mut environment = Environment {
            meshctl_home: Some("/a".into()),
            xdg_data_home: Some("/b".into()),
            home: Some("/c".into()),
            ..Environment::default()
        };
        let at = |typed: Option<&str>, environment: &Environment| {
            home(typed.map(PathBuf::from), environment).unwrap()
        };
        assert_eq!(at(Some("/typed"), &environment), Path::new("/typed"));
        assert_eq!(at(None, &environment), Path::new("/a"));
        environment.meshctl_home = None;
        assert_eq!(at(None, &environment), Path::new("/b/meshctl"));
        environment.xdg_data_home = None;
        assert_eq!(at(None, &environment), Path::new("/c/.local/share/meshctl"));
    }

    #[test]
    fn a_context_is_a_home_below_the_home() {
        let base = Path::new("/h");
        assert_eq!(context_home(base, "default").unwrap(), base);
        assert_eq!(
            context_home(base, "stage-2").unwrap(),
            Path::new("/h/contexts/stage-2")
        );
        assert!(context_home(base, "../x").is_err());
        assert!(context_home(base, "").is_err());
    }

    #[test]
    fn colours_are_for_terminals_and_no_color_wins_over_force() {
        let plain = Environment::default();
        assert!(plain.colours(Colour::Auto, true));
        assert!(!plain.colours(Colour::Auto, false));
        assert!(plain.colours(Colour::Always, false));
        let force = Environment {
            clicolor_force: true,
            ..Environment::default()
        };
        assert!(force.colours(Colour::Auto, false));
        let none = Environment {
            no_color: true,
            clicolor_force: true,
            ..Environment::default()
        };
        assert!(!none.colours(Colour::Auto, true));
        assert!(none.colours(Colour::Always, true));
        let dumb = Environment {
            dumb: true,
            ..Environment::default()
        };
        assert!(!dumb.colours(Colour::Auto, true));
    }
}
