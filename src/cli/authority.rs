//! Which authority signs, as flags, settings of the installation and the environment say.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::CliError;
use super::home::Installed;
use crate::control::signer::SignerOptions;
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
    /// Has an outside signer sign, by Istio's CA API; no key is kept here. HOST:PORT or
    /// https://HOST:PORT
    #[arg(long = "ca-signer", value_name = "HOST:PORT", requires = "signer_root",
        conflicts_with_all = ["certs", "key_type", "passphrase_file"], value_parser = host_port)]
    signer: Option<(String, u16)>,
    /// Roots of what the signer signs and shows, as PEM; the file is followed
    #[arg(long = "ca-signer-root", value_name = "FILE", requires = "signer")]
    signer_root: Option<PathBuf>,
    /// The signer's lists of what is revoked, as PEM; the file is followed
    #[arg(long = "ca-signer-crl", value_name = "FILE", requires = "signer")]
    signer_crl: Option<PathBuf>,
    /// Token that the signer is shown; read for each request
    #[arg(long = "ca-signer-token", value_name = "FILE", requires = "signer")]
    signer_token: Option<PathBuf>,
    /// Certificate that the signer is shown, with its chain; read for each request
    #[arg(long = "ca-signer-cert", value_name = "FILE", requires_all = ["signer", "signer_key"])]
    signer_cert: Option<PathBuf>,
    /// Key of --ca-signer-cert
    #[arg(long = "ca-signer-key", value_name = "FILE", requires = "signer_cert")]
    signer_key: Option<PathBuf>,
    /// DNS name or SPIFFE id in the signer's certificate [default: its host]
    #[arg(long = "ca-signer-name", value_name = "NAME", requires = "signer")]
    signer_name: Option<String>,
    /// Account that may have certificates signed for anybody: a control plane whose
    /// signer this is; may be repeated
    #[arg(long = "ca-trusted-account", value_name = "NAMESPACE/ACCOUNT", value_parser = account)]
    trusted: Vec<(String, String)>,
}

/// Settings that say where a signer is, and what goes with it.
const SIGNER: [&str; 7] = [
    "caSigner",
    "caSignerRoot",
    "caSignerCrl",
    "caSignerToken",
    "caSignerCert",
    "caSignerKey",
    "caSignerName",
];

/// The signer of an installation.
fn installed_signer(installed: &Installed) -> Result<Option<SignerOptions>, CliError> {
    let path = |key: &str| installed.value(key).map(PathBuf::from);
    let Some(signer) = installed.value("caSigner") else {
        return match SIGNER.iter().find(|key| installed.value(key).is_some()) {
            Some(key) => Err(CliError::usage(format!(
                "{key} is set, and caSigner is not"
            ))),
            None => Ok(None),
        };
    };
    let (host, port) = host_port(signer).map_err(CliError::usage)?;
    let own = ["caCerts", "caKeyType", "caPassphraseFile"];
    if let Some(own) = own.iter().find(|key| installed.value(key).is_some()) {
        return Err(CliError::usage(format!(
            "caSigner and {own} are set, and either a signer has the key or it is here"
        )));
    }
    let roots = path("caSignerRoot").ok_or_else(|| {
        CliError::usage("caSigner is set, and caSignerRoot is not: nothing says whom to believe")
    })?;
    let shows = (path("caSignerCert"), path("caSignerKey"));
    if shows.0.is_some() != shows.1.is_some() {
        return Err(CliError::usage(
            "caSignerCert and caSignerKey are a pair, and one of them is set",
        ));
    }
    Ok(Some(SignerOptions {
        host,
        port,
        roots,
        lists: path("caSignerCrl"),
        token: path("caSignerToken"),
        shows: shows.0.zip(shows.1),
        name: installed.value("caSignerName").map(str::to_owned),
    }))
}

/// Reads accounts with commas between.
pub(super) fn accounts(text: &str) -> Result<Vec<(String, String)>, String> {
    text.split(',').map(account).collect()
}

/// Reads where a signer is.
pub(super) fn host_port(text: &str) -> Result<(String, u16), String> {
    let bare = text
        .strip_prefix("https://")
        .unwrap_or(text)
        .trim_end_matches('/');
    let parts = bare.rsplit_once(':').and_then(|(host, port)| {
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        let plain = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
        let port = port.parse().ok().filter(|port| *port > 0);
        Some((host.to_owned(), port?)).filter(|_| plain)
    });
    parts.ok_or_else(|| format!("{text:?} is neither HOST:PORT nor https://HOST:PORT"))
}

/// Reads an account.
fn account(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('/').filter(|(namespace, name)| {
        !namespace.is_empty() && !name.is_empty() && !name.contains('/')
    });
    let parts = parts.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    parts.ok_or_else(|| format!("{text:?} is not NAMESPACE/ACCOUNT"))
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
        let signer = match self.signer.zip(self.signer_root) {
            Some(((host, port), roots)) => Some(SignerOptions {
                host,
                port,
                roots,
                lists: self.signer_crl,
                token: self.signer_token,
                shows: self.signer_cert.zip(self.signer_key),
                name: self.signer_name,
            }),
            None if self.certs.is_some() => None,
            None => installed_signer(installed)?,
        };
        if let Some(signer) = &signer
            && signer.token.is_none()
            && signer.shows.is_none()
        {
            return Err(CliError::usage(
                "the signer must know who asks: add --ca-signer-token, or --ca-signer-cert and --ca-signer-key (as settings caSignerToken, or caSignerCert and caSignerKey)",
            ));
        }
        let trusted = match (
            self.trusted.is_empty(),
            installed.value("caTrustedAccounts"),
        ) {
            (true, Some(listed)) => accounts(listed).map_err(CliError::usage)?,
            _ => self.trusted,
        };
        Ok(CaOptions {
            trusted,
            key_type: self.key_type.or(kind).unwrap_or_default(),
            passphrase: match file {
                Some(file) => Some(read(&file)?),
                None => passphrase.cloned(),
            },
            plugged: match signer {
                Some(_) => None,
                None => self.certs.or_else(|| path("caCerts")),
            },
            signer,
        })
    }
}

fn read(file: &Path) -> Result<Passphrase, CliError> {
    let bytes = fs::read(file).map_err(CliError::file("read", file))?;
    Passphrase::new(bytes).map_err(|error| CliError::failed(format!("{}: {error}", file.display())))
}
