//! The command line: arguments in, one report out, an exit code.

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the program that `args` asks for and says how it ended.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().skip(1).collect();
    #[expect(
        clippy::disallowed_methods,
        reason = "the command line reads the environment"
    )]
    let variable = |name: &str| std::env::var(name).ok();
    if let Some(code) = crate::local::entry::run(&args, variable) {
        return code;
    }
    ExitCode::SUCCESS
}
