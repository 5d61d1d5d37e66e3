//! Manifests that refer to an image (OCI distribution-spec 1.1, "Referrers"), with the tag schema
//! for registries that do not keep such lists.

use blob_store::BlobStore;
use credentials::RegistryAuth;
use http::header;
use oci_model::{
    Descriptor, Digest, ImageIndex, MANIFEST_BYTES_MAX, Manifest, MediaType, RawManifest,
    Reference, Tag,
};

use crate::client::{Client, Remote};
use crate::error::{RegistryError, RegistryErrorKind};
use crate::onward::Target;
use crate::progress::Progress;
use crate::push::PushOptions;
use crate::transport::{About, BodyError, body_up_to};

impl Client {
    /// Pushes a manifest with a subject, and what it names, by its digest. Where the registry
    /// does not say that it keeps referrers, the manifest is added to the index under the tag
    /// `ALGORITHM-HEX` of the subject.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn push_referrer(
        &self,
        reference: &Reference,
        manifest: &RawManifest,
        auths: &[RegistryAuth],
        store: &BlobStore,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let push = |auth: Option<RegistryAuth>| async move {
            self.remote(reference, auth.as_ref()).push_referrer(manifest, store, progress).await
        };
        let pushed = self.with_credentials(auths, push).await;
        pushed.map(|_| ()).map_err(|error| {
            error.context(format!("failed to push \"{}@{}\"", reference.name(), manifest.digest()))
        })
    }

    /// What refers to a manifest; `artifact_type` narrows it.
    ///
    /// # Errors
    /// See [`RegistryErrorKind`].
    pub async fn referrers(
        &self,
        reference: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
        auths: &[RegistryAuth],
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let list = |auth: Option<RegistryAuth>| async move {
            self.remote(reference, auth.as_ref()).referrers(subject).await
        };
        let (mut found, _) = self.with_credentials(auths, list).await?;
        // Registries may ignore a filter of the request.
        if let Some(wanted) = artifact_type {
            found.retain(|descriptor| descriptor.artifact_type.as_deref() == Some(wanted));
        }
        Ok(found)
    }
}

/// The tag that stands for the list of referrers of a manifest.
fn fallback_tag(subject: &Digest) -> Result<Tag, RegistryError> {
    let text = format!("{}-{}", subject.algorithm().name(), subject.encoded());
    Tag::new(&text[..text.len().min(oci_model::TAG_LENGTH_MAX)])
        .map_err(|error| RegistryErrorKind::Malformed { reason: error.to_string() }.into())
}

impl Remote {
    async fn push_referrer(
        &self,
        manifest: &RawManifest,
        store: &BlobStore,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let options = PushOptions::default();
        for blob in manifest.parsed().references() {
            self.push_from_store(blob.digest, store, &options, progress).await?;
        }
        let key = manifest.digest().to_string();
        let known = self.put_manifest(&key, manifest, progress).await?;
        match manifest.parsed().subject() {
            Some(subject) if known.as_ref() != Some(&subject.digest) => {
                self.add_to_tag(&subject.digest, manifest, progress).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Adds a manifest to the index under the subject's tag.
    async fn add_to_tag(
        &self,
        subject: &Digest,
        manifest: &RawManifest,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let tag = fallback_tag(subject)?;
        let mut manifests = self.tagged_referrers(&tag, progress).await?;
        if manifests.iter().any(|known| known.digest == *manifest.digest()) {
            return Ok(());
        }
        manifests.push(Descriptor {
            artifact_type: manifest.parsed().artifact_type().map(str::to_owned),
            annotations: manifest.parsed().annotations().clone(),
            ..manifest.descriptor()
        });
        let index = RawManifest::from_index(ImageIndex {
            schema_version: 2,
            media_type: Some(MediaType::OCI_INDEX),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: Default::default(),
        });
        self.put_manifest(tag.as_str(), &index, progress).await.map(|_| ())
    }

    async fn tagged_referrers(
        &self,
        tag: &Tag,
        progress: &Progress,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        match self.fetch_manifest(tag.as_str(), progress).await {
            Ok(manifest) => Ok(match manifest.parsed() {
                Manifest::Index(index) => index.manifests.clone(),
                Manifest::Image(_) => Vec::new(),
            }),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn referrers(
        &self,
        subject: &Digest,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let progress = Progress::none();
        let target = format!("{}/referrers/{subject}", self.repository_path());
        let what = format!("referrers of {}@{subject}", self.reference.name());
        let about = About {
            method: "GET",
            target: Target::Path(&target),
            scopes: self.scopes("pull"),
            what: what.clone(),
            progress: &progress,
        };
        let accept = MediaType::OCI_INDEX;
        let sent = self.send(&about, |request| request.header(header::ACCEPT, accept.as_str()));
        let response = match sent.await {
            Ok(response) => response,
            Err(error) if error.is_not_found() => {
                return self.tagged_referrers(&fallback_tag(subject)?, &progress).await;
            }
            Err(error) => return Err(error),
        };
        let malformed = |reason: String| RegistryErrorKind::Malformed { reason };
        let bytes =
            body_up_to(response, MANIFEST_BYTES_MAX).await.map_err(|error| match error {
                BodyError::TooLarge => {
                    malformed(format!("{what} are larger than {MANIFEST_BYTES_MAX} bytes"))
                }
                BodyError::Broken(reason) => RegistryErrorKind::Interrupted { reason },
            })?;
        let list = RawManifest::parse(Some(&MediaType::OCI_INDEX), bytes)
            .map_err(|error| malformed(format!("{what}: {error}")))?;
        match list.parsed() {
            Manifest::Index(index) => Ok(index.manifests.clone()),
            Manifest::Image(_) => Err(malformed(format!("{what}: not an index")).into()),
        }
    }
}
