//! `/v2/_shipway/retention`: what the rules say, and having them carried out.

use serde_json::json;

use super::{AdminCall, reply};
use crate::refusal::Refusal;
use crate::service::{Answer, blocking};
use crate::tenancy::{RepositoryPlan, apply_retention, plan_retention};

/// What the rules say about every tag, and why.
pub(crate) async fn plan(call: &AdminCall<'_>) -> Answer {
    reply(&json!({ "repositories": planned(call).await? }))
}

/// Removes what the rules keep no more; says what went.
pub(crate) async fn apply(call: &AdminCall<'_>) -> Answer {
    let plans = planned(call).await?;
    let removed = apply_retention(&call.service.metadata, &plans, &call.stamp()).await?;
    reply(&json!({ "repositories": plans, "removed": removed }))
}

async fn planned(call: &AdminCall<'_>) -> Result<Vec<RepositoryPlan>, Refusal> {
    let prefix = call.prefix()?.to_owned();
    let (metadata, now) = (call.service.metadata.clone(), call.stamp().at);
    // Pulls that were not written down yet count.
    call.service.pulls.write(&metadata).await?;
    Ok(blocking(move || plan_retention(&metadata, &prefix, now)).await??)
}
