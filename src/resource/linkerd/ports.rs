//! Ports as Linkerd lists them.

/// From the first to the last of them.
pub(crate) type PortRange = (u16, u16);

/// Ports and ranges of them (`3306,8000-8010`); `None` when something else is among them.
pub(crate) fn port_ranges(text: &str) -> Option<Vec<PortRange>> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first > 0 && first <= last).then_some((first, last))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_and_ranges() {
        assert_eq!(
            port_ranges("3306, 8000-8010,"),
            Some(vec![(3306, 3306), (8000, 8010)])
        );
        for bad in ["a", "0", "9-8", "70000", "1-"] {
            assert_eq!(port_ranges(bad), None, "{bad}");
        }
    }
}
