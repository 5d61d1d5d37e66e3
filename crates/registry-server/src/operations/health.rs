//! How the registry is: alive, ready, started.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderValue, Response, StatusCode, header};

use crate::body::Body;
use crate::metadata::{Change, ChangeError, Metadata};

/// How long an answer about readiness counts: asking costs a write to the disk, and anybody may
/// ask.
const ANSWER_LIFE: Duration = Duration::from_secs(1);

/// How long the commits may take to answer.
const COMMIT_WAIT_MAX: Duration = Duration::from_secs(5);

/// What is known of the registry's condition.
pub(crate) struct Health {
    draining: AtomicBool,
    directory: PathBuf,
    last: tokio::sync::Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Health {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { draining: AtomicBool::new(false), directory, last: tokio::sync::Mutex::default() }
    }

    /// The registry is about to stop.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The answer to a path of this module; none for other paths.
    pub(super) async fn answer(&self, path: &str, metadata: &Metadata) -> Option<Response<Body>> {
        match path {
            // Whoever gets an answer has it from a process that lives and has opened its state.
            "/healthz" | "/startupz" => Some(text(StatusCode::OK, "ok\n".to_owned())),
            "/readyz" => Some(match self.ready(metadata).await {
                Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            }),
            _ => None,
        }
    }

    async fn ready(&self, metadata: &Metadata) -> Result<(), String> {
        if self.draining.load(Ordering::Relaxed) {
            return Err("draining".to_owned());
        }
        // Whoever comes meanwhile waits for the same answer.
        let mut last = self.last.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < ANSWER_LIFE
        {
            return answer.clone();
        }
        let answer = self.look(metadata).await;
        if let Err(why) = &answer {
            tracing::warn!(why, "the registry is not ready");
        }
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn look(&self, metadata: &Metadata) -> Result<(), String> {
        let commits = tokio::time::timeout(COMMIT_WAIT_MAX, async {
            // With replicas a change that is refused does not reach the bucket.
            let current = metadata.current().await;
            current.map_err(|error| format!("the metadata cannot be read: {error}"))?;
            commits(metadata).await
        })
        .await;
        commits.map_err(|_| "the metadata does not answer".to_owned())??;
        let directory = self.directory.clone();
        tokio::task::spawn_blocking(move || write_probe(&directory))
            .await
            .map_err(|_| "the disk does not answer".to_owned())?
            .map_err(|error| format!("the disk cannot be written: {error}"))
    }
}

/// Has a change go all the way to the tables, one that changes nothing.
async fn commits(metadata: &Metadata) -> Result<(), String> {
    let (Ok(repository), Ok(tag)) =
        (oci_model::Repository::new("ready/probe"), oci_model::Tag::new("_"))
    else {
        return Err("the probe has no name".to_owned());
    };
    match metadata.change(Change::DeleteTag(repository, tag)).await {
        Ok(()) | Err(ChangeError::Unknown) => Ok(()),
        Err(error) => Err(format!("the metadata cannot be written: {error}")),
    }
}

fn write_probe(directory: &std::path::Path) -> std::io::Result<()> {
    use std::io::Write as _;
    let path = directory.join("ready.probe");
    let mut file = std::fs::File::create(&path)?;
    file.write_all(b"ready\n")?;
    file.sync_all()
}

pub(super) fn text(status: StatusCode, text: String) -> Response<Body> {
    let length = HeaderValue::from(text.len());
    let mut response = Response::new(Body::from(text.into_bytes()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, plain);
    headers.insert(header::CONTENT_LENGTH, length);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
