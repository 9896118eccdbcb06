//! Manifests in a directory.

use std::io;
use std::path::Path;

/// Largest file that is read.
const MAX_BYTES: u64 = 8 << 20;

/// Name and text of every `*.yaml`, `*.yml` and `*.json` in `directory`, by name.
pub fn read(directory: &Path) -> io::Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let wanted = path
            .extension()
            .is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known));
        if !wanted || !path.is_file() {
            continue;
        }
        if path.metadata()?.len() > MAX_BYTES {
            return Err(io::Error::other(format!(
                "{} is larger than 8 MiB",
                path.display()
            )));
        }
        let text = std::fs::read_to_string(&path)?;
        texts.push((path.display().to_string(), text));
    }
    texts.sort();
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_read_in_order_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", "notes.txt"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let texts: Vec<String> = read(dir.path())
            .unwrap()
            .into_iter()
            .map(|(_, t)| t)
            .collect();
        assert_eq!(texts, ["a.json", "b.yaml"]);
    }
}
