//! Decides who asks, and what they may do.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use oci_model::{ErrorCode, Repository};

use super::identity::{Identity, IdentityKind, Principal};
use super::policy::{AccessRule, Holder, Policy, Role};
use super::scope::{Access, Grant, Scope};
use super::token::{SERVICE, TokenService};
use crate::options::{Anonymous, AuthScheme, RegistryOptions};
use crate::refusal::Refusal;
use crate::users_file::{UserFile, UserFileError};

/// Decides who may do what.
pub(crate) struct Authority {
    users: Option<UserFile>,
    policy: Policy,
    scheme: AuthScheme,
    tokens: TokenService,
}

impl Authority {
    pub(crate) fn new(
        options: &RegistryOptions,
        tokens: TokenService,
    ) -> Result<Self, UserFileError> {
        let users = options.users.as_deref().map(UserFile::open).transpose()?;
        let policy = Policy {
            rules: with_defaults(options.access.clone(), options.anonymous, users.is_some()),
            ..Policy::default()
        };
        Ok(Self { users, policy, scheme: options.scheme, tokens })
    }

    #[cfg(test)]
    pub(crate) fn of_policy(policy: Policy, tokens: TokenService) -> Self {
        Self { users: None, policy, scheme: AuthScheme::Bearer, tokens }
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
            return Ok(Principal::Known(Identity::named(user)));
        }
        if scheme.eq_ignore_ascii_case("bearer") {
            let wrong = |_| self.unauthorized(realm, None, Some("invalid_token"), "invalid token");
            let claims = self.tokens.verify(credentials.trim()).map_err(wrong)?;
            return Ok(Principal::Bearer {
                identity: Identity::named(claims.sub.clone()),
                access: Arc::new(Access(claims.access.clone())),
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
        self.policy.role(identity, repository)
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
            Principal::Anonymous => self.policy.everywhere(&Identity::default(), Role::Admin),
            Principal::Known(identity) => self.policy.everywhere(identity, Role::Admin),
            Principal::Bearer { access, identity } => {
                access.has_administration() && self.policy.everywhere(identity, Role::Admin)
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
            Principal::Anonymous => self.policy.somewhere(&Identity::default(), Role::Admin),
            Principal::Known(identity) => self.policy.somewhere(identity, Role::Admin),
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
        let can_log_in = self.users.is_some() || !self.policy.admits_anonymous();
        if *principal == Principal::Anonymous && can_log_in {
            return Err(self.unauthorized(realm, None, None, "authentication required"));
        }
        Ok(())
    }

    /// The part of the scopes that somebody has.
    pub(crate) fn grant(&self, identity: &Identity, scopes: &[Scope]) -> Access {
        Access(scopes.iter().filter_map(|scope| self.grant_one(identity, scope)).collect())
    }

    fn grant_one(&self, identity: &Identity, scope: &Scope) -> Option<Grant> {
        if scope.is_catalog() {
            let is_known = identity.kind() != IdentityKind::Anonymous;
            return (is_known || self.policy.admits_anonymous()).then(Grant::catalog);
        }
        if scope.is_administration() {
            // Of what is decided when the token is used.
            let is_admin = self.policy.somewhere(identity, Role::Admin);
            return is_admin.then(Grant::administration);
        }
        let repository = scope.repository()?;
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
fn with_defaults(
    mut rules: Vec<AccessRule>,
    anonymous: Anonymous,
    has_users: bool,
) -> Vec<AccessRule> {
    let everywhere = |holder, role| AccessRule { prefix: String::new(), holder, role };
    if rules.is_empty() {
        rules.push(everywhere(Holder::AnyUser, Role::Admin));
    }
    let for_everybody = match anonymous {
        Anonymous::Nothing => None,
        Anonymous::Pull => Some(Role::Pull),
        Anonymous::Push if has_users => Some(Role::Push),
        // Nobody else could.
        Anonymous::Push => Some(Role::Admin),
    };
    rules.extend(for_everybody.map(|role| everywhere(Holder::Everybody, role)));
    rules
}

/// User and password of a Basic header.
pub(crate) fn decode_basic(credentials: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(credentials.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}
