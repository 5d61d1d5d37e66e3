//! Decides who asks, and what they may do.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use oci_model::{ErrorCode, Repository};

use super::certificate;
use super::client_address::client_address;
use super::federation::{Federation, Foreign, ForeignError, IssuerError};
use super::identity::{Identity, IdentityKind, Principal};
use super::lockout::{Attempt, Lockout};
use super::options::IdentityOptions;
use super::policy::{AccessRule, Holder, Policy, Role};
use super::robots::{RobotError, RobotFile};
use super::scope::{Access, Grant, Scope};
use super::token::{SERVICE, TokenError, TokenService};
use crate::operations::exchange::Peer;
use crate::options::{Anonymous, AuthScheme, RegistryOptions};
use crate::refusal::Refusal;
use crate::users_file::{PasswordVerdict, UserFile, UserFileError};

/// What identities are known by cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// The user file.
    #[error(transparent)]
    Users(#[from] UserFileError),
    /// The robots file.
    #[error(transparent)]
    Robots(#[from] RobotError),
    /// The keys of tokens.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// An issuer.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
}

/// User names under which the password is a token of an issuer. The second is docker's word for
/// a token in the place of a password.
const TOKEN_USERS: [&str; 2] = ["oidc", "<token>"];

/// Somebody whose name and secret were right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) identity: Identity,
    /// When what they showed ends.
    pub(crate) until: Option<SystemTime>,
}

/// Why a name and a secret are not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoginError {
    /// They do not belong together.
    Wrong,
    /// Too many were wrong: whether these are right is not looked at before this time has passed.
    Wait(Duration),
    /// The keys of the issuer cannot be read for now.
    Unavailable,
}

/// Decides who may do what.
pub(crate) struct Authority {
    users: Option<UserFile>,
    robots: Option<RobotFile>,
    policy: Policy,
    scheme: AuthScheme,
    tokens: TokenService,
    lockout: Arc<Lockout>,
    federation: Federation,
    options: IdentityOptions,
    knows_somebody: bool,
}

impl Authority {
    /// Reads what identities are known by; what an authority `before` knows of failures stays.
    pub(crate) fn open(
        options: &RegistryOptions,
        before: Option<&Self>,
    ) -> Result<Self, AuthorityError> {
        let identity = options.identity.clone();
        let users = options.users.as_deref().map(UserFile::open).transpose()?;
        let robots = identity.robots.as_deref().map(RobotFile::open).transpose()?;
        let policy = Policy { rules: with_defaults(options), groups: identity.groups.clone() };
        let keys = identity.token_keys.clone();
        let keys = keys.unwrap_or_else(|| options.directory.join("token-keys"));
        let tokens = TokenService::open(&keys, identity.tokens, identity.clock.now())?;
        let lockout = before.map(|before| Arc::clone(&before.lockout)).unwrap_or_default();
        let scheme = options.scheme;
        let federation = Federation::new(&identity.issuers, identity.key_source.as_ref())?;
        Ok(Self {
            users,
            robots,
            policy,
            scheme,
            tokens,
            lockout,
            federation,
            options: identity,
            knows_somebody: options.knows_somebody(),
        })
    }

    #[cfg(test)]
    pub(crate) fn of_policy(policy: Policy, tokens: TokenService) -> Self {
        Self {
            users: None,
            robots: None,
            policy,
            scheme: AuthScheme::Bearer,
            tokens,
            lockout: Arc::default(),
            federation: Federation::new(&[], None).expect("nobody to be wrong about"),
            options: IdentityOptions::default(),
            knows_somebody: true,
        }
    }

    /// Whether its options know somebody; see [`RegistryOptions::knows_somebody`].
    pub(crate) const fn knows_somebody(&self) -> bool {
        self.knows_somebody
    }

    pub(crate) const fn tokens(&self) -> &TokenService {
        &self.tokens
    }

    pub(crate) const fn options(&self) -> &IdentityOptions {
        &self.options
    }

    /// The present time, judged once for a whole request.
    pub(crate) fn now(&self) -> SystemTime {
        self.options.clock.now()
    }

