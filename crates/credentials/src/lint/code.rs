//! The catalogue of findings.

/// How bad a finding is; the worst sorts first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing of the object is used, or the whole lookup fails.
    Error,
    /// An entry does not do what it was written for.
    Warning,
    /// It works, in a way that surprises.
    Note,
}

impl Severity {
    /// In one lower-case word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $severity:ident;)+) => {
        /// What a finding is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Stable name, in kebab case.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// How bad it is.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)+ }
            }
        }
    };
}

codes! {
    /// Starts with a byte order mark, which Go's parser refuses.
    ByteOrderMark = "byte-order-mark", Error;
    /// Not JSON.
    NotJson = "not-json", Error;
    /// JSON of another shape.
    WrongShape = "wrong-shape", Error;
    /// Encoded in base64 once too often.
    DoubleBase64 = "double-base64", Error;
    /// The secret has another type than those that hold pull credentials.
    WrongSecretType = "wrong-secret-type", Error;
    /// The secret's type asks for a data key that it does not have.
    MissingDataKey = "missing-data-key", Error;
    /// A bare map of entries where a config.json should be.
    LegacyText = "legacy-text-in-config-json", Error;
    /// A config.json where a bare map of entries should be.
    ConfigJsonText = "config-json-text-in-dockercfg", Error;
    /// Credentials only at helpers, which the kubelet does not ask.
    HelpersOnly = "helpers-only", Error;
    /// No entry at all.
    NoEntries = "no-entries", Error;
    /// One malformed entry makes all of them useless.
    LookupFails = "lookup-fails", Error;
    /// One malformed secret makes the pod's others useless.
    SecretBreaksOthers = "secret-breaks-others", Error;
    /// A value of an entry has the wrong JSON type.
    WrongValueType = "wrong-value-type", Error;
    /// `auth` is not base64.
    AuthNotBase64 = "auth-not-base64", Error;
    /// `auth` has no colon once decoded.
    AuthWithoutColon = "auth-without-colon", Error;
    /// `auth` is encoded in base64 once too often.
    AuthDoubleBase64 = "auth-double-base64", Error;
    /// User or password begins or ends with a line break or blank.
    AuthTrailingNewline = "auth-trailing-newline", Warning;
    /// `auth` and the fields beside it differ.
    AuthOverridesFields = "auth-overrides-fields", Warning;
    /// `{}`: a credential with empty user and password.
    EmptyEntry = "empty-entry", Warning;
    /// A user without a password.
    EmptyPassword = "empty-password", Warning;
    /// A password without a user.
    EmptyUserName = "empty-user-name", Warning;
    /// `identitytoken`, which the kubelet ignores.
    IdentityTokenIgnored = "identity-token-ignored", Warning;
    /// `registrytoken`, which the kubelet ignores.
    RegistryTokenIgnored = "registry-token-ignored", Warning;
    /// Helpers beside entries; only the entries count.
    HelpersIgnored = "helpers-ignored", Note;
    /// The key is no URL: the entry is left out.
    KeyIgnored = "key-ignored", Warning;
    /// `HTTPS://` is not taken for a scheme.
    KeySchemeInCapitals = "key-scheme-in-capitals", Warning;
    /// Hosts are compared with the case they have.
    KeyHostInCapitals = "key-host-in-capitals", Warning;
    /// Repository names have no capitals.
    KeyPathInCapitals = "key-path-in-capitals", Warning;
    /// `/v1` or `/v2` without a slash behind it is a path.
    KeyVersionWithoutSlash = "key-version-without-slash", Warning;
    /// A path that ends in a slash does not match the repository itself.
    KeyTrailingSlash = "key-trailing-slash", Warning;
    /// Paths know no wildcards.
    KeyPathGlob = "key-path-glob", Warning;
    /// A tag or digest in a key.
    KeyTag = "key-tag", Warning;
    /// `?` and `#` end a key.
    KeyQuery = "key-query", Warning;
    /// User information in a key, which everybody who sees keys can read.
    KeyUserInfo = "key-user-info", Warning;
    /// `:443` matches only images that name the port too.
    KeyDefaultPort = "key-default-port", Warning;
    /// A name of Docker Hub that no image has.
    KeyHubSpelling = "key-hub-spelling", Warning;
    /// Docker Desktop's own tokens.
    KeyDesktopToken = "key-desktop-token", Note;
    /// A host that images cannot name.
    KeyHostWithoutDot = "key-host-without-dot", Warning;
    /// An IPv6 address matches only with a port.
    KeyAddressWithoutPort = "key-address-without-port", Warning;
    /// A wildcard pattern that cannot be read.
    KeyGlobMalformed = "key-glob-malformed", Warning;
    /// A path is a prefix of text, not of components.
    KeyRawPrefix = "key-raw-prefix", Note;
    /// Two keys mean the same.
    KeysCollide = "keys-collide", Warning;
    /// Another secret of the pod has the same key.
    KeyInSeveralSecrets = "key-in-several-secrets", Note;
    /// Another entry hides this one for Docker Hub.
    HubKeyHidden = "hub-key-hidden", Warning;
    /// For one image: the port differs.
    PortDiffers = "port-differs", Warning;
    /// For one image: the path differs.
    PathDiffers = "path-differs", Warning;
    /// For one image: a wildcard stands for one label only.
    WildcardLabels = "wildcard-labels", Warning;
    /// For one image: matched by text, not by component.
    MatchedByRawPrefix = "matched-by-raw-prefix", Note;
}
