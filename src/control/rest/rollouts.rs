//! Rollouts: beginning them, what they are at, and what people want of them.

use axum::Json;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Path, State};

use super::peer::Peer;
use super::{Answer, Shared, known};
use crate::api::rollouts::{COMMANDS, Order, Rollout, RolloutList, Start};
use crate::api::{Problem, Reason};
use crate::control::index;
use crate::control::rollouts::{Other, order, start, write};

pub(super) async fn list(State(control): Shared) -> Json<RolloutList> {
    Json(RolloutList {
        rollouts: control.rollouts.list().await,
    })
}

pub(super) async fn get(
    State(control): Shared,
    Path(name): Path<(String, String)>,
) -> Answer<Rollout> {
    let found = control.rollouts.get(&name).await;
    Ok(Json(found.ok_or_else(|| none(&name))?))
}

fn none((namespace, service): &(String, String)) -> Problem {
    Problem::new(
        Reason::NotFound,
        format!("there is no canary of {service}.{namespace}"),
    )
    .hint(format!(
        "begin one: `meshctl canary start {service} --to VERSION`"
    ))
}

pub(super) async fn begin(
    State(control): Shared,
    Path((namespace, name)): Path<(String, String)>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(mut request): Json<Start>,
) -> Answer<Rollout> {
    let world = control.index.world();
    let service = known(&world, &name, &namespace)?;
    request.who = peer.for_whom(&request.who);
    let service = (&*world, service);
    let begun = if control.cluster.is_some() {
        write(&control, service, &request).await?
    } else {
        start(&control, service, request, None, Other::Stays).await?
    };
    Ok(Json(begun))
}

pub(super) async fn tell(
    State(control): Shared,
    Path((namespace, service, word)): Path<(String, String, String)>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(request): Json<Order>,
) -> Answer<Rollout> {
    let command = COMMANDS.iter().find(|(known, _)| *known == word);
    let Some((_, command)) = command else {
        let words: Vec<&str> = COMMANDS.iter().map(|(word, _)| *word).collect();
        let problem = Problem::new(Reason::NotFound, format!("{word:?} is nothing to be told"));
        return Err(problem.hint(format!("one of {}", words.join(", "))).into());
    };
    let who = peer.for_whom(&request.who);
    let told = order(&control, &(namespace, service), *command, who).await?;
    Ok(Json(told))
}

pub(super) async fn history(
    State(control): Shared,
    Path(name): Path<(String, String)>,
) -> Answer<RolloutList> {
    let rollouts = control.rollouts.history(&name).await;
    let rollouts = rollouts.map_err(|error| index::problem(&error))?;
    if rollouts.is_empty() {
        return Err(none(&name).into());
    }
    Ok(Json(RolloutList { rollouts }))
}
