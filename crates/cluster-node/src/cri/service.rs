//! The calls of `runtime.v1.ImageService`, and those of `RuntimeService` that clients make to
//! connect (kubelet-images.md 11).

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use credentials::RegistryAuth;
use jiff::Timestamp;
use oci_model::Reference;

use super::auth;
use super::catalogue::{self, Catalogue};
use super::grpc::{self, Code, Status};
use super::message::{
    Empty, FilesystemIdentifier, FilesystemUsage, Image, ImageFsInfoResponse, ImageSpec,
    ImageStatusRequest, ImageStatusResponse, ListImagesRequest, ListImagesResponse,
    PullImageRequest, PullImageResponse, RemoveImageRequest, RuntimeCondition, RuntimeStatus,
    StatusResponse, UInt64Value, VersionResponse,
};
use crate::images::ensure::Images;
use crate::images::failure::{NodePullError, PullFailureKind};
use crate::images::inventory::{Inventory, InventoryError, NodeImage, Removal};

/// Images in one message of `StreamImages`.
const STREAM_IMAGES: usize = 64;
/// Longest config that is shown in a verbose status.
const CONFIG_BYTES_MAX: u64 = 8 << 20;

/// Answers for the images of this node.
#[derive(Clone)]
pub(crate) struct Service {
    images: Arc<Images>,
    inventory: Arc<Inventory>,
}

impl Service {
    pub(crate) fn new(images: Arc<Images>, inventory: Arc<Inventory>) -> Self {
        Service { images, inventory }
    }
}

/// All calls of the socket.
pub(crate) fn router(service: Service) -> Router {
    Router::new().fallback(dispatch).with_state(service)
}

async fn dispatch(State(service): State<Service>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/runtime.v1.ImageService/ListImages" => {
            grpc::answer(request, |q: ListImagesRequest| async move {
                Ok(vec![ListImagesResponse { images: service.list(q).await? }])
            })
            .await
        }
        "/runtime.v1.ImageService/StreamImages" => {
            grpc::answer(request, |q: ListImagesRequest| async move {
                let images = service.list(q).await?;
                let parts = images.chunks(STREAM_IMAGES);
                Ok(parts.map(|part| ListImagesResponse { images: part.to_vec() }).collect())
            })
            .await
        }
        "/runtime.v1.ImageService/ImageStatus" => {
            grpc::answer(request, |q| async move { Ok(vec![service.status(q).await?]) }).await
        }
        "/runtime.v1.ImageService/PullImage" => {
            grpc::answer(request, |q| async move { Ok(vec![service.pull(q).await?]) }).await
        }
        "/runtime.v1.ImageService/RemoveImage" => {
            grpc::answer(request, |q| async move { Ok(vec![service.remove(q).await?]) }).await
        }
        "/runtime.v1.ImageService/ImageFsInfo" => {
            grpc::answer(request, |_: Empty| async move { Ok(vec![service.usage().await?]) }).await
        }
        "/runtime.v1.RuntimeService/Version" => {
            grpc::answer(request, |_: Empty| async { Ok(vec![version()]) }).await
        }
        "/runtime.v1.RuntimeService/Status" => {
            grpc::answer(request, |_: Empty| async { Ok(vec![readiness()]) }).await
        }
        _ => grpc::refusal(&Status::new(Code::Unimplemented, unknown(&path))),
    }
}

/// The text for a call that this socket does not have.
fn unknown(path: &str) -> String {
    match path.trim_start_matches('/').split_once('/') {
        Some((service @ "runtime.v1.RuntimeService", method)) => {
            format!("method {method} of {service} is not served here: this socket has images only")
        }
        Some((service @ "runtime.v1.ImageService", method)) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
        None => format!("malformed method name: {path:?}"),
    }
}

