//! Which authority signs, as flags, settings of the installation and the environment say.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::CliError;
use super::home::Installed;
use crate::control::trust::CaOptions;
use crate::tls::{KeyType, Passphrase};

/// Flags of the control plane; each goes before the setting of its name.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct AuthorityArgs {
    /// Key of a root that is made here: ecdsa-p256, ecdsa-p384, rsa2048, rsa4096 or
    /// ed25519 [default: ecdsa-p256]
    #[arg(long = "ca-key-type", value_name = "TYPE", value_parser = key_type)]
    key_type: Option<KeyType>,
    /// Directory with an authority that signs in place of an own root, and is followed:
    /// ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem
    #[arg(long = "ca-certs", value_name = "DIR")]
    certs: Option<PathBuf>,
    /// File with the passphrase of the signing key [env: MESHCTL_CA_PASSPHRASE, the
    /// passphrase itself]
    #[arg(long = "ca-passphrase-file", value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

/// Reads a type of key.
pub(crate) fn key_type(text: &str) -> Result<KeyType, String> {
    let known = KeyType::NAMES.iter().find(|(name, _)| *name == text);
    known.map(|(_, kind)| *kind).ok_or_else(|| {
        let names = KeyType::NAMES.map(|(name, _)| name).join(", ");
        format!("{text:?} is not a type of key; known are {names}")
    })
}

impl AuthorityArgs {
    /// What they come to beside what was `installed` and the passphrase in the environment.
    pub(crate) fn options(
        self,
        installed: &Installed,
        passphrase: Option<&Passphrase>,
    ) -> Result<CaOptions, CliError> {
        let path = |key: &str| installed.value(key).map(PathBuf::from);
        let kind = installed.value("caKeyType").map(key_type).transpose();
        let kind = kind.map_err(CliError::usage)?;
        let file = self.passphrase_file.or_else(|| path("caPassphraseFile"));
        Ok(CaOptions {
            key_type: self.key_type.or(kind).unwrap_or_default(),
            passphrase: match file {
                Some(file) => Some(read(&file)?),
                None => passphrase.cloned(),
            },
            plugged: self.certs.or_else(|| path("caCerts")),
        })
    }
}

fn read(file: &Path) -> Result<Passphrase, CliError> {
    let bytes = fs::read(file).map_err(CliError::file("read", file))?;
    Passphrase::new(bytes).map_err(|error| CliError::failed(format!("{}: {error}", file.display())))
}
