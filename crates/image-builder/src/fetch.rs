//! What ADD fetches over HTTP, and what is remembered of it.

use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use layers::Timestamp;
use oci_model::{Digest, Hasher};
use reqwest::StatusCode;
use reqwest::header::{
    ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;

use crate::error::StepError;

/// Name of a file whose URL has none, as in BuildKit.
const UNNAMED: &str = "__unnamed__";
/// Largest file fetched over HTTP, in bytes (64 GiB, as for layers).
pub(crate) const FILE_BYTES_MAX: u64 = 64 << 30;
/// Most URLs that are remembered; the oldest go first.
const REMEMBERED_MAX: usize = 4096;

/// A file that was fetched.
#[derive(Clone, Debug)]
pub(crate) struct FetchedFile {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) facts: UrlFacts,
}

/// What is known of what a URL holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UrlFacts {
    pub(crate) digest: Digest,
    /// `Last-Modified`, or the epoch.
    pub(crate) mtime: Timestamp,
}

/// What a server said about a URL.
#[derive(Clone, Debug)]
pub(crate) enum UrlAnswer {
    /// It holds what it held when somebody asked last.
    Unchanged(UrlFacts),
    /// This.
    Fetched(FetchedFile),
}

impl UrlAnswer {
    pub(crate) fn facts(&self) -> &UrlFacts {
        match self {
            Self::Unchanged(facts) => facts,
            Self::Fetched(file) => &file.facts,
        }
    }
}

pub(crate) fn failed(url: &str, reason: impl std::fmt::Display) -> StepError {
    StepError::Fetch { url: redacted(url), reason: reason.to_string() }
}

/// A URL as messages and statements may show it: without what is secret or may be, which is the
/// user and the password (replaced as BuildKit does), and the whole query. The user of an ssh URL
/// is no secret.
pub fn redacted(url: &str) -> String {
    const HIDDEN: &str = "xxxxx";
    match url::Url::parse(url) {
        Ok(mut url) => {
            let is_token = !url.username().is_empty() && url.scheme() != "ssh";
            // Only URLs that cannot have them refuse.
            if url.password().is_some() || is_token {
                let _ = url.set_username(HIDDEN);
                let _ = url.set_password(Some(HIDDEN));
            }
            if url.query().is_some() {
                url.set_query(Some(HIDDEN));
            }
            url.to_string()
        }
        // What is no URL may have been meant as one.
        Err(_) => match url.split_once("://") {
            Some((scheme, rest)) => {
                let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
                let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
                format!("{scheme}://{rest}")
            }
            None => url.to_owned(),
        },
    }
}

/// Name of the file that a URL stands for: its last segment.
pub(crate) fn file_name(url: &str) -> String {
    url::Url::parse(url)
        .ok()
        .and_then(|url| url.path_segments()?.next_back().map(str::to_owned))
        .filter(|name| !name.is_empty() && name != "." && name != "..")
        .unwrap_or_else(|| UNNAMED.to_owned())
}

/// Fetches a file; `checksum` is a digest it must have.
pub(crate) async fn file(
    client: &reqwest::Client,
    url: &str,
    checksum: Option<&str>,
    to: PathBuf,
) -> Result<FetchedFile, StepError> {
    let expected = checksum.map(|text| digest_of(url, text)).transpose()?;
    let response = get(client, url, HeaderMap::new()).await?;
    let (file, _) = receive(url, response, expected, to).await?;
    Ok(file)
}

/// A checksum as ADD spells it.
pub(crate) fn digest_of(url: &str, checksum: &str) -> Result<Digest, StepError> {
    checksum.parse().map_err(|error| failed(url, format!("invalid checksum: {error}")))
}

/// Asks for a file unless it is what the memory says; the memory then says what it is.
pub(crate) async fn file_if_changed(
    client: &reqwest::Client,
    url: &str,
    memory: &UrlMemory,
    to: PathBuf,
) -> Result<UrlAnswer, StepError> {
    let remembered = memory.recall(url);
    let mut headers = HeaderMap::new();
    if let Some(known) = &remembered {
        for (name, value) in
            [(IF_NONE_MATCH, &known.etag), (IF_MODIFIED_SINCE, &known.last_modified)]
        {
            if let Some(Ok(value)) = value.as_deref().map(str::parse) {
                headers.insert(name, value);
            }
        }
    }
    let response = get(client, url, headers).await?;
    if let (StatusCode::NOT_MODIFIED, Some(known)) = (response.status(), remembered) {
        return Ok(UrlAnswer::Unchanged(known.facts()));
    }
    let (file, validators) = receive(url, response, None, to).await?;
    memory.remember(url, &file.facts, validators);
    Ok(UrlAnswer::Fetched(file))
}

async fn get(
    client: &reqwest::Client,
    url: &str,
    headers: HeaderMap,
) -> Result<reqwest::Response, StepError> {
    let conditional = !headers.is_empty();
    let sent = client.get(url).headers(headers).send().await;
    let response = sent.map_err(|error| failed(url, with_causes(&error.without_url())))?;
    let status = response.status();
    let is_answer = status.is_success() || (conditional && status == StatusCode::NOT_MODIFIED);
    if !is_answer {
        return Err(failed(url, format!("invalid response status {}", status.as_u16())));
    }
    Ok(response)
}

#[derive(Default)]
struct Validators {
    etag: Option<String>,
    last_modified: Option<String>,
}

