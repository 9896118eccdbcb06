//! Changes of configuration before they are made, and after.

use axum::Json;
use axum::extract::State;

use super::Shared;
use crate::api::analysis::{AnalysisReport, AnalyzeRequest};

pub(super) async fn analyze(
    State(control): Shared,
    Json(request): Json<AnalyzeRequest>,
) -> Json<AnalysisReport> {
    Json(control.index.analyze(&request).await)
}
