//! `[registry.identity]`: robots, groups, tokens, issuers, client certificates.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use registry_server::{
    ClaimRule, ForeignTokens, IdentityOptions, Issuer, KeyLocation, RefreshBinding, TokenAlgorithm,
};
use serde::Deserialize;

use super::config::shape::{Shape, Shaped, Time, settings};
use super::default_robots;
use crate::exit::Failure;
use crate::globals::Globals;
use crate::issuer_keys::HttpKeys;

settings! {
    /// Who may log in how, beside the users of the user file (docs/registry-access.md).
    struct IdentityConfig {
        /// Robots file, read again when it changes.
        robots: Option<PathBuf> = "registry/robots.json in the state directory, if it exists",
        /// Directory of the keys that sign tokens; replicas share it.
        token_keys: Option<PathBuf> = "registry/token-keys in the state directory",
        /// How tokens are signed.
        token_algorithm: Option<TokenAlgorithmArg> = "ed25519",
        /// How long one key signs tokens.
        token_key_life: Option<Time> = "30d",
        /// Life of tokens that only read, 1m to 15m.
        pull_token_life: Option<Time> = "5m",
        /// Life of other tokens, 1m to 60m.
        push_token_life: Option<Time> = "15m",
        /// Which client may use a refresh token: any of this registry, or the one that got it.
        refresh_tokens: Option<RefreshArg> = "service",
        /// Networks of proxies whose X-Forwarded-For counts, such as 10.0.0.0/8.
        trusted_proxies: Vec<String>,
        /// Members of groups: users, `robot+NAME`, `ISSUER:NAME`.
        groups: BTreeMap<String, Vec<String>>,
        /// Issuers whose tokens count.
        issuers: Vec<IssuerConfig>,
        /// Whom client certificates stand for, as `cert:…`; the claims are cn, dns, uri, sub (the
        /// URI or else the common name) and the lists dnses and uris.
        certificates: Vec<RuleConfig>,
    }
}

settings! {
    /// An issuer of tokens.
    item IssuerConfig {
        /// The first part of the names of its principals: a-z, 0-9 and dashes.
        name: String,
        /// Its `iss`, to the letter.
        url: String,
        /// What `aud` must hold one of.
        audiences: Vec<String>,
        /// Where its key set is, if it is not where its OpenID configuration says.
        keys_url: Option<String>,
        /// File with its key set (JWKS), read again when it changes; nothing is fetched then.
        keys_file: Option<PathBuf>,
        /// Authorities (PEM) for HTTPS to it, instead of the system's.
        ca_file: Option<PathBuf>,
        /// File with a bearer token for reading its keys, as Kubernetes asks for one.
        token_file: Option<PathBuf>,
        /// Its tokens are access tokens of another token service: they say what, not who.
        access_tokens: Option<bool> = "false",
        /// Which tokens count and whose they are. All that match add groups, the first names the
        /// principal.
        rules: Option<Vec<RuleConfig>>,
    }
}

settings! {
    /// A rule over claims. A claim is named by name or, from a slash on, by JSON pointer.
    item RuleConfig {
        /// What claims must be; `*` stands for anything without `/` and `:`, `**` for anything.
        claims: Option<BTreeMap<String, String>>,
        /// The name after `ISSUER:`, with claims in braces.
        principal: Option<String> = "{sub}",
        /// Groups, with claims in braces.
        groups: Option<Vec<String>>,
        /// A claim with a list of groups, called `ISSUER:GROUP`.
        groups_claim: Option<String>,
    }
}

/// How tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TokenAlgorithmArg {
    /// Ed25519.
    Ed25519,
    /// ECDSA on P-256.
    Es256,
}

/// Which client may use a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RefreshArg {
    /// Any client of this registry.
    Service,
    /// The client that got it.
    Client,
}

impl Shaped for TokenAlgorithmArg {
    fn shape() -> Shape {
        Shape::choice::<Self>()
    }
}

impl Shaped for RefreshArg {
    fn shape() -> Shape {
        Shape::choice::<Self>()
    }
}

/// The options that the keys stand for.
pub(super) fn options(
    config: IdentityConfig,
    globals: &Globals,
) -> Result<IdentityOptions, Failure> {
    let default_robots = default_robots(&globals.state_dir());
    let mut options = IdentityOptions {
        robots: config.robots.or_else(|| default_robots.exists().then_some(default_robots)),
        token_keys: config.token_keys,
        groups: config.groups,
        issuers: config.issuers.into_iter().map(issuer).collect(),
        certificates: config.certificates.into_iter().map(rule).collect(),
        key_source: Some(Arc::new(HttpKeys)),
        ..IdentityOptions::default()
    };
    let tokens = &mut options.tokens;
    if config.token_algorithm == Some(TokenAlgorithmArg::Es256) {
        tokens.algorithm = TokenAlgorithm::Es256;
    }
    tokens.key_life = config.token_key_life.map_or(tokens.key_life, |time| time.0);
    tokens.pull_life = config.pull_token_life.map_or(tokens.pull_life, |time| time.0);
    tokens.push_life = config.push_token_life.map_or(tokens.push_life, |time| time.0);
    if config.refresh_tokens == Some(RefreshArg::Client) {
        options.refresh = RefreshBinding::Client;
    }
    for network in &config.trusted_proxies {
        let parsed = network.parse();
        let wrong = |error| Failure::usage(format!("registry.identity.trusted-proxies: {error}"));
        options
            .trusted_proxies
            .push(parsed.map_err(|error: registry_server::NetworkError| wrong(error))?);
    }
    Ok(options)
}

fn issuer(config: IssuerConfig) -> Issuer {
    let keys = match (config.keys_file, config.keys_url) {
        (Some(file), _) => KeyLocation::File(file),
        (None, Some(url)) => KeyLocation::Url(url),
        (None, None) => KeyLocation::Discovery,
    };
    let rules = config.rules.unwrap_or_default().into_iter().map(rule).collect();
    let tokens = match config.access_tokens {
        Some(true) => ForeignTokens::Access,
        Some(false) | None => ForeignTokens::Identity(rules),
    };
    Issuer {
        name: config.name,
        url: config.url,
        audiences: config.audiences,
        keys,
        ca_file: config.ca_file,
        token_file: config.token_file,
        tokens,
    }
}

fn rule(config: RuleConfig) -> ClaimRule {
    ClaimRule {
        claims: config.claims.unwrap_or_default(),
        principal: config.principal,
        groups: config.groups.unwrap_or_default(),
        groups_claim: config.groups_claim,
    }
}
