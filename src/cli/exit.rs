//! How the program ends, as a type. Scripts rely on the numbers.

use std::process::ExitCode;

/// The exit codes of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done, nothing wrong.
    Ok,
    /// 1: a problem was found, or the command failed.
    Problem,
    /// 2: the command line makes no sense.
    Usage,
    /// 3: it took longer than was allowed.
    Timeout,
    /// 4: the control plane does not answer.
    Unreachable,
    /// 5: some of it was done.
    Partly,
}

impl Exit {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Problem => 1,
            Self::Usage => 2,
            Self::Timeout => 3,
            Self::Unreachable => 4,
            Self::Partly => 5,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
