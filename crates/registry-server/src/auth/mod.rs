//! Who asks, and what they may do.

mod scope;
mod token;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use oci_model::{ErrorCode, Repository};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::options::{Anonymous, AuthScheme, RegistryOptions};
use crate::refusal::Refusal;
use crate::users_file::{UserFile, UserFileError};

pub(crate) use self::scope::{Access, Scope};
pub(crate) use self::token::{ACCESS_LIFE, SERVICE, TokenError, TokenService};

/// What somebody may do in a repository; each role includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read manifests, tags, referrers and blobs.
    Pull,
    /// Upload blobs and manifests, move tags.
    Push,
    /// Delete tags, manifests and blobs.
    Delete,
}

impl Role {
    /// Its action in a scope (distribution token specification).
    pub(crate) const fn action(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// Whom a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// One user of the user file.
    User(String),
    /// Every user of the user file.
    AnyUser,
    /// Everybody, with or without credentials.
    Everybody,
}

/// A right. Rules add up; what no rule allows is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// The repositories: this one and those below it (`team` covers `team` and `team/app`, not
    /// `teams`). Empty for all.
    pub prefix: String,
    /// Who.
    pub holder: Holder,
    /// What they may do.
    pub role: Role,
}

/// Somebody who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// No credentials.
    Anonymous,
    /// A user with the right password.
    User(String),
    /// The bearer of a token; the subject is empty for an anonymous one.
    Bearer { subject: String, access: Vec<Access> },
}

impl Principal {
    /// The user's name; empty without one.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Anonymous => "",
            Self::User(name) | Self::Bearer { subject: name, .. } => name,
        }
    }
}

/// Decides who may do what.
pub(crate) struct Authority {
    users: Option<UserFile>,
    rules: Vec<AccessRule>,
    scheme: AuthScheme,
    tokens: TokenService,
}

impl Authority {
    pub(crate) fn new(
        options: &RegistryOptions,
        tokens: TokenService,
    ) -> Result<Self, UserFileError> {
        let users = options.users.as_deref().map(UserFile::open).transpose()?;
        let mut rules = options.access.clone();
        if rules.is_empty() {
            let everything = Role::Delete;
            rules.push(AccessRule {
                prefix: String::new(),
                holder: Holder::AnyUser,
                role: everything,
            });
        }
        let for_everybody = match (options.anonymous, &users) {
            (Anonymous::Nothing, _) => None,
            (Anonymous::Pull, _) => Some(Role::Pull),
            (Anonymous::Push, Some(_)) => Some(Role::Push),
            (Anonymous::Push, None) => Some(Role::Delete),
        };
        rules.extend(for_everybody.map(|role| AccessRule {
            prefix: String::new(),
            holder: Holder::Everybody,
            role,
        }));
        Ok(Self { users, rules, scheme: options.scheme, tokens })
    }

    pub(crate) const fn tokens(&self) -> &TokenService {
        &self.tokens
    }

