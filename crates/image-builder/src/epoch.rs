//! SOURCE_DATE_EPOCH from a source: when what is built changed last.

use std::path::Path;

use dockerfile::{Action, Base, FileSource, Stage, Step};

use crate::archive;
use crate::builder::Builder;
use crate::error::{BuildError, StepError};
use crate::fetch::{self, FetchedFile};
use crate::git::{self, GitCredentials, GitReference};
use crate::layer_source::blocking;
use crate::workspace::Workspace;

/// The newest entry of an archive; of another file what the server said. Unix seconds.
async fn of_file(file: FetchedFile) -> Result<Option<i64>, StepError> {
    let said = Some(file.facts.mtime.seconds).filter(|seconds| *seconds != 0);
    blocking(move || {
        let failed = |error| StepError::io(&file.path, error);
        let Some(mut entries) = archive::open(&file.path).map_err(failed)? else {
            return Ok(said);
        };
        let mut newest = None;
        loop {
            let next = entries.next_entry();
            let next = next.map_err(|e| StepError::layer("cannot read the archive", e))?;
            let Some(entry) = next else { return Ok(newest.or(said)) };
            newest = newest.max(Some(entry.mtime.seconds));
        }
    })
    .await
}

/// When the newest file of an unpacked archive was changed. Directories are left out: those that
/// the archive does not mention were made just now.
pub(crate) fn newest_file(root: &Path) -> Option<i64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut newest = None;
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for item in std::fs::read_dir(directory).ok()?.filter_map(Result::ok) {
            let Ok(metadata) = item.metadata() else { continue };
            if metadata.is_dir() {
                waiting.push(item.path());
            } else if metadata.is_file() {
                newest = newest.max(Some(metadata.mtime()));
            }
        }
    }
    newest
}

impl Builder {
    /// When the source of a stage that is nothing but a source changed last, in unix seconds:
    /// `FROM scratch` and one ADD of one URL or git repository. `None` if the server does not say.
    ///
    /// # Errors
    /// [`BuildError::Request`] for any other stage; [`BuildError::State`] if the source cannot be
    /// fetched.
    pub async fn epoch_of_stage(
        &self,
        stage: &Stage,
        credentials: &GitCredentials,
    ) -> Result<Option<i64>, BuildError> {
        let name = stage.name.clone().unwrap_or_else(|| stage.number.to_string());
        let other = || {
            BuildError::Request(format!(
                "invalid SOURCE_DATE_EPOCH: stage {name} is not a source: it must be FROM scratch \
                 and one ADD of a URL or git repository"
            ))
        };
        // An argument is no content.
        let is_argument =
            |step: &&Step| step.action == Action::Configure && step.created_by.starts_with("ARG ");
        let steps: Vec<&Step> = stage.steps.iter().filter(|step| !is_argument(step)).collect();
        let (Base::Scratch, [only]) = (&stage.base, &steps[..]) else { return Err(other()) };
        let Action::Transfer(transfer) = &only.action else { return Err(other()) };
        let [source] = &transfer.files[..] else { return Err(other()) };
        let failed = |error: StepError| {
            BuildError::state(format!("source {name} of SOURCE_DATE_EPOCH"), error)
        };
        let scratch = self.inner.directory.join("work");
        let workspace = Workspace::create(&scratch).map_err(|error| {
            BuildError::state(format!("scratch space {}", scratch.display()), error)
        })?;
        let checksum = transfer.checksum.as_deref();
        match source {
            FileSource::Url(url) => {
                let client = self.inner.registry.http_client();
                let to = workspace.path().join("source");
                let file = fetch::file(&client, url, checksum, to).await.map_err(failed)?;
                of_file(file).await.map_err(failed)
            }
            FileSource::Git(reference) => {
                let mut wanted = GitReference::parse(reference).map_err(BuildError::Request)?;
                wanted.commit = checksum.map(str::to_owned).or(wanted.commit);
                let none = crate::run::mounts::Secrets::new();
                let credentials = &credentials.or_secrets(&none, &wanted.repository);
                let resolved = git::resolve(&wanted, credentials).await.map_err(failed)?;
                let to = workspace.path().join("source");
                let found = git::checkout(&wanted, &resolved, credentials, &to).await;
                found.map(|found| Some(found.time)).map_err(failed)
            }
            FileSource::Path(_) | FileSource::Inline { .. } => Err(other()),
        }
    }
}
