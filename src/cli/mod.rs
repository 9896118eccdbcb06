//! The command line: arguments in, one report out, an exit code.
//!
//! Owns what a person types and reads. [`settings`] alone reads the environment, [`client`] talks to
//! the control plane's API, each file under [`command`] owns the arguments of one command and finds
//! things out, and [`render`] turns what was found into text. Data goes to stdout, talk to stderr.
//!
//! Leaves to others: every decision about the mesh. A command that needs one asks the API, or calls
//! the one function of the layer below that makes it.

#![expect(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "a page of text is built once; how it reads here matters more than an allocation"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "a command is given its arguments to keep"
)]

mod args;
mod authority;
mod bench;
mod client;
mod cluster;
mod command;
mod context;
mod contexts;
mod demo;
mod error;
mod exit;
mod home;
mod load;
mod lines;
mod logging;
mod out;
mod parse;
mod progress;
mod remote;
mod render;
mod settings;
mod systemd;
mod throwaway;

use std::ffi::OsString;
use std::future::Future;
use std::process::ExitCode;

use args::Command;
use command as c;
use context::Context;
use error::CliError;
use exit::Exit;
use settings::Environment;

/// Runs the program that `args` (with the program's name in front) asks for and says how it ended.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let environment = Environment::read();
    if let Some(code) = command::local::hidden(args.get(1..).unwrap_or_default()) {
        return code;
    }
    let typed = match args::parse(&args) {
        Ok(typed) => typed,
        Err(error) => return args::explain(&error, &args, &environment).into(),
    };
    let cx = match Context::new(typed.global, environment) {
        Ok(cx) => cx,
        Err(error) => return error::tell_plainly(&error).into(),
    };
    let findings = matches!(typed.command, Command::Analyze(_));
    if cx.settings.format == settings::Format::Sarif && !findings {
        let error = CliError::usage("SARIF is for findings, which `meshctl analyze` prints");
        return cx.out.error(&error).into();
    }
    let exit = match dispatch(typed.command, &cx) {
        Ok(exit) => exit,
        Err(error) => cx.out.error(&error),
    };
    whole(&cx, exit).into()
}

/// An answer that some replica had no part in says so, and is not taken for a whole one.
fn whole(cx: &Context, exit: Exit) -> Exit {
    let silent = cx.client.mesh().map(|mesh| mesh.silent());
    let silent = silent.unwrap_or_default();
    for pod in &silent {
        cx.out.warn(&format!(
            "replica {pod} of the control plane did not answer; its proxies are left out"
        ));
    }
    if exit == Exit::Ok && !silent.is_empty() {
        Exit::Partly
    } else {
        exit
    }
}

/// Every command, in the order of `meshctl --help`.
fn dispatch(typed: Command, cx: &Context) -> Result<Exit, CliError> {
    match typed {
        Command::Demo(args) => many(c::demo::run(args, cx)),
        Command::Bench(args) => many(c::bench::run(args, cx)),
        Command::Context(args) => c::context::run(args, cx),
        Command::Install(args) => one(cx, c::install::run(args, cx)),
        Command::Upgrade(args) => one(cx, c::upgrade::run(args, cx)),
        Command::Tag(args) => one(cx, c::tag::run(args, cx)),
        Command::Uninstall(args) => one(cx, c::uninstall::run(args, cx)),
        Command::Check(args) => one(cx, c::check::run(args, cx)),
        Command::Version(args) => one(cx, c::version::run(args, cx)),
        Command::Up(args) => many(c::up::run(args, cx)),
        Command::Down(args) => one(cx, c::down::run(args, cx)),
        Command::Ps(args) => one(cx, c::ps::run(args, cx)),
        Command::Logs(args) => one(cx, c::logs::run(args, cx)),
        Command::ControlPlane(args) => many(c::control_plane::run(*args, cx)),
        Command::Proxy(args) => c::proxy::run(*args, cx),
        Command::Pod(args) => c::pod::run(args, cx),
        Command::Analyze(args) => one(cx, c::analyze::run(args, cx)),
        Command::Apply(args) => one(cx, c::apply::run(args, cx)),
        Command::Get(args) => one(cx, c::get::run(args, cx)),
        Command::Delete(args) => one(cx, c::delete::run(args, cx)),
        Command::History(args) => one(cx, c::history::run(args, cx)),
        Command::Diff(args) => one(cx, c::diff::run(args, cx)),
        Command::Rollback(args) => one(cx, c::rollback::run(args, cx)),
        Command::Inject(args) => c::inject::run(args, cx),
        Command::Routes(args) => one(cx, c::routes::run(args, cx)),
        Command::Canary(args) => one(cx, c::canary::run(args, cx)),
        Command::Fault(args) => one(cx, c::fault::run(args, cx)),
        Command::Authz(args) => one(cx, c::authz::run(args, cx)),
        Command::Stats(args) => one(cx, c::stats::run(args, cx)),
        Command::Top(args) => one(cx, c::top::run(args, cx)),
        Command::Tap(args) => one(cx, c::tap::run(args, cx)),
        Command::Edges(args) => one(cx, c::edges::run(args, cx)),
        Command::Shadow(args) => one(cx, c::shadow::run(args, cx)),
        Command::Traces(args) => one(cx, c::traces::run(args, cx)),
        Command::Dashboard(args) => many(c::dashboard::run(args, cx)),
        Command::Services(args) => one(cx, c::services::run(args, cx)),
        Command::Endpoints(args) => one(cx, c::endpoints::run(args, cx)),
        Command::Register(args) => one(cx, c::register::run(*args, cx)),
        Command::Deregister(args) => one(cx, c::deregister::run(args, cx)),
        Command::Proxies(args) => one(cx, c::proxies::run(args, cx)),
        Command::Config(args) => one(cx, c::config::run(args, cx)),
        Command::Identity(args) => one(cx, c::identity::run(args, cx)),
        Command::Token(args) => one(cx, c::token::run(args, cx)),
        Command::Access(args) => one(cx, c::access::run(args, cx)),
        Command::SupportBundle(args) => one(cx, c::bundle::run(args, cx)),
        Command::Completion(args) => c::completion::run(args, cx),
        Command::Man(args) => c::man::run(args, cx),
    }
}

/// Runs a command that asks and answers: one thread is enough.
fn one(cx: &Context, work: impl Future<Output = Result<Exit, CliError>>) -> Result<Exit, CliError> {
    logging::start(cx, "warn");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?
        .block_on(work)
}

/// Runs a command that serves others.
fn many(work: impl Future<Output = Result<Exit, CliError>>) -> Result<Exit, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?
        .block_on(work)
}
