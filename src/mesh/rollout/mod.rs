//! Rollouts: a new version of a service is given more and more of its requests, and what comes of them decides.
//!
//! Owns the decisions and what they are made of: [`Spec`] says what is wanted, [`State`] where a run stands,
//! [`step`] goes from one state to the next by what was seen, and says what is to be done. Nothing here reads a
//! clock, a socket or a store: whoever drives it keeps the state *before* it does what it is told to, and does all
//! of it again when it is not certain that it was done. So every [`Action`] is one that may be done twice.
//!
//! ```text
//!   Initialized ──► Progressing ◄──► Waiting (a gate, instances that are not ready)
//!                     │  ▲   │
//!                     │  └─► Paused (a person, or weights that somebody else changed)
//!                     ▼
//!                 Promoting ──► Succeeded        RolledBack, Inconclusive: from each of those above
//! ```
//!
//! What "worse" means is in [`judge`]: an exact test, so that a few unlucky requests prove nothing.

mod counts;
mod going;
mod hooks;
pub mod judge;
mod looking;
mod machine;
mod routing;
mod spec;
mod state;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use counts::{Copies, Counts, Sides};
pub use judge::{Measure, Place, Verdict};
pub use machine::{Action, Answer, Command, Observation, Ready, step};
pub use routing::Routing;
pub use spec::{
    Hook, HookKind, Metric, NoData, Of, SERIES, SERIES_WORDS, Shadow, Spec, Stage, Strategy,
};
pub use state::{Call, Phase, State, Step, StepState};
