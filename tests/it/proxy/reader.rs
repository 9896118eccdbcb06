//! An HTTP/1.1 reader of our own making, stricter than any server: what stands behind the proxy in
//! tests, so that nothing which a proxy forwards has two readings. It shares no code with the proxy.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use meshctl::rt::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::listen;

/// A request as the reader understood it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

impl Seen {
    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(own, _)| own == name)
            .map(|(_, value)| value.as_str())
            .collect()
    }
}

/// Reads one request from the front of `input`: `Ok(None)` while it is not complete, an error for
/// everything that a server might read in another way.
pub(crate) fn request(input: &[u8]) -> Result<Option<(Seen, usize)>, String> {
    let mut at = 0;
    let Some(line) = line(input, &mut at)? else {
        return Ok(None);
    };
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else {
        return Err(format!("request line {line:?}"));
    };
    if !method.bytes().all(is_token) || method.is_empty() {
        return Err(format!("method {method:?}"));
    }
    if target.is_empty() || !target.bytes().all(|byte| (b'!'..=b'~').contains(&byte)) {
        return Err(format!("target {target:?}"));
    }
    let mut seen = Seen {
        method: method.to_owned(),
        target: target.to_owned(),
        ..Seen::default()
    };
    if !fields(input, &mut at, &mut seen.fields)? {
        return Ok(None);
    }
    if seen.all("host").len() != 1 {
        return Err(format!("hosts {:?}", seen.all("host")));
    }
    match (
        &seen.all("content-length")[..],
        &seen.all("transfer-encoding")[..],
    ) {
        ([], []) => {}
        ([length], []) => {
            if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(format!("length {length:?}"));
            }
            let length: usize = length.parse().map_err(|_| format!("length {length:?}"))?;
            match input.get(at..at + length) {
                Some(body) => seen.body = body.to_vec(),
                None => return Ok(None),
            }
            at += length;
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => {
            if !chunks(input, &mut at, &mut seen)? {
                return Ok(None);
            }
        }
        framing => return Err(format!("framing {framing:?}")),
    }
    Ok(Some((seen, at)))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A line without its end, which is CR LF and nothing else.
fn line(input: &[u8], at: &mut usize) -> Result<Option<String>, String> {
    let rest = &input[*at..];
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
        // A partial line may still be checked.
        let text = rest.strip_suffix(b"\r").unwrap_or(rest);
        return if text.contains(&b'\r') {
            Err("bare CR".to_owned())
        } else {
            Ok(None)
        };
    };
    let text = rest[..end].strip_suffix(b"\r").ok_or("bare LF")?;
    if text
        .iter()
        .any(|byte| *byte != b'\t' && (*byte < b' ' || *byte == 0x7f))
    {
        return Err(format!(
            "control character in {:?}",
            String::from_utf8_lossy(text)
        ));
    }
    *at += end + 1;
    Ok(Some(text.iter().copied().map(char::from).collect()))
}

/// Field lines up to and with the empty one. False while that has not come.
fn fields(input: &[u8], at: &mut usize, into: &mut Vec<(String, String)>) -> Result<bool, String> {
    loop {
        match line(input, at)? {
            None => return Ok(false),
            Some(text) if text.is_empty() => return Ok(true),
            Some(text) => {
                let (name, value) = text.split_once(':').ok_or(format!("field {text:?}"))?;
                if name.is_empty() || !name.bytes().all(is_token) {
                    return Err(format!("field name {name:?}"));
                }
                let value = value.trim_matches([' ', '\t']);
                into.push((name.to_ascii_lowercase(), value.to_owned()));
            }
        }
    }
}

fn chunks(input: &[u8], at: &mut usize, seen: &mut Seen) -> Result<bool, String> {
    loop {
        let Some(text) = line(input, at)? else {
            return Ok(false);
        };
        let (size, extension) = text.split_once(';').unwrap_or((&text, ""));
        let size = size.trim_end_matches([' ', '\t']);
        if extension.contains(['\r', '\n']) || size.is_empty() || size.len() > 16 {
            return Err(format!("chunk {text:?}"));
        }
        if !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("chunk {text:?}"));
        }
        let size = usize::from_str_radix(size, 16).map_err(|_| format!("chunk {text:?}"))?;
        if size == 0 {
            return fields(input, at, &mut seen.trailers);
        }
        let Some(data) = input.get(*at..*at + size + 2) else {
            return Ok(false);
        };
        let data = data.strip_suffix(b"\r\n").ok_or("chunk without end")?;
        seen.body.extend_from_slice(data);
        *at += size + 2;
    }
}

/// What came over the connections of a [`Recorder`].
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) requests: Vec<Seen>,
    /// What could not be read, or was cut off.
    pub(crate) errors: Vec<String>,
    answers: VecDeque<Vec<u8>>,
    /// Answers until a connection is closed.
    left: Option<usize>,
}

/// A server that reads as [`request`] does, answers each request with 200 or the next of its
/// answers, and remembers.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    record: Arc<Mutex<Record>>,
}

impl Recorder {
    pub(crate) fn start(tasks: &Tasks) -> Self {
        Self::answering(tasks, &[])
    }

    /// Answers with these first, as they are; an empty one closes the connection.
    pub(crate) fn answering(tasks: &Tasks, answers: &[&[u8]]) -> Self {
        let (socket, address) = listen();
        let record = Arc::new(Mutex::new(Record {
            answers: answers.iter().map(|answer| answer.to_vec()).collect(),
            ..Record::default()
        }));
        let (shared, group) = (Arc::clone(&record), tasks.clone());
        tasks.spawn("recorder", async move {
            loop {
                let (tcp, _) = socket.accept().await.unwrap();
                group.spawn("recorder connection", one(tcp, Arc::clone(&shared)));
            }
        });
        Self { address, record }
    }

    /// What was seen since the last time.
    pub(crate) fn take(&self) -> Record {
        let mut record = self.record.lock().unwrap();
        Record {
            requests: std::mem::take(&mut record.requests),
            errors: std::mem::take(&mut record.errors),
            answers: VecDeque::new(),
            left: None,
        }
    }

    /// Closes the connection after so many further answers.
    pub(crate) fn hang_up_after(&self, answers: usize) {
        self.record.lock().unwrap().left = Some(answers);
    }

    /// Answers with this next.
    pub(crate) fn push(&self, answer: &[u8]) {
        self.record
            .lock()
            .unwrap()
            .answers
            .push_back(answer.to_vec());
    }
}

async fn one(mut tcp: tokio::net::TcpStream, record: Arc<Mutex<Record>>) {
    let mut text = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match request(&text) {
            Ok(Some((seen, length))) => {
                text.drain(..length);
                let (answer, last) = {
                    let mut record = record.lock().unwrap();
                    record.requests.push(seen);
                    record.left = record.left.map(|left| left.saturating_sub(1));
                    let last = record.left == Some(0);
                    if last {
                        record.left = None;
                    }
                    (record.answers.pop_front(), last)
                };
                let usual = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec();
                let answer = answer.unwrap_or(usual);
                if answer.is_empty() || tcp.write_all(&answer).await.is_err() || last {
                    return;
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                record.lock().unwrap().errors.push(error);
                return;
            }
        }
        if let Ok(count @ 1..) = tcp.read(&mut buffer).await {
            text.extend_from_slice(&buffer[..count]);
            continue;
        }
        if !text.is_empty() {
            let text = String::from_utf8_lossy(&text).into_owned();
            let error = format!("cut off: {text:?}");
            record.lock().unwrap().errors.push(error);
        }
        return;
    }
}
