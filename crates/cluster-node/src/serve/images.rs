//! `/shipway/v1/images`: the image store for `shipway node`; only root reaches the socket.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Json, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use credentials::RegistryAuth;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, stream};
use jiff::Timestamp;
use oci_model::Reference;
use serde::Serialize;
use tokio::sync::watch;

use super::{Context, Refusal};
use crate::images::ensure::Images;
use crate::images::failure::NodePullError;
use crate::images::inventory::{Inventory, InventoryError};
use crate::images::offline;
use crate::images::progress::PullState;
use crate::images::store::{LocalImage, chain};
use crate::images::wire::{
    ImageRequest, PinRequest, PruneRequest, PullLine, PullRequest, UsageDocument,
};

pub(super) fn router() -> Router<Context> {
    Router::new()
        .route("/shipway/v1/images", get(list))
        .route("/shipway/v1/images/usage", get(usage))
        .route("/shipway/v1/images/remove", post(remove))
        .route("/shipway/v1/images/prune", post(prune))
        .route("/shipway/v1/images/pull", post(pull))
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
    answer(context, |inventory| Ok(offline::list(inventory)?)).await
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
    answer(context, move |inventory| {
        let removed = offline::remove(inventory, &request)?;
        images.refresh_summaries();
        Ok(removed)
    })
    .await
}

async fn prune(
    State(context): State<Context>,
    Json(request): Json<PruneRequest>,
) -> Result<Response, Refusal> {
    let images = context.shared.images.clone();
    answer(context, move |inventory| {
        let pruned = offline::prune(inventory, request)?;
        images.refresh_summaries();
        Ok(pruned)
    })
    .await
}

async fn pin(
    State(context): State<Context>,
    Json(request): Json<PinRequest>,
) -> Result<Response, Refusal> {
    answer(context, move |inventory| Ok(inventory.pin(&request.images, Timestamp::now())?)).await
}

async fn unpin(
    State(context): State<Context>,
    Json(request): Json<PinRequest>,
) -> Result<Response, Refusal> {
    answer(context, move |inventory| Ok(inventory.unpin(&request.images, Timestamp::now())?)).await
}

/// A pull on its way to the client; it ends with the connection.
enum Pulling {
    Running { work: BoxFuture<'static, PullLine>, progress: watch::Receiver<PullState> },
    Over,
}

/// Answers with one JSON document per line: progress, then the end.
async fn pull(
    State(context): State<Context>,
    Json(request): Json<PullRequest>,
) -> Result<Response, Refusal> {
    let reference: Reference = request
        .image
        .parse()
        .map_err(|error| Refusal::bad_request(format!("image {:?}: {error}", request.image)))?;
    let reference = reference.with_default_tag();
    let (images, inventory) = (context.shared.images.clone(), context.shared.inventory.clone());
    let (states, progress) = watch::channel(PullState::default());
    let work = async move {
        match pull_image(&images, &inventory, &reference, request, &states).await {
            Ok((image, pinned)) => PullLine::Done {
                image: reference.to_string(),
                digest: image.root.to_string(),
                bytes: image.bytes,
                pinned,
            },
            Err(error) => PullLine::Failed { kind: error.kind, message: error.text },
        }
    };
    let lines =
        stream::unfold(Pulling::Running { work: work.boxed(), progress }, |pulling| async move {
            let Pulling::Running { mut work, mut progress } = pulling else { return None };
            tokio::select! {
                biased;
                end = &mut work => Some((line(&end), Pulling::Over)),
                Ok(()) = progress.changed() => {
                    let state = PullLine::from(&*progress.borrow_and_update());
                    Some((line(&state), Pulling::Running { work, progress }))
                }
            }
        });
    let mut response = Response::new(Body::from_stream(lines));
    let kind = header::HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn line(document: &PullLine) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    Ok(line)
}

/// Pulls an image, and pins it if that is asked for; says also whether it is pinned.
async fn pull_image(
    images: &Arc<Images>,
    inventory: &Arc<Inventory>,
    reference: &Reference,
    request: PullRequest,
    states: &watch::Sender<PullState>,
) -> Result<(LocalImage, bool), NodePullError> {
    let auths = match request.credentials {
        Some(credentials) => credentials.into_iter().map(RegistryAuth::from).collect(),
        None => images.credentials_of_node(reference).await?,
    };
    let tell = |state: &PullState| {
        states.send_replace(state.clone());
    };
    let image = images.pull_for_node(reference, &auths, &tell).await?;
    let (inventory, name) = (Arc::clone(inventory), reference.to_string());
    let pinned = tokio::task::spawn_blocking(move || pin_pulled(&inventory, &name, request.pin));
    let pinned = pinned.await.map_err(|error| NodePullError::of_node(error.to_string()))?;
    let pinned = pinned.map_err(|error| NodePullError::of_node(chain(&error)))?;
    Ok((image, pinned))
}

/// Pins a pulled image if that is asked for; says whether it is pinned.
fn pin_pulled(inventory: &Inventory, name: &str, pin: bool) -> Result<bool, InventoryError> {
    let now = Timestamp::now();
    if pin {
        return inventory.pin(&[name], now).map(|names| !names.is_empty());
    }
    // The pull is done all the same, also where somebody has removed the image since.
    Ok(inventory.is_pinned(name, now).unwrap_or_else(|error| {
        let error = chain(&error);
        tracing::warn!(image = name, error, "whether a pulled image is pinned is not known");
        false
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::inventory::tests::place;

    #[test]
    fn a_pull_that_is_done_stays_done_where_its_image_is_gone_or_the_list_fails() {
        let place = place();
        drop(place.pull("r.example/app:1", "1"));
        let pin = |name: &str, pin| pin_pulled(&place.inventory, name, pin).ok();
        assert_eq!(pin("r.example/app:1", false), Some(false));
        assert_eq!(pin("r.example/app:1", true), Some(true));
        assert_eq!(pin("r.example/app:1", false), Some(true));
        assert_eq!(pin("r.example/removed:1", false), Some(false));
        assert_eq!(pin("r.example/removed:1", true), None, "asked for, and not done");
        let blobs = place.dir.path().join("blobs");
        std::fs::remove_dir_all(&blobs).expect("a directory");
        std::fs::write(&blobs, "no store").expect("a file");
        place.inventory.list(Timestamp::now()).expect_err("no store");
        assert_eq!(pin("r.example/app:1", false), Some(false));
        assert_eq!(pin("r.example/app:1", true), None);
    }
}
