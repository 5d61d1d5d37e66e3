//! Images that a file says the node keeps: present, pinned, and pulled again when they are gone.
//!
//! The file has one image per line; blank lines and what follows a `#` count for nothing.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use image_policy::{BACK_OFF_INITIAL, BACK_OFF_MAX, BackOff, go_duration};
use jiff::Timestamp;
use oci_model::Reference;

use super::inventory::Inventory;
use crate::events::{self, Note, Recorder};

/// Time between two looks at the file and at what is here.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// Longest list that is read, in bytes.
const LIST_BYTES_MAX: u64 = 1024 * 1024;

/// Which images a node keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptImages {
    /// The list; `None` keeps nothing.
    pub file: Option<PathBuf>,
    /// How often a tag is looked up again; zero = never.
    pub refresh: Duration,
}

/// Pulls an image with the credentials of the node.
pub(crate) type Fetch =
    Box<dyn Fn(Reference) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// Keeps the images of a list.
pub(crate) struct Keeper {
    pub(crate) fetch: Fetch,
    pub(crate) inventory: Arc<Inventory>,
    pub(crate) recorder: Recorder,
    pub(crate) node_name: String,
    pub(crate) file: PathBuf,
    pub(crate) refresh: Duration,
}

/// What the keeper knows from look to look.
struct Memory {
    /// Content of the file, or why it cannot be read.
    text: Option<Result<String, String>>,
    list: Vec<Reference>,
    back_off: BackOff<String>,
    /// When a name was pulled last, since the keeper began.
    pulled: HashMap<String, Duration>,
}

impl Default for Memory {
    fn default() -> Self {
        let back_off = BackOff::new(BACK_OFF_INITIAL, BACK_OFF_MAX);
        Memory { text: None, list: Vec::new(), back_off, pulled: HashMap::new() }
    }
}

impl Keeper {
    /// Keeps them until the node stops.
    pub(crate) async fn run(self) {
        let began = Instant::now();
        let mut memory = Memory::default();
        loop {
            self.look(&mut memory, began.elapsed()).await;
            tokio::time::sleep(LOOK_PERIOD).await;
        }
    }

    /// Reads the list if it changed, and pulls what is missing or due at `now`.
    async fn look(&self, memory: &mut Memory, now: Duration) {
        self.read(memory);
        memory.back_off.collect_garbage(now);
        for reference in memory.list.clone() {
            let name = reference.to_string();
            let is_here = self.inventory.has(&reference);
            let is_stale = reference.digest().is_none()
                && !self.refresh.is_zero()
                && memory
                    .pulled
                    .get(&name)
                    .is_none_or(|pulled| now.saturating_sub(*pulled) >= self.refresh);
            if (is_here && !is_stale) || memory.back_off.remaining(&name, now).is_some() {
                continue;
            }
            match (self.fetch)(reference).await {
                Ok(()) => {
                    memory.back_off.reset(&name);
                    memory.pulled.insert(name.clone(), now);
                    self.inventory.kept_is(&name, None);
                }
                Err(error) => {
                    memory.back_off.fail(name.clone(), now);
                    let wait = memory.back_off.remaining(&name, now).unwrap_or_default();
                    self.warn(
                        "FailedToKeepImage",
                        format!(
                            "Failed to pull image \"{name}\" of the list {}: {error}; next try in {}",
                            self.file.display(),
                            go_duration(wait)
                        ),
                    );
                    self.inventory.kept_is(&name, Some(error));
                }
            }
        }
    }

    /// Takes over a changed list; one that cannot be read leaves the last one in force.
    fn read(&self, memory: &mut Memory) {
        let text = read_limited(&self.file).map_err(|error| error.to_string());
        if memory.text.as_ref() == Some(&text) {
            return;
        }
        let file = self.file.display();
        match &text {
            Ok(text) => {
                let (list, wrong) = parse(text);
                for line in wrong {
                    self.warn("InvalidKeptImages", format!("{file}: {line}"));
                }
                self.inventory.keep(list.iter().map(Reference::to_string));
                memory.list = list;
            }
            Err(error) => {
                self.warn("InvalidKeptImages", format!("cannot read {file}: {error}"));
            }
        }
        memory.text = Some(text);
    }

    fn warn(&self, reason: &str, message: String) {
        self.recorder.send(Note {
            object: events::node_reference(&self.node_name),
            warning: true,
            reason: reason.to_owned(),
            message,
            at: Timestamp::now(),
        });
    }
}

fn read_limited(path: &std::path::Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(LIST_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// The images of a list in its order, each once, and what is wrong with the other lines.
fn parse(text: &str) -> (Vec<Reference>, Vec<String>) {
    let (mut list, mut wrong): (Vec<Reference>, Vec<String>) = Default::default();
    for (at, line) in text.lines().enumerate() {
        let image = line.split_once('#').map_or(line, |(image, _)| image).trim();
        if image.is_empty() {
            continue;
        }
        match image.parse::<Reference>().map(|reference| reference.with_default_tag()) {
            Ok(reference) if list.contains(&reference) => {}
            Ok(reference) => list.push(reference),
            Err(error) => wrong.push(format!("line {}: image {image:?}: {error}", at + 1)),
        }
    }
    (list, wrong)
}

#[cfg(test)]
mod tests;
