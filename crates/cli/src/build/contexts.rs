//! Where contexts are, as docker and kaniko spell it, and what reading them needs.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use image_builder::{
    Cloud, ContextAccess, ContextLimits, ContextLocation, GitCredentials, GitReference,
    ObjectLocation, Submodules,
};
use registry_client::{Client, ClientOptions};

use crate::build::credentials::CredentialFile;
use crate::exit::Failure;

/// kaniko's words for a prefix that it does not know.
const UNKNOWN_PREFIX: &str = "unknown build context prefix provided, please use one of the \
    following: gs://, dir://, tar://, s3://, git://, https://";
/// kaniko's words for a standard input that nobody writes to.
const NO_DATA: &str = "no data found.. don't forget to add the '--interactive, -i' flag";
/// Object in a bucket that stands for the context when none is named, as in kaniko.
const DEFAULT_OBJECT: &str = "context.tar.gz";

/// What reading contexts needs, below a state directory.
pub(crate) fn access(
    state_dir: &Path,
    options: ClientOptions,
    credentials: &CredentialFile,
    git: GitCredentials,
) -> Result<ContextAccess, Failure> {
    Ok(ContextAccess {
        scratch: state_dir.join("build/work"),
        blobs: state_dir.join("blobs"),
        client: Client::new(options)?,
        credentials: credentials.source(),
        git,
        limits: ContextLimits::default(),
    })
}

/// A context as `shipway build` spells it: a directory, `-`, a URL, a git reference, or one of
/// kaniko's prefixes. `.git` is part of a git context if `keep_git_directory`.
pub(crate) fn location(text: &str, keep_git_directory: bool) -> Result<ContextLocation, Failure> {
    if text == "-" {
        return standard_input();
    }
    if is_git(text) {
        let text = match text.strip_prefix("github.com/") {
            Some(_) => format!("https://{text}"),
            None => text.to_owned(),
        };
        let mut reference = GitReference::parse(&text).map_err(Failure::usage)?;
        reference.git_directory = reference.git_directory.or(Some(keep_git_directory));
        return Ok(ContextLocation::Git(reference));
    }
    match text.split_once("://") {
        None => Ok(ContextLocation::Directory(text.into())),
        Some((scheme, rest)) => match prefixed(text, scheme, rest)? {
            Some(location) => Ok(location),
            None => Err(Failure::usage(format!("{text:?} is no build context"))
                .hint("a directory, an archive, https://, git, s3://, gs:// or oci://")),
        },
    }
}

/// Whether docker takes a text for a git repository.
fn is_git(text: &str) -> bool {
    let end = text.split(['#', '?']).next().unwrap_or(text);
    text.starts_with("git://")
        || text.starts_with("git@")
        || text.starts_with("ssh://")
        || (text.starts_with("github.com/") && !Path::new(text).exists())
        || ((text.starts_with("http://") || text.starts_with("https://")) && end.ends_with(".git"))
}

/// A context as kaniko spells it; `bucket` is the old `--bucket`.
pub(crate) fn kaniko_location(
    text: &str,
    bucket: Option<&str>,
    settings: &[String],
) -> Result<ContextLocation, Failure> {
    let from_bucket = match bucket {
        Some(bucket) if bucket.contains("://") => Some(bucket.to_owned()),
        Some(bucket) => Some(format!("gs://{bucket}")),
        None => None,
    };
    let text = from_bucket.as_deref().unwrap_or(text);
    if text == "-" {
        return standard_input();
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(ContextLocation::Directory(text.into()));
    };
    if scheme == "git" {
        return kaniko_git(rest, settings).map(ContextLocation::Git);
    }
    prefixed(text, scheme, rest)?.ok_or_else(|| {
        Failure::usage(UNKNOWN_PREFIX).hint("oci:// reads what `shipway context push` wrote")
    })
}