    /// The peer with the address of the client, as far as trusted proxies say.
    pub(crate) fn located(&self, headers: &HeaderMap, peer: Peer) -> Peer {
        let address = client_address(peer.address, headers, &self.options.trusted_proxies);
        Peer { address, ..peer }
    }

    /// Who sent a request.
    ///
    /// # Errors
    /// 401 for credentials that are wrong, 429 after too many of them; no credentials are no
    /// error.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        realm: &str,
    ) -> Result<Principal, Refusal> {
        let Some((scheme, credentials)) = authorization(headers) else {
            return Ok(self.certified(peer).map_or(Principal::Anonymous, Principal::Known));
        };
        let now = self.now();
        if scheme.eq_ignore_ascii_case("basic") {
            let wrong = || self.unauthorized(realm, None, None, "wrong user name or password");
            let (user, password) = decode_basic(credentials).ok_or_else(wrong)?;
            if user.is_empty() && password.is_empty() {
                // What some clients send when they have no credentials.
                return Ok(Principal::Anonymous);
            }
            return match self.login(&user, &password, peer.address, now).await {
                Ok(login) => Ok(Principal::Known(login.identity)),
                Err(LoginError::Wrong) => Err(wrong()),
                Err(LoginError::Wait(wait)) => Err(too_many_failures(wait)),
                Err(LoginError::Unavailable) => Err(issuer_unavailable()),
            };
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            let wrong = || self.unauthorized(realm, None, Some("invalid_token"), "invalid token");
            if let Ok(verified) = self.tokens.verify(credentials, now) {
                tracing::debug!(token = verified.id, user = verified.identity.name, "bearer");
                let (identity, access) = (verified.identity.clone(), Arc::clone(&verified.access));
                return Ok(Principal::Bearer { identity, access });
            }
            if self.federation.is_empty() {
                return Err(wrong());
            }
            return match self.federation.authorize(credentials, now).await {
                Ok(Foreign { identity, access, .. }) => {
                    Ok(Principal::Bearer { identity, access: access.unwrap_or_default() })
                }
                Err(ForeignError::Unavailable) => Err(issuer_unavailable()),
                Err(error @ ForeignError::Invalid(_)) => {
                    tracing::debug!(%error, "token refused");
                    Err(wrong())
                }
            };
        }
        Err(self.unauthorized(realm, None, None, "unknown authorization scheme"))
    }

    /// Whom the certificate of the connection stands for.
    pub(crate) fn certified(&self, peer: &Peer) -> Option<Identity> {
        certificate::identify(peer.certificate.as_ref()?, &self.options.certificates)
    }

    /// Who the bearer of an issuer's token is.
    ///
    /// # Errors
    /// [`LoginError`]
    pub(crate) async fn exchange(
        &self,
        token: &str,
        from: IpAddr,
        now: SystemTime,
    ) -> Result<Login, LoginError> {
        match self.federation.identify(token, now).await {
            Ok(Foreign { identity, until, .. }) => Ok(Login { identity, until: Some(until) }),
            Err(ForeignError::Unavailable) => Err(LoginError::Unavailable),
            Err(error @ ForeignError::Invalid(_)) => {
                tracing::info!(%error, client = %from, "token of an issuer refused");
                // Nobody guesses a signature, so it counts against nobody's network.
                Err(LoginError::Wrong)
            }
        }
    }

    /// Who has this name and secret: a user of the user file, a robot, or the bearer of an
    /// issuer's token.
    ///
    /// # Errors
    /// [`LoginError`]
    pub(crate) async fn login(
        &self,
        name: &str,
        secret: &str,
        from: IpAddr,
        now: SystemTime,
    ) -> Result<Login, LoginError> {
        if TOKEN_USERS.contains(&name) && !self.federation.is_empty() && is_like_token(secret) {
            return self.exchange(secret, from, now).await;
        }
        let attempt = Attempt::new(&self.lockout, name, from, now);
        attempt.admit().map_err(LoginError::Wait)?;
        let mut until = None;
        let verdict = match (Identity::named(name).kind(), &self.users, &self.robots) {
            (IdentityKind::User, Some(users), _) => {
                users.verify(name, secret, attempt).await.map_err(LoginError::Wait)?
            }
            (kind, _, robots) => {
                let robots = robots.as_ref().filter(|_| kind == IdentityKind::Robot);
                let shown = robots.and_then(|robots| robots.verify(name, secret, now));
                attempt.settle(shown.is_some());
                until = shown.and_then(|shown| shown.until);
                if shown.is_some() { PasswordVerdict::Right } else { PasswordVerdict::Wrong }
            }
        };
        match verdict {
            // A remembered password forgives nothing: whoever guesses from the same network would
            // be forgiven by every request of who knows it.
            PasswordVerdict::Remembered | PasswordVerdict::Right => {
                Ok(Login { identity: Identity::named(name), until })
            }
            PasswordVerdict::Wrong => {
                tracing::info!(user = name, client = %from, "wrong user name or password");
                Err(LoginError::Wrong)
            }
        }
    }

    /// What names the present password or secret of somebody; nothing for who has none.
    pub(crate) fn credential(&self, identity: &Identity, now: SystemTime) -> Option<String> {
        match identity.kind() {
            IdentityKind::User => self.users.as_ref()?.credential(&identity.name),
            IdentityKind::Robot => self.robots.as_ref()?.credential(&identity.name, now),
            IdentityKind::Anonymous | IdentityKind::Foreign => None,
        }
    }

    /// Lets the request pass or says why not.
    ///
    /// # Errors
    /// 401 with a challenge where other credentials may help, 403 for a user without the right.
    /// The answer does not depend on whether the repository exists.
    pub(crate) fn authorize(
        &self,
        principal: &Principal,
        repository: &Repository,
        role: Role,
        realm: &str,
    ) -> Result<(), Refusal> {
        if self.allows(principal, repository, role) {
            return Ok(());
        }
        // Whoever may push must be able to read what is there: ask for both at once.
        let actions = match role {
            Role::Create | Role::Push => "pull,push",
            Role::Pull | Role::Delete | Role::Admin => role.action(),
        };
        let scope = format!("repository:{repository}:{actions}");
        let what = format!("no right to {} in {repository}", role.action());
        Err(self.refuse(principal, &scope, &what, realm))
    }

    /// Whether the principal may do this in the repository.
    pub(crate) fn allows(
        &self,
        principal: &Principal,
        repository: &Repository,
        role: Role,
    ) -> bool {
        match principal {
            Principal::Anonymous => {
                self.role(&Identity::default(), repository.as_str()) >= Some(role)
            }
            Principal::Known(identity) => self.role(identity, repository.as_str()) >= Some(role),
            Principal::Bearer { access, .. } => access.allows(repository.as_str(), role),
        }
    }

    /// The strongest role that somebody has in a repository.
    pub(crate) fn role(&self, identity: &Identity, repository: &str) -> Option<Role> {
        let by_rules = self.policy.role(identity, repository);
        match (identity.kind(), &self.robots) {
            (IdentityKind::Robot, Some(robots)) => {
                by_rules.max(robots.role(&identity.name, repository))
            }
            _ => by_rules,
        }
    }

    /// Whether somebody has the role in some repository.
    fn somewhere(&self, identity: &Identity, role: Role) -> bool {
        let of_robots =
            || self.robots.as_ref().is_some_and(|robots| robots.somewhere(&identity.name, role));
        self.policy.somewhere(identity, role) || of_robots()
    }

    /// Whether somebody has the role in every repository.
    fn everywhere(&self, identity: &Identity, role: Role) -> bool {
        let of_robots =
            || self.robots.as_ref().is_some_and(|robots| robots.everywhere(&identity.name, role));
        self.policy.everywhere(identity, role) || of_robots()
    }

    /// Whether the list of repositories shows this one to the principal, who may ask for it.
    pub(crate) fn may_see(&self, principal: &Principal, repository: &str) -> bool {
        match principal {
            Principal::Anonymous => self.role(&Identity::default(), repository),
            Principal::Known(identity) | Principal::Bearer { identity, .. } => {
                self.role(identity, repository)
            }
        }
        .is_some()
    }

    /// Lets a request that administers the whole registry pass.
    ///
    /// # Errors
    /// As [`Authority::authorize`].
    #[allow(dead_code, reason = "for the endpoints about the whole registry")]
    pub(crate) fn authorize_administration(
        &self,
        principal: &Principal,
        realm: &str,
    ) -> Result<(), Refusal> {
        let allowed = match principal {
            Principal::Anonymous => self.everywhere(&Identity::default(), Role::Admin),
            Principal::Known(identity) => self.everywhere(identity, Role::Admin),
            Principal::Bearer { access, identity } => {
                access.has_administration() && self.everywhere(identity, Role::Admin)
            }
        };
        if allowed {
            return Ok(());
        }
        let what = "no right to administer the registry";
        Err(self.refuse(principal, "registry:admin:*", what, realm))
    }

    /// Lets a request to the administration API pass; what it shows is decided by
    /// [`Authority::administers`] for each thing.
    ///
    /// # Errors
    /// As [`Authority::authorize`], for somebody who administers nothing.
    pub(crate) fn authorize_some_administration(
        &self,
        principal: &Principal,
        realm: &str,
    ) -> Result<(), Refusal> {
        let allowed = match principal {
            Principal::Anonymous => self.somewhere(&Identity::default(), Role::Admin),
            Principal::Known(identity) => self.somewhere(identity, Role::Admin),
            Principal::Bearer { access, .. } => access.has_administration(),
        };
        if allowed {
            return Ok(());
        }
        let what = "no right to administer anything";
        Err(self.refuse(principal, "registry:admin:*", what, realm))
    }

    /// Whether the principal administers the repository or the namespace of this name; the empty
    /// name is the whole registry.
    pub(crate) fn administers(&self, principal: &Principal, name: &str) -> bool {
        let nobody = Identity::default();
        let identity = match principal {
            Principal::Anonymous => &nobody,
            Principal::Known(identity) => identity,
            Principal::Bearer { access, identity } if access.has_administration() => identity,
            Principal::Bearer { .. } => return false,
        };
        self.role(identity, name) >= Some(Role::Admin)
    }

    /// Lets a request for the list of repositories pass; what is in the list is decided by
    /// [`Authority::may_see`] for each.
    ///
    /// # Errors
    /// 401 as for repositories.
    pub(crate) fn authorize_catalog(
        &self,
        principal: &Principal,
        realm: &str,
    ) -> Result<(), Refusal> {
        let allowed = match principal {
            Principal::Anonymous => self.policy.admits_anonymous(),
            Principal::Known(_) => true,
            Principal::Bearer { access, .. } => access.has_catalog(),
        };
        if allowed {
            return Ok(());
        }
        Err(self.refuse(principal, "registry:catalog:*", "no right to list", realm))
    }

    /// Lets a request for the base of the API pass, by which clients learn whether to log in.
    ///
    /// # Errors
    /// 401 without scope.
    pub(crate) fn authorize_base(&self, principal: &Principal, realm: &str) -> Result<(), Refusal> {
        // Where anybody can log in the challenge must come here, even if some repositories are
        // open: this is where clients look for it. An anonymous token passes.
        let can_log_in =
            self.users.is_some() || self.robots.is_some() || !self.policy.admits_anonymous();
        let can_log_in = can_log_in || !self.federation.is_empty();
        if *principal == Principal::Anonymous && can_log_in {
            return Err(self.unauthorized(realm, None, None, "authentication required"));
        }
        Ok(())
    }

    /// The part of the scopes that somebody has.
    pub(crate) fn grant(&self, identity: &Identity, scopes: &[Scope]) -> Access {
        let grants = scopes.iter().filter_map(|scope| self.grant_one(identity, scope)).collect();
        Access { grants, ..Access::default() }
    }

    fn grant_one(&self, identity: &Identity, scope: &Scope) -> Option<Grant> {
        if scope.is_catalog() {
            let is_known = identity.kind() != IdentityKind::Anonymous;
            return (is_known || self.policy.admits_anonymous()).then(Grant::catalog);
        }
        if scope.is_administration() {
            // Of what is decided when the token is used.
            let is_admin = self.somewhere(identity, Role::Admin);
            return is_admin.then(Grant::administration);
        }
        let repository = scope.repository()?;
        // What no repository is called is granted to nobody, and logged nowhere.
        Repository::new(repository).ok()?;
        let actions = scope.granted(self.role(identity, repository)?);
        (!actions.is_empty()).then(|| Grant::repository(repository, actions))
    }

    /// Why somebody does not get what needs `scope`.
    fn refuse(&self, principal: &Principal, scope: &str, what: &str, realm: &str) -> Refusal {
        match principal {
            Principal::Anonymous => {
                self.unauthorized(realm, Some(scope), None, "authentication required")
            }
            // 401, so that clients come back with a token for more.
            Principal::Bearer { .. } => self.unauthorized(
                realm,
                Some(scope),
                Some("insufficient_scope"),
                "the token does not cover this",
            ),
            Principal::Known(identity) => {
                Refusal::new(ErrorCode::Denied, format!("{} has {what}", identity.name))
            }
        }
    }

    /// A 401 with the challenge of the configured scheme.
    fn unauthorized(
        &self,
        realm: &str,
        scope: Option<&str>,
        error: Option<&str>,
        message: &str,
    ) -> Refusal {
        let refusal = Refusal::new(ErrorCode::Unauthorized, message);
        let challenge = match self.scheme {
            AuthScheme::Basic => format!("Basic realm=\"{}\"", SERVICE),
            AuthScheme::Bearer => {
                let mut challenge =
                    format!("Bearer realm=\"{realm}/auth/token\",service=\"{}\"", SERVICE);
                for (key, value) in [("scope", scope), ("error", error)] {
                    if let Some(value) = value {
                        challenge.push_str(&format!(",{key}=\"{value}\""));
                    }
                }
                challenge
            }
        };
        match HeaderValue::from_str(&challenge) {
            Ok(value) => refusal.with_header(HeaderName::from_static("www-authenticate"), value),
            Err(_) => refusal,
        }
    }
}

