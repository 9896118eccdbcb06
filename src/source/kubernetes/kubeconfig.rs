//! Kubeconfig files: read, their relative paths resolved, several merged by kubectl's rules.
//!
//! Through JSON rather than with the client library's own reader: that would instantiate the YAML
//! reader for every one of its types once more, which is half a megabyte of program.

use std::path::{Path, PathBuf};

use kube::config::Kubeconfig;
use serde_json::Value;

use super::KubernetesError;

/// All of `paths` as one; what an earlier file says wins.
pub(super) fn read(paths: &[PathBuf]) -> Result<Kubeconfig, KubernetesError> {
    paths.iter().try_fold(Kubeconfig::default(), |all, path| {
        let fault = |reason: String| KubernetesError::File {
            path: path.clone(),
            reason,
        };
        let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        let mut value: Value = serde_saphyr::from_str(&text)
            .map_err(|error: serde_saphyr::Error| fault(error.without_snippet().to_string()))?;
        resolve(&mut value, path.parent().unwrap_or(Path::new("")));
        let one = serde_json::from_value(value).map_err(|error| fault(error.to_string()))?;
        all.merge(one).map_err(|error| fault(error.to_string()))
    })
}

/// Files are named relative to the file that names them. A command is, when it is a path at all.
fn resolve(kubeconfig: &mut Value, directory: &Path) {
    let absolute = |at: Option<&mut Value>, command: bool| {
        if let Some(Value::String(path)) = at
            && Path::new(path).is_relative()
            && !path.is_empty()
            && (!command || path.contains('/'))
        {
            *path = directory.join(&*path).to_string_lossy().into_owned();
        }
    };
    let mut each = |list: &str, paths: &[(&str, bool)]| {
        let items = kubeconfig.get_mut(list).and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            for (pointer, command) in paths {
                absolute(item.pointer_mut(pointer), *command);
            }
        }
    };
    each("clusters", &[("/cluster/certificate-authority", false)]);
    each(
        "users",
        &[
            ("/user/client-certificate", false),
            ("/user/client-key", false),
            ("/user/tokenFile", false),
            ("/user/exec/command", true),
        ],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "
apiVersion: v1
kind: Config
current-context: a
clusters:
- name: one
  cluster: {server: https://one:6443, certificate-authority: ca.pem}
users:
- name: me
  user:
    client-key: /abs/key.pem
    tokenFile: sub/token
    exec: {apiVersion: client.authentication.k8s.io/v1, command: aws}
contexts:
- {name: a, context: {cluster: one, user: me}}
";
    const SECOND: &str = "
current-context: b
clusters:
- {name: one, cluster: {server: https://other:6443}}
- {name: two, cluster: {server: https://two:6443}}
users:
- {name: you, user: {exec: {command: ./login}}}
";

    #[test]
    fn files_are_merged_the_first_wins_and_paths_are_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [("first", FIRST), ("second", SECOND)].map(|(name, text)| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        });
        let read = read(&paths).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("a"));
        let value = serde_json::to_value(&read).unwrap();
        let at = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
        let file = |name: &str| dir.path().join(name).to_str().map(str::to_owned);
        assert_eq!(at("/clusters/0/cluster/server"), Some("https://one:6443"));
        assert_eq!(at("/clusters/1/name"), Some("two"));
        assert_eq!(
            at("/clusters/0/cluster/certificate-authority").map(str::to_owned),
            file("ca.pem")
        );
        assert_eq!(at("/users/0/user/client-key"), Some("/abs/key.pem"));
        assert_eq!(
            at("/users/0/user/tokenFile").map(str::to_owned),
            file("sub/token")
        );
        assert_eq!(at("/users/0/user/exec/command"), Some("aws"));
        assert_eq!(
            at("/users/1/user/exec/command").map(str::to_owned),
            file("./login")
        );
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        for text in [None, Some("a: [b"), Some("clusters: 7")] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = read(std::slice::from_ref(&path)).unwrap_err().to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }
}
