//! COPY and ADD with everything expanded and checked.

use oci_model::Digest;

use super::state::{Outcome, Scope, StageState};
use super::{
    Action, FileSource, LayerEffect, Owner, Principal, Source, TransferAction, TransferVerb,
};
use crate::error::DockerfileError;
use crate::expand::Expander;
use crate::instruction::{GitDirectory, HeredocExpansion, Linking, Parents, Transfer};
use crate::lint::Rule;
use crate::mode::ModeChange;
use crate::paths::{join_absolute, relative_to_root};

/// Turns a COPY or ADD into an action.
pub(super) fn resolve(
    state: &StageState,
    transfer: &Transfer,
    verb: TransferVerb,
    scope: &mut Scope<'_, '_>,
) -> Result<Outcome, DockerfileError> {
    let from = match &transfer.from {
        Some(name) => (scope.context.source)(name)?,
        None => Source::Context,
    };
    let (mut files, mut shown) = sources(state, transfer, verb, scope)?;
    inline_files(state, transfer, scope, &mut files, &mut shown)?;
    let written = scope.word(state, &transfer.destination)?;
    shown.push(written.clone());
    let destination = destination(&state.directory(), &written);
    if files.len() > 1 && !destination.ends_with('/') {
        return Err(DockerfileError::plan(format!(
            "when specifying multiple sources in a {} command, destination must be a directory and \
             end in '/'",
            keyword(verb)
        )));
    }
    let checksum = match &transfer.checksum {
        Some(text) => Some(scope.word(state, text)?),
        None => None,
    };
    check_checksum(checksum.as_deref(), &files)?;
    let chown = optional_word(state, transfer.chown.as_deref(), scope)?;
    let chmod = optional_word(state, transfer.chmod.as_deref(), scope)?;
    let created_by = created_by(verb, transfer.parents, chown.as_deref(), chmod.as_deref(), &shown);
    if from == Source::Context {
        report_ignored(&files, verb, scope);
    }
    crate::ignore::IgnoreFile::from_patterns(&transfer.excludes)?;
    let action = TransferAction {
        verb,
        files,
        from,
        destination,
        owner: chown.as_deref().map(parse_owner).transpose()?,
        mode: chmod.as_deref().map(ModeChange::parse).transpose()?,
        // As in BuildKit: a mode makes the copy an ordinary one.
        link: if chmod.is_some() { Linking::Merged } else { transfer.link },
        parents: transfer.parents,
        excludes: transfer.excludes.clone(),
        checksum,
        git_directory: transfer.keep_git_dir.unwrap_or(GitDirectory::Drop),
        unpack: transfer.unpack,
    };
    Ok(Outcome { action: Action::Transfer(action), created_by, layer: LayerEffect::Layer })
}

fn keyword(verb: TransferVerb) -> &'static str {
    match verb {
        TransferVerb::Copy => "COPY",
        TransferVerb::Add => "ADD",
    }
}

fn optional_word(
    state: &StageState,
    text: Option<&str>,
    scope: &mut Scope<'_, '_>,
) -> Result<Option<String>, DockerfileError> {
    let word = text.map(|text| scope.word(state, text)).transpose()?;
    Ok(word.filter(|word| !word.is_empty()))
}

/// The sources that are not inline, and how the history shows them.
fn sources(
    state: &StageState,
    transfer: &Transfer,
    verb: TransferVerb,
    scope: &mut Scope<'_, '_>,
) -> Result<(Vec<FileSource>, Vec<String>), DockerfileError> {
    let mut files = Vec::new();
    let mut shown = Vec::new();
    for source in &transfer.sources {
        let source = scope.word(state, source)?;
        let file = match (verb, remote(&source)) {
            (_, Remote::No) if transfer.parents == Parents::Keep => {
                FileSource::Path(pivot_path(&source))
            }
            (_, Remote::No) => FileSource::Path(relative_to_root(&source)),
            (TransferVerb::Add, Remote::Url) => FileSource::Url(source.clone()),
            (TransferVerb::Add, Remote::Git) => FileSource::Git(source.clone()),
            (TransferVerb::Copy, Remote::Url) => {
                return Err(DockerfileError::plan("source can't be a URL for COPY"));
            }
            (TransferVerb::Copy, Remote::Git) => {
                return Err(DockerfileError::plan("source can't be a git ref for COPY"));
            }
        };
        files.push(file);
        shown.push(source);
    }
    Ok((files, shown))
}

