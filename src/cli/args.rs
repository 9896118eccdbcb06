//! What can be typed: the commands in groups, the global flags, and what is said when it was wrong.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::builder::Styles;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::command as c;
use super::exit::Exit;
use super::settings::{Colour, Environment, Format};

/// A service mesh in one executable: proxy, control plane, CA, injector, canaries
#[derive(Debug, Parser)]
#[command(
    name = "meshctl",
    bin_name = "meshctl",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = AFTER
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER: &str = "\
First steps:
  meshctl install                                  make a home for the mesh
  meshctl up -d examples/bookinfo                  run pods with sidecars
  meshctl routes reviews                           see where requests go
  meshctl canary set reviews v1=90 v3=10           shift some of them
  meshctl top                                      watch

Exit codes: 0 ok, 1 problem, 2 usage, 3 timed out, 4 control plane not reachable, 5 partly done";

/// Flags that every command takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = GLOBAL)]
pub(crate) struct Global {
    /// Where state is kept [env: MESHCTL_HOME] [default: ~/.local/share/meshctl]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Which mesh: a name of `meshctl context list` [env: MESHCTL_CONTEXT]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    #[command(flatten)]
    pub(crate) remote: Remote,
    /// Of short names (else default), and the only one lists show (else all)
    #[arg(short, long, global = true, value_name = "NAMESPACE", value_parser = super::parse::name)]
    pub(crate) namespace: Option<String>,
    /// How to print
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        hide_possible_values = true,
        help = "How to print: table, wide, json, yaml or name"
    )]
    pub(crate) output: Format,
    /// When to use colours: auto, always or never
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        hide_possible_values = true
    )]
    pub(crate) color: Colour,
    /// Say more; twice says everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Say nothing but data, warnings and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

const GLOBAL: &str = "Global options";

/// Where the control plane is that is asked, when it is not the one of this home.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = GLOBAL)]
pub(crate) struct Remote {
    /// Ask the control plane there, not this home's [env: MESHCTL_API]
    #[arg(long, global = true, value_name = "HOST:PORT", value_parser = super::parse::host_port)]
    pub(crate) api: Option<String>,
    /// File with a token for it [env: MESHCTL_API_TOKEN, the token itself]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) api_token_file: Option<PathBuf>,
    /// Its mesh's root [env: MESHCTL_API_CA] [default: as the token says]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) api_ca: Option<PathBuf>,
    /// Certificate to show it, as `identity issue --out` writes
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) api_identity: Option<PathBuf>,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(c::demo::Args),
    Context(c::context::Args),
    Install(c::install::Args),
    Upgrade(c::upgrade::Args),
    Tag(c::tag::Args),
    Uninstall(c::uninstall::Args),
    Check(c::check::Args),
    Version(c::version::Args),
    Up(c::up::Args),
    Down(c::down::Args),
    Ps(c::ps::Args),
    Logs(c::logs::Args),
    ControlPlane(Box<c::control_plane::Args>),
    Proxy(Box<c::proxy::Args>),
    Pod(c::pod::Args),
    Analyze(c::analyze::Args),
    Apply(c::apply::Args),
    Get(c::get::Args),
    Delete(c::delete::Args),
    History(c::history::Args),
    Diff(c::diff::Args),
    Rollback(c::rollback::Args),
    Inject(c::inject::Args),
    Routes(c::routes::Args),
    Canary(c::canary::Args),
    Fault(c::fault::Args),
    Authz(c::authz::Args),
    Stats(c::stats::Args),
    Top(c::top::Args),
    Tap(c::tap::Args),
    Edges(c::edges::Args),
    Shadow(c::shadow::Args),
    Traces(c::traces::Args),
    Dashboard(c::dashboard::Args),
    Services(c::services::Args),
    Endpoints(c::endpoints::Args),
    Register(Box<c::register::Args>),
    Deregister(c::deregister::Args),
    Proxies(c::proxies::Args),
    Config(c::config::Args),
    Identity(c::identity::Args),
    Token(c::token::Args),
    Access(c::access::Args),
    Bench(c::bench::Args),
    SupportBundle(c::bundle::Args),
    Completion(c::completion::Args),
    Man(c::man::Args),
}

