//! Valid requests, changed at random: whatever the proxy forwards is one request for a strict reader
//! that shares no code with it, and the one that such a reader finds in what was sent.

use meshctl::mesh::HttpOptions;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

use super::corpus::cases;
use super::reader::{Seen, request};
use super::strict::{Stand, statuses};

/// A change of a byte string.
#[derive(Debug, Clone)]
enum Change {
    Insert(Index, Vec<u8>),
    Replace(Index, u8),
    Delete(Index, usize),
    /// Repeats the line around there.
    Again(Index),
    /// Swaps two lines.
    Swap(Index, Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let piece = select(vec![
        "\r\n",
        "\n",
        "\r",
        "\0",
        " ",
        "\t",
        ":",
        ",",
        ";",
        "0",
        "5",
        "+",
        "-",
        "\x0b",
        "\x7f",
        "\r\n\r\n",
        "\r\n ",
        "chunked",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Host: b\r\n",
        "Connection: close\r\n",
        "X: y\r\n",
        "0\r\n\r\n",
        "5\r\nhello\r\n",
        "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
    ]);
    let change = prop_oneof![
        4 => (any::<Index>(), piece).prop_map(|(at, piece)| Change::Insert(at, piece.into())),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        2 => (any::<Index>(), 1..4_usize).prop_map(|(at, count)| Change::Delete(at, count)),
        1 => any::<Index>().prop_map(Change::Again),
        1 => any::<[Index; 2]>().prop_map(|[a, b]| Change::Swap(a, b)),
    ];
    proptest::collection::vec(change, 0..4)
}

fn apply(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let place = |at: &Index| at.index(bytes.len().max(1));
        match change {
            Change::Insert(at, piece) => {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, piece.iter().copied());
            }
            Change::Replace(at, byte) => {
                let at = place(at);
                if let Some(old) = bytes.get_mut(at) {
                    *old = *byte;
                }
            }
            Change::Delete(at, count) => {
                let at = place(at);
                let end = (at + count).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
            Change::Again(at) => {
                let mut lines = lines(&bytes);
                let at = at.index(lines.len());
                lines.insert(at, lines[at].clone());
                bytes = lines.concat();
            }
            Change::Swap(a, b) => {
                let mut lines = lines(&bytes);
                let (a, b) = (a.index(lines.len()), b.index(lines.len()));
                lines.swap(a, b);
                bytes = lines.concat();
            }
        }
    }
    bytes
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .chain([Vec::new()])
        .collect()
}

/// What a strict reader finds in what was sent, up to the first thing that it does not take.
fn meant(mut bytes: &[u8]) -> Vec<Seen> {
    let mut all = Vec::new();
    loop {
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        match request(bytes) {
            Ok(Some((seen, length))) => {
                bytes = &bytes[length..];
                all.push(seen);
            }
            Ok(None) | Err(_) => return all,
        }
    }
}

#[test]
fn whatever_is_forwarded_is_what_was_meant() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stand = runtime.block_on(Stand::start(HttpOptions::default()));
    // HTTP/1.0 is another reading, and not the reader's.
    let valid: Vec<Vec<u8>> = cases()
        .into_iter()
        .filter(|case| case.statuses.iter().all(|status| *status == 200))
        .map(|case| case.bytes)
        .filter(|bytes| bytes.len() < 1000 && !String::from_utf8_lossy(bytes).contains("HTTP/1.0"))
        .collect();
    let config = Config {
        cases: 1500,
        failure_persistence: None,
        ..Config::default()
    };
    let ran = TestRunner::new(config).run(&(select(valid), changes()), |(valid, changes)| {
        let sent = apply(valid, &changes);
        let text = String::from_utf8_lossy(&sent).into_owned();
        if text.contains("HTTP/1.0") {
            return Ok(());
        }
        let answer = runtime.block_on(stand.send(&sent));
        let record = stand.app.take();
        let good = statuses(&answer)
            .iter()
            .filter(|status| **status == 200)
            .count();
        prop_assert_eq!(record.requests.len(), good, "{:?}: {:?}", text, record);
        for error in &record.errors {
            // The end of what was refused in its body never comes.
            prop_assert!(error.starts_with("cut off: "), "{:?}: {}", text, error);
        }
        let meant = meant(&sent);
        prop_assert!(
            record.requests.len() <= meant.len(),
            "{:?}: {:?}",
            text,
            record
        );
        // What the proxy answers itself, such as an upgrade to what nobody offers, the server does not see.
        let mut rest = meant.iter();
        for seen in &record.requests {
            let same = |meant: &&Seen| {
                (&seen.method, &seen.body, &seen.trailers)
                    == (&meant.method, &meant.body, &meant.trailers)
            };
            let Some(meant) = rest.find(same) else {
                return Err(TestCaseError::fail(format!(
                    "{text:?}: {seen:?} of {meant:?}"
                )));
            };
            prop_assert!(!seen.target.contains("evil") || meant.target.contains("evil"));
        }
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
}