/// What every spelling shares.
fn prefixed(text: &str, scheme: &str, rest: &str) -> Result<Option<ContextLocation>, Failure> {
    let object = |cloud: Cloud| {
        let with_default = format!("{}/{DEFAULT_OBJECT}", rest.trim_end_matches('/'));
        let is_bucket_only = !rest.trim_end_matches('/').contains('/');
        let path = if is_bucket_only { &with_default } else { rest };
        let object = ObjectLocation::new(cloud, path, cloud_settings());
        object.map(ContextLocation::Object).map_err(Failure::usage)
    };
    Ok(Some(match scheme {
        "dir" => ContextLocation::Directory(rest.into()),
        "tar" if rest == "stdin" => standard_input()?,
        "tar" => ContextLocation::Archive(rest.into()),
        "gs" => object(Cloud::Google)?,
        "s3" => object(Cloud::S3)?,
        "https" | "http" => url(text)?,
        "oci" => ContextLocation::Artifact(crate::commands::build::reference(rest)?),
        _ => return Ok(None),
    }))
}

/// An archive over HTTP; an Azure blob is asked for with the account's key, unless the URL
/// carries its own permission.
fn url(text: &str) -> Result<ContextLocation, Failure> {
    let settings = cloud_settings();
    let has_key = settings.contains_key("azure_storage_access_key");
    let is_signed = text.split_once('?').is_some_and(|(_, query)| query.contains("sig="));
    match ObjectLocation::azure(text, settings) {
        Some(object) if has_key || !is_signed => {
            Ok(ContextLocation::Object(object.map_err(Failure::usage)?))
        }
        Some(_) | None => Ok(ContextLocation::Url(text.to_owned())),
    }
}

fn standard_input() -> Result<ContextLocation, Failure> {
    if std::io::stdin().is_terminal() {
        return Err(Failure::usage(NO_DATA));
    }
    Ok(ContextLocation::Stdin)
}

/// `host/repo[#ref[#commit]]`, with the settings of `--git`.
fn kaniko_git(rest: &str, settings: &[String]) -> Result<GitReference, Failure> {
    let method = match std::env::var("GIT_PULL_METHOD") {
        Ok(method) if method == "http" => "http",
        // kaniko falls back to https for everything else, too.
        Ok(_) | Err(_) => "https",
    };
    let mut parts = rest.splitn(3, '#').map(|part| Some(part).filter(|part| !part.is_empty()));
    let mut next = || parts.next().flatten().map(str::to_owned);
    let repository = next().ok_or_else(|| Failure::usage("git://: the repository is missing"))?;
    let mut found = GitReference {
        repository: format!("{method}://{repository}"),
        reference: next(),
        commit: next(),
        submodules: Submodules::Leave,
        ..GitReference::default()
    };
    for name in [&found.reference, &found.commit].into_iter().flatten() {
        if name.starts_with('-') {
            return Err(Failure::usage(format!("{name:?} is no git ref")));
        }
    }
    for setting in settings {
        git_setting(&mut found, setting)?;
    }
    Ok(found)
}

fn git_setting(found: &mut GitReference, setting: &str) -> Result<(), Failure> {
    let Some((key, value)) = setting.split_once('=') else {
        return Err(Failure::usage("invalid git flag, must be in the key=value format"));
    };
    let boolean = || match value {
        "true" | "1" | "t" => Ok(true),
        "false" | "0" | "f" | "" => Ok(false),
        _ => Err(Failure::usage(format!("--git {key}={value:?}: want true or false"))),
    };
    match key {
        "branch" if value.starts_with('-') => {
            return Err(Failure::usage(format!("{value:?} is no git ref")));
        }
        // A ref of the context itself counts for more.
        "branch" if value.is_empty() || found.reference.is_some() => {}
        "branch" => found.reference = Some(value.to_owned()),
        "depth" => {
            found.depth = value
                .parse()
                .map_err(|_| Failure::usage(format!("--git depth={value:?}: not a number")))?;
        }
        "recurse-submodules" => {
            if boolean()? {
                found.submodules = Submodules::Fetch;
            }
        }
        "insecure-skip-tls" => found.any_certificate = boolean()?,
        // Nothing but the ref is ever fetched.
        "single-branch" => {
            boolean()?;
        }
        other => return Err(Failure::usage(format!("unknown git setting {other:?}"))),
    }
    Ok(())
}

