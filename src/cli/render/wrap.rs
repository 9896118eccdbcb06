//! Breaking text that is too long for its column, where a reader would.

/// `text` in lines of at most `width`: between words, else behind a mark inside a name, else anywhere.
pub(crate) fn wrap(text: &str, width: usize) -> String {
    let width = width.max(1);
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut rest = line.trim_end();
        loop {
            let Some(at) = cut(rest, width) else {
                lines.push(rest);
                break;
            };
            let (head, tail) = rest.split_at_checked(at).unwrap_or((rest, ""));
            lines.push(head.trim_end());
            rest = tail.trim_start();
        }
    }
    lines.join("\n")
}

/// Where to break `text`; nowhere when it fits.
fn cut(text: &str, width: usize) -> Option<usize> {
    let (end, _) = text.char_indices().nth(width)?;
    // A space may be what no longer fits.
    let space = text
        .char_indices()
        .filter(|(_, c)| *c == ' ')
        .map(|(at, _)| at)
        .rfind(|at| *at > 0 && *at <= end);
    let mark = text
        .char_indices()
        .filter(|(_, c)| matches!(c, '.' | '/' | '|' | '-' | ':' | ',' | '=' | '~'))
        .map(|(at, c)| at + c.len_utf8())
        .rfind(|at| *at <= end);
    // A break that leaves nearly the whole line empty is worse than one inside a word.
    let worth = |at: &usize| *at * 3 >= end;
    Some(space.filter(worth).or(mark.filter(worth)).unwrap_or(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_where_a_reader_would() {
        for (text, width, expected) in [
            ("short", 10, "short"),
            ("one two three", 8, "one two\nthree"),
            ("one two", 3, "one\ntwo"),
            ("productpage.default", 15, "productpage.\ndefault"),
            (
                "reviews-v1-m92shvsk5-9mjjs",
                18,
                "reviews-v1-\nm92shvsk5-9mjjs",
            ),
            ("a-verylongwordindeed", 10, "a-verylong\nwordindeed"),
            ("ünïcödé", 3, "ünï\ncöd\né"),
            ("a\nb", 5, "a\nb"),
            ("", 5, ""),
        ] {
            assert_eq!(wrap(text, width), expected, "{text:?}");
        }
    }

    #[test]
    fn nothing_is_lost_and_nothing_is_too_wide() {
        let text = "virtualservice/reviews configured, deployment/productpage-v1 created";
        for width in 1..80 {
            let wrapped = wrap(text, width);
            assert!(wrapped.lines().all(|line| line.chars().count() <= width));
            let plain = |text: &str| text.replace([' ', '\n'], "");
            assert_eq!(plain(&wrapped), plain(text));
        }
    }
}
