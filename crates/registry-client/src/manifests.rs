//! Manifests: resolve, fetch, put, delete.

use credentials::RegistryAuth;
use http::header;
use oci_model::{
    Algorithm, Descriptor, Digest, Hasher, MANIFEST_BYTES_MAX, MediaType, RawManifest, Reference,
};
use reqwest::Response;

use crate::client::{Client, Remote};
use crate::error::{RegistryError, RegistryErrorKind};
use crate::onward::Target;
use crate::progress::Progress;
use crate::transport::{About, BodyError, body_up_to, tell_warnings};

/// Largest blob that is read into memory, in bytes (8 MiB).
const SMALL_BLOB_BYTES_MAX: usize = 8 * 1024 * 1024;
pub(crate) const CONTENT_DIGEST: &str = "docker-content-digest";
const OCI_SUBJECT: &str = "oci-subject";

/// What a tag has to name for it to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It must not exist.
    Nothing,
    /// It must name this manifest.
    Manifest(Digest),
}

impl Client {
    /// What a reference names at present, without fetching it: one HEAD.
    ///
    /// Each credential is tried in turn; with none, the request is anonymous.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn resolve(
        &self,
        reference: &Reference,
        auths: &[RegistryAuth],
    ) -> Result<Descriptor, RegistryError> {
        let resolve = |auth: Option<RegistryAuth>| async move {
            let mut last = None;
            for remote in self.remotes_for_pull(reference, auth.as_ref()) {
                match remote.resolve().await {
                    Ok(descriptor) => return Ok(descriptor),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.unwrap_or_else(|| no_endpoint(reference)))
        };
        let (descriptor, _) = self.with_credentials(auths, resolve).await?;
        Ok(descriptor)
    }

    /// Fetches a manifest or index, verified against the reference's digest if it has one.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn fetch_manifest(
        &self,
        reference: &Reference,
        auths: &[RegistryAuth],
    ) -> Result<RawManifest, RegistryError> {
        let fetch = |auth: Option<RegistryAuth>| async move {
            self.manifest_and_source(reference, auth.as_ref(), &Progress::none()).await
        };
        let ((manifest, _), _) = self.with_credentials(auths, fetch).await?;
        Ok(manifest)
    }

    /// Fetches a blob that must be small, such as an image config, into memory, verified.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`]; over 8 MiB it is [`RegistryErrorKind::Malformed`].
    pub async fn fetch_small_blob(
        &self,
        reference: &Reference,
        auths: &[RegistryAuth],
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, RegistryError> {
        let fetch = |auth: Option<RegistryAuth>| async move {
            let mut last = None;
            for remote in self.remotes_for_pull(reference, auth.as_ref()) {
                match remote.fetch_small_blob(&descriptor.digest).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.unwrap_or_else(|| no_endpoint(reference)))
        };
        let (bytes, _) = self.with_credentials(auths, fetch).await?;
        Ok(bytes)
    }

    /// Stores a manifest or index under the reference. What it names must be there already.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        manifest: &RawManifest,
        auths: &[RegistryAuth],
    ) -> Result<(), RegistryError> {
        let put = |auth: Option<RegistryAuth>| async move {
            let remote = self.remote(reference, auth.as_ref());
            remote.put_manifest(&reference.manifest_key(), manifest, &Progress::none()).await
        };
        self.with_credentials(auths, put).await.map(|_| ())
    }

    /// The same, only if the tag names what is expected (`If-Match` and `If-None-Match` of RFC
    /// 9110). The distribution-spec knows no conditions: our registry honours them, others may
    /// ignore them.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`]; [`RegistryErrorKind::Status`] 412 if it names something else.
    pub async fn put_manifest_if(
        &self,
        reference: &Reference,
        manifest: &RawManifest,
        expected: Expected,
        auths: &[RegistryAuth],
    ) -> Result<(), RegistryError> {
        let put = |auth: Option<RegistryAuth>| async move {
            let remote = self.remote(reference, auth.as_ref());
            let key = reference.manifest_key();
            remote.put_manifest_with(&key, manifest, Some(expected), &Progress::none()).await
        };
        self.with_credentials(auths, put).await.map(|_| ())
    }

    /// Fetches a manifest from the first endpoint that has it.
    pub(crate) async fn manifest_and_source(
        &self,
        reference: &Reference,
        auth: Option<&RegistryAuth>,
        progress: &Progress,
    ) -> Result<(RawManifest, Remote), RegistryError> {
        let mut last = None;
        for remote in self.remotes_for_pull(reference, auth) {
            match remote.fetch_manifest(&reference.manifest_key(), progress).await {
                Ok(manifest) => return Ok((manifest, remote)),
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| no_endpoint(reference));
        Err(error.context(format!("failed to resolve reference \"{reference}\"")))
    }
}

