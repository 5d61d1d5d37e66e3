//! What ADD and contexts fetch: files over HTTP, and git repositories through the git program.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures_util::StreamExt as _;
use layers::Timestamp;
use oci_model::{Digest, Hasher};
use tokio::io::AsyncWriteExt as _;

use crate::error::StepError;

/// Name of a file whose URL has none, as in BuildKit.
const UNNAMED: &str = "__unnamed__";
/// Largest file fetched over HTTP, in bytes (64 GiB, as for layers).
const FILE_BYTES_MAX: u64 = 64 << 30;

/// A file that was fetched.
#[derive(Clone, Debug)]
pub(crate) struct FetchedFile {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    /// `Last-Modified`, or the epoch.
    pub(crate) mtime: Timestamp,
}

fn failed(url: &str, reason: impl std::fmt::Display) -> StepError {
    StepError::Fetch { url: redacted(url), reason: reason.to_string() }
}

/// A URL without the password it may carry.
fn redacted(url: &str) -> String {
    match url::Url::parse(url) {
        Ok(mut url) if url.password().is_some() => {
            // Only URLs that cannot have a password refuse one.
            let _ = url.set_password(Some("****"));
            url.to_string()
        }
        _ => url.to_owned(),
    }
}

/// Fetches a file; `checksum` is a digest it must have.
pub(crate) async fn file(
    client: &reqwest::Client,
    url: &str,
    checksum: Option<&str>,
    to: PathBuf,
) -> Result<FetchedFile, StepError> {
    let expected: Option<Digest> = checksum
        .map(str::parse)
        .transpose()
        .map_err(|error| failed(url, format!("invalid checksum: {error}")))?;
    let response =
        client.get(url).send().await.map_err(|error| failed(url, with_causes(&error)))?;
    let status = response.status();
    if !status.is_success() {
        return Err(failed(url, format!("invalid response status {}", status.as_u16())));
    }
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let mtime = header(reqwest::header::LAST_MODIFIED)
        .and_then(|text| jiff::fmt::rfc2822::parse(text).ok())
        .map_or(Timestamp::default(), |at| Timestamp::from_seconds(at.timestamp().as_second()));
    let name = url::Url::parse(url)
        .ok()
        .and_then(|url| url.path_segments()?.next_back().map(str::to_owned))
        .filter(|name| !name.is_empty() && name != "." && name != "..")
        .unwrap_or_else(|| UNNAMED.to_owned());
    let io = |error| StepError::io(&to, error);
    let mut out = tokio::fs::File::create(&to).await.map_err(io)?;
    let mut hasher =
        Hasher::new(expected.map_or_else(|| Hasher::sha256().algorithm(), |d| d.algorithm()));
    let mut size = 0;
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| failed(url, with_causes(&error)))?;
        size += piece.len() as u64;
        if FILE_BYTES_MAX < size {
            return Err(failed(url, format!("more than {FILE_BYTES_MAX} bytes")));
        }
        hasher.update(&piece);
        out.write_all(&piece).await.map_err(io)?;
    }
    out.flush().await.map_err(io)?;
    let digest = hasher.finish();
    if let Some(expected) = expected
        && expected != digest
    {
        return Err(failed(url, format!("digest mismatch {digest}: {expected}")));
    }
    Ok(FetchedFile { path: to, name, size, digest, mtime })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A git reference of a Dockerfile or context: repository, ref, subdirectory.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct GitReference {
    /// What to clone.
    pub repository: String,
    /// Branch, tag, full ref or commit; the default branch if `None`.
    pub reference: Option<String>,
    /// A commit to check out after cloning `reference`.
    pub commit: Option<String>,
    /// Directory of the repository to use as root.
    pub subdirectory: Option<String>,
    /// Number of commits to fetch; 0 is all.
    pub depth: u32,
    /// Whether submodules are fetched.
    pub submodules: Submodules,
}

/// Whether submodules are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Submodules {
    /// With everything below them.
    #[default]
    Fetch,
    /// Not at all.
    Leave,
}

impl GitReference {
    /// Reads `url[#ref[:subdir]]` or `url?ref=…&subdir=…` (BuildKit's git URLs).
    ///
    /// # Errors
    /// A text about what is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut found = Self { depth: 1, ..Self::default() };
        let (url, fragment) = match text.split_once('#') {
            Some((url, fragment)) => (url, Some(fragment)),
            None => (text, None),
        };
        let (url, query) = match url.split_once('?') {
            Some((url, query)) => (url, query),
            None => (url, ""),
        };
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let value = Some(value.into_owned()).filter(|value| !value.is_empty());
            match key.as_ref() {
                "ref" => found.reference = value,
                "branch" => found.reference = value.map(|name| format!("refs/heads/{name}")),
                "tag" => found.reference = value.map(|name| format!("refs/tags/{name}")),
                "commit" | "checksum" => found.commit = value,
                "subdir" => found.subdirectory = value,
                "submodules" => {
                    if matches!(value.as_deref(), Some("false" | "0")) {
                        found.submodules = Submodules::Leave;
                    }
                }
                "keep-git-dir" | "mtime" | "fetch-by-commit" => {}
                other => return Err(format!("unexpected query {other:?} in git reference")),
            }
        }
        if let Some(fragment) = fragment {
            let (reference, subdirectory) = match fragment.split_once(':') {
                Some((reference, subdirectory)) => (reference, Some(subdirectory)),
                None => (fragment, None),
            };
            if !reference.is_empty() {
                found.reference = Some(reference.to_owned());
            }
            if let Some(subdirectory) = subdirectory.filter(|path| !path.is_empty()) {
                found.subdirectory = Some(subdirectory.to_owned());
            }
        }
        found.repository = url.to_owned();
        if url.starts_with('-') {
            return Err(format!("{url:?} is no repository"));
        }
        Ok(found)
    }
}

