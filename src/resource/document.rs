//! Where the documents of a stream begin and end, so that each is read, reported and edited alone.

/// One document of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The line that separates it from the one before, with its line break; empty for the first.
    pub separator: &'a str,
    /// The text between two separators.
    pub text: &'a str,
    /// Line of the first line of `text` in the stream, from 1.
    pub line: u32,
}

impl Piece<'_> {
    /// Whether there is nothing but blank lines, comments and directives.
    pub fn is_blank(&self) -> bool {
        self.text.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "..."
        })
    }
}

/// Cuts a YAML stream at its `---` lines. Separators and texts in order give the stream back byte by byte.
pub fn split(stream: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut separator = "";
    let mut start = 0;
    let mut first_line = 1;
    let mut line_number = 0;
    let mut offset = 0;
    let cut = |from: usize, to: usize| stream.get(from..to).unwrap_or_default();
    for line in stream.split_inclusive('\n') {
        line_number += 1;
        let end = offset + line.len();
        // YAML forbids `---` at the beginning of a line inside any scalar, so this cannot cut one.
        if let Some(rest) = line.strip_prefix("---")
            && (rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        {
            if offset > 0 {
                pieces.push(Piece {
                    separator,
                    text: cut(start, offset),
                    line: first_line,
                });
            }
            // What follows on the line of the separator (`--- {a: 1}`, `--- !tag`) is content.
            let content = rest.trim();
            if content.is_empty() || content.starts_with('#') {
                separator = line;
                start = end;
                first_line = line_number + 1;
            } else {
                separator = cut(offset, offset + 3);
                start = offset + 3;
                first_line = line_number;
            }
        }
        offset = end;
    }
    pieces.push(Piece {
        separator,
        text: cut(start, stream.len()),
        line: first_line,
    });
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn documents_know_their_lines() {
        let pieces = split("# head\n---\na: 1\n--- # next\nb: |\n  ---\n--- {c: 1}\n");
        let seen: Vec<_> = pieces
            .iter()
            .map(|piece| (piece.text, piece.line, piece.is_blank()))
            .collect();
        assert_eq!(
            seen,
            [
                ("# head\n", 1, true),
                ("a: 1\n", 3, false),
                ("b: |\n  ---\n", 5, false),
                (" {c: 1}\n", 7, false),
            ]
        );
    }

    proptest! {
        #[test]
        fn nothing_is_lost(text in "(---|\n|a: 1|[ \r#x-]){0,40}") {
            let joined: String = split(&text)
                .iter()
                .flat_map(|piece| [piece.separator, piece.text])
                .collect();
            prop_assert_eq!(joined, text);
        }
    }
}
