//! Where a registry keeps its blobs and what it knows of them: on this disk, or in a bucket that
//! replicas share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use registry_server::{BucketOptions, Network, REDIRECT_LIFETIME, RedirectOptions};

use super::config::shape::{Time, settings};
use crate::exit::{Failure, Kind};

settings! {
    /// The bucket of `storage`. Without `credentials`, those of the environment are used
    /// (AWS_ACCESS_KEY_ID and so on), or those that the cloud gives the workload.
    struct BucketConfig {
        /// URL of the service, where it is not the cloud's own.
        endpoint: Option<String>,
        /// Region of S3.
        region: Option<String> = "AWS_REGION, else us-east-1",
        /// Allow an endpoint in clear text.
        allow_http: bool = "false",
        /// TOML file of credentials: aws_access_key_id, aws_secret_access_key,
        /// google_service_account_key, azure_storage_account_name, azure_storage_account_key and
        /// so on.
        credentials: Option<PathBuf>,
        /// Certificates that the endpoint may be signed with beside the system's (PEM).
        ca: Option<PathBuf>,
        /// Networks whose clients reach the bucket: they are sent there for blobs.
        redirect_clients: Vec<String>,
        /// How long the URL of a redirect is good.
        redirect_lifetime: Option<Time> = "20m",
        /// After this time without a request an upload goes.
        upload_idle: Option<Time> = "24h",
        /// After this time an upload goes however often it was gone on with.
        upload_age: Option<Time> = "168h",
    }
}

/// The variables of the clouds that say who a workload is, by the beginning of the bucket's URL.
const VARIABLES: [(&str, &[&str]); 3] = [
    (
        "s3://",
        &[
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_ROLE_ARN",
            "AWS_ROLE_SESSION_NAME",
            "AWS_ENDPOINT_URL_STS",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        ],
    ),
    ("gs://", &["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT_KEY"]),
    (
        "az://",
        &[
            "AZURE_STORAGE_ACCOUNT_NAME",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_SAS_KEY",
            "AZURE_STORAGE_CLIENT_ID",
            "AZURE_STORAGE_CLIENT_SECRET",
            "AZURE_STORAGE_TENANT_ID",
            "AZURE_FEDERATED_TOKEN_FILE",
        ],
    ),
];

/// The bucket of the configuration, if it has one.
pub(super) fn bucket(
    storage: Option<String>,
    config: BucketConfig,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<BucketOptions>, Failure> {
    let Some(url) = storage else { return Ok(None) };
    let mut options = BucketOptions::new(url);
    options.endpoint = config.endpoint;
    options.region = config.region.or_else(|| variable("AWS_REGION"));
    options.allow_http = config.allow_http;
    options.roots = config.ca;
    options.settings = match &config.credentials {
        Some(path) => credentials(path)?,
        None => from_environment(&options.url, variable),
    };
    if !config.redirect_clients.is_empty() {
        let clients = config
            .redirect_clients
            .iter()
            .map(|text| text.parse::<Network>().map_err(|error| Failure::new(Kind::Usage, error)));
        options.redirect = Some(RedirectOptions {
            clients: clients.collect::<Result<_, _>>()?,
            lifetime: config.redirect_lifetime.map_or(REDIRECT_LIFETIME, |time| time.0),
        });
    }
    let expiry = &mut options.expiry;
    expiry.idle_max = config.upload_idle.map_or(expiry.idle_max, |time| time.0);
    expiry.age_max = config.upload_age.map_or(expiry.age_max, |time| time.0);
    options.check().map_err(|error| {
        Failure::new(Kind::Usage, error).hint("--storage s3://bucket/prefix, gs://… or az://…")
    })?;
    Ok(Some(options))
}

fn credentials(path: &Path) -> Result<BTreeMap<String, String>, Failure> {
    // The reason may quote the file, which holds secrets: only its place is told.
    let unusable = |why: String| {
        let text = format!("cannot use the credentials in {}: {why}", path.display());
        Failure::new(Kind::Usage, anyhow::anyhow!(text))
    };
    let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        unusable(format!("line {line} is not of the form name = \"value\""))
    })
}

fn from_environment(
    url: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> BTreeMap<String, String> {
    let names = VARIABLES.iter().find(|(scheme, _)| url.starts_with(scheme));
    let names = names.map_or(&[][..], |(_, names)| names);
    names.iter().filter_map(|name| Some((name.to_lowercase(), variable(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_a_setting_of_its_kind_of_bucket() {
        for (scheme, names) in VARIABLES {
            for name in names {
                let mut options = BucketOptions::new(format!("{scheme}bucket/prefix"));
                options.settings.insert(name.to_lowercase(), String::new());
                let unknown = format!("{} is not a setting", name.to_lowercase());
                if let Err(error) = options.check() {
                    assert!(!error.to_string().starts_with(&unknown), "{error}");
                }
            }
        }
    }

    #[test]
    fn credentials_come_from_the_file_or_else_from_the_environment() {
        let environment = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => Some("of the environment".to_owned()),
            "AWS_PAGER" => Some("less".to_owned()),
            _ => None,
        };
        let storage = || Some("s3://bucket/prefix".to_owned());
        let options = bucket(storage(), BucketConfig::default(), environment);
        let options = options.expect("options").expect("a bucket");
        assert_eq!(options.settings.len(), 2);
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("credentials.toml");
        let text = "aws_access_key_id = \"of the file\"\naws_secret_access_key = \"too\"\n";
        std::fs::write(&path, text).expect("a file");
        let config = || BucketConfig { credentials: Some(path.clone()), ..BucketConfig::default() };
        let options = bucket(storage(), config(), environment);
        let options = options.expect("options").expect("a bucket");
        assert_eq!(options.settings["aws_access_key_id"], "of the file");
        std::fs::write(&path, "ok = \"1\"\nsecret = hush\n").expect("a file");
        let error = bucket(storage(), config(), environment).expect_err("no TOML");
        let text = format!("{error:?}");
        assert!(text.contains("line 2") && !text.contains("hush"), "{text}");
        assert!(bucket(Some("/srv".to_owned()), BucketConfig::default(), environment).is_err());
        assert!(bucket(None, BucketConfig::default(), environment).expect("none").is_none());
    }
}
