//! `shipway node pull`: an image onto the node before a pod needs it.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::Args;
use cluster_node::{PullCredential, PullFailureKind, PullLine, PullRequest};
use credentials::RegistryAuth;
use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};
use serde_json::json;

use super::place::Place;
use crate::auth_files::{config_at, stored_credential};
use crate::exit::{Failure, Kind};
use crate::output::{self, OutputArgs, OutputFormat};
use crate::password;
use crate::registries::reference;

/// Flags of `node pull`.
#[derive(Args, Debug)]
pub(super) struct PullArgs {
    /// Image to pull
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
    /// Keep it from being removed
    #[arg(long)]
    pin: bool,
    /// User name, instead of the credentials of the node
    #[arg(short, long, requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Credentials of this config.json or auth.json, instead of those of the node
    #[arg(long, value_name = "FILE", conflicts_with = "username")]
    creds_file: Option<PathBuf>,
    /// Print the image's name only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: PullArgs, place: &Place) -> Result<ExitCode, Failure> {
    let name = reference(&args.image)?.with_default_tag();
    let credentials = match (&args.username, &args.creds_file) {
        (Some(username), _) => {
            let password = password::read(args.password_stdin, "Password: ")?;
            Some(vec![PullCredential::Basic { username: username.clone(), password }])
        }
        (None, Some(path)) => {
            let config = config_at(path)?.ok_or_else(|| {
                Failure::new(Kind::NotFound, anyhow!("no credentials file {}", path.display()))
            })?;
            // Docker takes an empty file for an empty config; who names one here expects more.
            if config.is_empty() {
                let text = format!("cannot read credentials from {}: it is empty", path.display());
                return Err(Failure::usage(text));
            }
            let (server, repository) = (name.registry(), name.repository().as_str());
            let found = stored_credential(&config, server, repository)?;
            let auth = found.ok_or_else(|| {
                let text = format!("{} has no credential for {}", path.display(), name.name());
                Failure::new(Kind::NotFound, anyhow!(text))
            })?;
            Some(vec![exposed(&auth)])
        }
        (None, None) => None,
    };
    let request = PullRequest { image: name.to_string(), pin: args.pin, credentials };
    let mut answer = place.pull(&request).await?;
    let view = View::new(args.quiet || args.output.output == OutputFormat::Json);
    let mut pending = Vec::new();
    while let Some(chunk) = answer.chunk().await.context("the node's answer broke off")? {
        pending.extend_from_slice(&chunk);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            match serde_json::from_slice(&line).context("the node's answer is not understood")? {
                PullLine::Progress { place: Some(place), .. } => view.queued(place),
                PullLine::Progress { bytes, bytes_total, layers_left, .. } => {
                    view.show(bytes, bytes_total, layers_left);
                }
                PullLine::Done { image, digest, bytes, pinned } => {
                    view.end();
                    let document = json!({
                        "reference": image, "digest": digest, "bytes": bytes, "pinned": pinned,
                    });
                    return told(&args, &image, &digest, &document);
                }
                PullLine::Failed { kind, message } => {
                    view.end();
                    return Err(failed(&args.image, kind, &message));
                }
            }
        }
    }
    Err(Failure::new(Kind::Unreachable, anyhow!("the node ended before {} was here", args.image)))
}

/// For the node's socket, which is root's alone.
fn exposed(auth: &RegistryAuth) -> PullCredential {
    match auth {
        RegistryAuth::Basic { username, password, .. } => PullCredential::Basic {
            username: username.clone(),
            password: password.expose().to_owned(),
        },
        RegistryAuth::IdentityToken { token } => {
            PullCredential::IdentityToken(token.expose().to_owned())
        }
        RegistryAuth::RegistryToken { token } => {
            PullCredential::RegistryToken(token.expose().to_owned())
        }
    }
}

fn failed(image: &str, kind: PullFailureKind, text: &str) -> Failure {
    let (kind, hint) = match kind {
        PullFailureKind::Denied => (
            Kind::Denied,
            Some("--creds-file FILE, or --username NAME --password-stdin, with another account"),
        ),
        PullFailureKind::NotFound => {
            (Kind::NotFound, Some("check the name; shipway tags REPOSITORY lists what there is"))
        }
        PullFailureKind::Unreachable => {
            (Kind::Unreachable, Some("check the host and the port, and that the registry runs"))
        }
        PullFailureKind::Other => (Kind::Failed, None),
    };
    let failure = Failure::new(kind, anyhow!("cannot pull {image}: {text}"));
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn told(
    args: &PullArgs,
    image: &str,
    digest: &str,
    document: &serde_json::Value,
) -> Result<ExitCode, Failure> {
    match args.output.output {
        OutputFormat::Json => output::json(document)?,
        OutputFormat::Text => {
            if !args.quiet {
                output::line(&format!("Digest: {digest}"));
            }
            output::line(image);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn left(layers: usize) -> String {
    format!("{layers} {} left", if layers == 1 { "layer" } else { "layers" })
}

/// Progress on standard error: a bar on a terminal, a line where a layer is complete elsewhere.
struct View {
    bar: Option<ProgressBar>,
    is_quiet: bool,
    said: std::cell::Cell<Option<(usize, usize)>>,
}

impl View {
    fn new(is_quiet: bool) -> Self {
        let bar = (!is_quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            let template = "[{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        View { bar, is_quiet, said: std::cell::Cell::default() }
    }

    fn say(&self, news: (usize, usize), text: impl FnOnce() -> String) {
        if self.bar.is_none() && !self.is_quiet && self.said.replace(Some(news)) != Some(news) {
            output::error_line(&text());
        }
    }

    fn queued(&self, place: usize) {
        let text = || format!("waiting, number {place} in the queue of the node");
        if let Some(bar) = &self.bar {
            bar.set_message(text());
        }
        self.say((place, usize::MAX), text);
    }

    fn show(&self, bytes: u64, bytes_total: u64, layers_left: usize) {
        if bytes_total == 0 {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_length(bytes_total);
            bar.set_position(bytes);
            bar.set_message(left(layers_left));
        }
        self.say((0, layers_left), || {
            let (here, all) = (DecimalBytes(bytes), DecimalBytes(bytes_total));
            format!("{here} of {all}, {}", left(layers_left))
        });
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
