//! Git repositories as contexts and sources of ADD, through the git program.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::error::StepError;
use crate::fetch::failed;
use crate::run::mounts::{SecretSource, Secrets};

/// Transports that a Dockerfile or a flag may name; `ext::` and local paths would run or read
/// what is on this machine.
const TRANSPORTS: &str = "https:http:ssh:git";
/// Secret of ADD that holds a token, as BuildKit names it; `.HOST` may follow.
const AUTH_TOKEN: &str = "GIT_AUTH_TOKEN";
/// Secret of ADD that holds a whole `Authorization` header.
const AUTH_HEADER: &str = "GIT_AUTH_HEADER";
/// User name that goes with [`AUTH_TOKEN`].
const TOKEN_USER: &str = "x-access-token";
/// Longest that one command of git may take.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(30 * 60);
/// Variables of whoever runs the build that would let git read their files, ask their helpers or
/// work elsewhere.
const NOT_INHERITED: [&str; 24] = [
    "SSH_AUTH_SOCK",
    "SSH_ASKPASS",
    "GIT_ASKPASS",
    "GIT_SSH",
    "GIT_SSH_VARIANT",
    "GIT_TOKEN",
    "GIT_USERNAME",
    "GIT_PASSWORD",
    "XDG_CONFIG_HOME",
    "GIT_CONFIG",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_PARAMETERS",
    "GIT_TEMPLATE_DIR",
    "GIT_DIR",
    "GIT_COMMON_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_SHALLOW_FILE",
    "GIT_TRACE",
    "GIT_TRACE_CURL",
    "GIT_CURL_VERBOSE",
];

/// A git reference of a Dockerfile or context: repository, ref, subdirectory.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct GitReference {
    /// What to clone.
    pub repository: String,
    /// Branch, tag, full ref or commit; the default branch if `None`.
    pub reference: Option<String>,
    /// A commit, or the beginning of its name, to check out after fetching `reference`.
    pub commit: Option<String>,
    /// Directory of the repository to use as root.
    pub subdirectory: Option<String>,
    /// Number of commits to fetch; 0 is all.
    pub depth: u32,
    /// Whether submodules are fetched.
    pub submodules: Submodules,
    /// Whether `.git` is part of what is used; `None` leaves it to the caller.
    pub git_directory: Option<bool>,
    /// Which time files get.
    pub times: GitTimes,
    /// Whether the server's certificate is not looked at.
    pub any_certificate: bool,
}

/// Whether submodules are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Submodules {
    /// With everything below them.
    #[default]
    Fetch,
    /// Not at all.
    Leave,
}

/// Which time the files of a checkout get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum GitTimes {
    /// When they were written.
    #[default]
    Checkout,
    /// That of the commit.
    Commit,
}

