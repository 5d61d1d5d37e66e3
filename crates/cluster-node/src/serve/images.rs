//! `/shipway/v1/images`: the image store for `shipway node`; only root reaches the socket.

use axum::Router;
use axum::body::Body;
use axum::extract::{Json, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use jiff::Timestamp;
use serde::Serialize;

use super::{Context, Refusal};
use crate::images::inventory::{Inventory, InventoryError, Removal};
use crate::images::store::chain;
use crate::images::wire::{ImageDocument, ImageRequest, RemovalDocument, UsageDocument};

pub(super) fn router() -> Router<Context> {
    Router::new()
        .route("/shipway/v1/images", get(list))
        .route("/shipway/v1/images/usage", get(usage))
        .route("/shipway/v1/images/remove", post(remove))
        .route("/shipway/v1/images/pin", post(pin))
        .route("/shipway/v1/images/unpin", post(unpin))
}

impl From<InventoryError> for Refusal {
    fn from(error: InventoryError) -> Self {
        let status = match &error {
            InventoryError::Absent { .. } => StatusCode::NOT_FOUND,
            InventoryError::Ambiguous { .. } => StatusCode::BAD_REQUEST,
            InventoryError::InUse { .. } | InventoryError::Pinned { .. } => StatusCode::CONFLICT,
            InventoryError::Image(_) | InventoryError::Blobs { .. } | InventoryError::Notes(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        Refusal(status, chain(&error))
    }
}

/// Answers with what `work` finds out on a thread that may block.
async fn answer<T: Serialize + Send + 'static>(
    context: Context,
    work: impl FnOnce(&Inventory) -> Result<T, Refusal> + Send + 'static,
) -> Result<Response, Refusal> {
    let failed = |text: String| Refusal(StatusCode::INTERNAL_SERVER_ERROR, text);
    let inventory = context.shared.inventory.clone();
    let done = tokio::task::spawn_blocking(move || work(&inventory)).await;
    let document = done.map_err(|error| failed(error.to_string()))??;
    let bytes = serde_json::to_vec(&document).map_err(|error| failed(error.to_string()))?;
    let mut response = Response::new(Body::from(bytes));
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

async fn list(State(context): State<Context>) -> Result<Response, Refusal> {
    answer(context, |inventory| {
        let list = inventory.list(Timestamp::now())?;
        Ok(list.iter().map(ImageDocument::from).collect::<Vec<_>>())
    })
    .await
}

async fn usage(State(context): State<Context>) -> Result<Response, Refusal> {
    answer(context, |inventory| {
        let failed = |text| Refusal(StatusCode::INTERNAL_SERVER_ERROR, text);
        inventory.usage().map(UsageDocument::from).map_err(failed)
    })
    .await
}

async fn remove(
    State(context): State<Context>,
    Json(request): Json<ImageRequest>,
) -> Result<Response, Refusal> {
    let images = context.shared.images.clone();
    let answered = answer(context, move |inventory| {
        let removal = if request.force { Removal::Forced } else { Removal::Unused };
        let removed = inventory.remove(&request.image, removal, Timestamp::now())?;
        Ok(RemovalDocument::from(removed))
    });
    let response = answered.await;
    let refreshed = tokio::task::spawn_blocking(move || images.refresh_summaries()).await;
    refreshed.map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    response
}

async fn pin(
    State(context): State<Context>,
    Json(request): Json<ImageRequest>,
) -> Result<Response, Refusal> {
    answer(context, move |inventory| Ok(inventory.pin(&request.image, Timestamp::now())?)).await
}

async fn unpin(
    State(context): State<Context>,
    Json(request): Json<ImageRequest>,
) -> Result<Response, Refusal> {
    answer(context, move |inventory| Ok(inventory.unpin(&request.image, Timestamp::now())?)).await
}
