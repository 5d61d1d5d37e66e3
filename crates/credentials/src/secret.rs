//! The one type that holds a password or token.

use std::fmt;

use zeroize::Zeroizing;

/// A password or token. Prints as `****`, is wiped from memory when dropped, and cannot be
/// serialised by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text; the only way out. Its call sites are an allow-list (`cargo xtask ci`): a header,
    /// a helper's standard input, the user's own config file.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the text passes a test; what it is stays inside.
    pub(crate) fn satisfies(&self, test: impl FnOnce(&str) -> bool) -> bool {
        test(&self.0)
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_never_prints_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "**** **** Some(****)");
        assert_eq!(secret.expose(), "hunter2");
    }
}