    /// Who sent these headers.
    ///
    /// # Errors
    /// 401 for credentials that are wrong; no credentials are no error.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
        realm: &str,
    ) -> Result<Principal, Refusal> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Ok(Principal::Anonymous);
        };
        let (scheme, credentials) =
            value.to_str().ok().and_then(|value| value.trim().split_once(' ')).unwrap_or_default();
        if scheme.eq_ignore_ascii_case("basic") {
            let wrong = || self.unauthorized(realm, None, None, "wrong user name or password");
            let (user, password) = decode_basic(credentials).ok_or_else(wrong)?;
            if user.is_empty() && password.is_empty() {
                // What some clients send when they have no credentials.
                return Ok(Principal::Anonymous);
            }
            if !self.check_password(&user, &password).await {
                tracing::info!(user, "wrong user name or password");
                return Err(wrong());
            }
            return Ok(Principal::User(user));
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            let wrong = |_| self.unauthorized(realm, None, Some("invalid_token"), "invalid token");
            let claims = self.tokens.verify(credentials.trim()).map_err(wrong)?;
            return Ok(Principal::Bearer {
                subject: claims.sub.clone(),
                access: claims.access.clone(),
            });
        }
        Err(self.unauthorized(realm, None, None, "unknown authorization scheme"))
    }

    /// Whether the password is the user's.
    pub(crate) async fn check_password(&self, user: &str, password: &str) -> bool {
        match &self.users {
            Some(users) => users.verify(user, password).await,
            None => false,
        }
    }

    /// What names the user's present password, see [`UserFile::fingerprint`].
    pub(crate) fn password_fingerprint(&self, user: &str) -> Option<String> {
        self.users.as_ref()?.fingerprint(user)
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
            Role::Pull => "pull",
            Role::Push => "pull,push",
            Role::Delete => "delete",
        };
        let scope = format!("repository:{repository}:{actions}");
        match principal {
            Principal::Anonymous => {
                Err(self.unauthorized(realm, Some(&scope), None, "authentication required"))
            }
            Principal::Bearer { .. } => Err(self.unauthorized(
                realm,
                Some(&scope),
                Some("insufficient_scope"),
                "the token does not cover this",
            )),
            Principal::User(user) => Err(Refusal::new(
                ErrorCode::Denied,
                format!("{user} has no right to {} in {repository}", role.action()),
            )),
        }
    }

    /// Whether the principal may do this in the repository.
    pub(crate) fn allows(
        &self,
        principal: &Principal,
        repository: &Repository,
        role: Role,
    ) -> bool {
        match principal {
            Principal::Anonymous => self.grants("", repository.as_str(), role),
            Principal::User(user) => self.grants(user, repository.as_str(), role),
            Principal::Bearer { access, .. } => {
                access.iter().any(|access| access.allows(repository.as_str(), role.action()))
            }
        }
    }

    /// Whether the rules give a user (empty: nobody in particular) a role in a repository.
    pub(crate) fn grants(&self, user: &str, repository: &str, role: Role) -> bool {
        self.rules.iter().any(|rule| {
            let holds = match &rule.holder {
                Holder::User(name) => name == user,
                Holder::AnyUser => !user.is_empty(),
                Holder::Everybody => true,
            };
            holds && role <= rule.role && covers(&rule.prefix, repository)
        })
    }

    /// Lets a request for the list of repositories pass; what is in the list is decided by
    /// [`Authority::grants`] for each.
    ///
    /// # Errors
    /// 401 as for repositories.
    pub(crate) fn authorize_catalog(
        &self,
        principal: &Principal,
        realm: &str,
    ) -> Result<(), Refusal> {
        let scope = "registry:catalog:*";
        let allowed = match principal {
            Principal::Anonymous => self.admits_anonymous(),
            Principal::User(_) => true,
            Principal::Bearer { access, .. } => access.iter().any(Access::is_catalog),
        };
        let error = matches!(principal, Principal::Bearer { .. }).then_some("insufficient_scope");
        if allowed {
            Ok(())
        } else {
            Err(self.unauthorized(realm, Some(scope), error, "authentication required"))
        }
    }

    /// Lets a request for the base of the API pass, by which clients learn whether to log in.
    ///
    /// # Errors
    /// 401 without scope.
    pub(crate) fn authorize_base(&self, principal: &Principal, realm: &str) -> Result<(), Refusal> {
        // Where anybody can log in the challenge must come here, even if some repositories are
        // open: this is where clients look for it. An anonymous token passes.
        if *principal == Principal::Anonymous && (self.users.is_some() || !self.admits_anonymous())
        {
            return Err(self.unauthorized(realm, None, None, "authentication required"));
        }
        Ok(())
    }

    /// The part of the scopes that the rules give a user.
    pub(crate) fn grant(&self, user: &str, scopes: &[Scope]) -> Vec<Access> {
        scopes.iter().filter_map(|scope| self.grant_one(user, scope)).collect()
    }

    fn grant_one(&self, user: &str, scope: &Scope) -> Option<Access> {
        if scope.is_catalog() {
            let allowed = !user.is_empty() || self.admits_anonymous();
            return allowed.then(Access::catalog);
        }
        let repository = scope.repository()?;
        let actions: Vec<&str> = [Role::Pull, Role::Push, Role::Delete]
            .into_iter()
            .filter(|role| scope.asks_for(role.action()))
            .filter(|role| self.grants(user, repository, *role))
            .map(Role::action)
            .collect();
        (!actions.is_empty()).then(|| Access::repository(repository, &actions))
    }

    fn admits_anonymous(&self) -> bool {
        self.rules.iter().any(|rule| rule.holder == Holder::Everybody)
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

fn covers(prefix: &str, repository: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    prefix.is_empty()
        || repository
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// User and password of a Basic header.
pub(crate) fn decode_basic(credentials: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(credentials.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests;
