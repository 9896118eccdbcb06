//! The home directory: what `install` makes and notes, and what the other commands read of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::rt::disk::write_private;

use super::error::CliError;

/// The file by which a home is known to be ours.
const NOTE: &str = "install.json";

/// What `install` was told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Installed {
    /// Version of the program that installed.
    pub(crate) version: String,
    /// As chosen by `--profile`.
    pub(crate) profile: String,
    /// As given by `--set`, over the profile's.
    pub(crate) values: BTreeMap<String, String>,
}

/// What `--set` takes, with what it means.
pub(crate) const KEYS: &[(&str, &str)] = &[
    ("trustDomain", "the root of identities (cluster.local)"),
    (
        "listen",
        "address on which the control plane listens (127.0.0.1)",
    ),
    (
        "xdsPort",
        "port for xDS without TLS, on loopback only (15010)",
    ),
    ("tlsPort", "port for xDS and CA over TLS (15012)"),
    (
        "apiPort",
        "port that answers /ready, on loopback only (15080)",
    ),
    ("metricsPort", "port for metrics, on loopback only (15014)"),
    (
        "apiAddress",
        "ADDRESS:PORT where the API is served over TLS, for who was let in (nowhere)",
    ),
    (
        "apiNames",
        "names by which the API is asked for besides addresses, with commas between",
    ),
    (
        "mtls",
        "what workloads accept by default: strict or permissive",
    ),
    ("logLevel", "error, warn, info, debug or trace (info)"),
    (
        "caKeyType",
        "key of a root that is made: ecdsa-p256, ecdsa-p384, rsa2048, rsa4096 or ed25519 (ecdsa-p256)",
    ),
    (
        "caCerts",
        "directory with an authority that signs in place of an own root",
    ),
    (
        "caPassphraseFile",
        "file with the passphrase of the signing key",
    ),
    (
        "caSigner",
        "HOST:PORT of an outside signer, by Istio's CA API, in place of a key of one's own",
    ),
    (
        "caSignerRoot",
        "file with the roots of what the signer signs and shows",
    ),
    (
        "caSignerCrl",
        "file with the signer's lists of what is revoked",
    ),
    (
        "caSignerToken",
        "file with a token that the signer is shown",
    ),
    (
        "caSignerCert",
        "file with a certificate that the signer is shown",
    ),
    ("caSignerKey", "file with the key of that certificate"),
    (
        "caSignerName",
        "DNS name or SPIFFE id in the signer's certificate (its host)",
    ),
    (
        "caTrustedAccounts",
        "accounts, NAMESPACE/ACCOUNT with commas between, whose signer this is (none)",
    ),
];

impl Installed {
    pub(crate) fn path(home: &Path) -> PathBuf {
        home.join(NOTE)
    }

    /// What was installed; none when nothing was.
    pub(crate) fn load(home: &Path) -> Result<Option<Self>, CliError> {
        Self::read(&Self::path(home))
    }

    /// As [`Self::load`], from a file that somebody else keeps.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, CliError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(CliError::file("read", path)(error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            CliError::failed(format!("{} is damaged: {error}", path.display()))
                .hint("`meshctl install` writes it anew")
        })
    }

    /// Writes it in one step, so that a crash leaves the old one or the new one.
    pub(crate) fn store(&self, home: &Path) -> Result<(), CliError> {
        let path = Self::path(home);
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| CliError::failed(format!("cannot write the settings: {error}")))?;
        text.push(b'\n');
        write_private(&path, &text).map_err(CliError::file("write", path))
    }

    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// A value that is a port.
    pub(crate) fn port(&self, key: &str) -> Option<u16> {
        self.value(key)?.parse().ok()
    }
}

