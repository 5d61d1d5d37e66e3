//! The chain of places where credentials of an account may be, in the order of AWS's own tools.

use std::path::Path;
use std::time::Duration;

use super::super::label::Region;
use super::super::{CloudError, Performer, overrides};
use super::endpoints::{Endpoint, Partition};
use super::metadata;
use super::profile::{Profiles, Section};
use super::sigv4::AwsCredentials;
use super::sts::{self, Role};
use super::{PROVIDER, sso};
use crate::Secret;

const STEP: &str = "find credentials";

/// Largest token file, in bytes.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;

/// How long a `credential_process` may take.
const PROCESS_TIME_MAX: Duration = Duration::from_secs(15);

/// What decides where credentials are looked for.
#[derive(Clone, Copy)]
pub(super) struct Chain<'a> {
    pub(super) performer: &'a dyn Performer,
    /// The region of the registry, whose token service is asked unless the environment names one.
    pub(super) region: &'a str,
    /// The profile that the configuration of the provider names.
    pub(super) profile: Option<&'a str>,
    /// Whether a profile may have a program run.
    pub(super) allow_processes: bool,
}

/// Credentials with the place that they came from.
pub(super) type Found = (AwsCredentials, String);

impl Chain<'_> {
    /// The first place that has credentials decides; if they do not work there is no other.
    pub(super) fn find(&self) -> Result<Found, CloudError> {
        if self.profile.is_none() {
            if let Some(credentials) = self.of_environment() {
                return Ok((credentials, "environment".to_owned()));
            }
            if let Some(found) = self.of_web_identity()? {
                return Ok(found);
            }
        }
        let profiles = Profiles::read(self.performer)?;
        let named = self
            .profile
            .map(str::to_owned)
            .or_else(|| self.performer.variable("AWS_PROFILE"))
            .or_else(|| self.performer.variable("AWS_DEFAULT_PROFILE"));
        let name = named.as_deref().unwrap_or("default");
        match profiles.profile(name) {
            Some(_) => {
                let found = self.of_profile(&profiles, name, &mut Vec::new())?;
                if let Some(found) = found {
                    return Ok(found);
                }
            }
            None if named.is_some() => {
                let files: Vec<String> =
                    profiles.files.iter().map(|path| path.display().to_string()).collect();
                let reason = format!("there is no profile {name:?}");
                return Err(CloudError::new(PROVIDER, STEP, files.join(", "), reason));
            }
            None => {}
        }
        if let Some(url) = metadata::container_url(self.performer) {
            let credentials = metadata::of_container(self.performer, &url)?;
            return Ok((credentials, "container credentials".to_owned()));
        }
        let disabled = self.performer.variable("AWS_EC2_METADATA_DISABLED");
        if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Err(CloudError::new(PROVIDER, STEP, "environment", "no credentials anywhere")
                .hint("AWS_ACCESS_KEY_ID, AWS_ROLE_ARN, AWS_PROFILE, or instance metadata"));
        }
        let credentials = metadata::of_instance(self.performer)?;
        Ok((credentials, "instance metadata".to_owned()))
    }

    /// Credentials of a role for a service account's token, as the kubelet gives it to a provider.
    pub(super) fn of_service_account(
        &self,
        role: &str,
        token: &Secret,
    ) -> Result<Found, CloudError> {
        let role = Role {
            arn: role.to_owned(),
            session_name: "ecr-credential-provider".to_owned(),
            external_id: None,
            duration_seconds: None,
        };
        let endpoint = self.sts(None)?;
        let found = sts::assume_with_web_identity(self.performer, &endpoint, &role, token)?;
        Ok((found, format!("service account token as {}", role.arn)))
    }

    fn of_environment(&self) -> Option<AwsCredentials> {
        let either = |name: &str, alias: &str| {
            self.performer.variable(name).or_else(|| self.performer.variable(alias))
        };
        Some(AwsCredentials {
            access_key_id: either("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY")?,
            secret_access_key: Secret::new(either("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY")?),
            session_token: self.performer.variable("AWS_SESSION_TOKEN").map(Secret::new),
            expires_at: None,
        })
    }

    fn of_web_identity(&self) -> Result<Option<Found>, CloudError> {
        let variable = |name| self.performer.variable(name);
        let (Some(file), Some(arn)) =
            (variable("AWS_WEB_IDENTITY_TOKEN_FILE"), variable("AWS_ROLE_ARN"))
        else {
            return Ok(None);
        };
        let session_name = variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| self.session_name());
        let role = Role { arn, session_name, external_id: None, duration_seconds: None };
        self.with_token_file(&file, &role, None).map(Some)
    }

    fn with_token_file(
        &self,
        file: &str,
        role: &Role,
        region: Option<&str>,
    ) -> Result<Found, CloudError> {
        let token = self
            .performer
            .read_file(Path::new(file), TOKEN_BYTES_MAX)
            .map_err(|error| CloudError::new(PROVIDER, STEP, file, error.to_string()))?;
        let endpoint = self.sts(region)?;
        let found = sts::assume_with_web_identity(self.performer, &endpoint, role, &token)?;
        Ok((found, format!("web identity as {}", role.arn)))
    }

    fn session_name(&self) -> String {
        format!("shipway-{:016x}", self.performer.random())
    }

    /// The token service: of the region that is configured, else of the registry.
    fn sts(&self, region: Option<&str>) -> Result<Endpoint, CloudError> {
        let region = match region {
            Some(region) => Region::of(PROVIDER, "profile, region", region)?,
            None => match region_of_environment(self.performer)? {
                Some(region) => region,
                None => Region::of(PROVIDER, "registry host", self.region)?,
            },
        };
        let mut endpoint = Partition::of_region(region.as_str()).sts(&region);
        if let Some(url) = endpoint_url(self.performer, "STS")? {
            endpoint.url = url;
        }
        Ok(endpoint)
    }

    /// Credentials of a profile; `seen` are the profiles on the way to it.
    fn of_profile(
        &self,
        profiles: &Profiles,
        name: &str,
        seen: &mut Vec<String>,
    ) -> Result<Option<Found>, CloudError> {
        let failed = |reason: String| {
            CloudError::new(PROVIDER, "profile", format!("profile {name}"), reason)
        };
        if seen.iter().any(|known| known == name) {
            seen.push(name.to_owned());
            return Err(failed(format!("it leads back to itself: {}", seen.join(" → "))));
        }
        seen.push(name.to_owned());
        let Some(profile) = profiles.profile(name) else {
            return Err(failed("there is no such profile".to_owned()));
        };
        let region = profile.get("region").map(String::as_str);
        if let Some(arn) = profile.get("role_arn") {
            let role = Role {
                arn: arn.clone(),
                session_name: profile
                    .get("role_session_name")
                    .cloned()
                    .unwrap_or_else(|| self.session_name()),
                external_id: profile.get("external_id").cloned(),
                duration_seconds: profile.get("duration_seconds").cloned(),
            };
            if let Some(file) = profile.get("web_identity_token_file") {
                return self.with_token_file(file, &role, region).map(Some);
            }
            let (source, from) = self.source_of_role(profiles, profile, name, seen)?;
            let endpoint = self.sts(region)?;
            let credentials = sts::assume(self.performer, &endpoint, &role, &source)?;
            return Ok(Some((credentials, format!("profile {name}: {} by {from}", role.arn))));
        }
        let source = format!("profile {name}");
        if let Some(credentials) = static_keys(profile) {
            return Ok(Some((credentials, source)));
        }
        if let Some(found) = sso::of_profile(self.performer, profiles, name) {
            return found.map(|found| Some((found, source)));
        }
        match profile.get("credential_process") {
            Some(command) => self.of_process(command, name).map(|found| Some((found, source))),
            None => Ok(None),
        }
    }

    /// Who assumes the role of a profile.
    fn source_of_role(
        &self,
        profiles: &Profiles,
        profile: &Section,
        name: &str,
        seen: &mut Vec<String>,
    ) -> Result<Found, CloudError> {
        let failed = |reason: String| {
            CloudError::new(PROVIDER, "profile", format!("profile {name}"), reason)
        };
        if let Some(source) = profile.get("source_profile") {
            // A profile may name itself: its own keys are meant.
            if source == name
                && let Some(credentials) = static_keys(profile)
            {
                return Ok((credentials, format!("profile {name}")));
            }
            let found = self.of_profile(profiles, source, seen)?;
            return found.ok_or_else(|| failed(format!("profile {source} has no credentials")));
        }
        match profile.get("credential_source").map(String::as_str) {
            Some("Environment") => self
                .of_environment()
                .map(|found| (found, "environment".to_owned()))
                .ok_or_else(|| failed("the environment has no credentials".to_owned())),
            Some("Ec2InstanceMetadata") => metadata::of_instance(self.performer)
                .map(|found| (found, "instance metadata".to_owned())),
            Some("EcsContainer") => {
                let url = metadata::container_url(self.performer)
                    .ok_or_else(|| failed("the environment names no container".to_owned()))?;
                metadata::of_container(self.performer, &url)
                    .map(|found| (found, "container credentials".to_owned()))
            }
            Some(other) => Err(failed(format!("credential_source {other:?} is not known"))),
            None => {
                static_keys(profile).map(|found| (found, format!("profile {name}"))).ok_or_else(
                    || failed("role_arn needs source_profile or credential_source".to_owned()),
                )
            }
        }
    }

    fn of_process(&self, command: &str, name: &str) -> Result<AwsCredentials, CloudError> {
        let failed = |reason: String| {
            CloudError::new(PROVIDER, "credential_process", format!("profile {name}"), reason)
        };
        if !self.allow_processes {
            return Err(failed("running programs is not allowed here".to_owned())
                .hint("--allow-credential-process"));
        }
        let words = split_words(command).ok_or_else(|| failed("unbalanced quotes".to_owned()))?;
        let (program, arguments) =
            words.split_first().ok_or_else(|| failed("it is empty".to_owned()))?;
        let output = self
            .performer
            .run(program, arguments, PROCESS_TIME_MAX)
            .map_err(|error| failed(format!("{program} {error}")))?;
        if !output.succeeded {
            return Err(failed(format!("{program} failed")));
        }
        let document: serde_json::Value = serde_json::from_str(output.stdout.expose())
            .map_err(|_| failed(format!("{program} printed no JSON")))?;
        if document["Version"] != 1 {
            return Err(failed(format!("{program} printed no document of version 1")));
        }
        metadata::credentials(&document)
            .ok_or_else(|| failed(format!("{program} printed no credentials")))
    }
}

