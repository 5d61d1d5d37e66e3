//! House rules that no lint checks.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// Files and folders in which `Secret::expose` may be called: where a header, a form, a helper's
/// standard input, the user's own config file or a credential's hash is made.
const EXPOSE_ALLOWED: &[&str] = &[
    "crates/cli/src/auth_files.rs",
    "crates/cli/src/cloud/mod.rs",
    "crates/cli/src/cloud/program.rs",
    "crates/cli/src/commands/credential_helper.rs",
    "crates/cli/src/commands/credential_provider.rs",
    "crates/cli/src/commands/demo/session.rs",
    // Into a request on the socket of the node, which is of mode 0600.
    "crates/cli/src/commands/node/pull.rs",
    "crates/credentials/src/auth.rs",
    "crates/credentials/src/client_config.rs",
    "crates/credentials/src/cloud/",
    "crates/credentials/src/expiry.rs",
    "crates/credentials/src/helper.rs",
    "crates/credentials/src/provider/protocol.rs",
    // Masks it where a program repeated it.
    "crates/credentials/src/provider/stderr.rs",
    "crates/cluster-node/src/images/providers/",
    // Hashes the token that answers are kept by.
    "crates/cluster-node/src/images/providers.rs",
    "crates/credentials/src/secret.rs",
    "crates/operator/src/secret_sync/content.rs",
    "crates/registry-client/src/cloud_http.rs",
    "crates/registry-client/src/client.rs",
    "crates/registry-client/src/tls.rs",
    "crates/registry-client/src/token_service.rs",
    "crates/registry-client/src/transport.rs",
];

/// Names that say nothing about what is inside.
const BANNED_NAMES: &[&str] = &["util", "utils", "common", "helpers", "misc", "manager"];

/// Words that must not land.
const BANNED_WORDS: &[&str] = &["FIXME", "todo!(", "unimplemented!(", "#[ignore"];

/// Root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Fails with every rule that is broken.
pub(crate) fn check() -> Result<()> {
    let mut wrong = Vec::new();
    let mut files = Vec::new();
    collect(&root().join("crates"), &mut files)?;
    for file in &files {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root()).unwrap_or(file).to_string_lossy().into_owned();
        check_file(&name, &text, &mut wrong);
    }
    ensure!(wrong.is_empty(), "{} house rules are broken:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(())
}

fn check_file(name: &str, text: &str, wrong: &mut Vec<String>) {
    let path = Path::new(name);
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    if BANNED_NAMES.contains(&stem.as_str()) {
        wrong.push(format!("{name}: the name says nothing about what is inside"));
    }
    let is_root = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
    let holds_unsafe = name.starts_with("crates/container-runtime/");
    if is_root && !holds_unsafe && !text.contains("#![forbid(unsafe_code)]") {
        wrong.push(format!("{name}: a crate root without #![forbid(unsafe_code)]"));
    }
    let is_test = name.contains("/tests/") || stem == "tests";
    for (number, line) in code_lines(text, is_test) {
        for word in BANNED_WORDS.iter().filter(|word| line.contains(**word)) {
            wrong.push(format!("{name}:{number}: {word}"));
        }
        if !is_test && line.contains(".expose()") && !may_expose(name) {
            wrong.push(format!("{name}:{number}: Secret::expose outside of the allow-list"));
        }
    }
}

fn may_expose(name: &str) -> bool {
    EXPOSE_ALLOWED
        .iter()
        .any(|known| name == *known || (known.ends_with('/') && name.starts_with(known)))
}

/// Numbered lines up to the first inline test module.
fn code_lines(text: &str, is_test: bool) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .take_while(move |(_, line)| is_test || !line.starts_with("mod tests {"))
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(name: &str, text: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        check_file(name, text, &mut wrong);
        wrong
    }

    #[test]
    fn house_rules_hold() {
        if let Err(error) = check() {
            panic!("{error}");
        }
    }

    #[test]
    fn each_rule_can_fail() {
        assert_eq!(broken("crates/a/src/lib.rs", "#![forbid(unsafe_code)]").len(), 0);
        assert_eq!(broken("crates/a/src/lib.rs", "").len(), 1);
        assert_eq!(broken("crates/a/src/utils.rs", "").len(), 1);
        assert_eq!(broken("crates/a/src/x.rs", "secret.expose()").len(), 1);
        assert_eq!(broken("crates/a/src/x.rs", "mod tests {\nsecret.expose()").len(), 0);
        assert_eq!(broken("crates/a/src/x.rs", "// FIXME").len(), 1);
    }
}