/// Credentials for a git server, handed to git without touching its arguments.
#[derive(Clone, Default)]
pub struct GitCredentials {
    /// User name; a token may stand here.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
}

impl std::fmt::Debug for GitCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GitCredentials(****)")
    }
}

/// Clones a repository into `to`, which does not exist, and returns the commit.
pub(crate) async fn git(
    wanted: &GitReference,
    credentials: &GitCredentials,
    to: &Path,
) -> Result<String, StepError> {
    let url = &wanted.repository;
    std::fs::create_dir_all(to).map_err(|error| StepError::io(to, error))?;
    let git = Git { directory: to, credentials, url };
    git.run(&["init", "--quiet"]).await?;
    git.run(&["remote", "add", "origin", "--", url]).await?;
    let depth = format!("--depth={}", wanted.depth);
    let mut fetch = vec!["fetch", "--quiet", "--no-tags"];
    if wanted.depth != 0 && wanted.commit.is_none() {
        fetch.push(&depth);
    }
    fetch.extend(["origin", "--"]);
    let name = wanted.reference.as_deref().or(wanted.commit.as_deref()).unwrap_or("HEAD");
    let mut last = None;
    let candidates = [name.to_owned(), format!("refs/tags/{name}"), format!("refs/heads/{name}")];
    for candidate in &candidates {
        let mut arguments = fetch.clone();
        arguments.push(candidate);
        match git.run(&arguments).await {
            Ok(_) => {
                last = None;
                break;
            }
            Err(error) => last = last.or(Some(error)),
        }
    }
    if let Some(error) = last {
        return Err(error);
    }
    let target = wanted.commit.as_deref().unwrap_or("FETCH_HEAD");
    git.run(&["checkout", "--quiet", "--detach", target]).await?;
    if wanted.submodules == Submodules::Fetch && to.join(".gitmodules").exists() {
        git.run(&["submodule", "update", "--init", "--recursive", "--depth=1"]).await?;
    }
    let commit = git.run(&["rev-parse", "HEAD"]).await?.trim().to_owned();
    if let Some(wanted) = &wanted.commit
        && !commit.starts_with(wanted.as_str())
    {
        return Err(failed(url, format!("expected commit {wanted}, got {commit}")));
    }
    Ok(commit)
}

struct Git<'a> {
    directory: &'a Path,
    credentials: &'a GitCredentials,
    url: &'a str,
}

impl Git<'_> {
    async fn run(&self, arguments: &[&str]) -> Result<String, StepError> {
        let mut command = tokio::process::Command::new("git");
        command.current_dir(self.directory).stdin(Stdio::null()).kill_on_drop(true);
        // Nobody is there to answer a question for a password.
        command.env("GIT_TERMINAL_PROMPT", "0");
        command.env("GIT_CONFIG_NOSYSTEM", "1");
        if self.credentials.username.is_some() || self.credentials.password.is_some() {
            // The helper is a shell function that reads variables: no secret in an argument.
            let name = self.credentials.username.clone().unwrap_or_default();
            command.env("SHIPWAY_GIT_USERNAME", name);
            command
                .env("SHIPWAY_GIT_PASSWORD", self.credentials.password.clone().unwrap_or_default());
            command.args([
                "-c",
                "credential.helper=!f() { echo \"username=$SHIPWAY_GIT_USERNAME\"; \
                 echo \"password=$SHIPWAY_GIT_PASSWORD\"; }; f",
            ]);
        }
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let output = command.args(&arguments).output().await.map_err(|error| {
            let reason = if error.kind() == std::io::ErrorKind::NotFound {
                "the git program is needed and not installed".to_owned()
            } else {
                format!("cannot start git: {error}")
            };
            failed(self.url, reason)
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(failed(self.url, text.trim().lines().last().unwrap_or("git failed")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_references_have_two_spellings() {
        let short = GitReference::parse("https://host/x.git#v1:sub").expect("valid");
        assert_eq!(short.repository, "https://host/x.git");
        assert_eq!(short.reference.as_deref(), Some("v1"));
        assert_eq!(short.subdirectory.as_deref(), Some("sub"));
        let long = GitReference::parse("https://host/x.git?tag=v1&subdir=sub&submodules=false")
            .expect("valid");
        assert_eq!(long.reference.as_deref(), Some("refs/tags/v1"));
        assert_eq!(long.submodules, Submodules::Leave);
        assert!(GitReference::parse("https://host/x.git?what=1").is_err());
        assert!(GitReference::parse("--upload-pack=x").is_err());
    }

    #[test]
    fn passwords_of_urls_do_not_reach_messages() {
        let error = failed("https://me:hunter2@host/x", "gone").to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