/// Credentials of a git context, for its server only; a token stands in for the user name.
pub(crate) fn git_credentials(context: &ContextLocation) -> GitCredentials {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let path = |name| variable(name).map(PathBuf::from);
    let all = GitCredentials {
        username: variable("GIT_TOKEN").or_else(|| variable("GIT_USERNAME")),
        password: variable("GIT_PASSWORD"),
        ssh_agent: path("SSH_AUTH_SOCK"),
        own_keys: true,
        certificates: path("SSL_CERT_FILE"),
        ..GitCredentials::default()
    };
    match context {
        ContextLocation::Git(reference) => all.bound_to(&reference.repository),
        // Nobody else is told.
        _ => all.bound_to(""),
    }
}

/// What the environment and the files of the clouds' own tools say about object storage.
pub(crate) fn cloud_settings() -> BTreeMap<String, String> {
    let home = crate::globals::home_dir();
    let read = |path: PathBuf| std::fs::read_to_string(path).ok();
    settings_of(&mut std::env::vars_os(), home.as_deref(), &read)
}

fn settings_of(
    variables: &mut dyn Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
    home: Option<&Path>,
    read: &dyn Fn(PathBuf) -> Option<String>,
) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut own = BTreeMap::new();
    for (name, value) in variables {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
        if value.is_empty() {
            continue;
        }
        if ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix)) {
            settings.insert(name.to_ascii_lowercase(), value.to_owned());
        } else if name.starts_with("S3_") {
            own.insert(name.to_owned(), value.to_owned());
        }
    }
    if let Some(endpoint) = own.remove("S3_ENDPOINT") {
        let endpoint =
            if endpoint.contains("://") { endpoint } else { format!("https://{endpoint}") };
        settings.insert("aws_endpoint_url_s3".to_owned(), endpoint);
    }
    if own.get("S3_FORCE_PATH_STYLE").is_some_and(|value| value == "true") {
        settings.insert("aws_virtual_hosted_style_request".to_owned(), "false".to_owned());
    }
    if settings.contains_key("aws_access_key_id") {
        return settings;
    }
    // kaniko's way to get credentials into a pod: a secret mounted at ~/.aws.
    let profile = settings.get("aws_profile").cloned().unwrap_or_else(|| "default".to_owned());
    let file = |variable: &str, name: &str| match settings.get(variable) {
        Some(path) => Some(PathBuf::from(path)),
        None => home.map(|home| home.join(".aws").join(name)),
    };
    let files = [
        (file("aws_shared_credentials_file", "credentials"), profile.clone()),
        (
            file("aws_config_file", "config"),
            if profile == "default" { profile } else { format!("profile {profile}") },
        ),
    ];
    for (path, section) in files {
        let Some(text) = path.and_then(read) else { continue };
        for (name, value) in section_of(&text, &section) {
            let name = match name {
                "region" => "aws_region",
                "aws_access_key_id" | "aws_secret_access_key" | "aws_session_token" => name,
                _ => continue,
            };
            settings.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    settings
}

/// The pairs of one section of an INI file.
fn section_of<'a>(text: &'a str, wanted: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let mut is_wanted = false;
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_wanted = section.trim() == wanted;
            return None;
        }
        if !is_wanted || line.starts_with(['#', ';']) {
            return None;
        }
        line.split_once('=').map(|(name, value)| (name.trim(), value.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kanikos_prefixes_are_known() {
        let text = |text: &str| format!("{:?}", kaniko_location(text, None, &[]).expect(text));
        assert_eq!(text("/w"), "Directory(\"/w\")");
        assert_eq!(text("dir:///w"), "Directory(\"/w\")");
        assert_eq!(text("tar://a.tar.gz"), "Archive(\"a.tar.gz\")");
        assert_eq!(text("gs://bucket/a/c.tgz"), "Object(ObjectLocation(gs://bucket/a/c.tgz))");
        assert_eq!(text("gs://bucket"), "Object(ObjectLocation(gs://bucket/context.tar.gz))");
        assert_eq!(text("s3://bucket/c.tgz"), "Object(ObjectLocation(s3://bucket/c.tgz))");
        assert_eq!(text("https://host/c.tgz"), "Url(\"https://host/c.tgz\")");
        assert!(text("https://a.blob.core.windows.net/box/c.tgz").starts_with("Object("));
        assert!(text("oci://host/repo:tag").starts_with("Artifact("));
        let old = kaniko_location("/workspace/", Some("bucket"), &[]).expect("a bucket");
        assert_eq!(format!("{old:?}"), "Object(ObjectLocation(gs://bucket/context.tar.gz))");
        let error = kaniko_location("ftp://x", None, &[]).expect_err("unknown").text();
        assert_eq!(error, UNKNOWN_PREFIX);
    }

    #[test]
    fn kanikos_git_contexts_have_three_parts() {
        let git = |text: &str, settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
            match kaniko_location(text, None, &settings) {
                Ok(ContextLocation::Git(reference)) => Ok(reference),
                Ok(other) => panic!("{other:?}"),
                Err(failure) => Err(failure.text()),
            }
        };
        let all = git("git://host/a/b.git#refs/heads/x#abc", &["depth=3"]).expect("valid");
        assert_eq!(all.repository, "https://host/a/b.git");
        assert_eq!(all.reference.as_deref(), Some("refs/heads/x"));
        assert_eq!(all.commit.as_deref(), Some("abc"));
        assert_eq!((all.depth, all.submodules), (3, Submodules::Leave));
        let settings = ["branch=dev", "recurse-submodules=true", "insecure-skip-tls=true"];
        let set = git("git://host/b", &settings).expect("valid");
        assert_eq!(set.reference.as_deref(), Some("dev"));
        assert!(set.submodules == Submodules::Fetch && set.any_certificate);
        assert_eq!(
            git("git://host/b", &["depth"]).expect_err("no pair"),
            "invalid git flag, must be in the key=value format"
        );
        for bad in ["depth=x", "what=1", "branch=--upload-pack=x", "single-branch=perhaps"] {
            assert!(git("git://host/b", &[bad]).is_err(), "{bad}");
        }
        assert!(git("git://host/b#--upload-pack=x", &[]).is_err());
        assert!(git("git://", &[]).is_err());
    }

    #[test]
    fn docker_knows_repositories_by_their_looks() {
        for (text, is_git) in [
            ("https://host/x.git#main", true),
            ("git@host:x.git", true),
            ("github.com/a/b", true),
            ("https://host/x.tar.gz", false),
            ("./x.git", false),
        ] {
            let found = location(text, false).expect(text);
            assert_eq!(matches!(found, ContextLocation::Git(_)), is_git, "{text}");
        }
        assert!(location("what://x", false).is_err());
    }

    #[test]
    fn clouds_are_configured_as_their_tools_are() {
        let of = |variables: &[(&str, &str)]| {
            let mut variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
            let read = |path: PathBuf| match path.to_str()? {
                "/home/.aws/credentials" => Some(
                    "[other]\naws_access_key_id = no\n[default]\naws_access_key_id = key\n\
                     aws_secret_access_key=secret\n"
                        .to_owned(),
                ),
                "/home/.aws/config" => Some("[default]\nregion = eu-west-1\n".to_owned()),
                _ => None,
            };
            settings_of(&mut variables, Some(Path::new("/home")), &read)
        };
        let files = of(&[("PATH", "/bin"), ("AWS_REGION", "us-west-2")]);
        assert_eq!(files["aws_access_key_id"], "key");
        assert_eq!(files["aws_region"], "us-west-2");
        assert_eq!(files.len(), 3);
        let given = of(&[
            ("AWS_ACCESS_KEY_ID", "mine"),
            ("S3_ENDPOINT", "http://127.0.0.1:9000"),
            ("S3_FORCE_PATH_STYLE", "true"),
        ]);
        assert_eq!(given["aws_access_key_id"], "mine");
        assert_eq!(given["aws_endpoint_url_s3"], "http://127.0.0.1:9000");
        assert_eq!(given["aws_virtual_hosted_style_request"], "false");
        assert!(!given.contains_key("aws_secret_access_key"));
    }
}