async fn receive(
    url: &str,
    response: reqwest::Response,
    expected: Option<Digest>,
    to: PathBuf,
) -> Result<(FetchedFile, Validators), StepError> {
    let header = |name: HeaderName| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let validators = Validators { etag: header(ETAG), last_modified: header(LAST_MODIFIED) };
    let mtime = validators
        .last_modified
        .as_deref()
        .and_then(modified_at)
        .map_or(Timestamp::default(), Timestamp::from_seconds);
    let io = |error| StepError::io(&to, error);
    let mut out = tokio::fs::File::create(&to).await.map_err(io)?;
    let mut hasher =
        Hasher::new(expected.map_or_else(|| Hasher::sha256().algorithm(), |d| d.algorithm()));
    let mut size = 0;
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| failed(url, with_causes(&error.without_url())))?;
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
    let file = FetchedFile { path: to, size, facts: UrlFacts { digest, mtime } };
    Ok((file, validators))
}

/// Unix seconds of an HTTP date.
pub(crate) fn modified_at(text: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(text).ok().map(|at| at.timestamp().as_second())
}

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Libraries often repeat their cause in their own text.
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

/// What URLs held when they were fetched last: digests and validators, no contents and no URLs.
#[derive(Clone, Debug)]
pub(crate) struct UrlMemory {
    directory: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    digest: Digest,
    mtime: i64,
    etag: Option<String>,
    last_modified: Option<String>,
}

impl Remembered {
    fn facts(&self) -> UrlFacts {
        UrlFacts { digest: self.digest, mtime: Timestamp::from_seconds(self.mtime) }
    }
}

impl UrlMemory {
    pub(crate) fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    fn path(&self, url: &str) -> PathBuf {
        // A URL may hold a token: its digest does not tell.
        self.directory.join(Digest::of(url.as_bytes()).encoded())
    }

    fn recall(&self, url: &str) -> Option<Remembered> {
        let bytes = std::fs::read(self.path(url)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps what was learnt; a failure only means that it is learnt again.
    fn remember(&self, url: &str, facts: &UrlFacts, validators: Validators) {
        if validators.etag.is_none() && validators.last_modified.is_none() {
            let _ = std::fs::remove_file(self.path(url));
            return;
        }
        let remembered = Remembered {
            digest: facts.digest,
            mtime: facts.mtime.seconds,
            etag: validators.etag,
            last_modified: validators.last_modified,
        };
        let written = || -> std::io::Result<()> {
            crate::workspace::make_private(&self.directory)?;
            self.forget_the_oldest()?;
            let bytes = serde_json::to_vec(&remembered)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
            std::io::Write::write_all(&mut file, &bytes)?;
            file.persist(self.path(url))?;
            Ok(())
        };
        if let Err(error) = written() {
            tracing::debug!(%error, "what a URL holds is not remembered");
        }
    }

    fn forget_the_oldest(&self) -> std::io::Result<()> {
        let mut known: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
        for item in std::fs::read_dir(&self.directory)? {
            let item = item?;
            known.push((item.metadata()?.modified()?, item.path()));
        }
        known.sort();
        for (_, path) in known.iter().take((known.len() + 1).saturating_sub(REMEMBERED_MAX)) {
            remove_quietly(path);
        }
        Ok(())
    }
}

fn remove_quietly(path: &Path) {
    // Another build may have removed it.
    let _ = std::fs::remove_file(path);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_signatures_of_urls_do_not_reach_messages() {
        for url in [
            "https://me:hunter2@host/x",
            "https://hunter2@host/x",
            "https://host/x?sv=1&sig=hunter2",
            "https://host/x?token=hunter2",
            "https://me:hunter2@host:none/x?token=hunter2",
            "ssh://git:hunter2@host/x",
        ] {
            let error = failed(url, "gone").to_string();
            assert!(!error.contains("hunter2") && error.contains("host"), "{error}");
        }
        for (url, shown) in [
            ("https://user:s@example.com/a.git#main", "https://xxxxx:xxxxx@example.com/a.git#main"),
            ("https://token@example.com/a", "https://xxxxx:xxxxx@example.com/a"),
            ("https://example.com/@a?b=c#d", "https://example.com/@a?xxxxx#d"),
            ("ssh://git@example.com/a", "ssh://git@example.com/a"),
            ("https://example.com/a", "https://example.com/a"),
            ("git@example.com:a/b", "git@example.com:a/b"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }

    #[test]
    fn files_are_named_by_the_last_segment() {
        for (url, name) in [
            ("https://host/a/b.tar?x=1#y", "b.tar"),
            ("https://host/a/", UNNAMED),
            ("https://host", UNNAMED),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }

    #[test]
    fn what_has_no_validator_is_not_remembered() {
        let root = tempfile::tempdir().expect("a directory");
        let memory = UrlMemory::at(root.path().join("urls"));
        let facts = UrlFacts { digest: Digest::of(b"x"), mtime: Timestamp::from_seconds(7) };
        let url = "https://host/x?token=hunter2";
        memory.remember(url, &facts, Validators::default());
        assert!(memory.recall(url).is_none());
        let etag = Validators { etag: Some("\"1\"".to_owned()), last_modified: None };
        memory.remember(url, &facts, etag);
        assert_eq!(memory.recall(url).expect("remembered").facts(), facts);
        let kept = std::fs::read_to_string(memory.path(url)).expect("a file");
        assert!(!kept.contains("hunter2") && !memory.path(url).ends_with("x"), "{kept}");
    }
}