impl GitReference {
    /// Reads `url[#ref[:subdir]]` or `url?ref=…&subdir=…` (BuildKit's git URLs).
    ///
    /// # Errors
    /// A text about what is not understood, or what contradicts itself.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut found = Self { depth: 1, ..Self::default() };
        let (url, fragment) = match text.split_once('#') {
            Some((url, fragment)) => (url, Some(fragment)),
            None => (text, None),
        };
        let (url, query) = match url.split_once('?') {
            Some((url, query)) => (url, query),
            None => (url, ""),
        };
        if let Some(fragment) = fragment {
            let (reference, subdirectory) = match fragment.split_once(':') {
                Some((reference, subdirectory)) => (reference, Some(subdirectory)),
                None => (fragment, None),
            };
            found.reference = Some(reference.to_owned()).filter(|name| !name.is_empty());
            found.subdirectory = subdirectory.filter(|path| !path.is_empty()).map(str::to_owned);
        }
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            found.setting(&key, &value)?;
        }
        found.repository = url.to_owned();
        if url.starts_with('-') || url.is_empty() {
            return Err(format!("{url:?} is no repository"));
        }
        for name in [&found.reference, &found.commit].into_iter().flatten() {
            if name.starts_with('-') {
                return Err(format!("{name:?} is no git ref"));
            }
        }
        Ok(found)
    }

    fn setting(&mut self, key: &str, value: &str) -> Result<(), String> {
        if value.is_empty() && key != "keep-git-dir" && key != "submodules" {
            return Err(format!("query {key:?} has no value in git reference"));
        }
        match key {
            "ref" => once("ref", &mut self.reference, value.to_owned()),
            "branch" => once("ref", &mut self.reference, format!("refs/heads/{value}")),
            "tag" => once("ref", &mut self.reference, format!("refs/tags/{value}")),
            "commit" | "checksum" => once("commit", &mut self.commit, value.to_owned()),
            "subdir" => once("subdir", &mut self.subdirectory, value.to_owned()),
            "submodules" => {
                if !boolean(key, value)? {
                    self.submodules = Submodules::Leave;
                }
                Ok(())
            }
            "keep-git-dir" => {
                self.git_directory = Some(boolean(key, value)?);
                Ok(())
            }
            "mtime" => {
                self.times = match value {
                    "checkout" => GitTimes::Checkout,
                    "commit" => GitTimes::Commit,
                    _ => return Err(format!("invalid mtime {value:?}: checkout or commit")),
                };
                Ok(())
            }
            // Commits are always asked for by name first.
            "fetch-by-commit" => boolean(key, value).map(|_| ()),
            other => Err(format!("unexpected query {other:?} in git reference")),
        }
    }

    /// The commit, if it is known without asking anybody.
    pub(crate) fn exact_commit(&self) -> Option<&str> {
        let named = self.reference.as_deref().filter(|name| is_commit(name));
        self.commit.as_deref().filter(|name| is_commit(name)).or(named)
    }
}

fn once(what: &str, field: &mut Option<String>, value: String) -> Result<(), String> {
    match field {
        Some(other) if *other != value => {
            Err(format!("{what} conflicts in git reference: {other:?} and {value:?}"))
        }
        _ => {
            *field = Some(value);
            Ok(())
        }
    }
}

/// Go's `strconv.ParseBool`, with the empty text for true.
fn boolean(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid {key} value {value:?} in git reference")),
    }
}

/// Whether a text is the full name of a commit (SHA-1 or SHA-256).
pub(crate) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What git may use of whoever runs the build, handed to it without touching its arguments.
#[derive(Clone, Default)]
pub struct GitCredentials {
    /// User name; a token may stand here.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// A whole `Authorization` header instead of both.
    pub header: Option<String>,
    /// The only server that is told ([`GitCredentials::bound_to`]); `None` is that of the one
    /// context that is fetched with them, and no source of ADD.
    pub server: Option<String>,
    /// Socket of the agent that ssh may ask.
    pub ssh_agent: Option<PathBuf>,
    /// Whether ssh may use the keys and the configuration of whoever runs the build.
    pub own_keys: bool,
    /// Certificates (PEM) to check servers with; no secret.
    pub certificates: Option<PathBuf>,
}

impl std::fmt::Debug for GitCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GitCredentials(****)")
    }
}

impl GitCredentials {
    /// The same for the server of one repository and no other; a text that names no server is
    /// nobody.
    #[must_use]
    pub fn bound_to(self, repository: &str) -> Self {
        Self { server: Some(server_of(repository).unwrap_or_default()), ..self }
    }

    /// What a repository may be told of them.
    fn told_to(&self, repository: &str) -> Self {
        match &self.server {
            Some(own) if server_of(repository).as_ref() != Some(own) => self.for_strangers(),
            _ => self.clone(),
        }
    }

    fn for_strangers(&self) -> Self {
        Self { certificates: self.certificates.clone(), ..Self::default() }
    }