fn no_endpoint(reference: &Reference) -> RegistryError {
    RegistryErrorKind::NotFound { what: reference.to_string() }.into()
}

impl Remote {
    /// Checks that the registry is there and accepts the credential: `GET /v2/`.
    ///
    /// # Errors
    /// [`RegistryErrorKind::Unauthorized`] for a refused credential.
    pub async fn ping(&self) -> Result<(), RegistryError> {
        let progress = Progress::none();
        let about = About {
            method: "GET",
            target: Target::Path(""),
            scopes: Vec::new(),
            what: format!("registry API at {}", self.endpoint.host),
            progress: &progress,
        };
        self.send(&about, |request| request).await?;
        Ok(())
    }

    async fn resolve(&self) -> Result<Descriptor, RegistryError> {
        let context = |error: RegistryError| {
            error.context(format!("failed to resolve reference \"{}\"", self.reference))
        };
        let progress = Progress::none();
        let key = self.reference.manifest_key();
        let target = format!("{}/manifests/{key}", self.repository_path());
        let about = About {
            method: "HEAD",
            target: Target::Path(&target),
            scopes: self.scopes("pull"),
            what: self.reference.to_string(),
            progress: &progress,
        };
        let response = self
            .send(&about, |request| request.header(header::ACCEPT, accept()))
            .await
            .map_err(context)?;
        match described_by_headers(&response) {
            Some(descriptor) if self.reference.digest().is_none_or(|d| *d == descriptor.digest) => {
                Ok(descriptor)
            }
            // Some registries leave the headers out; the manifest itself tells.
            _ => {
                let manifest = self.fetch_manifest(&key, &progress).await.map_err(context)?;
                Ok(manifest.descriptor())
            }
        }
    }

