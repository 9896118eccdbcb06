//! What every command is given.

use crate::rt::Wall;

use super::args::Global;
use super::client::Client;
use super::error::CliError;
use super::out::Out;
use super::remote;
use super::settings::{Environment, Settings};

/// Resolved settings, the API, the output and the clock.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) client: Client,
    pub(crate) out: Out,
    pub(crate) wall: Wall,
}

impl Context {
    pub(crate) fn new(global: Global, environment: Environment) -> Result<Self, CliError> {
        let settings = Settings::resolve(global, environment)?;
        let wall = Wall::System;
        Ok(Self {
            client: remote::client(&settings)?,
            out: Out::new(&settings, &wall),
            settings,
            wall,
        })
    }

    /// The namespace that lists are restricted to; none shows all.
    pub(crate) fn only_namespace(&self) -> Option<&str> {
        self.settings.namespace.as_deref()
    }
}
