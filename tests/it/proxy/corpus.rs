//! The cases of `corpus.txt`, which says how to read it.

/// One string of bytes and what must come of it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) statuses: Vec<u16>,
    pub(crate) details: String,
    pub(crate) targets: Vec<String>,
    pub(crate) bytes: Vec<u8>,
}

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in include_str!("corpus.txt").lines() {
        if let Some(head) = line.strip_prefix("== ") {
            let parts: Vec<&str> = head.split(" | ").collect();
            let [name, statuses, details, targets] = parts[..] else {
                panic!("{line}");
            };
            cases.push(Case {
                name: name.to_owned(),
                statuses: statuses
                    .split(' ')
                    .map(|status| status.parse().unwrap())
                    .collect(),
                details: details.to_owned(),
                targets: targets
                    .split(' ')
                    .filter(|target| *target != "-")
                    .map(str::to_owned)
                    .collect(),
                bytes: Vec::new(),
            });
        } else if !line.is_empty() && !line.starts_with('#') {
            cases.last_mut().unwrap().bytes.extend(unescape(line));
        }
    }
    cases
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        if let Some((count, behind)) = rest
            .strip_prefix("<<")
            .and_then(|rest| rest.split_once('*'))
        {
            let (piece, behind) = behind.split_once(">>").unwrap();
            out.extend(unescape(piece).repeat(count.parse().unwrap()));
            rest = behind;
            continue;
        }
        let mut letters = rest.chars();
        match letters.next() {
            None => return out,
            Some('\\') => {
                let (byte, length) = match letters.next().unwrap() {
                    'r' => (b'\r', 2),
                    'n' => (b'\n', 2),
                    't' => (b'\t', 2),
                    '0' => (0, 2),
                    '\\' => (b'\\', 2),
                    'x' => (u8::from_str_radix(rest.get(2..4).unwrap(), 16).unwrap(), 4),
                    other => panic!("\\{other} in {text}"),
                };
                out.push(byte);
                rest = rest.get(length..).unwrap();
                continue;
            }
            Some(letter) => out.extend_from_slice(letter.to_string().as_bytes()),
        }
        rest = letters.as_str();
    }
}
