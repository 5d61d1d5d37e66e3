//! COPY and ADD.

use super::{Call, FlagKind, Flags};
use crate::error::DockerfileError;
use crate::heredoc::{announced, joined_words};
use crate::instruction::{GitDirectory, Heredoc, Linking, Parents, Transfer, Unpack};

pub(super) fn copy(call: Call<'_>) -> Result<Transfer, DockerfileError> {
    let flags = call.parse_flags(&[
        ("chown", FlagKind::Text),
        ("from", FlagKind::Text),
        ("chmod", FlagKind::Text),
        ("link", FlagKind::Boolean),
        ("parents", FlagKind::Boolean),
        ("exclude", FlagKind::List),
    ])?;
    let mut transfer = paths(call)?;
    transfer.from = flags.text("from").filter(|from| !from.is_empty());
    if let Some(from) = &transfer.from
        && from.find('$').is_some_and(|at| at + 1 < from.len())
    {
        return Err(DockerfileError::syntax(
            "variable expansion is not supported for --from, define a new stage with FROM using \
             ARG from global scope as a workaround",
        ));
    }
    if flags.boolean("parents") == Some(true) {
        transfer.parents = Parents::Keep;
    }
    shared_flags(&mut transfer, &flags);
    Ok(transfer)
}

pub(super) fn add(call: Call<'_>) -> Result<Transfer, DockerfileError> {
    let flags = call.parse_flags(&[
        ("chown", FlagKind::Text),
        ("chmod", FlagKind::Text),
        ("link", FlagKind::Boolean),
        ("keep-git-dir", FlagKind::Boolean),
        ("checksum", FlagKind::Text),
        ("unpack", FlagKind::Boolean),
        ("exclude", FlagKind::List),
    ])?;
    let mut transfer = paths(call)?;
    transfer.checksum = flags.text("checksum").filter(|checksum| !checksum.is_empty());
    transfer.keep_git_dir = flags
        .boolean("keep-git-dir")
        .map(|keep| if keep { GitDirectory::Keep } else { GitDirectory::Drop });
    transfer.unpack = match flags.boolean("unpack") {
        None => Unpack::Automatic,
        Some(true) => Unpack::Always,
        Some(false) => Unpack::Never,
    };
    shared_flags(&mut transfer, &flags);
    Ok(transfer)
}

fn shared_flags(transfer: &mut Transfer, flags: &Flags) {
    transfer.chown = flags.text("chown").filter(|chown| !chown.is_empty());
    transfer.chmod = flags.text("chmod").filter(|chmod| !chmod.is_empty());
    if flags.boolean("link") == Some(true) {
        transfer.link = Linking::Independent;
    }
    transfer.excludes = flags.list("exclude");
}

/// Sources, inline files and destination, with every flag at its default.
fn paths(call: Call<'_>) -> Result<Transfer, DockerfileError> {
    let keyword = call.keyword;
    let mut words = call.list()?;
    let destination = words.pop().filter(|_| !words.is_empty()).ok_or_else(|| {
        DockerfileError::syntax(format!(
            "{keyword} requires at least two arguments, but only one was provided. \
             Destination could not be determined"
        ))
    })?;
    if announced(&destination).is_some() {
        let message = format!("{keyword} cannot accept a heredoc as a destination");
        return Err(DockerfileError::syntax(message));
    }
    let mut bodies = call.heredocs.into_iter();
    let mut sources = Vec::new();
    let mut heredocs: Vec<Heredoc> = Vec::new();
    for word in joined_words(words) {
        // Bodies were read in the order of their announcements, so they pair up.
        match announced(&word).and_then(|_| bodies.next()) {
            Some(heredoc) => heredocs.push(checked_name(heredoc)?),
            None => sources.push(word),
        }
    }
    Ok(Transfer {
        sources,
        heredocs,
        destination,
        from: None,
        chown: None,
        chmod: None,
        link: Linking::Merged,
        parents: Parents::Drop,
        excludes: Vec::new(),
        checksum: None,
        keep_git_dir: None,
        unpack: Unpack::Automatic,
    })
}

/// The delimiter becomes a file name, so it must be one.
fn checked_name(heredoc: Heredoc) -> Result<Heredoc, DockerfileError> {
    if matches!(heredoc.name.as_str(), "." | "..") || heredoc.name.contains('/') {
        let message = format!("heredoc delimiter {:?} is not a file name", heredoc.name);
        return Err(DockerfileError::syntax(message));
    }
    Ok(heredoc)
}