    /// The same if they belong to the server of the repository that ADD names, or what the secrets of a build hold for the server of a repository
    /// (`GIT_AUTH_TOKEN[.HOST]`, `GIT_AUTH_HEADER[.HOST]`).
    pub(crate) fn or_secrets(&self, secrets: &Secrets, repository: &str) -> Self {
        let own = match self.server {
            Some(_) => self.told_to(repository),
            None => self.for_strangers(),
        };
        let host =
            url::Url::parse(repository).ok().and_then(|url| url.host_str().map(str::to_owned));
        let secret = |name: &str| {
            let of_host = host.as_ref().and_then(|host| secrets.get(&format!("{name}.{host}")));
            let bytes = match of_host.or_else(|| secrets.get(name))? {
                SecretSource::File(path) => std::fs::read(path).ok()?,
                SecretSource::Value(bytes) => bytes.as_slice().to_vec(),
            };
            Some(String::from_utf8(bytes).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
        };
        if let Some(header) = secret(AUTH_HEADER) {
            return Self { header: Some(header), username: None, password: None, ..own };
        }
        match secret(AUTH_TOKEN) {
            Some(token) => Self {
                username: Some(TOKEN_USER.to_owned()),
                password: Some(token),
                header: None,
                ..own
            },
            None => own,
        }
    }
}

/// Scheme, host and port of a repository; `user@host:path` is ssh.
fn server_of(repository: &str) -> Option<String> {
    let (scheme, host, port) = match url::Url::parse(repository) {
        Ok(url) if repository.contains("://") => {
            let scheme = url.scheme().to_owned();
            let port = url.port_or_known_default().or((scheme == "ssh").then_some(22));
            (scheme, url.host_str()?.to_ascii_lowercase(), port)
        }
        _ => {
            let (host, _) = repository.split_once(':')?;
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            ("ssh".to_owned(), host.to_ascii_lowercase(), Some(22))
        }
    };
    Some(format!("{scheme}://{host}:{}", port.unwrap_or_default()))
}

/// A commit that was checked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckedOut {
    pub(crate) commit: String,
    /// Time of the commit in Unix seconds.
    pub(crate) time: i64,
}

/// The commit that a reference stands for now; asks the server if it has to.
pub(crate) async fn resolve(
    wanted: &GitReference,
    credentials: &GitCredentials,
) -> Result<Resolved, StepError> {
    let git = Git::new(wanted, credentials, None)?;
    if let Some(commit) = wanted.exact_commit() {
        let name = wanted.reference.clone().filter(|name| !is_commit(name));
        let format = ObjectFormat::of(commit);
        return Ok(Resolved { commit: Some(commit.to_ascii_lowercase()), name, format });
    }
    let name = wanted.reference.as_deref().unwrap_or("HEAD");
    let candidates: Vec<String> = if name == "HEAD" || name.starts_with("refs/") {
        vec![name.to_owned()]
    } else {
        vec![format!("refs/heads/{name}"), format!("refs/tags/{name}"), format!("refs/{name}")]
    };
    let peeled: Vec<String> = candidates.iter().map(|name| format!("{name}^{{}}")).collect();
    // HEAD tells which hash the repository uses, whatever else there is.
    let mut arguments = vec!["ls-remote", "--", &git.url, "HEAD"];
    arguments.extend(candidates.iter().chain(&peeled).map(String::as_str));
    let listing = git.run(&arguments).await?;
    let refs: BTreeMap<&str, &str> = listing
        .lines()
        .filter_map(|line| line.split_once('\t').map(|(commit, name)| (name, commit)))
        .collect();
    let format = refs.values().next().map_or(ObjectFormat::Sha1, |commit| ObjectFormat::of(commit));
    for (candidate, peeled) in candidates.iter().zip(&peeled) {
        // What an annotated tag points at is the commit, not the tag.
        if let Some(commit) = refs.get(peeled.as_str()).or_else(|| refs.get(candidate.as_str())) {
            // The beginning of a name says which commit of the branch, not which that is.
            let commit = match &wanted.commit {
                Some(prefix) if !commit.starts_with(prefix.as_str()) => None,
                _ => Some((*commit).to_owned()),
            };
            return Ok(Resolved { commit, name: Some(candidate.clone()), format });
        }
    }
    // It may be the beginning of a commit's name.
    if 4 <= name.len() && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(Resolved { commit: None, name: None, format });
    }
    Err(failed(&git.url, format!("repository does not contain ref {name}")))
}

/// What a reference stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The commit, if it is known before it is fetched.
    pub(crate) commit: Option<String>,
    /// Full name of the ref.
    name: Option<String>,
    format: ObjectFormat,
}

