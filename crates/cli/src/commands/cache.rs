//! `shipway cache`: what builds keep, and how it is made smaller.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use blob_store::{BlobStore, CollectMode, CollectOptions};
use clap::{Args, Subcommand};
use image_builder::{
    BasePolicy, Builder, CacheEntry, CacheKind, CachePlace, IsolationChoice, LocalCaches,
    PruneOptions,
};
use serde::Serialize;
use serde_json::json;

use crate::build::credentials::{CredentialFile, client_options};
use crate::build::{self, Machinery};
use crate::commands::build::cache_flags::{bytes, duration};
use crate::commands::build::reference;
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::output::{self, OutputArgs, OutputFormat};

/// How long blobs that nobody needs are kept where a registry shares the store: an upload that
/// no manifest names yet looks like one of them.
const DELAY_BESIDE_REGISTRY: Duration = Duration::from_secs(3600);
/// How long an upload may be idle before a collection drops it.
const UPLOAD_IDLE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Flags of `cache`.
#[derive(Args, Debug)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    verb: CacheVerb,
}

#[derive(Subcommand, Debug)]
enum CacheVerb {
    /// List cached steps and cache mounts, what was used last first
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Sum up what the cache takes
    Du(ListArgs),
    /// Remove cached steps and cache mounts; running builds keep what they use
    Prune(PruneArgs),
}

/// Which cache.
#[derive(Args, Debug)]
struct PlaceArgs {
    /// A cache in a registry instead of this machine's: a repository (then its tag is
    /// shipway-cache), a reference with a tag, or oci:DIRECTORY
    #[arg(long, value_name = "REFERENCE")]
    repository: Option<String>,
    /// Registries (HOST[:PORT]) that may speak plain HTTP or have any certificate
    #[arg(long = "insecure-registry", value_name = "HOST")]
    insecure_registries: Vec<String>,
}

#[derive(Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct PruneArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Only what was not used for so long: 24h, 90m
    #[arg(long, visible_alias = "until", value_name = "DURATION")]
    older_than: Option<String>,
    /// Only until so much is left, what was not used for longest first: 500MB, 10GiB
    #[arg(long, visible_alias = "max-used-space", value_name = "SIZE")]
    keep_storage: Option<String>,
    /// Everything
    #[arg(short, long, conflicts_with_all = ["older_than", "keep_storage"])]
    all: bool,
    /// Only tell what would be removed
    #[arg(long)]
    dry_run: bool,
    /// Keep blobs that nobody needs for so many seconds after their last use [default: 0, or 3600
    /// where a registry uses the same state directory]
    #[arg(long, value_name = "SECONDS")]
    delay: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the verb.