fn version() -> VersionResponse {
    VersionResponse {
        version: "0.1.0".to_owned(),
        runtime_name: "shipway".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}

/// Containers and networks are not this socket's.
fn readiness() -> StatusResponse {
    let conditions = ["RuntimeReady", "NetworkReady"].map(|name| RuntimeCondition {
        r#type: name.to_owned(),
        status: false,
        reason: "ImagesOnly".to_owned(),
        message: "this socket serves images; containers belong to another endpoint".to_owned(),
    });
    StatusResponse { status: Some(RuntimeStatus { conditions: conditions.to_vec() }) }
}

/// The text that a specification names its image by.
fn text_of(spec: Option<ImageSpec>) -> Result<String, Status> {
    match spec {
        Some(spec) if !spec.image.is_empty() => Ok(spec.image),
        _ => Err(Status::new(Code::InvalidArgument, "the image is not specified")),
    }
}

fn unknown_error(error: impl std::fmt::Display) -> Status {
    Status::new(Code::Unknown, error.to_string())
}

impl Service {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Service) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let service = self.clone();
        tokio::task::spawn_blocking(move || work(&service))
            .await
            .map_err(|error| Status::new(Code::Internal, error.to_string()))
    }

    async fn catalogue(&self) -> Result<Catalogue, Status> {
        let read = self.blocking(|service| Catalogue::read(&service.inventory)).await?;
        read.map_err(unknown_error)
    }

    async fn list(&self, request: ListImagesRequest) -> Result<Vec<Image>, Status> {
        let filter = request.filter.and_then(|filter| filter.image).map(|spec| spec.image);
        let catalogue = self.catalogue().await?;
        let entries = catalogue.select(filter.as_deref()).map_err(unknown_error)?;
        Ok(entries.into_iter().map(catalogue::message).collect())
    }

    /// An absent image is an answer, not an error.
    async fn status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Status> {
        let text = text_of(request.image)?;
        let catalogue = self.catalogue().await?;
        let Some(image) = catalogue.find(&text).map_err(unknown_error)?.cloned() else {
            return Ok(ImageStatusResponse::default());
        };
        let message = catalogue::message(&image);
        let verbose = request.verbose;
        let info = self.blocking(move |service| service.info(&image, verbose)).await?;
        Ok(match info {
            Some(info) => ImageStatusResponse { image: Some(message), info },
            // It has a name and no container could start from it: a pull mends that.
            None => ImageStatusResponse::default(),
        })
    }

    /// What containerd shows under the same key: the chain of layers and the image's config.
    /// `None` if the image is not complete.
    fn info(&self, image: &NodeImage, verbose: bool) -> Option<HashMap<String, String>> {
        let store = &self.images.store;
        let name = image.stored.names.first()?;
        let local = store.read(&name.reference, name.root()?).ok()??;
        if !verbose {
            return Some(HashMap::new());
        }
        let config = store
            .blobs
            .read(&image.stored.facts.id, CONFIG_BYTES_MAX)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        let chain = oci_model::ChainId::of(&local.config.rootfs.diff_ids);
        let info = serde_json::json!({
            "chainID": chain.map(|chain| chain.0.to_string()),
            "imageSpec": config,
        });
        Some(HashMap::from([("info".to_owned(), info.to_string())]))
    }

    /// Pulls again even what is here: the name may stand for something else by now. Layers that
    /// are here are not fetched twice.
    async fn pull(&self, request: PullImageRequest) -> Result<PullImageResponse, Status> {
        let text = text_of(request.image)?;
        let reference: Reference = text.parse().map_err(|error| {
            let message = format!("failed to parse image reference \"{text}\": {error}");
            Status::new(Code::InvalidArgument, message)
        })?;
        let reference = reference.with_default_tag();
        let pod = request.sandbox_config.and_then(|config| config.metadata);
        let pod = pod.map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default();
        let auth = auth::decode(request.auth, reference.registry())
            .map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
        tracing::debug!(%reference, pod, with_auth = auth.is_some(), "pull for a CRI client");
        let auths: Vec<RegistryAuth> = auth.into_iter().collect();
        let pulled = self.images.pull_for_node(&reference, &auths, &|_| {}).await;
        let image = pulled.map_err(pull_failure)?;
        Ok(PullImageResponse { image_ref: image.config_digest().to_string() })
    }

    /// Takes all names of the image away, also when it is pinned or in use; absent is success. The
    /// unpacked layers of a running container stay until it is gone.
    async fn remove(&self, request: RemoveImageRequest) -> Result<Empty, Status> {
        let text = text_of(request.image)?;
        let catalogue = self.catalogue().await?;
        let Some(id) = catalogue.find(&text).map_err(unknown_error)?.map(NodeImage::id) else {
            return Ok(Empty {});
        };
        let removed = self
            .blocking(move |service| {
                let removed = service.inventory.remove(&id, Removal::Forced, Timestamp::now());
                service.images.refresh_summaries();
                removed
            })
            .await?;
        match removed {
            Ok(_) | Err(InventoryError::Absent { .. }) => Ok(Empty {}),
            Err(error) => Err(unknown_error(error)),
        }
    }

    async fn usage(&self) -> Result<ImageFsInfoResponse, Status> {
        let usage = self.blocking(|service| service.inventory.usage()).await?;
        let usage = usage.map_err(unknown_error)?;
        let filesystem = FilesystemUsage {
            timestamp: i64::try_from(usage.at.as_nanosecond()).unwrap_or(i64::MAX),
            fs_id: Some(FilesystemIdentifier { mountpoint: usage.path }),
            used_bytes: Some(UInt64Value { value: usage.used_bytes }),
            inodes_used: Some(UInt64Value { value: usage.inodes_used }),
        };
        Ok(ImageFsInfoResponse {
            image_filesystems: vec![filesystem.clone()],
            container_filesystems: vec![filesystem],
        })
    }
}

/// The status of a failed pull: the kubelet reads the beginning of its text (kubelet-images.md 2.5)
/// and removes the code from it only when that is `Unknown`.
fn pull_failure(error: NodePullError) -> Status {
    let text = error.text;
    match error.kind {
        PullFailureKind::NotFound => Status::new(Code::NotFound, text),
        PullFailureKind::Unreachable => {
            Status::new(Code::Unknown, format!("RegistryUnavailable: {text}"))
        }
        PullFailureKind::Denied | PullFailureKind::Other => Status::new(Code::Unknown, text),
    }
}

#[cfg(test)]
mod tests;
