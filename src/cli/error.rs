//! What stops a command, with the exit code and the hint that go with it.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use crate::api::Problem;

use super::exit::Exit;

/// How a control plane is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By the socket in a home.
    Home,
    /// By its address.
    Api,
    /// Through the API server of its cluster.
    Cluster,
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The arguments contradict each other or cannot be understood.
    #[error("{message}")]
    Usage {
        message: String,
        hint: Option<String>,
    },
    /// The control plane answered that it will not.
    #[error("{}", .0.message)]
    Problem(Problem),
    /// Nobody answers on the control plane's socket, or where it is on another machine.
    #[error("the control plane does not answer on {place}")]
    Unreachable {
        place: String,
        way: Way,
        #[source]
        source: io::Error,
    },
    /// Too late.
    #[error("{what} took longer than {}", super::render::number::duration(*.after))]
    Timeout { what: String, after: Duration },
    /// The control plane's answer makes no sense; probably another version.
    #[error("the control plane gave no proper answer to {request}: {reason}")]
    Answer { request: String, reason: String },
    /// Too late, in the words of a layer below.
    #[error("{message}")]
    Late {
        message: String,
        hint: Option<String>,
    },
    /// A file, directory or socket could not be used.
    #[error("cannot {verb} {}", .path.display())]
    File {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Something else failed.
    #[error("{message}")]
    Failed {
        message: String,
        hint: Option<String>,
    },
    /// The runtime could not be started.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The terminal did not do as told.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
    /// Whoever read our output has read enough.
    #[error("the output was closed")]
    ClosedPipe,
    /// Standard output cannot be written (a full disk, for example).
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

impl CliError {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed {
            message: without_numbers(message.into()),
            hint: None,
        }
    }

    /// Adds how to mend it, to those that carry a hint.
    #[must_use]
    pub(crate) fn hint(mut self, words: impl Into<String>) -> Self {
        match &mut self {
            Self::Usage { hint, .. } | Self::Failed { hint, .. } => *hint = Some(words.into()),
            Self::Problem(problem) => problem.hint = Some(words.into()),
            _ => {}
        }
        self
    }

    pub(crate) fn file(
        verb: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { verb, path, source }
    }

    /// The exit code that it ends the program with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } => Exit::Usage,
            Self::Timeout { .. } | Self::Late { .. } => Exit::Timeout,
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::ClosedPipe => Exit::Ok,
            Self::Problem(_)
            | Self::Answer { .. }
            | Self::File { .. }
            | Self::Failed { .. }
            | Self::Runtime(_)
            | Self::Terminal(_)
            | Self::Output(_) => Exit::Problem,
        }
    }

    fn makes(&self) -> bool {
        matches!(self, Self::File { verb: "make", .. })
    }

    /// What to do about it.
    pub(crate) fn advice(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } | Self::Failed { hint, .. } | Self::Late { hint, .. } => {
                hint.clone()
            }
            Self::Problem(problem) => problem.hint.clone(),
            Self::Unreachable {
                way: Way::Cluster, ..
            } => Some(
                "`meshctl check` looks at it piece by piece; another mesh is named with --context, see `meshctl context list`"
                    .to_owned(),
            ),
            Self::Unreachable { way: Way::Api, .. } => Some(
                "look at --api, --api-token-file and --api-ca; it serves there when it runs with `--api-address`"
                    .to_owned(),
            ),
            Self::Unreachable { .. } => Some(
                "start it with `meshctl install && meshctl control-plane`, or with pods by \
                 `meshctl up FILE…`"
                    .to_owned(),
            ),
            Self::Answer { .. } => Some("compare the versions with `meshctl version`".to_owned()),
            Self::File { source, path, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Some(format!(
                    "{} belongs to somebody else; use another --home, or run as its owner",
                    path.display()
                )),
                io::ErrorKind::StorageFull => Some("make room on the disk".to_owned()),
                io::ErrorKind::ReadOnlyFilesystem => {
                    Some("nothing can be written there; choose another --home".to_owned())
                }
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                    Some("it is not a directory; choose another --home".to_owned())
                }
                io::ErrorKind::NotFound if self.makes() => {
                    Some("nothing can be made there; choose another --home".to_owned())
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// The message with its causes, each fact once.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            // The number says no more than the words.
            let words = error.to_string();
            let words = words.split(" (os error ").next().unwrap_or(&words);
            if !text.ends_with(words) {
                // Writing to a string does not fail.
                let _ok = write!(text, ": {words}").is_ok();
            }
            cause = error.source();
        }
        text
    }
}

/// Tells of an error before there is a [`super::context::Context`] to tell it.
pub(crate) fn tell_plainly(error: &CliError) -> Exit {
    let mut text = format!("error: {}\n", error.chain());
    if let Some(hint) = error.advice() {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // Standard error may be closed; there is nobody else to tell.
    let _told = io::stderr().lock().write_all(text.as_bytes()).is_ok();
    error.exit()
}

/// The system's words without its number for them.
fn without_numbers(mut text: String) -> String {
    while let Some(begin) = text.find(" (os error ")
        && let Some(length) = text.get(begin..).and_then(|rest| rest.find(')'))
    {
        text.replace_range(begin..=begin + length, "");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_say_no_more_than_the_words() {
        let text = "cannot listen: Address already in use (os error 98), cannot x: No (os error 2)";
        assert_eq!(
            without_numbers(text.to_owned()),
            "cannot listen: Address already in use, cannot x: No"
        );
        assert_eq!(without_numbers("a (os error".to_owned()), "a (os error");
    }
}
