//! `--build-context`: contexts by name, from wherever.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use image_builder::{ContextLocation, NamedContext};
use oci_model::Platform;

use crate::build::{contexts, named_directory};
use crate::commands::build::reference;
use crate::exit::Failure;

type Named = BTreeMap<String, NamedContext>;
type Remote = BTreeMap<String, ContextLocation>;

/// Flags about contexts by name.
#[derive(Args, Debug)]
pub(crate) struct ContextFlags {
    /// Another context by name, for all platforms or one: a directory, docker-image://REFERENCE,
    /// oci-layout://PATH[:TAG|@DIGEST], a git repository or an archive as for CONTEXT
    #[arg(long = "build-context", value_name = "NAME[::PLATFORM]=VALUE")]
    build_contexts: Vec<String>,
}

impl ContextFlags {
    /// The contexts by name; nothing is read but the ignore files of directories.
    /// Those from elsewhere come second.
    pub(crate) fn named(&self) -> Result<(Named, Remote), Failure> {
        let (mut named, mut remote) = (BTreeMap::new(), BTreeMap::new());
        for argument in &self.build_contexts {
            let bad =
                |reason: &str| Failure::usage(format!("--build-context {argument:?}: {reason}"));
            let (name, value) = argument.split_once('=').ok_or_else(|| bad("want NAME=VALUE"))?;
            let key = match name.split_once("::") {
                None => name.to_lowercase(),
                Some((name, platform)) => {
                    let platform: Platform =
                        platform.parse().map_err(|_| bad("the platform is not one"))?;
                    format!("{}::{platform}", name.to_lowercase())
                }
            };
            if name.is_empty() || value.is_empty() {
                return Err(bad("want NAME=VALUE"));
            }
            match one(value).map_err(|failure| bad(&failure.text()))? {
                NamedContext::Remote(location) => drop(remote.insert(key, location)),
                context => drop(named.insert(key, context)),
            }
        }
        Ok((named, remote))
    }
}

fn one(value: &str) -> Result<NamedContext, Failure> {
    if let Some(name) = value.strip_prefix("docker-image://") {
        return Ok(NamedContext::Image(reference(name)?));
    }
    if let Some(rest) = value.strip_prefix("oci-layout://") {
        return Ok(layout(rest));
    }
    if value.starts_with("target:") || value.starts_with("input:") {
        return Err(Failure::usage(
            "results of other builds are known to `docker buildx bake` only",
        ));
    }
    match contexts::location(value, false)? {
        ContextLocation::Directory(root) => {
            if !root.is_dir() {
                return Err(Failure::usage(format!("{} is not a directory", root.display())));
            }
            named_directory(root, false)
        }
        elsewhere => Ok(NamedContext::Remote(elsewhere)),
    }
}

/// `PATH`, `PATH:TAG` or `PATH@DIGEST`.
fn layout(text: &str) -> NamedContext {
    let (path, name) = match text.split_once('@') {
        Some((path, digest)) => (path, Some(digest)),
        None => match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (text, None),
        },
    };
    NamedContext::Layout { directory: PathBuf::from(path), name: name.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(arguments: &[&str]) -> Result<Named, String> {
        let build_contexts = arguments.iter().map(|text| (*text).to_owned()).collect();
        let (mut named, remote) =
            ContextFlags { build_contexts }.named().map_err(|failure| failure.text())?;
        named.extend(remote.into_iter().map(|(name, at)| (name, NamedContext::Remote(at))));
        Ok(named)
    }

    #[test]
    fn values_say_where_a_context_is() {
        let of = |value: &str| {
            let named = named(&[&format!("Name={value}")]).expect(value);
            format!("{:?}", named["name"])
        };
        assert!(of("docker-image://alpine").starts_with("Image("));
        assert_eq!(of("oci-layout://a/b"), "Layout { directory: \"a/b\", name: None }");
        assert_eq!(of("oci-layout:///a:v1"), "Layout { directory: \"/a\", name: Some(\"v1\") }");
        let digest = format!("sha256:{}", "0".repeat(64));
        assert!(of(&format!("oci-layout://a@{digest}")).contains(&digest));
        assert!(of("https://host/x.git#main").starts_with("Remote(Git("));
        assert!(of("https://host/x.tar.gz").starts_with("Remote(Url("));
        assert!(of("/").starts_with("Directory("));
        for bad in
            ["name", "name=", "=x", "n::what/is/this/then=/", "n=/nowhere/at/all", "n=target:x"]
        {
            assert!(named(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_may_be_for_one_platform() {
        let named = named(&["App::linux/arm64=/", "app=/"]).expect("valid");
        assert_eq!(named.keys().collect::<Vec<_>>(), ["app", "app::linux/arm64"]);
    }
}
