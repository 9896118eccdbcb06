//! Asking webhooks: each question is kept until it is answered, so that one that was lost is asked again.

use super::spec::{HookKind, Spec};
use super::state::{Call, State};

/// What all hooks of a kind say together.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// All of them yes, or there are none.
    Yes,
    /// Some have not answered.
    Pending,
    /// Who said no, and what.
    No(String),
}

/// Asks all hooks of `kind`, or gives what they answered. After a no they are asked again once an interval has
/// passed. An answer that was used up is forgotten with [`forget`].
pub(super) fn ask(spec: &Spec, state: &mut State, kind: HookKind, now: u64) -> Said {
    let mut pending = false;
    let mut no = None;
    for (at, hook) in spec.hooks.iter().enumerate() {
        if hook.kind != kind {
            continue;
        }
        let known = state
            .calls
            .iter_mut()
            .find(|call| call.hook == at && call.kind == kind);
        match known {
            None => {
                let number = state.next_call;
                state.next_call += 1;
                state.calls.push(Call {
                    hook: at,
                    kind,
                    number,
                    asked_unix_ms: now,
                    answer: None,
                });
                pending = true;
            }
            Some(call) => match &call.answer {
                None => pending = true,
                Some((true, _)) => {}
                Some((false, message)) => {
                    no = Some(format!("webhook {} says no: {message}", hook.name));
                    if now >= call.asked_unix_ms.saturating_add(spec.interval_ms) {
                        call.answer = None;
                        call.asked_unix_ms = now;
                        call.number = state.next_call;
                        state.next_call += 1;
                    }
                }
            },
        }
    }
    match no {
        Some(no) => Said::No(no),
        None if pending => Said::Pending,
        None => Said::Yes,
    }
}

/// Forgets the answers of a kind, so that the next question is a new one.
pub(super) fn forget(state: &mut State, kind: HookKind) {
    state.calls.retain(|call| call.kind != kind);
}

/// Whether there is somebody to ask.
pub(super) fn any(spec: &Spec, kind: HookKind) -> bool {
    spec.hooks.iter().any(|hook| hook.kind == kind)
}
