//! What goes wrong with an API server, for as long as a test says so: answers that are slow, refused or wrong, and
//! watches that end, lose their place or fall silent. That it does not run at all is [`crate::Cluster::kill`].
//!
//! Only one user is served badly, so that a test can look and change meanwhile. What that user asks is counted.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use crate::auth::User;
use crate::path::Ask;
use crate::read::line;
use crate::serve::{Out, refused};
use crate::server::{Before, Server};
use crate::status::Refusal;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Every answer takes so much longer.
    Slow(Duration),
    /// Watches are refused, since their place in history has expired.
    Gone,
    /// Watches begin, and then say the same.
    GoneInStream,
    /// Everything is refused, with so many seconds in `Retry-After`.
    TooMany(u64),
    /// Everything fails.
    Internal,
    /// Nobody knows the token any more.
    Unauthorized,
    /// Watches end at once, in good order.
    Ended,
    /// Watches say nothing, and do not end.
    Mute,
}

/// What happens to watches that are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// They end in good order.
    End,
    /// They say that their place has expired.
    Gone,
    /// They say nothing more, and do not end.
    Mute,
}

/// A request of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// As in [`Ask`].
    pub ask: Ask,
    /// The fault that answered in the server's stead.
    pub fault: Option<Fault>,
}

impl Asked {
    /// Whether the server was to change something, and may have.
    pub fn writes(&self) -> bool {
        let verb = matches!(
            self.ask.verb.as_str(),
            "create" | "update" | "patch" | "delete" | "deletecollection"
        );
        let review = self.ask.resource.ends_with("reviews");
        verb && !review && self.fault.is_none()
    }
}

/// The faults that one user sees, and what they ask.
#[derive(Debug)]
pub struct Faults {
    user: String,
    now: Mutex<Option<Fault>>,
    asked: Mutex<Vec<Asked>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    /// For the user of this name. Nothing is wrong yet.
    pub fn of(server: &Server, user: &str) -> Arc<Self> {
        let faults = Arc::new(Self {
            user: user.to_owned(),
            now: Mutex::default(),
            asked: Mutex::default(),
        });
        server.look(faults.clone());
        faults
    }

    /// From now on this is wrong. Watches that are under way feel it at once.
    pub fn begin(&self, server: &Server, fault: Fault) {
        *lock(&self.now) = Some(fault);
        server.interrupt(match fault {
            Fault::GoneInStream => Interrupt::Gone,
            Fault::Mute => Interrupt::Mute,
            _ => Interrupt::End,
        });
    }

    /// Nothing is wrong any more; answers that wait go on waiting.
    pub fn end(&self) {
        *lock(&self.now) = None;
    }

    /// What was asked since this was last called.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *lock(&self.asked))
    }

    /// How many requests of this verb were made since [`Self::take`].
    pub fn count(&self, verb: &str) -> usize {
        let asked = lock(&self.asked);
        asked.iter().filter(|asked| asked.ask.verb == verb).count()
    }

    fn note(&self, ask: &Ask, fault: Option<Fault>) {
        let ask = ask.clone();
        lock(&self.asked).push(Asked { ask, fault });
    }
}

impl Before for Faults {
    fn before<'a>(
        &'a self,
        ask: &'a Ask,
        user: &'a User,
    ) -> Pin<Box<dyn Future<Output = Option<Response<Out>>> + Send + 'a>> {
        Box::pin(async move {
            if user.name != self.user {
                return None;
            }
            let fault = *lock(&self.now);
            if let Some(Fault::Slow(wait)) = fault {
                tokio::time::sleep(wait).await;
            }
            let answer = fault.and_then(|fault| answer(fault, ask));
            self.note(ask, fault.filter(|_| answer.is_some()));
            answer
        })
    }
}

/// The answer in the server's stead, if it is not to answer itself.
fn answer(fault: Fault, ask: &Ask) -> Option<Response<Out>> {
    let watch = ask.verb == "watch";
    let refusal = match fault {
        Fault::Gone if watch => expired(),
        Fault::GoneInStream if watch => {
            return Some(stream(
                Some(json!({"type": "ERROR", "object": expired().body()})),
                false,
            ));
        }
        Fault::Ended if watch => return Some(stream(None, false)),
        Fault::Mute if watch => return Some(stream(None, true)),
        Fault::Slow(_) | Fault::Gone | Fault::GoneInStream | Fault::Ended | Fault::Mute => {
            return None;
        }
        Fault::TooMany(seconds) => {
            let text = "too many requests, please try again later";
            let mut refusal = Refusal::new(429, "TooManyRequests", text);
            refusal.retry_after = Some(seconds);
            refusal
        }
        Fault::Internal => Refusal::new(500, "InternalError", "etcdserver: request timed out"),
        Fault::Unauthorized => Refusal::new(401, "Unauthorized", "Unauthorized"),
    };
    Some(refused(&refusal))
}

fn expired() -> Refusal {
    Refusal::expired("too old resource version: 1 (2)")
}

/// A watch with one event or none, that ends or does not.
fn stream(event: Option<Value>, open: bool) -> Response<Out> {
    let frames = futures_util::stream::unfold(event, move |mut event| async move {
        let Some(event) = event.take() else {
            if open {
                std::future::pending::<()>().await;
            }
            return None;
        };
        let frame: Result<Frame<Bytes>, Infallible> = Ok(Frame::data(line(&event)));
        Some((frame, None))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
