//! Reading the files that `-f` names.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::api::resources::SourceText;
use crate::cli::error::CliError;

/// Largest input; the store takes 8 MiB an object.
const MAX_BYTES: u64 = 64 << 20;

/// How deep `-R` goes, so that a loop of links ends.
const MAX_DEPTH: usize = 32;

/// Reads files, directories (their `*.yaml`, `*.yml`, `*.json`) and `-` for standard input.
pub(crate) fn read(names: &[PathBuf], recursive: bool) -> Result<Vec<SourceText>, CliError> {
    let mut sources = Vec::new();
    let mut stdin_read = false;
    for name in names {
        if name.as_os_str() == "-" {
            if stdin_read {
                return Err(CliError::usage("standard input can be read only once"));
            }
            stdin_read = true;
            sources.push(SourceText {
                name: "<stdin>".to_owned(),
                text: text(Path::new("<stdin>"), std::io::stdin().lock())?,
            });
        } else if name.is_dir() {
            let mut files = Vec::new();
            walk(name, recursive, 0, &mut files)?;
            if files.is_empty() {
                let deeper = if recursive {
                    ""
                } else {
                    "; -R looks below it, too"
                };
                return Err(CliError::failed(format!(
                    "{} holds no *.yaml, *.yml or *.json{deeper}",
                    name.display()
                )));
            }
            for file in files {
                sources.push(one(&file)?);
            }
        } else {
            sources.push(one(name)?);
        }
    }
    Ok(sources)
}

fn one(path: &Path) -> Result<SourceText, CliError> {
    let file = fs::File::open(path).map_err(CliError::file("read", path))?;
    Ok(SourceText {
        name: path.display().to_string(),
        text: text(path, file)?,
    })
}

fn text(path: &Path, from: impl std::io::Read) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(CliError::file("read", path))?;
    if u64::try_from(bytes.len()).is_ok_and(|size| size > MAX_BYTES) {
        return Err(CliError::failed(format!(
            "{} is larger than {} MiB",
            path.display(),
            MAX_BYTES >> 20
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        CliError::failed(format!(
            "{} is not UTF-8 text: byte {}",
            path.display(),
            error.utf8_error().valid_up_to()
        ))
    })
}

fn walk(
    dir: &Path,
    recursive: bool,
    depth: usize,
    files: &mut Vec<PathBuf>,
) -> Result<(), CliError> {
    let entries = fs::read_dir(dir).map_err(CliError::file("read", dir))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(CliError::file("read", dir))?;
    paths.sort();
    for path in paths {
        let manifest = path
            .extension()
            .is_some_and(|ending| ending == "yaml" || ending == "yml" || ending == "json");
        if path.is_dir() {
            if recursive && depth < MAX_DEPTH {
                walk(&path, recursive, depth + 1, files)?;
            }
        } else if manifest {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_give_their_manifests_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("b.yaml", "b"),
            ("a.yml", "a"),
            ("c.txt", "c"),
            ("sub/d.json", "d"),
        ] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let texts = |recursive| -> String {
            read(&[dir.path().to_owned()], recursive)
                .unwrap()
                .into_iter()
                .map(|source| source.text)
                .collect()
        };
        assert_eq!(texts(false), "ab");
        assert_eq!(texts(true), "abd");
        assert!(read(&[dir.path().join("missing.yaml")], false).is_err());
        fs::write(dir.path().join("a.yml"), [0xff]).unwrap();
        assert!(read(&[dir.path().to_owned()], false).is_err());
    }
}
