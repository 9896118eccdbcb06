//! `identity`: certificates by hand, and what is in one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;

use super::rotate_root;
use crate::api::identity::{
    AuditEntry, IdentityReport, IdentityRequest, RevocationReport, RevocationRequest,
};
use crate::cli::client::path;
use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::cli::parse;
use crate::cli::render::config::Config;
use crate::cli::render::identity::lifetime;
use crate::cli::render::{Page, Render, number};
use crate::rt::disk::{private_dir, write_private};

/// Issue, show and revoke certificates; the root; the audit log
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl identity issue --service-account ops --ttl 1h --out ./ops
  meshctl identity show ./ops/cert-chain.pem
  meshctl identity show reviews-v1-6b7c-x2x1z
  meshctl identity rotate-root
  meshctl identity audit --since 1h")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Issue(Issue),
    Show(Show),
    Revoke(Revoke),
    RotateRoot(rotate_root::Args),
    Audit(Audit),
}

/// Show what became of certificates, join tokens and the root: who, what and when
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl identity audit --since 1h
  meshctl identity audit -o json | jq '.[] | select(.event==\"tokenRefused\")'

The log is control/ca/audit in the home of the mesh, a JSON object a line,
mode 0600. Refusals are in files of their own. The oldest entries go when
there are 128 MiB (8 MiB of refusals).")]
struct Audit {
    /// How far back
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    since: Option<Duration>,
    /// How many entries at most, the newest
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    limit: u64,
}

/// Have every proxy refuse certificates whose key is in wrong hands, and cut their connections
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl identity revoke ./ops/cert-chain.pem
  meshctl identity revoke 5d0f2c6a41e89b73b1d25c1f0e7a9368

Whoever held such a certificate rightly joins again, with a new token.")]
struct Revoke {
    /// Serial numbers, or PEM files whose first certificate is meant
    #[arg(value_name = "SERIAL|FILE", required = true)]
    what: Vec<String>,
}

/// Issue a certificate with a key, for a program outside the mesh
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl identity issue --service-account ops --out ./ops
  curl --cert ops/cert-chain.pem --key ops/key.pem --cacert ops/root-cert.pem …

Without --out, key and chain go to standard output in PEM.")]
struct Issue {
    /// Whose identity it is; the namespace is -n
    #[arg(long, value_name = "ACCOUNT", value_parser = parse::name)]
    service_account: String,
    /// How long it is good for [default: 24h]
    #[arg(long, value_name = "DURATION", default_value = "0", hide_default_value = true, value_parser = parse::duration)]
    ttl: Duration,
    /// Write cert-chain.pem, key.pem (mode 0600) and root-cert.pem into this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Show the certificates in a file, or those that a proxy holds
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  meshctl identity show ./ops/cert-chain.pem
  meshctl identity show reviews-v1-6b7c-x2x1z")]
struct Show {
    /// A PEM file, or the name of a proxy
    #[arg(value_name = "FILE|PROXY")]
    of: String,
}

/// Where a certificate and its key went.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    spiffe_id: String,
    expires_unix_ms: u64,
    files: Vec<String>,
}

impl Render for Written {
    fn text(&self, _: &Page) -> String {
        self.files.iter().map(|file| format!("{file}\n")).collect()
    }

    fn names(&self) -> Vec<String> {
        self.files.clone()
    }
}

/// One certificate.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    subject: String,
    issuer: String,
    names: Vec<String>,
    serial: String,
    not_before_unix_ms: u64,
    not_after_unix_ms: u64,
    authority: bool,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Certificates(Vec<Certificate>);

impl Render for Certificates {
    fn text(&self, page: &Page) -> String {
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|certificate| {
                let kind = if certificate.authority { "authority" } else { "workload" };
                let name = certificate.names.first().unwrap_or(&certificate.subject);
                format!(
                    "{}  ({kind})\n  names    {}\n  issuer   {}\n  serial   {}\n  from     {}\n  valid    {}\n",
                    page.paint.strong(name),
                    certificate.names.join(" "),
                    certificate.issuer,
                    certificate.serial,
                    number::moment(certificate.not_before_unix_ms),
                    lifetime(certificate.not_after_unix_ms, page.now_unix_ms),
                )
            })
            .collect();
        parts.join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.0
            .iter()
            .flat_map(|certificate| certificate.names.clone())
            .collect()
    }
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<Exit, CliError> {
    match args.command {
        Command::Issue(args) => issue(args, cx).await,
        Command::Show(args) => show(&args.of, cx).await,
        Command::Revoke(args) => revoke(args.what, cx).await,
        Command::RotateRoot(args) => rotate_root::run(&args, cx).await,
        Command::Audit(args) => audit(&args, cx).await,
    }
}

