//! Progress of pulls and pushes: bars on a terminal, one line per finished blob elsewhere.

use std::collections::{HashMap, HashSet};
use std::io::IsTerminal as _;
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use oci_model::Digest;
use registry_client::{Progress, ProgressEvent};

use crate::output;

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// What there is to see.
    Normal,
    /// Warnings only.
    Quiet,
}

/// A view of one transfer on standard error.
pub(crate) fn progress(verbosity: Verbosity) -> Progress {
    if verbosity == Verbosity::Quiet {
        return Progress::new(|event| {
            if let ProgressEvent::Warning { text } = event {
                output::error_line(&format!("warning: {text}"));
            }
        });
    }
    if std::io::stderr().is_terminal() {
        let bars = Bars::default();
        return Progress::new(move |event| bars.show(event));
    }
    let said = Mutex::default();
    Progress::new(move |event| plain(event, &said))
}

/// Whether a blob is said to be somewhere for the first time: a copy asks at both ends.
fn is_first(said: &Mutex<HashSet<Digest>>, digest: Digest) -> bool {
    said.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(digest)
}

fn plain(event: ProgressEvent, said: &Mutex<HashSet<Digest>>) {
    let text = match event {
        ProgressEvent::Exists { digest } if !is_first(said, digest) => return,
        ProgressEvent::Done { digest } => format!("{}: done", digest.short()),
        ProgressEvent::Exists { digest } => format!("{}: already there", digest.short()),
        ProgressEvent::Retrying { reason, wait } => {
            format!("retrying in {:.1} s: {reason}", wait.as_secs_f64())
        }
        ProgressEvent::Warning { text } => format!("warning: {text}"),
        ProgressEvent::Resolved { .. }
        | ProgressEvent::Started { .. }
        | ProgressEvent::Receiving { .. }
        | ProgressEvent::Advanced { .. } => return,
    };
    output::error_line(&text);
}

#[derive(Default)]
struct Bars {
    all: MultiProgress,
    by_digest: Mutex<HashMap<Digest, ProgressBar>>,
    said: Mutex<HashSet<Digest>>,
}

impl Bars {
    fn show(&self, event: ProgressEvent) {
        let mut bars = self.by_digest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            ProgressEvent::Resolved { .. } | ProgressEvent::Receiving { .. } => {}
            ProgressEvent::Started { digest, bytes } => {
                let bar = self.all.add(ProgressBar::new(bytes));
                let template = "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {msg}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_prefix(digest.short());
                bars.insert(digest, bar);
            }
            ProgressEvent::Advanced { digest, bytes } => {
                if let Some(bar) = bars.get(&digest) {
                    bar.set_position(bytes);
                }
            }
            ProgressEvent::Done { digest } => {
                if let Some(bar) = bars.remove(&digest) {
                    bar.finish_with_message("done");
                }
            }
            ProgressEvent::Exists { digest } if !is_first(&self.said, digest) => {}
            ProgressEvent::Exists { digest } => {
                let _ = self.all.println(format!("{} already there", digest.short()));
            }
            ProgressEvent::Retrying { reason, wait } => {
                let _ =
                    self.all.println(format!("retrying in {:.1} s: {reason}", wait.as_secs_f64()));
            }
            ProgressEvent::Warning { text } => {
                let _ = self.all.println(format!("warning: {text}"));
            }
        }
    }
}