fn inline_files(
    state: &StageState,
    transfer: &Transfer,
    scope: &mut Scope<'_, '_>,
    files: &mut Vec<FileSource>,
    shown: &mut Vec<String>,
) -> Result<(), DockerfileError> {
    for heredoc in &transfer.heredocs {
        let body = heredoc.content();
        let content = match heredoc.expansion {
            HeredocExpansion::Literal => body,
            HeredocExpansion::Expand => {
                scope.expand_with(Expander::for_heredoc_body(), state, &body)?.text
            }
        };
        shown.push(format!("<<{}", heredoc.name));
        files.push(FileSource::Inline { name: heredoc.name.clone(), content });
    }
    Ok(())
}

/// What a source names besides a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Remote {
    No,
    Url,
    Git,
}

/// Recognises URLs and git references; `github.com/…` without a scheme stays a path.
fn remote(source: &str) -> Remote {
    let lower = source.to_ascii_lowercase();
    if lower.starts_with("git://") || lower.starts_with("ssh://") {
        return Remote::Git;
    }
    if let Some(rest) = lower.strip_prefix("http://").or_else(|| lower.strip_prefix("https://")) {
        let path = rest.split(['#', '?']).next().unwrap_or_default();
        return if path.ends_with(".git") { Remote::Git } else { Remote::Url };
    }
    // scp form: user@host:path
    let Some((user, rest)) = lower.split_once('@') else { return Remote::No };
    let plain = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    match rest.split_once(':') {
        Some((host, path)) if plain(user) && plain(host) && !path.is_empty() => Remote::Git,
        Some(_) | None => Remote::No,
    }
}

/// A source of `--parents`: clean, but with the `/./` that marks where kept directories begin.
fn pivot_path(source: &str) -> String {
    match source.split_once("/./") {
        Some((before, after)) => {
            let before = relative_to_root(before);
            let after = relative_to_root(after);
            if before == "." { after } else { format!("{before}/./{after}") }
        }
        None => relative_to_root(source),
    }
}

/// The destination as an absolute path; what must be a directory ends in `/`.
fn destination(directory: &str, written: &str) -> String {
    let is_directory = written.is_empty()
        || written.ends_with('/')
        || matches!(written, "." | "..")
        || written.ends_with("/.")
        || written.ends_with("/..");
    let mut path = join_absolute(directory, written);
    if is_directory && !path.ends_with('/') {
        path.push('/');
    }
    path
}

fn check_checksum(checksum: Option<&str>, files: &[FileSource]) -> Result<(), DockerfileError> {
    let Some(checksum) = checksum else { return Ok(()) };
    let fail = |message: String| Err(DockerfileError::plan(message));
    match files {
        [FileSource::Url(_)] => match checksum.parse::<Digest>() {
            Ok(_) => Ok(()),
            Err(error) => fail(format!("invalid checksum {checksum:?}: {error}")),
        },
        [FileSource::Git(_)] => {
            let hex = checksum.chars().all(|c| c.is_ascii_hexdigit());
            if hex && !checksum.is_empty() {
                return Ok(());
            }
            fail(format!("invalid checksum {checksum:?}: want the hex digits of a commit"))
        }
        [_] => fail("checksum can't be specified for non-HTTP(S) sources".to_owned()),
        _ => fail("checksum can't be specified for multiple sources".to_owned()),
    }
}