    /// Fetches a manifest by tag or digest.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub(crate) async fn fetch_manifest(
        &self,
        key: &str,
        progress: &Progress,
    ) -> Result<RawManifest, RegistryError> {
        let target = format!("{}/manifests/{key}", self.repository_path());
        let name = self.reference.name();
        let what =
            if key.contains(':') { format!("{name}@{key}") } else { format!("{name}:{key}") };
        let about = About {
            method: "GET",
            target: Target::Path(&target),
            scopes: self.scopes("pull"),
            what: what.clone(),
            progress,
        };
        let response =
            self.send(&about, |request| request.header(header::ACCEPT, accept())).await?;
        tell_warnings(&response, progress);
        let media_type = content_type(&response);
        let bytes =
            body_up_to(response, MANIFEST_BYTES_MAX).await.map_err(|error| match error {
                BodyError::TooLarge => RegistryErrorKind::Malformed {
                    reason: format!("manifest {what} is larger than {MANIFEST_BYTES_MAX} bytes"),
                },
                BodyError::Broken(reason) => RegistryErrorKind::Interrupted { reason },
            })?;
        if let Ok(expected) = key.parse::<Digest>() {
            let actual = digest_of(expected.algorithm(), &bytes);
            if actual != expected {
                let what = format!("manifest {what}");
                return Err(RegistryErrorKind::DigestMismatch { what, expected, actual }.into());
            }
        }
        RawManifest::parse(media_type.as_ref(), bytes).map_err(|error| {
            RegistryErrorKind::Malformed { reason: format!("manifest {what}: {error}") }.into()
        })
    }

    async fn fetch_small_blob(&self, digest: &Digest) -> Result<Vec<u8>, RegistryError> {
        let progress = Progress::none();
        let target = format!("{}/blobs/{digest}", self.repository_path());
        let about = About {
            method: "GET",
            target: Target::Path(&target),
            scopes: self.scopes("pull"),
            what: format!("blob {digest} of {}", self.reference.name()),
            progress: &progress,
        };
        let response = self.send(&about, |request| request).await?;
        let bytes =
            body_up_to(response, SMALL_BLOB_BYTES_MAX).await.map_err(|error| match error {
                BodyError::TooLarge => RegistryErrorKind::Malformed {
                    reason: format!("blob {digest} is larger than {SMALL_BLOB_BYTES_MAX} bytes"),
                },
                BodyError::Broken(reason) => RegistryErrorKind::Interrupted { reason },
            })?;
        let actual = digest_of(digest.algorithm(), &bytes);
        if actual != *digest {
            let (what, expected) = (format!("blob {digest}"), *digest);
            return Err(RegistryErrorKind::DigestMismatch { what, expected, actual }.into());
        }
        Ok(bytes)
    }

    /// Stores a manifest under a tag or, by its digest, without one. A registry that keeps
    /// referrers answers with the subject of the manifest.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn put_manifest(
        &self,
        key: &str,
        manifest: &RawManifest,
        progress: &Progress,
    ) -> Result<Option<Digest>, RegistryError> {
        self.put_manifest_with(key, manifest, None, progress).await
    }

    async fn put_manifest_with(
        &self,
        key: &str,
        manifest: &RawManifest,
        expected: Option<Expected>,
        progress: &Progress,
    ) -> Result<Option<Digest>, RegistryError> {
        let target = format!("{}/manifests/{key}", self.repository_path());
        let about = About {
            method: "PUT",
            target: Target::Path(&target),
            scopes: self.scopes("pull,push"),
            what: self.reference.name(),
            progress,
        };
        let body = bytes::Bytes::copy_from_slice(manifest.bytes());
        let response = self
            .send(&about, |request| {
                let request = match expected {
                    None => request,
                    Some(Expected::Nothing) => request.header(header::IF_NONE_MATCH, "*"),
                    Some(Expected::Manifest(digest)) => {
                        request.header(header::IF_MATCH, format!("\"{digest}\""))
                    }
                };
                request
                    .header(header::CONTENT_TYPE, manifest.media_type().as_str())
                    .body(body.clone())
            })
            .await?;
        tell_warnings(&response, progress);
        let subject = response.headers().get(OCI_SUBJECT).and_then(|value| value.to_str().ok());
        Ok(subject.and_then(|text| text.parse().ok()))
    }

    /// Whether the registry has the manifest with this digest.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn has_manifest(
        &self,
        digest: &Digest,
        progress: &Progress,
    ) -> Result<bool, RegistryError> {
        let target = format!("{}/manifests/{digest}", self.repository_path());
        let about = About {
            method: "HEAD",
            target: Target::Path(&target),
            scopes: self.scopes("pull,push"),
            what: digest.to_string(),
            progress,
        };
        match self.send(&about, |request| request.header(header::ACCEPT, accept())).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes a tag, or a manifest with all its tags when named by digest.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`]; many registries forbid it ([`RegistryErrorKind::Status`] 405).
    pub async fn delete_manifest(&self, key: &str) -> Result<(), RegistryError> {
        let progress = Progress::none();
        let target = format!("{}/manifests/{key}", self.repository_path());
        let about = About {
            method: "DELETE",
            target: Target::Path(&target),
            scopes: self.scopes("delete"),
            what: format!("{} {key}", self.reference.name()),
            progress: &progress,
        };
        self.send(&about, |request| request).await?;
        Ok(())
    }
}

pub(crate) fn accept() -> String {
    MediaType::MANIFESTS.map(|media_type| media_type.as_str().to_owned()).join(", ")
}

fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

pub(crate) fn content_type(response: &Response) -> Option<MediaType> {
    let value = response.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    let value = value.split(';').next().unwrap_or(value).trim();
    // Registries of static files know no better; the body tells.
    if matches!(value, "" | "application/json" | "application/octet-stream" | "text/plain") {
        return None;
    }
    Some(MediaType::new(value))
}

fn described_by_headers(response: &Response) -> Option<Descriptor> {
    let headers = response.headers();
    let digest = headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()?;
    let size = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
    Some(Descriptor::new(content_type(response)?, digest, size))
}