pub(crate) async fn run(args: CacheArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    match args.verb {
        CacheVerb::List(args) => list(&args, globals).await,
        CacheVerb::Du(args) => sum(&args, globals).await,
        CacheVerb::Prune(args) => prune(&args, globals).await,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    kind: &'static str,
    key: String,
    title: String,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<String>,
    last_used: String,
}

impl Row {
    fn of(entry: &CacheEntry) -> Self {
        Self {
            kind: match entry.kind {
                CacheKind::Step => "step",
                CacheKind::Mount => "mount",
            },
            key: entry.key.to_string(),
            title: entry.title.clone(),
            bytes: entry.bytes,
            layer: entry.layer.map(|layer| layer.to_string()),
            last_used: jiff::Timestamp::from_second(entry.used)
                .map(|time| time.to_string())
                .unwrap_or_default(),
        }
    }

    fn print(&self) {
        let key = self.key.split(':').next_back().unwrap_or_default();
        let (key, title) = (&key[..12.min(key.len())], self.title.replace('\n', " "));
        let line =
            format!("{:<5}  {key}  {:>12}  {:<20}  {title}", self.kind, self.bytes, self.last_used);
        output::line(&line);
    }
}

fn header() {
    output::line(&format!(
        "{:<5}  {:<12}  {:>12}  {:<20}  TITLE",
        "KIND", "KEY", "BYTES", "LAST USED"
    ));
}

async fn entries(place: &PlaceArgs, globals: &Globals) -> Result<Vec<CacheEntry>, Failure> {
    match cache_place(place)? {
        None => Ok(local(globals)?.list()?),
        Some(place_of) => {
            let found = builder(place, globals)?.list_cache(&place_of).await.map_err(failed)?;
            found.ok_or_else(|| {
                let text = anyhow::anyhow!("there is no cache at {place_of}");
                Failure::new(Kind::NotFound, text)
            })
        }
    }
}

async fn list(args: &ListArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let rows: Vec<Row> = entries(&args.place, globals).await?.iter().map(Row::of).collect();
    match args.output.output {
        OutputFormat::Json => output::json(&rows)?,
        OutputFormat::Text => {
            header();
            rows.iter().for_each(Row::print);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn sum(args: &ListArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let entries = entries(&args.place, globals).await?;
    let of = |kind| {
        let mut count = 0;
        let mut layers = std::collections::BTreeMap::new();
        let mut bytes = 0;
        for entry in entries.iter().filter(|entry| entry.kind == kind) {
            count += 1;
            // Several steps may share a layer.
            match entry.layer {
                Some(layer) => drop(layers.insert(layer, entry.bytes)),
                None => bytes += entry.bytes,
            }
        }
        (count, bytes + layers.values().sum::<u64>())
    };
    let ((steps, step_bytes), (mounts, mount_bytes)) = (of(CacheKind::Step), of(CacheKind::Mount));
    match args.output.output {
        OutputFormat::Json => output::json(&json!({
            "steps": steps, "stepBytes": step_bytes,
            "mounts": mounts, "mountBytes": mount_bytes,
        }))?,
        OutputFormat::Text => {
            output::line(&format!("steps: {steps}, {step_bytes} bytes"));
            output::line(&format!("cache mounts: {mounts}, {mount_bytes} bytes"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn prune(args: &PruneArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    if !args.all && args.older_than.is_none() && args.keep_storage.is_none() {
        return Err(Failure::usage("cache prune does not know what may go")
            .hint("--older-than DURATION, --keep-storage SIZE, or --all"));
    }
    let older_than = args.older_than.as_deref().map(|text| {
        duration(text)
            .ok_or_else(|| Failure::usage(format!("--older-than {text:?}: want 24h or 90m")))
    });
    let keep_bytes = args.keep_storage.as_deref().map(|text| {
        bytes(text)
            .ok_or_else(|| Failure::usage(format!("--keep-storage {text:?}: want 500MB or 10GiB")))
    });
    let options = PruneOptions {
        older_than: older_than.transpose()?,
        keep_bytes: keep_bytes.transpose()?,
        mode: if args.dry_run { CollectMode::Plan } else { CollectMode::Apply },
    };
    let (pruned, freed) = match cache_place(&args.place)? {
        Some(place) => {
            let builder = builder(&args.place, globals)?;
            (builder.prune_cache(&place, &options).await.map_err(failed)?, None)
        }
        None => {
            let pruned = local(globals)?.prune(&options)?;
            let mounts = pruned.removed.iter().filter(|entry| entry.kind == CacheKind::Mount);
            let bytes: u64 = mounts.map(|entry| entry.bytes).sum();
            let collected = match args.dry_run {
                true => 0,
                false => collect(args, globals).await?,
            };
            (pruned, (!args.dry_run).then_some(bytes + collected))
        }
    };
    let rows: Vec<Row> = pruned.removed.iter().map(Row::of).collect();
    match args.output.output {
        OutputFormat::Json => output::json(&json!({
            "dryRun": args.dry_run, "removed": rows, "freedBytes": freed, "inUse": pruned.busy,
        }))?,
        OutputFormat::Text => {
            header();
            rows.iter().for_each(Row::print);
            for id in &pruned.busy {
                output::error_line(&format!("cache mount {id} is in use and stays"));
            }
            let what = if args.dry_run { "would remove" } else { "removed" };
            let freed = freed.map(|bytes| format!(", {bytes} bytes freed")).unwrap_or_default();
            output::line(&format!("{what}: {} entries{freed}", rows.len()));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Frees the layers that no record keeps any more, and says how many bytes.
async fn collect(args: &PruneArgs, globals: &Globals) -> Result<u64, Failure> {
    let state = globals.state_dir();
    let store = open_store(globals)?;
    let registry = state.join("registry");
    let usual = if registry.exists() { DELAY_BESIDE_REGISTRY } else { Duration::ZERO };
    let options = CollectOptions {
        now: SystemTime::now(),
        delay: args.delay.map_or(usual, Duration::from_secs),
        upload_idle_max: UPLOAD_IDLE_MAX,
        mode: CollectMode::Apply,
    };
    let collected =
        registry_server::collect_garbage(&registry, &store, &options, |_, _| {}).await?;
    Ok(collected.bytes)
}

fn cache_place(args: &PlaceArgs) -> Result<Option<CachePlace>, Failure> {
    let Some(text) = &args.repository else { return Ok(None) };
    if let Some(directory) = text.strip_prefix("oci:") {
        return Ok(Some(match directory.rsplit_once(':') {
            Some((directory, name)) if !name.contains('/') => {
                CachePlace::Layout { directory: directory.into(), name: name.to_owned() }
            }
            _ => CachePlace::of_layout(directory.into()),
        }));
    }
    let named: oci_model::Reference = text
        .parse()
        .map_err(|error| Failure::usage(format!("{text:?} is not a repository: {error}")))?;
    if named.tag().is_some() || named.digest().is_some() {
        return Ok(Some(CachePlace::Registry(named)));
    }
    Ok(Some(CachePlace::of_repository(&reference(text)?)))
}

fn local(globals: &Globals) -> Result<LocalCaches, Failure> {
    Ok(LocalCaches::new(globals.state_dir().join("build"), open_store(globals)?))
}

fn open_store(globals: &Globals) -> Result<BlobStore, Failure> {
    BlobStore::open(globals.state_dir().join("blobs"))
        .map_err(|error| Failure::new(Kind::Environment, error))
}

fn builder(args: &PlaceArgs, globals: &Globals) -> Result<Builder, Failure> {
    let mut options = client_options()?;
    options.insecure_registries.clone_from(&args.insecure_registries);
    build::builder(Machinery {
        warmed: None,
        state_dir: globals.state_dir(),
        pull: options.clone(),
        push: options,
        credentials: CredentialFile::read(crate::globals::docker_config_dir().as_deref())?,
        bases: BasePolicy::Registry,
        isolation: IsolationChoice::Auto { in_place: None },
        events: image_builder::Events::ignored(),
    })
}

fn failed(error: image_builder::BuildError) -> Failure {
    build::failure_without_place(error)
}