/// The rules, and what holds where there are none: every user may do everything.
fn with_defaults(options: &RegistryOptions) -> Vec<AccessRule> {
    let mut rules = options.access.clone();
    let everywhere = |holder, role| AccessRule { prefix: String::new(), holder, role };
    if rules.is_empty() {
        rules.push(everywhere(Holder::AnyUser, Role::Admin));
    }
    let for_everybody = match options.anonymous {
        Anonymous::Nothing => None,
        Anonymous::Pull => Some(Role::Pull),
        Anonymous::Push if options.knows_somebody() => Some(Role::Push),
        // Nobody else could.
        Anonymous::Push => Some(Role::Admin),
    };
    rules.extend(for_everybody.map(|role| everywhere(Holder::Everybody, role)));
    rules
}

/// Scheme and credentials of the `Authorization` header.
pub(crate) fn authorization(headers: &HeaderMap) -> Option<(&str, &str)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().unwrap_or_default().trim();
    let (scheme, credentials) = value.split_once(' ').unwrap_or((value, ""));
    Some((scheme, credentials.trim()))
}

/// Whether a secret has the form of a JWT (RFC 7519): a JSON object in base64, and two dots.
fn is_like_token(secret: &str) -> bool {
    secret.starts_with("eyJ") && secret.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// 503: whether a token is good cannot be told for now.
pub(crate) fn issuer_unavailable() -> Refusal {
    Refusal::unavailable("the keys of the token's issuer cannot be read, try again later")
}

/// 429: nothing is looked at before this time has passed.
pub(crate) fn too_many_failures(wait: Duration) -> Refusal {
    // Rounded up: a client that comes back too early would wait again.
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    Refusal::new(ErrorCode::TooManyRequests, "too many wrong passwords, try again later")
        .with_header(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
}

/// User and password of a Basic header.
pub(crate) fn decode_basic(credentials: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(credentials).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}