/// How `meshctl --help` groups the commands.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "Start here",
        &[
            "demo",
            "install",
            "upgrade",
            "tag",
            "uninstall",
            "context",
            "check",
            "version",
        ],
    ),
    (
        "Run the mesh",
        &["up", "down", "ps", "logs", "control-plane", "proxy", "pod"],
    ),
    (
        "Configure",
        &[
            "analyze", "diff", "apply", "get", "delete", "history", "rollback", "inject",
        ],
    ),
    (
        "Shift and watch traffic",
        &[
            "routes",
            "canary",
            "fault",
            "stats",
            "top",
            "tap",
            "edges",
            "shadow",
            "traces",
            "dashboard",
        ],
    ),
    (
        "Look inside",
        &[
            "services",
            "endpoints",
            "register",
            "deregister",
            "proxies",
            "config",
            "bench",
            "support-bundle",
        ],
    ),
    (
        "Identities and who may call",
        &["identity", "token", "access", "authz"],
    ),
    ("This program", &["completion", "man"]),
];

/// The whole command line, as clap knows it.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command();
    let template = template(&command);
    command.help_template(template)
}

/// clap lists all commands in one heap; people find them better in groups.
fn template(command: &clap::Command) -> String {
    let heading = *Styles::styled().get_header();
    let literal = *Styles::styled().get_literal();
    let mut text = String::from("{about}\n\n{usage-heading} {usage}\n");
    for (title, names) in GROUPS {
        text.push_str(&format!("\n{heading}{title}:{heading:#}\n"));
        for name in *names {
            let about = command
                .find_subcommand(name)
                .and_then(clap::Command::get_about)
                .map(ToString::to_string)
                .unwrap_or_default();
            text.push_str(&format!("  {literal}{name:<14}{literal:#} {about}\n"));
        }
    }
    text.push_str(&format!("\n{heading}{GLOBAL}:{heading:#}\n{}", globals()));
    text.push_str("  -h, --help                   Print help; also meshctl COMMAND --help\n");
    text.push_str("  -V, --version                Print the version{after-help}");
    text
}

/// The global options, which clap would print only together with the heap.
fn globals() -> String {
    let bare = Cli::command();
    let mut alone = clap::Command::new("meshctl")
        .disable_help_flag(true)
        .max_term_width(100)
        .help_template("{options}");
    for arg in bare.get_arguments() {
        if !matches!(arg.get_id().as_str(), "help" | "version") {
            alone = alone.arg(arg.clone().help_heading(None::<&str>));
        }
    }
    let mut text = alone.render_help().ansi().to_string();
    while text.ends_with('\n') {
        text.pop();
    }
    text.push('\n');
    text
}

/// Reads the arguments, the program's name in front.
pub(crate) fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(args)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Prints what clap has to say: help and versions are data, all else is an error of usage.
pub(crate) fn explain(error: &clap::Error, args: &[OsString], environment: &Environment) -> Exit {
    let helps = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    let terminal = if helps {
        io::stdout().is_terminal()
    } else {
        io::stderr().is_terminal()
    };
    let text = if environment.colours(colour(args), terminal) {
        error.render().ansi().to_string()
    } else {
        error.render().to_string()
    };
    // A closed stream leaves nobody to tell.
    let _told = if helps {
        io::stdout().lock().write_all(text.as_bytes()).is_ok()
    } else {
        io::stderr().lock().write_all(text.as_bytes()).is_ok()
    };
    if helps { Exit::Ok } else { Exit::Usage }
}

/// `--color`, from arguments that may not make sense otherwise.
fn colour(args: &[OsString]) -> Colour {
    let texts: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let value = texts.iter().enumerate().find_map(|(at, text)| {
        text.strip_prefix("--color=")
            .or_else(|| (*text == "--color").then(|| texts.get(at + 1).copied())?)
    });
    match value {
        Some("always") => Colour::Always,
        Some("never") => Colour::Never,
        _ => Colour::Auto,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn every_command_is_in_one_group() {
        let mut grouped: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| *names)
            .copied()
            .collect();
        grouped.sort_unstable();
        let command = command();
        let mut known: Vec<&str> = command
            .get_subcommands()
            .filter(|sub| !sub.is_hide_set())
            .map(clap::Command::get_name)
            .collect();
        known.sort_unstable();
        assert_eq!(grouped, known);
    }
}
