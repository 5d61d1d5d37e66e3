//! `~/.aws/config` and `~/.aws/credentials`: sections and keys, without what they lead to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::{CloudError, Performer};
use super::PROVIDER;

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Keys and values of one section.
pub(super) type Section = BTreeMap<String, String>;

/// The sections of both files.
#[derive(Default)]
pub(super) struct Profiles {
    profiles: BTreeMap<String, Section>,
    sessions: BTreeMap<String, Section>,
    /// The files that were looked at, for messages.
    pub(super) files: Vec<PathBuf>,
}

impl Profiles {
    /// Reads the files that the environment names, or those in the home directory; one that does
    /// not exist has no sections.
    pub(super) fn read(performer: &dyn Performer) -> Result<Self, CloudError> {
        let home = performer.variable("HOME").map(PathBuf::from);
        let path = |variable: &str, name: &str| {
            performer
                .variable(variable)
                .map(PathBuf::from)
                .or_else(|| home.as_ref().map(|home| home.join(".aws").join(name)))
        };
        let mut profiles = Self::default();
        let files = [
            (path("AWS_CONFIG_FILE", "config"), true),
            (path("AWS_SHARED_CREDENTIALS_FILE", "credentials"), false),
        ];
        for (path, is_config) in files {
            let Some(path) = path else { continue };
            let text = match performer.read_file(&path, FILE_BYTES_MAX) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    profiles.files.push(path);
                    continue;
                }
                Err(error) => {
                    let place = path.display().to_string();
                    return Err(CloudError::new(PROVIDER, "profile", place, error.to_string()));
                }
            };
            profiles.add(text.expose(), is_config);
            profiles.files.push(path);
        }
        Ok(profiles)
    }

    fn add(&mut self, text: &str, is_config: bool) {
        for (title, section) in sections(text) {
            let mut words = title.split_whitespace();
            let (first, second) = (words.next().unwrap_or_default(), words.next());
            let (kind, name) = match (is_config, first, second) {
                (true, "profile", Some(name)) => (&mut self.profiles, name),
                (true, "sso-session", Some(name)) => (&mut self.sessions, name),
                (true, "default", None) => (&mut self.profiles, "default"),
                (false, name, None) => (&mut self.profiles, name),
                _ => continue,
            };
            // The credentials file, which comes second, wins.
            kind.entry(name.trim_matches('"').to_owned()).or_default().extend(section);
        }
    }

    pub(super) fn profile(&self, name: &str) -> Option<&Section> {
        self.profiles.get(name)
    }

    pub(super) fn session(&self, name: &str) -> Option<&Section> {
        self.sessions.get(name)
    }
}

/// Sections of an INI file as AWS's tools read it: `#` and `;` begin comments, indented lines
/// belong to the key above and are left out here.
fn sections(text: &str) -> Vec<(String, Section)> {
    let mut sections: Vec<(String, Section)> = Vec::new();
    for line in text.lines() {
        let is_nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) || is_nested {
            continue;
        }
        if let Some(title) = line.strip_prefix('[') {
            let title = title.split(']').next().unwrap_or(title);
            sections.push((title.trim().to_owned(), Section::new()));
        } else if let (Some((key, value)), Some((_, section))) =
            (line.split_once('='), sections.last_mut())
        {
            let value = value.split(" #").next().unwrap_or(value).trim();
            section.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_make_one_profile_and_the_credentials_file_wins() {
        let mut profiles = Profiles::default();
        let config = "[default]\nregion = eu-west-1\n# no\n[profile dev]\nrole_arn=arn:x\n  \
                      nested = 1\nsource_profile = default\n[sso-session my-sso]\n\
                      sso_region=us-east-1\n[dev]\nignored=1\n";
        profiles.add(config, true);
        profiles.add("[default]\naws_access_key_id = A # mine\nregion=x\n", false);
        let default = profiles.profile("default").expect("default");
        assert_eq!(default["aws_access_key_id"], "A");
        assert_eq!(default["region"], "x");
        let dev: Vec<_> = profiles.profile("dev").expect("dev").keys().collect();
        assert_eq!(dev, ["role_arn", "source_profile"]);
        assert_eq!(profiles.session("my-sso").expect("a session")["sso_region"], "us-east-1");
    }
}