/// Checks one `--set`.
pub(crate) fn check_value(key: &str, value: &str) -> Result<(), CliError> {
    let wrong = |expected: &str| {
        Err(CliError::usage(format!(
            "{key}={value} is not understood: expected {expected}"
        )))
    };
    match key {
        "trustDomain" => super::parse::name(value)
            .map(drop)
            .or_else(|_| wrong("a DNS name")),
        "listen" => match value.parse::<std::net::IpAddr>() {
            Ok(_) => Ok(()),
            Err(_) => wrong("an IP address"),
        },
        "xdsPort" | "tlsPort" | "apiPort" | "metricsPort" => match value.parse::<u16>() {
            Ok(port) if port > 0 => Ok(()),
            _ => wrong("a port from 1 to 65535"),
        },
        "apiAddress" => match value.parse::<std::net::SocketAddr>() {
            Ok(_) => Ok(()),
            Err(_) => wrong("ADDRESS:PORT"),
        },
        "apiNames"
            if value
                .split(',')
                .all(|name| super::parse::name(name).is_ok()) =>
        {
            Ok(())
        }
        "apiNames" => wrong("DNS names with commas between"),
        "mtls" if matches!(value, "strict" | "permissive") => Ok(()),
        "mtls" => wrong("strict or permissive"),
        "logLevel" if matches!(value, "error" | "warn" | "info" | "debug" | "trace") => Ok(()),
        "logLevel" => wrong("error, warn, info, debug or trace"),
        "caKeyType" => super::authority::key_type(value)
            .map(drop)
            .or_else(|_| wrong("ecdsa-p256, ecdsa-p384, rsa2048, rsa4096 or ed25519")),
        // It is read from elsewhere than here later.
        "caCerts" | "caPassphraseFile" | "caSignerRoot" | "caSignerCrl" | "caSignerToken"
        | "caSignerCert" | "caSignerKey" => {
            if Path::new(value).is_absolute() {
                Ok(())
            } else {
                wrong("an absolute path")
            }
        }
        "caSigner" => super::authority::host_port(value)
            .map(drop)
            .or_else(|_| wrong("HOST:PORT or https://HOST:PORT")),
        "caSignerName" if !value.is_empty() => Ok(()),
        "caSignerName" => wrong("a DNS name or a SPIFFE id"),
        "caTrustedAccounts" => super::authority::accounts(value)
            .map(drop)
            .or_else(|_| wrong("NAMESPACE/ACCOUNT with commas between")),
        _ => {
            let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
            Err(CliError::usage(format!("there is no setting {key:?}"))
                .hint(format!("known are {}", known.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::rt::disk::private_dir;

    #[test]
    fn what_is_noted_is_read_back_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("h");
        assert!(Installed::load(&home).unwrap().is_none());
        assert!(private_dir(&home).unwrap());
        assert!(!private_dir(&home).unwrap());
        let note = Installed {
            version: "1".to_owned(),
            profile: "demo".to_owned(),
            values: [("xdsPort".to_owned(), "1".to_owned())].into(),
        };
        note.store(&home).unwrap();
        assert_eq!(Installed::load(&home).unwrap(), Some(note.clone()));
        assert_eq!(note.port("xdsPort"), Some(1));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&home), 0o700);
        assert_eq!(mode(&Installed::path(&home)), 0o600);
        fs::write(Installed::path(&home), "{").unwrap();
        assert!(Installed::load(&home).is_err());
    }

    #[test]
    fn settings_are_checked() {
        assert!(check_value("mtls", "strict").is_ok());
        assert!(check_value("caSigner", "https://ca.example:15012").is_ok());
        assert!(check_value("caTrustedAccounts", "signers/ra,b/c").is_ok());
        assert!(check_value("metricsPort", "16014").is_ok());
        for (key, value) in [
            ("metricsPort", "70000"),
            ("mtls", "maybe"),
            ("xdsPort", "0"),
            ("listen", "here"),
            ("trustDomain", "A B"),
            ("logLevel", "loud"),
            ("caKeyType", "rsa1024"),
            ("caCerts", "here"),
            ("caSigner", "ca.example"),
            ("caSignerRoot", "root.pem"),
            ("caTrustedAccounts", "signers"),
            ("caTrustedAccounts", "signers/ra,"),
            ("nonsense", "1"),
        ] {
            assert!(check_value(key, value).is_err(), "{key}");
        }
    }
}
