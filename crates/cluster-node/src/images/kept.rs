//! Images that a file says the node keeps: present, pinned, and pulled again when they are gone.
//!
//! The file has one image per line; blank lines and what follows a `#` count for nothing.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use image_policy::{BackOff, go_duration};
use jiff::Timestamp;
use oci_model::Reference;

use super::inventory::Inventory;
use crate::events::{self, Note, Recorder};

/// Time between two looks at the file and at what is here.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// Longest list that is read, in bytes.
const LIST_BYTES_MAX: u64 = 1024 * 1024;
/// Pulls of the list at once; the queue of the node limits them further.
const FETCHES_MAX: usize = 8;

/// Which images a node keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptImages {
    /// The list; `None` keeps nothing.
    pub file: Option<PathBuf>,
    /// How often a tag is looked up again; zero = never.
    pub refresh: Duration,
}

impl KeptImages {
    /// What is wrong with the list now: for who starts a node and does not look at its events.
    pub fn problems(&self) -> Vec<String> {
        let Some(file) = &self.file else { return Vec::new() };
        let shown = file.display();
        match read_limited(file) {
            Ok(text) => parse(&text).1.iter().map(|line| format!("{shown}: {line}")).collect(),
            Err(error) => vec![format!("cannot read {shown}: {error}")],
        }
    }
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
#[derive(Default)]
struct Memory {
    /// Content of the file, or why it cannot be read.
    text: Option<Result<String, String>>,
    list: Vec<Reference>,
    back_off: BackOff<String>,
    /// When a name was pulled last, since the keeper began.
    pulled: HashMap<String, Duration>,
    /// Whether the last look found a list emptied, which a half-written file also is.
    was_emptied: bool,
    /// What this look wants and has not begun yet.
    due: VecDeque<Reference>,
    flights: FuturesUnordered<BoxFuture<'static, (String, Result<(), String>)>>,
    /// Names of the flights.
    flying: BTreeSet<String>,
}

impl Keeper {
    /// Keeps them until the node stops.
    pub(crate) async fn run(self) {
        let began = Instant::now();
        let mut memory = Memory::default();
        loop {
            self.look(&mut memory, began.elapsed());
            // A pull that takes long holds up neither the others nor the next look.
            let mut pause = std::pin::pin!(tokio::time::sleep(LOOK_PERIOD));
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some((name, result)) = memory.flights.next() => {
                        self.landed(&mut memory, name, result, began.elapsed());
                    }
                }
            }
        }
    }

    /// Reads the list if it changed, and begins to pull what is missing or due at `now`.
    fn look(&self, memory: &mut Memory, now: Duration) {
        self.read(memory);
        memory.back_off.collect_garbage(now);
        memory.due = memory
            .list
            .iter()
            .filter(|reference| self.is_due(memory, reference, now))
            .cloned()
            .collect();
        self.launch(memory);
    }

    fn is_due(&self, memory: &Memory, reference: &Reference, now: Duration) -> bool {
        let name = reference.to_string();
        if memory.flying.contains(&name) || memory.back_off.remaining(&name, now).is_some() {
            return false;
        }
        let is_stale = reference.digest().is_none()
            && !self.refresh.is_zero()
            && memory
                .pulled
                .get(&name)
                .is_none_or(|pulled| now.saturating_sub(*pulled) >= self.refresh);
        is_stale || !self.inventory.has(reference)
    }

    /// Begins as many of the pulls that are due as may run at once.
    fn launch(&self, memory: &mut Memory) {
        while memory.flights.len() < FETCHES_MAX
            && let Some(reference) = memory.due.pop_front()
        {
            let name = reference.to_string();
            memory.flying.insert(name.clone());
            let fetch = (self.fetch)(reference);
            memory.flights.push(Box::pin(async move { (name, fetch.await) }));
        }
    }

    /// Takes over how a pull ended.
    fn landed(&self, memory: &mut Memory, name: String, result: Result<(), String>, now: Duration) {
        memory.flying.remove(&name);
        match result {
            Ok(()) => {
                memory.back_off.reset(&name);
                self.inventory.kept_is(&name, None);
                memory.pulled.insert(name, now);
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
        self.launch(memory);
    }

    /// Takes over a changed list; one that cannot be read leaves the last one in force.
    fn read(&self, memory: &mut Memory) {
        let text = read_limited(&self.file).map_err(|error| error.to_string());
        if memory.text.as_ref() == Some(&text) {
            memory.was_emptied = false;
            return;
        }
        let file = self.file.display();
        match &text {
            Ok(text) => {
                let (list, wrong) = parse(text);
                let is_emptied = list.is_empty() && !memory.list.is_empty();
                if is_emptied && !std::mem::replace(&mut memory.was_emptied, true) {
                    // Somebody may be writing it: it counts if it stays so until the next look.
                    return;
                }
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
        memory.was_emptied = false;
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
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LIST_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIST_BYTES_MAX {
        let text = format!("it is longer than {LIST_BYTES_MAX} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, text));
    }
    String::from_utf8(bytes).map_err(std::io::Error::other)
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
