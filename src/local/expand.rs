//! `$(NAME)` in commands, arguments and values, by the rules of Kubernetes.

/// Replaces each `$(NAME)` that `lookup` knows. An unknown one stays as it is; `$$` is one `$`, so
/// `$$(NAME)` gives the literal `$(NAME)`.
pub(super) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(literal) = after.strip_prefix('$') {
            out.push('$');
            rest = literal;
            continue;
        }
        let Some((name, tail)) = after
            .strip_prefix('(')
            .and_then(|open| open.split_once(')'))
        else {
            out.push('$');
            rest = after;
            continue;
        };
        if let Some(value) = lookup(name) {
            out.push_str(&value);
        } else {
            out.push_str("$(");
            out.push_str(name);
            out.push(')');
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn it(text: &str) -> String {
        expand(text, |name| match name {
            "PORT" => Some("9080".to_owned()),
            "LOOP" => Some("$(PORT)".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn references_escapes_and_unknown_names() {
        for (text, expected) in [
            ("--port=$(PORT)", "--port=9080"),
            ("$(PORT)$(PORT)", "90809080"),
            ("$$(PORT)", "$(PORT)"),
            ("$$$(PORT)", "$9080"),
            ("$$$$(PORT)", "$$(PORT)"),
            ("$(NOPE)", "$(NOPE)"),
            ("$PORT", "$PORT"),
            ("$(PORT", "$(PORT"),
            ("a$", "a$"),
            ("$(LOOP)", "$(PORT)"),
            ("größe $(PORT) ü", "größe 9080 ü"),
        ] {
            assert_eq!(it(text), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn text_without_a_dollar_is_unchanged(text in "[^$]*") {
            proptest::prop_assert_eq!(it(&text), text);
        }
    }
}