/// The hash that a repository names its objects with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ObjectFormat {
    Sha1,
    Sha256,
}

impl ObjectFormat {
    fn of(commit: &str) -> Self {
        if commit.len() == 64 { Self::Sha256 } else { Self::Sha1 }
    }
}

/// Checks a reference out into `to`, which may exist if it is empty.
pub(crate) async fn checkout(
    wanted: &GitReference,
    resolved: &Resolved,
    credentials: &GitCredentials,
    to: &Path,
) -> Result<CheckedOut, StepError> {
    std::fs::create_dir_all(to).map_err(|error| StepError::io(to, error))?;
    let git = Git::new(wanted, credentials, Some(to))?;
    let format = match resolved.format {
        ObjectFormat::Sha256 => "--object-format=sha256",
        ObjectFormat::Sha1 => "--object-format=sha1",
    };
    git.run(&["init", "--quiet", format]).await?;
    git.run(&["remote", "add", "origin", "--", &git.url]).await?;
    let depth = format!("--depth={}", wanted.depth);
    let shallow = (wanted.depth != 0).then_some(depth.as_str());
    let target = match (&resolved.name, &resolved.commit) {
        (Some(name), commit) => {
            // The commit may be older than what the branch points at.
            let shallow = shallow.filter(|_| wanted.commit.is_none());
            git.fetch(shallow, &[name]).await?;
            commit.clone().or_else(|| wanted.commit.clone())
        }
        (None, Some(commit)) => {
            if git.fetch(shallow, &[commit]).await.is_err() {
                // Not every server gives out commits by name.
                git.fetch_everything().await?;
            }
            Some(commit.clone())
        }
        (None, None) => {
            git.fetch_everything().await?;
            wanted.commit.clone().or_else(|| wanted.reference.clone())
        }
    };
    let target = target.unwrap_or_else(|| "FETCH_HEAD".to_owned());
    git.run(&["checkout", "--quiet", "--force", "--detach", &target, "--"]).await?;
    if wanted.submodules == Submodules::Fetch && to.join(".gitmodules").exists() {
        let mut update = vec!["submodule", "--quiet", "update", "--init", "--recursive"];
        if wanted.depth != 0 {
            update.push("--depth=1");
        }
        git.run(&update).await?;
    }
    let shown = git.run(&["log", "-1", "--format=%H %ct"]).await?;
    let (commit, time) = shown.trim().split_once(' ').unwrap_or((shown.trim(), "0"));
    if let Some(wanted) = &wanted.commit
        && !commit.starts_with(&wanted.to_ascii_lowercase())
    {
        return Err(failed(&git.url, format!("expected checksum to match {wanted}, got {commit}")));
    }
    if let Some(expected) = &resolved.commit
        && expected != commit
    {
        return Err(failed(&git.url, format!("expected commit {expected}, got {commit}")));
    }
    Ok(CheckedOut { commit: commit.to_owned(), time: time.parse().unwrap_or(0) })
}

struct Git<'a> {
    directory: Option<&'a Path>,
    /// Without user name and password.
    url: String,
    environment: Vec<(String, OsString)>,
}

