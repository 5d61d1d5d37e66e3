//! `shipway manifest`: lists of images for several platforms, made here and pushed as one, as
//! `docker manifest` has them.

mod lists;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use oci_model::{Descriptor, ImageIndex, Manifest, MediaType, Platform, RawManifest, Reference};
use registry_client::{Client, CopyOptions, Platforms, Progress};
use serde_json::json;

use self::lists::{Lists, Member};
use crate::cloud::{Access, Wants};
use crate::exit::{Failure, Kind};
use crate::globals::Globals;
use crate::local_images::open_store;
use crate::output::{self, OutputArgs, OutputFormat};
use crate::registries::{RegistryArgs, client, reference};

/// Flags of `manifest`.
#[derive(Args, Debug)]
pub(crate) struct ManifestArgs {
    #[command(subcommand)]
    verb: ManifestVerb,
}

#[derive(Subcommand, Debug)]
enum ManifestVerb {
    /// Make a local list of images
    Create(CreateArgs),
    /// Say which platform an image of a local list is for
    Annotate(AnnotateArgs),
    /// Push a local list to its registry
    Push(PushArgs),
    /// Show an image's manifest or a list
    Inspect(InspectArgs),
    /// Delete local lists
    Rm(RmArgs),
}

#[derive(Args, Debug)]
struct CreateArgs {
    /// Name of the list
    #[arg(value_name = "LIST")]
    list: String,
    /// Images of the list, in their registry
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Add to a list that exists
    #[arg(short, long)]
    amend: bool,
    /// Allow plain HTTP and any certificate
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Args, Debug)]
struct AnnotateArgs {
    /// Name of the list
    #[arg(value_name = "LIST")]
    list: String,
    /// Image of the list
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Processor, such as amd64
    #[arg(long)]
    arch: Option<String>,
    /// Operating system, such as linux
    #[arg(long)]
    os: Option<String>,
    /// Features that the operating system must have
    #[arg(long = "os-features", value_delimiter = ',')]
    os_features: Vec<String>,
    /// Version of the operating system
    #[arg(long = "os-version")]
    os_version: Option<String>,
    /// Variant of the processor, such as v7
    #[arg(long)]
    variant: Option<String>,
}

#[derive(Args, Debug)]
struct PushArgs {
    /// Name of the list
    #[arg(value_name = "LIST")]
    list: String,
    /// Delete the local list afterwards
    #[arg(short, long)]
    purge: bool,
    /// Allow plain HTTP and any certificate
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct InspectArgs {
    /// Local list to look into, or an image or list in its registry
    #[arg(value_name = "LIST|IMAGE")]
    first: String,
    /// Image of the local list
    #[arg(value_name = "IMAGE")]
    second: Option<String>,
    /// Show names and descriptors beside the manifests
    #[arg(short, long)]
    verbose: bool,
    /// Allow plain HTTP and any certificate
    #[arg(long)]
    insecure: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Args, Debug)]
struct RmArgs {
    /// Names of the lists
    #[arg(value_name = "LIST", required = true)]
    lists: Vec<String>,
}

/// Runs a verb of `manifest`.
pub(crate) async fn run(args: ManifestArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    match args.verb {
        ManifestVerb::Create(args) => create(args).await,
        ManifestVerb::Annotate(args) => annotate(args),
        ManifestVerb::Push(args) => push(args, globals).await,
        ManifestVerb::Inspect(args) => inspect(args).await,
        ManifestVerb::Rm(args) => remove(&args),
    }
}

fn client_for(registry: &RegistryArgs, insecure: bool) -> Result<Client, Failure> {
    let mut registry = registry.clone();
    if insecure {
        registry.insecure_registries.push("*".to_owned());
    }
    client(&registry)
}

async fn create(args: CreateArgs) -> Result<ExitCode, Failure> {
    let list = reference(&args.list)?;
    let lists = Lists::open()?;
    if lists.exists(&list) && !args.amend {
        return Err(Failure::usage(format!(
            "refusing to amend an existing manifest list with no --amend flag: {list}"
        )));
    }
    let client = client_for(&args.registry, args.insecure)?;
    // All are looked up before the first is kept: a wrong name leaves no half list.
    let mut members = Vec::new();
    for text in &args.images {
        let image = reference(text)?;
        members.extend(members_of(&client, &image).await?);
    }
    for member in &members {
        lists.put(&list, member)?;
    }
    output::line(&format!("Created manifest list {list}"));
    Ok(ExitCode::SUCCESS)
}

/// The image as a member of a list; of an index, all its images.
async fn members_of(client: &Client, image: &Reference) -> Result<Vec<Member>, Failure> {
    let mut access = Access::to(image, Wants::Pull).await?;
    let manifest = access.attempt(async |auths| client.fetch_manifest(image, auths).await).await?;
    let Manifest::Index(index) = manifest.parsed() else {
        let platform = platform_of(client, image, &manifest).await?;
        return Ok(vec![Member::new(image.clone(), &manifest, platform)]);
    };
    let mut members = Vec::new();
    for child in &index.manifests {
        let name = image.with_digest(child.digest);
        let manifest =
            access.attempt(async |auths| client.fetch_manifest(&name, auths).await).await?;
        let platform = match &child.platform {
            Some(platform) => platform.clone(),
            None => platform_of(client, &name, &manifest).await?,
        };
        members.push(Member::new(name, &manifest, platform));
    }
    Ok(members)
}

