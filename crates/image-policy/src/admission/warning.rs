//! What a person should be told of `imagePullSecrets` that is allowed and yet opens nothing.

use std::collections::BTreeSet;

/// What a name in `imagePullSecrets` leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedSecret {
    /// A secret that nodes read.
    Usable,
    /// No secret of that name in the namespace.
    Missing,
    /// A secret of a type that nodes ignore without a word.
    OfType(String),
    /// A secret without content under the key of its type.
    Empty(&'static str),
}

/// Texts of upstream for names that are empty or stand there twice; `path` is that of the list,
/// such as `spec.imagePullSecrets`.
pub fn pull_secret_name_warnings(path: &str, names: &[&str]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut warnings = Vec::new();
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            warnings.push(format!("{path}[{index}].name: invalid empty name {name:?}"));
        } else if !seen.insert(name) {
            warnings.push(format!("{path}[{index}].name: duplicate name {name:?}"));
        }
    }
    warnings
}

/// Our own text for a pull secret that a node will not use: upstream says nothing until the pull
/// fails, or not even then.
pub fn pull_secret_warning(
    path: &str,
    index: usize,
    name: &str,
    namespace: &str,
    found: &NamedSecret,
) -> Option<String> {
    let why = match found {
        NamedSecret::Usable => return None,
        NamedSecret::Missing => format!(
            "secret {name:?} is not in namespace {namespace:?}; images are pulled without it \
             until it is"
        ),
        NamedSecret::OfType(kind) => format!(
            "secret {name:?} is of type {kind:?} and opens no registry; want \
             \"kubernetes.io/dockerconfigjson\" or \"kubernetes.io/dockercfg\""
        ),
        NamedSecret::Empty(key) => {
            format!("secret {name:?} has nothing under {key:?} and opens no registry")
        }
    };
    Some(format!("{path}[{index}].name: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "spec.imagePullSecrets";

    // kubelet-images.md 5.1, the two warnings.
    #[test]
    fn empty_and_repeated_names_have_upstreams_texts() {
        assert_eq!(
            pull_secret_name_warnings(PATH, &["", "x", "x", "y"]),
            [
                r#"spec.imagePullSecrets[0].name: invalid empty name """#,
                r#"spec.imagePullSecrets[2].name: duplicate name "x""#,
            ]
        );
        assert!(pull_secret_name_warnings(PATH, &["a", "b"]).is_empty());
    }

    // kubelet-images.md 14, pain 4.
    #[test]
    fn secrets_that_open_nothing_are_told_at_once() {
        let warn = |found| pull_secret_warning(PATH, 1, "x", "ns", &found);
        assert_eq!(warn(NamedSecret::Usable), None);
        for (found, expected) in [
            (
                NamedSecret::Missing,
                r#"secret "x" is not in namespace "ns"; images are pulled without it until it is"#,
            ),
            (
                NamedSecret::OfType("Opaque".to_owned()),
                r#"secret "x" is of type "Opaque" and opens no registry; want "kubernetes.io/dockerconfigjson" or "kubernetes.io/dockercfg""#,
            ),
            (
                NamedSecret::Empty(".dockercfg"),
                r#"secret "x" has nothing under ".dockercfg" and opens no registry"#,
            ),
        ] {
            assert_eq!(warn(found), Some(format!("spec.imagePullSecrets[1].name: {expected}")));
        }
    }
}