impl<'a> Git<'a> {
    fn new(
        wanted: &GitReference,
        credentials: &GitCredentials,
        directory: Option<&'a Path>,
    ) -> Result<Self, StepError> {
        let told = credentials.told_to(&wanted.repository);
        let (url, credentials) = apart(&wanted.repository, &told);
        if url.contains("::") && !url.contains("://") {
            return Err(failed(&url, "transports of other programs are not used"));
        }
        // ssh finds the home directory by itself, whatever HOME says.
        let ssh = if credentials.own_keys {
            "ssh -o BatchMode=yes"
        } else {
            "ssh -F none -o BatchMode=yes -o IdentityFile=none"
        };
        let mut environment: Vec<(String, OsString)> = Vec::new();
        for (name, value) in [
            // Nobody is there to answer a question for a password or a host key.
            ("GIT_TERMINAL_PROMPT", "0"),
            // Neither settings nor passwords (.netrc) of the person are a build's.
            ("HOME", "/dev/null"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_ALLOW_PROTOCOL", TRANSPORTS),
            ("GIT_SSH_COMMAND", ssh),
            ("LC_ALL", "C"),
        ] {
            environment.push((name.to_owned(), value.into()));
        }
        if wanted.any_certificate {
            environment.push(("GIT_SSL_NO_VERIFY".to_owned(), "1".into()));
        }
        if let Some(path) = &credentials.certificates {
            environment.push(("GIT_SSL_CAINFO".to_owned(), path.into()));
        }
        if let Some(socket) = &credentials.ssh_agent {
            environment.push(("SSH_AUTH_SOCK".to_owned(), socket.into()));
        }
        // An empty helper forgets those that are configured anywhere.
        let mut all = vec![("credential.helper".to_owned(), String::new())];
        all.extend(settings(&url, &credentials));
        environment.push(("GIT_CONFIG_COUNT".to_owned(), all.len().to_string().into()));
        for (number, (key, value)) in all.into_iter().enumerate() {
            environment.push((format!("GIT_CONFIG_KEY_{number}"), key.into()));
            environment.push((format!("GIT_CONFIG_VALUE_{number}"), value.into()));
        }
        if credentials.username.is_some() || credentials.password.is_some() {
            let text = |value: &Option<String>| value.clone().unwrap_or_default().into();
            environment.push(("SHIPWAY_GIT_USERNAME".to_owned(), text(&credentials.username)));
            environment.push(("SHIPWAY_GIT_PASSWORD".to_owned(), text(&credentials.password)));
        }
        Ok(Self { directory, url, environment })
    }

    async fn fetch(&self, shallow: Option<&str>, refs: &[&str]) -> Result<String, StepError> {
        let mut arguments = vec!["fetch", "--quiet", "--no-tags", "--update-head-ok"];
        arguments.extend(shallow);
        arguments.extend(["origin", "--"]);
        arguments.extend(refs);
        match self.run(&arguments).await {
            // The plain HTTP protocol of static file servers cannot leave history out.
            Err(StepError::Fetch { reason, .. })
                if shallow.is_some() && reason.contains("shallow") =>
            {
                Box::pin(self.fetch(None, refs)).await
            }
            done => done,
        }
    }

    async fn fetch_everything(&self) -> Result<String, StepError> {
        let refs = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        self.fetch(None, &refs).await
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("git");
        if let Some(directory) = self.directory {
            command.current_dir(directory);
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        command.args(arguments);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Result<String, StepError> {
        let output = tokio::time::timeout(COMMAND_TIME_MAX, self.command(arguments).output());
        let output = output.await.map_err(|_| {
            let minutes = COMMAND_TIME_MAX.as_secs() / 60;
            failed(&self.url, format!("git did not finish in {minutes} minutes"))
        })?;
        let output = output.map_err(|error| {
            let reason = if error.kind() == std::io::ErrorKind::NotFound {
                "the git program is needed and not installed: install it, or give the files as an \
                 archive (https://, s3://, tar://) or as oci:// from `shipway context push`"
                    .to_owned()
            } else {
                format!("cannot start git: {error}")
            };
            failed(&self.url, reason)
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(failed(&self.url, text.trim().lines().last().unwrap_or("git failed")))
    }
}

/// A repository without the credentials that its URL may carry, and these apart.
fn apart(repository: &str, credentials: &GitCredentials) -> (String, GitCredentials) {
    let plain = || (repository.to_owned(), credentials.clone());
    let Ok(mut url) = url::Url::parse(repository) else { return plain() };
    if !matches!(url.scheme(), "http" | "https") {
        return plain();
    }
    let decoded = |text: &str| {
        let pair = format!("k={}", text.replace('+', "%2B"));
        url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    if url.username().is_empty() && url.password().is_none() {
        return plain();
    }
    let own = GitCredentials {
        username: decoded(url.username()),
        password: url.password().and_then(decoded),
        header: None,
        ..credentials.clone()
    };
    // Both succeed for every URL with a host, which these schemes require.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    (url.to_string(), own)
}

/// Settings of git for one server; no secret is in them but a header.
fn settings(url: &str, credentials: &GitCredentials) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    // What the person's own configuration has is not asked for credentials of a build.
    let Ok(parsed) = url::Url::parse(url) else { return settings };
    if !matches!(parsed.scheme(), "http" | "https") {
        return settings;
    }
    let server = parsed.origin().ascii_serialization();
    if let Some(header) = &credentials.header {
        let key = format!("http.{server}/.extraheader");
        settings.push((key, format!("Authorization: {header}")));
    }
    if credentials.username.is_some() || credentials.password.is_some() {
        // The helper is a shell function that reads variables, for this server only: a
        // submodule elsewhere does not get them.
        settings.push((
            format!("credential.{server}.helper"),
            "!f() { echo \"username=$SHIPWAY_GIT_USERNAME\"; \
             echo \"password=$SHIPWAY_GIT_PASSWORD\"; }; f"
                .to_owned(),
        ));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_references_have_two_spellings() {
        let short = GitReference::parse("https://host/x.git#v1:sub").expect("valid");
        assert_eq!(short.repository, "https://host/x.git");
        assert_eq!(short.reference.as_deref(), Some("v1"));
        assert_eq!(short.subdirectory.as_deref(), Some("sub"));
        let long = GitReference::parse(
            "https://host/x.git?tag=v1&subdir=sub&submodules=false&keep-git-dir=1&mtime=commit",
        )
        .expect("valid");
        assert_eq!(long.reference.as_deref(), Some("refs/tags/v1"));
        assert_eq!(long.submodules, Submodules::Leave);
        assert_eq!((long.git_directory, long.times), (Some(true), GitTimes::Commit));
    }

    #[test]
    fn contradictions_and_unknown_settings_are_refused() {
        for text in [
            "https://host/x.git?what=1",
            "https://host/x.git?ref=a&branch=b",
            "https://host/x.git?tag=a#b",
            "https://host/x.git?subdir=a#v1:b",
            "https://host/x.git?commit=aaaa&checksum=bbbb",
            "https://host/x.git?ref=",
            "https://host/x.git?submodules=perhaps",
            "https://host/x.git?mtime=never",
            "https://host/x.git#--upload-pack=x",
            "--upload-pack=x",
            "",
        ] {
            assert!(GitReference::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn credentials_are_neither_in_arguments_nor_in_urls() {
        let secret = "hunter2";
        for (repository, credentials) in [
            (format!("https://me:{secret}@host/x.git"), GitCredentials::default()),
            (
                "https://host/x.git".to_owned(),
                GitCredentials { password: Some(secret.to_owned()), ..GitCredentials::default() },
            ),
            (
                "https://host/x.git".to_owned(),
                GitCredentials { username: Some(secret.to_owned()), ..GitCredentials::default() },
            ),
        ] {
            let wanted = GitReference { repository, ..GitReference::default() };
            let git = Git::new(&wanted, &credentials, None).expect("usable");
            let command = git.command(&["ls-remote", "--", &git.url]);
            let arguments = format!("{:?}", command.as_std().get_args());
            assert!(!arguments.contains(secret), "{arguments}");
            assert!(!git.url.contains(secret), "{}", git.url);
            let given: Vec<_> = git.environment.iter().filter(|(_, v)| v == secret).collect();
            assert_eq!(given.len(), 1, "{:?}", git.environment);
        }
    }

    #[test]
    fn credentials_go_to_their_own_server_only() {
        let token = GitCredentials { username: Some("t".to_owned()), ..GitCredentials::default() };
        let settings = settings("https://host:8443/a/x.git", &token);
        assert_eq!(settings[0].0, "credential.https://host:8443.helper");
        let header = GitCredentials { header: Some("h".to_owned()), ..GitCredentials::default() };
        let settings = super::settings("https://host/a/x.git", &header);
        assert_eq!(settings[0].0, "http.https://host/.extraheader");
    }

    #[test]
    fn the_persons_own_files_agent_and_keys_are_not_used_unless_they_are_handed_over() {
        let wanted =
            GitReference { repository: "ssh://git@host/x.git".to_owned(), ..Default::default() };
        let variables = |credentials: &GitCredentials| {
            let git = Git::new(&wanted, credentials, None).expect("usable");
            let command = git.command(&["version"]);
            let all = command.as_std().get_envs();
            all.map(|(name, value)| {
                let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
                (text(name), value.map(text))
            })
            .collect::<BTreeMap<String, Option<String>>>()
        };
        let alone = variables(&GitCredentials::default());
        assert_eq!(alone["SSH_AUTH_SOCK"], None);
        assert_eq!(alone["GIT_ASKPASS"], None);
        assert_eq!(alone["HOME"].as_deref(), Some("/dev/null"));
        assert_eq!(alone["GIT_CONFIG_KEY_0"].as_deref(), Some("credential.helper"));
        assert!(alone["GIT_SSH_COMMAND"].as_ref().is_some_and(|ssh| ssh.contains("-F none")));
        let own = GitCredentials {
            ssh_agent: Some("/agent".into()),
            own_keys: true,
            certificates: Some("/ca.pem".into()),
            ..GitCredentials::default()
        };
        let own = own.bound_to("git@HOST:other.git");
        let handed = variables(&own);
        assert_eq!(handed["SSH_AUTH_SOCK"].as_deref(), Some("/agent"));
        assert_eq!(handed["GIT_SSH_COMMAND"].as_deref(), Some("ssh -o BatchMode=yes"));
        let stranger = variables(&own.bound_to("https://host/x.git"));
        assert_eq!(stranger["SSH_AUTH_SOCK"], None);
        assert_eq!(stranger["GIT_SSL_CAINFO"].as_deref(), Some("/ca.pem"));
        assert!(stranger["GIT_SSH_COMMAND"] == alone["GIT_SSH_COMMAND"]);
    }

    #[test]
    fn credentials_of_a_context_reach_added_repositories_of_its_server_only() {
        let own = GitCredentials { username: Some("t".to_owned()), ..GitCredentials::default() };
        let none = Secrets::new();
        let told = |own: &GitCredentials, url| own.or_secrets(&none, url).username.is_some();
        let bound = own.clone().bound_to("https://host/a.git");
        assert!(told(&bound, "https://HOST:443/other.git"));
        for url in [
            "https://other/a.git",
            "http://host/a.git",
            "https://host:8443/a.git",
            "https://host.evil.example/a.git",
            "https://evil.example/host/a.git",
            "git@host:a.git",
            "",
        ] {
            assert!(!told(&bound, url), "{url}");
        }
        assert!(!told(&own, "https://host/a.git"), "of no server in particular");
        assert!(!told(&own.bound_to(""), ""), "of nobody");
    }

    #[test]
    fn tokens_among_the_secrets_are_chosen_by_host() {
        let value = |text: &str| SecretSource::Value(crate::run::mounts::SecretBytes::new(text));
        let secrets = Secrets::from([
            ("GIT_AUTH_TOKEN".to_owned(), value("general")),
            ("GIT_AUTH_TOKEN.special.example".to_owned(), value("special\n")),
        ]);
        let own = GitCredentials::default();
        let password = |url| own.or_secrets(&secrets, url).password;
        assert_eq!(password("https://special.example/x.git").as_deref(), Some("special"));
        assert_eq!(password("https://other.example/x.git").as_deref(), Some("general"));
        assert_eq!(own.or_secrets(&Secrets::new(), "https://a/x.git").password, None);
    }

    #[tokio::test]
    async fn programs_of_this_machine_are_no_transport() {
        for repository in ["ext::sh -c true", "file:///etc"] {
            let wanted =
                GitReference { repository: repository.to_owned(), ..GitReference::default() };
            assert!(resolve(&wanted, &GitCredentials::default()).await.is_err(), "{repository}");
        }
    }

    #[tokio::test]
    async fn full_commits_are_resolved_without_a_server() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let wanted = GitReference::parse(&format!("https://host.invalid/x.git#{commit}"));
        let wanted = wanted.expect("valid");
        let resolved = resolve(&wanted, &GitCredentials::default()).await.expect("no server");
        assert_eq!(resolved.commit.as_deref(), Some(commit));
    }
}