fn parse_owner(text: &str) -> Result<Owner, DockerfileError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let bad = user.is_empty() || group.is_some_and(|group| group.is_empty() || group.contains(':'));
    if bad {
        return Err(DockerfileError::plan(format!("invalid chown parameter: {text:?}")));
    }
    Ok(Owner { user: principal(user), group: group.map(principal) })
}

fn principal(text: &str) -> Principal {
    match text.parse() {
        Ok(id) if text.bytes().all(|byte| byte.is_ascii_digit()) => Principal::Id(id),
        Ok(_) | Err(_) => Principal::Name(text.to_owned()),
    }
}

fn created_by(
    verb: TransferVerb,
    parents: Parents,
    chown: Option<&str>,
    chmod: Option<&str>,
    shown: &[String],
) -> String {
    let mut parts = vec![keyword(verb).to_owned()];
    if parents == Parents::Keep {
        parts.push("--parents".to_owned());
    }
    parts.extend(chown.map(|chown| format!("--chown={chown}")));
    parts.extend(chmod.map(|chmod| format!("--chmod={chmod}")));
    parts.extend(shown.iter().cloned());
    parts.push("# buildkit".to_owned());
    parts.join(" ")
}

fn report_ignored(files: &[FileSource], verb: TransferVerb, scope: &mut Scope<'_, '_>) {
    let Some(ignore) = &scope.context.options.ignore_file else { return };
    let mut hits = Vec::new();
    for file in files {
        if let FileSource::Path(path) = file
            && path != "."
            && ignore.ignores(path)
        {
            hits.push(path.clone());
        }
    }
    let verb = match verb {
        TransferVerb::Copy => "Copy",
        TransferVerb::Add => "Add",
    };
    for path in hits {
        scope.report(
            Rule::CopyIgnoredFile,
            format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_sources_are_told_from_paths() {
        for (source, expected) in [
            ("a/b", Remote::No),
            ("https://x.example/a.tar", Remote::Url),
            ("HTTP://x.example/a", Remote::Url),
            ("https://x.example/a.git", Remote::Git),
            ("https://x.example/a.git#main:sub", Remote::Git),
            ("https://x.example/a.git?ref=main", Remote::Git),
            ("git@x.example:a/b.git", Remote::Git),
            ("ssh://git@x.example/a", Remote::Git),
            ("git://x.example/a", Remote::Git),
            ("github.com/a/b", Remote::No),
            ("a@b", Remote::No),
            ("dir/a@b:c", Remote::No),
        ] {
            assert_eq!(remote(source), expected, "{source}");
        }
    }

    /// BuildKit EmptyDestDir, PreserveDestDirSlash, CopyLinkDotDestDir, CopyLinkEmptyDestDir.
    #[test]
    fn destinations_keep_what_makes_them_directories() {
        for (written, expected) in [
            ("", "/w/"),
            (".", "/w/"),
            ("./", "/w/"),
            ("a", "/w/a"),
            ("a/", "/w/a/"),
            ("/", "/"),
            ("/a/../b", "/b"),
            ("/a/.", "/a/"),
            ("..", "/"),
            ("../x/", "/x/"),
        ] {
            assert_eq!(destination("/w", written), expected, "{written:?}");
        }
    }

    #[test]
    fn owners_are_numbers_or_names() {
        let owner = parse_owner("1000:staff").expect("an owner");
        assert_eq!(owner.user, Principal::Id(1000));
        assert_eq!(owner.group, Some(Principal::Name("staff".into())));
        assert_eq!(parse_owner("+1").expect("odd").user, Principal::Name("+1".into()));
        for bad in ["", ":", "a:", ":b", "a:b:c"] {
            assert!(parse_owner(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pivots_survive_cleaning() {
        assert_eq!(pivot_path("./a/./b/../c"), "a/./c");
        assert_eq!(pivot_path("a//b/"), "a/b");
        assert_eq!(pivot_path("/./x"), "x");
    }
}
