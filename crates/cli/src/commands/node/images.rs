//! `shipway node images`.

use std::process::ExitCode;

use clap::Args;
use cluster_node::ImageDocument;
use indicatif::DecimalBytes;

use super::place::Place;
use crate::exit::Failure;
use crate::output::{self, OutputArgs, OutputFormat};

/// Characters of an id that are shown.
const ID_SHOWN: usize = 12;

/// Flags of `node images`.
#[derive(Args, Debug)]
pub(super) struct ImagesArgs {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) async fn run(args: &ImagesArgs, place: &Place) -> Result<ExitCode, Failure> {
    let mut images = place.list().await?;
    images.sort_by(|a, b| (&a.tags, &a.digests).cmp(&(&b.tags, &b.digests)));
    if args.output.output == OutputFormat::Json {
        output::json(&images)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.quiet {
        images.iter().for_each(|image| output::line(id(image, args)));
        return Ok(ExitCode::SUCCESS);
    }
    let mut header = vec!["REPOSITORY", "TAG"];
    if args.digests {
        header.push("DIGEST");
    }
    header.extend(["IMAGE ID", "SIZE", "PINNED", "USED BY"]);
    let mut rows = vec![header.into_iter().map(str::to_owned).collect()];
    rows.extend(images.iter().flat_map(|image| rows_of(image, args)));
    table(&rows);
    for image in &images {
        if let Some(why) = &image.missing {
            output::error_line(&format!("missing: {}: {why}", image.tags.join(", ")));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn id<'a>(image: &'a ImageDocument, args: &ImagesArgs) -> &'a str {
    let hex = image.id.split_once(':').map_or(image.id.as_str(), |(_, hex)| hex);
    if args.no_trunc { &image.id } else { hex.get(..ID_SHOWN).unwrap_or(hex) }
}

/// One row per tag; one without for an image that has digests only.
fn rows_of(image: &ImageDocument, args: &ImagesArgs) -> Vec<Vec<String>> {
    let used_by = match image.used_by.len() {
        0 => "-".to_owned(),
        1 | 2 => Vec::from_iter(image.used_by.iter().cloned()).join(","),
        count => format!("{count} pods"),
    };
    let pinned = match image.pinned.as_deref() {
        None => "-",
        Some("byHand") => "yes",
        Some("keptList") => "kept",
        Some("builtIn") => "node",
        Some(other) => other,
    };
    let row = |repository: &str, tag: &str| {
        let digest = image.digests.iter().find_map(|digested| {
            let (name, digest) = digested.split_once('@')?;
            (name == repository).then_some(digest)
        });
        let mut row = vec![repository.to_owned(), tag.to_owned()];
        if args.digests {
            row.push(digest.unwrap_or("<none>").to_owned());
        }
        let size = match &image.missing {
            None => DecimalBytes(image.bytes).to_string(),
            Some(_) => "<missing>".to_owned(),
        };
        row.extend([id(image, args).to_owned(), size, pinned.to_owned(), used_by.clone()]);
        row
    };
    if image.tags.is_empty() {
        let names = image.digests.iter().filter_map(|digested| digested.split_once('@'));
        return names.map(|(name, _)| row(name, "<none>")).collect();
    }
    let tags = image.tags.iter().filter_map(|tag| tag.rsplit_once(':'));
    tags.map(|(name, tag)| row(name, tag)).collect()
}

/// Prints columns as wide as their widest cell.
fn table(rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |at: usize| {
        rows.iter().filter_map(|row| row.get(at)).map(String::len).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        output::line(cells.join("   ").trim_end());
    }
}