async fn audit(args: &Audit, cx: &Context) -> Result<Exit, CliError> {
    let since = args.since.map_or(0, |since| {
        let back = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        cx.wall.millis().saturating_sub(back)
    });
    let (since, limit) = (since.to_string(), args.limit.to_string());
    let at = path(
        &["audit"],
        &[("since", Some(&since)), ("limit", Some(&limit))],
    );
    let entries: Vec<AuditEntry> = cx.client.get(&at).await?;
    cx.out.report(&entries)?;
    Ok(Exit::Ok)
}

async fn issue(args: Issue, cx: &Context) -> Result<Exit, CliError> {
    let request = IdentityRequest {
        namespace: cx.settings.namespace().to_owned(),
        service_account: args.service_account,
        ttl_seconds: args.ttl.as_secs(),
    };
    let report: IdentityReport = cx
        .client
        .post(&path(&["identities"], &[]), &request)
        .await?;
    let good = lifetime(report.expires_unix_ms, cx.wall.millis());
    match &args.out {
        None => cx.out.report(&report)?,
        Some(dir) => {
            private_dir(dir).map_err(CliError::file("make", dir))?;
            let mut written = Written {
                spiffe_id: report.spiffe_id.clone(),
                expires_unix_ms: report.expires_unix_ms,
                files: Vec::new(),
            };
            for (name, text) in [
                ("cert-chain.pem", &report.chain_pem),
                ("key.pem", &report.key_pem),
                ("root-cert.pem", &report.roots_pem),
            ] {
                let file = dir.join(name);
                write_private(&file, text.as_bytes()).map_err(CliError::file("write", &file))?;
                written.files.push(file.display().to_string());
            }
            cx.out.report(&written)?;
        }
    }
    cx.out.note(&format!("{} is {good}", report.spiffe_id));
    Ok(Exit::Ok)
}

impl Render for RevocationReport {
    fn text(&self, _: &Page) -> String {
        let mut text = format!(
            "{} certificates are revoked, {} proxies go by it\n",
            self.revoked, self.believing
        );
        if !self.not_believing.is_empty() {
            text += &format!(
                "{} have not said so yet: {}\n",
                self.not_believing.len(),
                self.not_believing.join(", ")
            );
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.not_believing.clone()
    }
}

async fn revoke(what: Vec<String>, cx: &Context) -> Result<Exit, CliError> {
    let mut serials = Vec::new();
    for what in what {
        let file = Path::new(&what);
        if !file.is_file() && !what.contains('/') {
            serials.push(what);
            continue;
        }
        let bytes = fs::read(file).map_err(CliError::file("read", file))?;
        let first = certificates(&bytes, file)?.into_iter().next();
        serials.extend(first.map(|certificate| certificate.serial));
    }
    let at = path(&["trust", "revocations"], &[]);
    let report: RevocationReport = cx.client.post(&at, &RevocationRequest { serials }).await?;
    cx.out.report(&report)?;
    Ok(if report.not_believing.is_empty() {
        Exit::Ok
    } else {
        Exit::Timeout
    })
}

async fn show(of: &str, cx: &Context) -> Result<Exit, CliError> {
    let file = Path::new(of);
    if file.is_file() || of.contains('/') {
        let bytes = fs::read(file).map_err(CliError::file("read", file))?;
        let report = Certificates(certificates(&bytes, file)?);
        cx.out.report(&report)?;
        let now = cx.wall.millis();
        let expired = report
            .0
            .iter()
            .any(|certificate| certificate.not_after_unix_ms <= now);
        return Ok(if expired { Exit::Problem } else { Exit::Ok });
    }
    let held: Value = cx
        .client
        .get(&path(&["proxies", of, "config", "secrets"], &[]))
        .await?;
    cx.out.report(&Config::new("secrets", held))?;
    Ok(Exit::Ok)
}

fn certificates(bytes: &[u8], file: &Path) -> Result<Vec<Certificate>, CliError> {
    let wrong = |reason: String| CliError::failed(format!("{}: {reason}", file.display()));
    let mut found = Vec::new();
    for pem in Pem::iter_from_buffer(bytes) {
        let pem = pem.map_err(|error| wrong(error.to_string()))?;
        // Keys may be in the same file; they are nobody's business here.
        if pem.label != "CERTIFICATE" {
            continue;
        }
        let parsed = pem.parse_x509().map_err(|error| wrong(error.to_string()))?;
        let names = parsed
            .extensions()
            .iter()
            .filter_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            })
            .flatten()
            .map(|name| match name {
                GeneralName::URI(uri) => (*uri).to_owned(),
                GeneralName::DNSName(name) => (*name).to_owned(),
                other => other.to_string(),
            })
            .collect();
        let millis = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000);
        found.push(Certificate {
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            names,
            serial: parsed.raw_serial_as_string(),
            not_before_unix_ms: millis(parsed.validity().not_before.timestamp()),
            not_after_unix_ms: millis(parsed.validity().not_after.timestamp()),
            authority: parsed.is_ca(),
        });
    }
    if found.is_empty() {
        return Err(wrong("no certificate in it".to_owned()));
    }
    Ok(found)
}