/// What the image config says.
async fn platform_of(
    client: &Client,
    image: &Reference,
    manifest: &RawManifest,
) -> Result<Platform, Failure> {
    let Manifest::Image(parsed) = manifest.parsed() else { return Ok(Platform::host()) };
    let mut access = Access::to(image, Wants::Pull).await?;
    let bytes = access
        .attempt(async |auths| client.fetch_small_blob(image, auths, &parsed.config).await)
        .await?;
    match oci_model::RawConfig::parse(bytes) {
        Ok(config) => Ok(config.parsed().platform()),
        Err(error) => Err(Failure::usage(format!("{image} is no image: {error}"))),
    }
}

fn annotate(args: AnnotateArgs) -> Result<ExitCode, Failure> {
    let (list, image) = (reference(&args.list)?, reference(&args.image)?);
    let lists = Lists::open()?;
    let mut member = lists.get(&list, &image)?;
    let platform = member.platform_mut();
    if let Some(architecture) = args.arch {
        platform.architecture = architecture;
    }
    if let Some(os) = args.os {
        platform.os = os;
    }
    if args.variant.is_some() {
        platform.variant = args.variant;
    }
    if args.os_version.is_some() {
        platform.os_version = args.os_version;
    }
    for feature in args.os_features {
        if !platform.os_features.contains(&feature) {
            platform.os_features.push(feature);
        }
    }
    lists.put(&list, &member)?;
    Ok(ExitCode::SUCCESS)
}

async fn push(args: PushArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let list = reference(&args.list)?;
    let lists = Lists::open()?;
    let members = lists.members(&list)?;
    let client = client_for(&args.registry, args.insecure)?;
    let store = open_store(globals)?;
    for member in &members {
        let name = member.reference()?;
        if name.registry() != list.registry() {
            return Err(Failure::usage(format!(
                "cannot use source images from a different registry than the target image: {} \
                 != {}",
                name.registry(),
                list.registry()
            ))
            .hint(format!("shipway copy {name} to {} first", list.registry())));
        }
        // In its own repository the image is already; from others its blobs are mounted.
        if name.repository() != list.repository() {
            let digest = member.descriptor()?.digest;
            let from = name.with_digest(digest);
            let to = list.with_digest(digest);
            let options = CopyOptions { platforms: Platforms::All };
            let source = Access::to(&from, Wants::Pull).await?;
            let from_auths = source.auths();
            let mut access = Access::to(&to, Wants::Push).await?;
            access
                .attempt(async |to_auths| {
                    let progress = Progress::none();
                    client
                        .copy(&from, &from_auths, &to, to_auths, &store, &options, &progress)
                        .await
                })
                .await?;
        }
    }
    let index = index_of(&members)?;
    let mut access = Access::to(&list, Wants::Push).await?;
    access.attempt(async |auths| client.put_manifest(&list, &index, auths).await).await?;
    if args.purge {
        lists.remove(&list)?;
    }
    match args.output.output {
        OutputFormat::Json => output::json(&json!({
            "reference": list.to_string(),
            "digest": index.digest(),
            "mediaType": index.media_type().as_str(),
        }))?,
        OutputFormat::Text => output::line(&index.digest().to_string()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Docker's own list type when all images are of Docker's type, else an OCI index: families are
/// not mixed.
fn index_of(members: &[Member]) -> Result<RawManifest, Failure> {
    let mut manifests: Vec<Descriptor> = Vec::new();
    for member in members {
        manifests.push(member.descriptor()?);
    }
    let docker = manifests.iter().all(|child| child.media_type.is_docker());
    let media_type = if docker { MediaType::DOCKER_MANIFEST_LIST } else { MediaType::OCI_INDEX };
    Ok(RawManifest::from_index(ImageIndex {
        schema_version: 2,
        media_type: Some(media_type),
        artifact_type: None,
        manifests,
        subject: None,
        annotations: std::collections::BTreeMap::new(),
    }))
}

async fn inspect(args: InspectArgs) -> Result<ExitCode, Failure> {
    let first = reference(&args.first)?;
    let lists = Lists::open()?;
    if let Some(second) = &args.second {
        let member = lists.get(&first, &reference(second)?)?;
        return show(&[member], args.verbose);
    }
    if lists.exists(&first) {
        let members = lists.members(&first)?;
        if args.verbose {
            return show(&members, true);
        }
        return print_json_text(index_of(&members)?.bytes());
    }
    let client = client_for(&args.registry, args.insecure)?;
    if args.verbose {
        return show(&members_of(&client, &first).await?, true);
    }
    let mut access = Access::to(&first, Wants::Pull).await?;
    let manifest = access.attempt(async |auths| client.fetch_manifest(&first, auths).await).await?;
    print_json_text(manifest.bytes())
}

fn show(members: &[Member], verbose: bool) -> Result<ExitCode, Failure> {
    if verbose {
        let shown: Vec<_> = members.iter().map(Member::to_json).collect();
        match &shown[..] {
            [one] => output::json(one)?,
            several => output::json(&several)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    for member in members {
        print_json_text(member.manifest()?.bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A manifest is shown indented; `shipway inspect --raw` has the exact bytes.
fn print_json_text(bytes: &[u8]) -> Result<ExitCode, Failure> {
    let value: serde_json::Value = serde_json::from_slice(bytes)?;
    output::json(&value)?;
    Ok(ExitCode::SUCCESS)
}

fn remove(args: &RmArgs) -> Result<ExitCode, Failure> {
    let lists = Lists::open()?;
    let mut missing = Vec::new();
    for text in &args.lists {
        let list = reference(text)?;
        if lists.exists(&list) {
            lists.remove(&list)?;
        } else {
            missing.push(format!("no such manifest list: {list}"));
        }
    }
    if missing.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::new(Kind::NotFound, anyhow::anyhow!(missing.join("; "))))
}
