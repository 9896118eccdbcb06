//! Requests that are held back on purpose.

use std::future::poll_fn;
use std::task::Poll;

use crate::rt;

use super::super::timer::Alarm;
use super::leg::Leg;
use super::plan::Then;
use super::respond::Failure;

/// Holds `then` back for as long as it says, and puts what follows in its place. Nothing more is read
/// from `down` meanwhile than shows whether the caller is still there; false when it is not.
pub(super) async fn hold(down: &mut Leg, alarm: &mut Alarm, then: &mut Then) -> bool {
    let Then::Delayed(held) = then else {
        return true;
    };
    let until = rt::now() + held.time;
    let kept = poll_fn(|cx| {
        let gone = match down {
            Leg::H1(leg) => leg.poll_gone(cx),
            Leg::H2(leg) => leg.poll_reset(cx).map(|_| ()),
            Leg::Nobody => Poll::Pending,
        };
        if gone.is_ready() {
            return Poll::Ready(false);
        }
        alarm.poll(cx, until).map(|()| true)
    })
    .await;
    *then = std::mem::replace(&mut held.then, Then::Fail(Failure::CallerGone, None));
    kept
}