/// The region that the environment names.
pub(in super::super) fn region_of_environment(
    performer: &dyn Performer,
) -> Result<Option<Region>, CloudError> {
    for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
        if let Some(text) = performer.variable(name) {
            return Region::of(PROVIDER, name, &text).map(Some);
        }
    }
    Ok(None)
}

/// An endpoint that the environment puts in place of AWS's own.
pub(super) fn endpoint_url(
    performer: &dyn Performer,
    service: &str,
) -> Result<Option<String>, CloudError> {
    let ignored = performer.variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS");
    if ignored.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let name = format!("AWS_ENDPOINT_URL_{service}");
    match overrides::endpoint(performer, PROVIDER, &name, &[])? {
        Some(url) => Ok(Some(url)),
        None => overrides::endpoint(performer, PROVIDER, "AWS_ENDPOINT_URL", &[]),
    }
}

fn static_keys(profile: &Section) -> Option<AwsCredentials> {
    Some(AwsCredentials {
        access_key_id: profile.get("aws_access_key_id")?.clone(),
        secret_access_key: Secret::new(profile.get("aws_secret_access_key")?.as_str()),
        session_token: profile.get("aws_session_token").map(|token| Secret::new(token.as_str())),
        expires_at: None,
    })
}

/// Words as a shell splits them, without expansion; `None` if a quote is not closed.
fn split_words(command: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = command.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some('"') | None, '\\') => word.get_or_insert_default().extend(characters.next()),
            (Some(_), _) => word.get_or_insert_default().push(character),
            (None, '"' | '\'') => {
                word.get_or_insert_default();
                quote = Some(character);
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_split_as_a_shell_does() {
        for (command, words) in [
            ("a b  c", Some(vec!["a", "b", "c"])),
            (
                r#""/opt/my tool" --x 'y z' "" w\ v"#,
                Some(vec!["/opt/my tool", "--x", "y z", "", "w v"]),
            ),
            ("", Some(vec![])),
            ("a 'b", None),
        ] {
            assert_eq!(
                split_words(command),
                words.map(|words| words.iter().map(|w| (*w).to_owned()).collect()),
                "{command}"
            );
        }
    }
}
