//! Errors in a line.

use std::error::Error;

/// `error` and its causes, joined by colons. A cause whose words an error has taken into its own is not
/// told twice.
pub fn chain(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !words.contains(&text) {
            words.push_str(": ");
            words.push_str(&text);
        }
        cause = next.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Told(&'static str, #[source] Option<Box<Told>>);

    #[test]
    fn each_cause_is_told_once() {
        let error = Told(
            "cannot start",
            Some(Box::new(Told("port 80 is taken", None))),
        );
        assert_eq!(chain(&error), "cannot start: port 80 is taken");
        let error = Told("cannot start: taken", Some(Box::new(Told("taken", None))));
        assert_eq!(chain(&error), "cannot start: taken");
    }
}
