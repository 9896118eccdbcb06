//! The optional systemd user unit that keeps a control plane running.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::CliError;
use super::settings::Settings;

/// Name of the unit of this installation.
pub(crate) fn unit_name(settings: &Settings) -> String {
    match settings.meant.name.as_str() {
        "default" => "meshctl.service".to_owned(),
        context => format!("meshctl-{context}.service"),
    }
}

/// Where user units are read from.
pub(crate) fn unit_path(settings: &Settings) -> Result<PathBuf, CliError> {
    let environment = &settings.environment;
    let base = environment
        .xdg_config_home
        .clone()
        .or_else(|| Some(environment.home.as_ref()?.join(".config")))
        .ok_or_else(|| {
            CliError::usage("there is no home directory for the service unit")
                .hint("set HOME or XDG_CONFIG_HOME")
        })?;
    Ok(base.join("systemd/user").join(unit_name(settings)))
}

/// The text of the unit.
pub(crate) fn unit_text(executable: &Path, home: &Path) -> String {
    include_str!("../../assets/meshctl.service")
        .replace("@EXECUTABLE@", &quoted(executable))
        .replace("@HOME@", &quoted(home))
}

/// As systemd reads words: `%` and `$` mean something to it, and spaces end a word.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%")
        .replace('$', "$$");
    format!("\"{escaped}\"")
}

/// Writes the unit. Whether it was changed.
pub(crate) fn write(path: &Path, text: &str) -> Result<bool, CliError> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(CliError::file("make", parent))?;
    }
    fs::write(path, text).map_err(CliError::file("write", path))?;
    Ok(true)
}

/// Runs `systemctl --user ARGS`.
pub(crate) fn systemctl(args: &[&str]) -> Result<(), CliError> {
    let hint =
        "without a systemd user session, run `meshctl control-plane` under your own supervisor";
    let output = Command::new("systemctl")
        .arg("--user")
        .args(args)
        .output()
        .map_err(|error| CliError::failed(format!("cannot run systemctl: {error}")).hint(hint))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(CliError::failed(format!(
        "systemctl --user {} failed: {}",
        args.join(" "),
        words.trim()
    ))
    .hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_paths_are_quoted() {
        let text = unit_text(Path::new("/a b/meshctl"), Path::new("/h/50%$x\"y"));
        assert!(
            text.contains("ExecStart=\"/a b/meshctl\" --home \"/h/50%%$$x\\\"y\" control-plane"),
            "{text}"
        );
    }
}
